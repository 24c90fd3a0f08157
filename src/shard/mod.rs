//! A shard: many rooms, the routes to their peers, and everything they want sent.
//!
//! A pure state machine: datagrams, commands and the time go in; datagrams and events come out.

pub mod batches;
mod relay;
mod rooms;
pub mod routes;
pub mod strays;
pub mod timers;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};

use crate::base::counter_map::CounterMap;
use crate::base::counters::Counters;
use crate::base::growth::pop;
use crate::base::ids::{Bitrate, PeerKey, RoomId, ShardId};
use crate::base::slab::Slot;
use crate::base::time::earliest;
use crate::control::layers::{LayerCensus, PeerDescription, Preferences};
use crate::control::relay::{RelayMessage, RelayedPacket};
use crate::control::{
    Command, Event, IceCredentials, LayerReason, RoomOptions, SubscriptionConfig, TrackConfig,
};
use crate::room::Room;
use crate::room::output::Output;
use crate::shard::batches::Batches;
use crate::shard::relay::Relays;
use crate::shard::rooms::Rooms;
use crate::shard::routes::{Route, RouteTable, canonical};
use crate::shard::strays::{Claim, ClaimKind, Sorted, Strays};
use crate::shard::timers::Timers;
use crate::transport::outbox::Outbox;
use crate::transport::{DtlsIdentity, StunOutcome, Transport};
use crate::wire::rtp::PacketKind;
use crate::wire::stun::BindingRequest;

/// Everything one shard thread owns, but for its socket and its queues.
///
/// After each `handle_*` the edge drains [`Shard::poll_outbox`], [`Shard::poll_event`] and
/// [`Shard::poll_relay`]. How many rooms and peers there are, the coordinator bounds.
pub struct Shard {
    id: ShardId,
    identity: Arc<DtlsIdentity>,
    rng: StdRng,
    rooms: Rooms,
    peers: CounterMap<PeerKey, Member>,
    routes: RouteTable,
    timers: Timers,
    /// When each room asks next who speaks; rooms without sound are not in it.
    floor_timers: Timers<Slot<Room>>,
    /// Room for who is due; empty between inputs.
    due: Vec<PeerKey>,
    batches: Batches,
    relays: Relays,
    output: Output,
    /// Where all shards share one port.
    shared: Option<SharedPort>,
}

/// What a shard knows of the others on its port, and what they are to be told.
struct SharedPort {
    strays: Strays,
    /// One input makes a few, the end of a shard one for each address of its peers.
    claims: VecDeque<Claim>,
}

/// A peer of this shard.
#[derive(Debug)]
struct Member {
    route: Route,
}

impl Shard {
    /// A shard without rooms. `seed` decides the random numbers of streams, which need not be secret.
    #[must_use]
    pub fn new(id: ShardId, identity: Arc<DtlsIdentity>, seed: u64) -> Self {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut output = Output::default();
        // What other shards still say of the wants of a former shard of this id must find none.
        output.relay.next_want = rng.random();
        Self {
            id,
            identity,
            rng,
            rooms: Rooms::new(id),
            peers: CounterMap::default(),
            routes: RouteTable::default(),
            timers: Timers::default(),
            floor_timers: Timers::default(),
            due: Vec::new(),
            batches: Batches::default(),
            relays: Relays::default(),
            output,
            shared: None,
        }
    }

    /// What holds for all its rooms: before there are any.
    pub fn set_room_options(&mut self, options: RoomOptions) {
        self.rooms.set_options(options);
    }

    /// All of `shards` shards share one port: from now on [`Shard::sort`] tells what is for another,
    /// and [`Shard::poll_claim`] what the others are to know.
    pub fn share_port(&mut self, shards: u16) {
        self.shared = Some(SharedPort {
            strays: Strays::new(self.id, shards),
            claims: VecDeque::new(),
        });
    }

    /// Where a datagram that reached this shard's socket belongs; one for nobody is counted.
    pub fn sort(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) -> Sorted {
        let Some(SharedPort { strays, .. }) = &self.shared else {
            return Sorted::Mine;
        };
        let from = canonical(from);
        let (routes, rooms) = (&self.routes, &mut self.rooms);
        let is_live_here = || {
            let holder = routes.at_address(from);
            holder.is_some_and(|holder| is_sent_to(rooms, holder, from))
        };
        let sorted = strays.sort(now, from, datagram, is_live_here);
        match sorted {
            Sorted::Mine | Sorted::Of(_) => {}
            Sorted::UnknownShard => self.output.counters.stray_unknown_shard += 1,
            Sorted::AddressTaken => self.output.counters.stun_address_taken += 1,
        }
        sorted
    }

    /// Takes the claim of another shard. One to an address at which a peer of this shard is sent to is
    /// refused.
    pub fn handle_claim(&mut self, now: Instant, claim: &Claim) {
        let Some(SharedPort { strays, .. }) = &mut self.shared else {
            return;
        };
        let holder = self.routes.at_address(claim.address);
        let is_live_here =
            holder.is_some_and(|holder| is_sent_to(&mut self.rooms, holder, claim.address));
        if is_live_here || !strays.on_claim(now, claim) {
            self.output.counters.stray_claims_refused += 1;
        }
    }

    /// What all other shards are to be told, oldest first.
    pub fn poll_claim(&mut self) -> Option<Claim> {
        self.shared.as_mut()?.claims.pop_front()
    }

    /// Which shard it is.
    #[must_use]
    pub fn id(&self) -> ShardId {
        self.id
    }

    /// Takes a command of a session.
    pub fn handle_command(&mut self, now: Instant, command: Command) {
        self.finish_batches(now);
        let key = command.peer();
        match command {
            Command::AddPeer { room, ice, .. } => self.add_peer(now, key, room, ice),
            Command::RemovePeer { .. } => self.remove_peer(now, key),
            Command::RestartIce { ice, .. } => {
                self.with_transport(key, |transport, _| transport.restart_ice(ice));
                self.follow_ufrags(key);
            }
            Command::SetRemoteDtls {
                fingerprints, role, ..
            } => self.with_transport(key, |transport, outbox| {
                transport.set_remote_dtls(now, fingerprints, role, outbox);
            }),
            Command::Configure {
                tracks,
                subscriptions,
                ..
            } => self.configure(now, key, tracks, subscriptions),
            Command::Prefer { preferences, .. } => self.prefer(now, key, preferences),
        }
        self.settle(now, key);
    }

    /// Takes what one receive brought, in that order. Before a check has validated the source of a
    /// datagram, only STUN from there is looked at.
    ///
    /// Media is only opened and numbered here. [`Shard::poll_outbox`] fans it out, when all else in the
    /// batch has taken effect: what a subscriber gets of it then goes out together.
    pub fn handle_batch(
        &mut self,
        now: Instant,
        datagrams: impl IntoIterator<Item = (SocketAddr, BytesMut)>,
    ) {
        self.finish_batches(now);
        for (from, datagram) in datagrams {
            self.take_datagram(now, from, datagram);
            if self.batches.is_full() {
                self.finish_batches(now);
            }
        }
    }

    /// Takes one datagram, and puts all that comes of it into the outbox.
    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) {
        self.handle_batch(now, [(from, datagram)]);
        self.finish_batches(now);
    }

    /// What is to be sent next of what the last input brought about; `None` when that is all. The
    /// caller sends it and clears it.
    ///
    /// It is made in portions of about [`OUTBOX_BYTES`]: what was just sealed is then still in the core's
    /// cache when the kernel copies it, and the first subscriber need not wait for the last.
    pub fn poll_outbox(&mut self, now: Instant) -> Option<&mut Outbox> {
        self.fan_out(now, OUTBOX_BYTES);
        let outbox = &mut self.output.outbox;
        (!outbox.is_empty()).then_some(outbox)
    }

    fn take_datagram(&mut self, now: Instant, from: SocketAddr, datagram: BytesMut) {
        let from = canonical(from);
        self.output.counters.datagrams_received += 1;
        let kind = PacketKind::of(&datagram);
        match kind {
            PacketKind::Stun => return self.handle_stun(now, from, &datagram),
            PacketKind::Other => {
                self.output.counters.datagrams_unknown_kind += 1;
                return;
            }
            PacketKind::Dtls | PacketKind::Rtp | PacketKind::Rtcp => {}
        }
        let Some(route) = self.routes.at_address(from) else {
            self.output.counters.datagrams_unvalidated_source += 1;
            return;
        };
        let Some(room) = self.rooms.get_mut(route.room) else {
            return;
        };
        let output = &mut self.output;
        match kind {
            PacketKind::Rtp => {
                let batch = self.batches.of(route.room);
                room.handle_rtp(now, route.peer, datagram, batch, output);
            }
            PacketKind::Rtcp => room.handle_rtcp(now, route.peer, datagram, output),
            _ => {
                if let Some(transport) = room.transport_mut(route.peer)
                    && transport
                        .handle_dtls(now, from, &datagram, &mut output.outbox)
                        .is_err()
                {
                    output.counters.dtls_refused += 1;
                }
                return self.settle(now, route.key);
            }
        }
        self.reschedule();
    }

    /// Fans out what waits, until that is all or so many bytes wait to be sent.
    fn fan_out(&mut self, now: Instant, bytes_max: usize) {
        let mut has_done = false;
        while let Some((slot, batch)) = self.batches.first() {
            if let Some(room) = self.rooms.get_mut(slot) {
                if !room.fan_out(now, batch, bytes_max, &mut self.output) {
                    return;
                }
                // Who has changed over may want less or more of other shards.
                self.relays.follow(slot, &mut self.output);
            }
            self.batches.on_done();
            has_done = true;
        }
        if has_done {
            self.reschedule();
        }
    }

    /// Before anything else changes, what waits goes into the outbox: who sends after each input finds
    /// nothing left here.
    fn finish_batches(&mut self, now: Instant) {
        self.fan_out(now, usize::MAX);
    }

    /// Takes what another shard says. Packets wait for those that come with them, as in
    /// [`Shard::handle_batch`].
    pub fn handle_relay(&mut self, now: Instant, from: ShardId, message: RelayMessage) {
        if let RelayMessage::Packet(packet) = message {
            return self.take_relayed(now, packet);
        }
        self.finish_batches(now);
        let (rooms, output) = (&mut self.rooms, &mut self.output);
        self.relays.handle(now, from, message, rooms, output);
        self.reschedule();
    }

    fn take_relayed(&mut self, now: Instant, packet: RelayedPacket) {
        if self.batches.is_begun() {
            self.finish_batches(now);
        }
        let output = &mut self.output;
        let slot = self.relays.room_of(packet.want);
        let Some((slot, room)) = slot.and_then(|slot| Some((slot, self.rooms.get_mut(slot)?)))
        else {
            output.counters.relay_stale += 1;
            return;
        };
        room.handle_relayed(now, packet, self.batches.of(slot), output);
        self.reschedule();
        if self.batches.is_full() {
            self.finish_batches(now);
        }
    }

    /// What other shards are to hear, oldest first, and which.
    pub fn poll_relay(&mut self) -> Option<(ShardId, RelayMessage)> {
        self.output.relay.messages.pop_front()
    }

    /// Does what is due, for at most `DUE_PER_TURN` peers: [`Shard::poll_timeout`] then says that more is, and
    /// packets get their turn first.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.finish_batches(now);
        // Taken out first: a peer that is due again at once waits for the next turn.
        let mut due = std::mem::take(&mut self.due);
        due.extend(std::iter::from_fn(|| self.timers.pop_due(now)).take(DUE_PER_TURN));
        for key in due.drain(..) {
            if let Some(Member { route }) = self.peers.get(&key)
                && let Some(room) = self.rooms.get_mut(route.room)
            {
                room.handle_timeout(now, route.peer, &mut self.output);
                self.relays.follow(route.room, &mut self.output);
            }
            self.settle(now, key);
        }
        self.due = due;
        let (rooms, output) = (&mut self.rooms, &mut self.output);
        self.relays.handle_timeout(now, rooms, output);
        self.review_floors(now);
        self.reschedule();
    }

    /// Asks who speaks, in those rooms in which it is time, `FLOORS_PER_TURN` at most: their next time is later, so that
    /// none comes twice.
    fn review_floors(&mut self, now: Instant) {
        for _ in 0..FLOORS_PER_TURN {
            let Some(slot) = self.floor_timers.pop_due(now) else {
                return;
            };
            if let Some(room) = self.rooms.get_mut(slot) {
                room.handle_floor_timeout(now, &mut self.output);
                self.floor_timers.schedule(slot, room.poll_floor_timeout());
                self.relays.follow(slot, &mut self.output);
            }
        }
    }

    /// When [`Shard::handle_timeout`] is next needed. May be early, never late.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let others = earliest(self.relays.poll_timeout(), self.floor_timers.poll_timeout());
        earliest(self.timers.poll_timeout(), others)
    }

    /// What happened, oldest first, and which peer's session is to be told.
    pub fn poll_event(&mut self) -> Option<(PeerKey, Event)> {
        if let Some((peer, event)) = pop(&mut self.output.events) {
            return Some((peer, Event::Transport(peer, event)));
        }
        if let Some(told) = pop(&mut self.output.told) {
            return Some(told);
        }
        let (peer, speakers) = pop(&mut self.output.speakers)?;
        Some((peer, Event::Speakers(peer, speakers)))
    }

    /// What may be sent to a peer in all. `None`: nothing is known, and nothing is limited.
    #[must_use]
    pub fn estimate(&self, key: PeerKey) -> Option<Bitrate> {
        let Member { route } = self.peers.get(&key)?;
        self.rooms.get(route.room)?.estimate(route.peer)
    }

    /// Whether the thread has all it can do: then subscribers get no better layers than they have.
    pub fn set_busy(&mut self, is_busy: bool) {
        self.output.is_busy = is_busy;
    }

    /// What subscriptions get at present, and how often that has changed.
    #[must_use]
    pub fn layer_census(&self) -> LayerCensus {
        let mut census = LayerCensus {
            switches: self.output.layer_switches,
            ..LayerCensus::default()
        };
        for slot in self.rooms.slots() {
            if let Some(room) = self.rooms.get(slot) {
                room.count_layers(|encoding, reason| census.add(encoding, reason));
                room.estimates()
                    .for_each(|estimate| census.add_estimate(estimate));
            }
        }
        census
    }

    /// What waits to be sent, without what [`Shard::poll_outbox`] still makes of a batch. IPv4
    /// destinations are plain IPv4 addresses, also where the socket is IPv6.
    pub fn outbox(&mut self) -> &mut Outbox {
        &mut self.output.outbox
    }

    /// How often subscriptions were sent another layer than before, by the reason of the new one.
    #[must_use]
    pub fn layer_switches(&self) -> [u64; LayerReason::COUNT] {
        self.output.layer_switches
    }

    /// What was done and dropped so far.
    #[must_use]
    pub fn counters(&self) -> &Counters {
        &self.output.counters
    }

    /// What a peer receives, and why; `None` if it is not here.
    #[must_use]
    pub fn describe(&self, now: Instant, key: PeerKey) -> Option<PeerDescription> {
        let Member { route } = self.peers.get(&key)?;
        self.rooms.get(route.room)?.describe(now, route.peer)
    }

    /// How many peers it has.
    #[must_use]
    pub fn peers_len(&self) -> usize {
        self.peers.len()
    }

    /// How many rooms it has.
    #[must_use]
    pub fn rooms_len(&self) -> usize {
        self.rooms.len()
    }

    /// How many wants it has and serves: tracks that cross between shards.
    #[must_use]
    pub fn wants_len(&self) -> usize {
        self.relays.len()
    }

    /// Ends every peer: each is told that its transport closes.
    pub fn close(&mut self, now: Instant) {
        self.finish_batches(now);
        let keys: Vec<PeerKey> = self.peers.keys().copied().collect();
        for key in keys {
            self.remove_peer(now, key);
        }
    }

    fn add_peer(&mut self, now: Instant, key: PeerKey, room: RoomId, ice: IceCredentials) {
        if self.peers.contains_key(&key) {
            self.output.counters.command_unknown_peer += 1;
            return;
        }
        let slot = self.rooms.find_or_start(&room);
        let transport = Transport::new(now, self.identity.clone(), ice);
        if let Some(members) = self.rooms.get_mut(slot) {
            let route = Route {
                key,
                room: slot,
                peer: members.add_peer(key, transport, &mut self.rng),
            };
            self.peers.insert(key, Member { route });
        }
        self.follow_ufrags(key);
    }

    fn remove_peer(&mut self, now: Instant, key: PeerKey) {
        let Some(Member { route }) = self.peers.remove(&key) else {
            self.output.counters.command_unknown_peer += 1;
            return;
        };
        for address in self.routes.remove(key) {
            self.claim(address, key, ClaimKind::GivenUp);
        }
        self.timers.remove(key);
        if let Some(room) = self.rooms.get_mut(route.room) {
            room.remove_peer(now, route.peer, &mut self.output);
            self.relays.follow(route.room, &mut self.output);
            self.rooms.remove_if_empty(route.room);
        }
    }

    fn configure(
        &mut self,
        now: Instant,
        key: PeerKey,
        tracks: Vec<TrackConfig>,
        mut subscriptions: Vec<SubscriptionConfig>,
    ) {
        let Some(Member { route }) = self.peers.get(&key) else {
            self.output.counters.command_unknown_peer += 1;
            return;
        };
        let route = *route;
        let wanted = subscriptions.len();
        subscriptions.retain(|subscription| {
            let publisher = self.peers.get(&subscription.source.peer);
            publisher.is_none_or(|publisher| publisher.route.room == route.room)
        });
        self.output.counters.subscription_refused += (wanted - subscriptions.len()) as u64;
        if let Some(room) = self.rooms.get_mut(route.room) {
            let (rng, output) = (&mut self.rng, &mut self.output);
            room.configure(now, route.peer, tracks, subscriptions, rng, output);
            self.relays.follow(route.room, output);
        }
    }

    fn prefer(&mut self, now: Instant, key: PeerKey, preferences: Preferences) {
        let Some(Member { route }) = self.peers.get(&key) else {
            self.output.counters.command_unknown_peer += 1;
            return;
        };
        if let Some(room) = self.rooms.get_mut(route.room) {
            room.set_preferences(now, route.peer, preferences, &mut self.output);
            self.relays.follow(route.room, &mut self.output);
        }
    }

    fn handle_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let Ok(request) = BindingRequest::parse(datagram) else {
            self.output.counters.stun_malformed += 1;
            return;
        };
        let Some(route) = self.routes.at_ufrag(request.local_ufrag()) else {
            self.output.counters.stun_unknown_ufrag += 1;
            return;
        };
        if self.is_held_by_another(now, from, route.key) {
            self.output.counters.stun_address_taken += 1;
            return;
        }
        let Some(transport) = self
            .rooms
            .get_mut(route.room)
            .and_then(|room| room.transport_mut(route.peer))
        else {
            return;
        };
        match transport.handle_stun(now, from, &request, &mut self.output.outbox) {
            StunOutcome::Accepted {
                evicted,
                former_ufrag_retired,
                ..
            } => {
                if transport.is_validated(from) {
                    let kind = match self.routes.hold_address(from, route) {
                        true => ClaimKind::Taken,
                        false => ClaimKind::Kept,
                    };
                    self.claim(from, route.key, kind);
                }
                if let Some(evicted) = evicted {
                    self.routes.release_address(evicted, route.key);
                    self.claim(evicted, route.key, ClaimKind::GivenUp);
                }
                if former_ufrag_retired.is_some() {
                    self.follow_ufrags(route.key);
                }
            }
            StunOutcome::Refused(_) => self.output.counters.stun_refused += 1,
        }
        self.settle(now, route.key);
    }

    /// Whether a live peer other than `key` is sent to at this address. A check carries no proof of where it came
    /// from, so without this a peer could take the address of another by a forged source.
    fn is_held_by_another(&mut self, now: Instant, address: SocketAddr, key: PeerKey) -> bool {
        let shared = self.shared.as_ref();
        if shared.is_some_and(|shared| shared.strays.is_claimed(now, address)) {
            return true;
        }
        let holder = self
            .routes
            .at_address(address)
            .filter(|route| route.key != key);
        holder.is_some_and(|holder| is_sent_to(&mut self.rooms, holder, address))
    }

    /// Notes what the other shards of a shared port are to know of an address.
    fn claim(&mut self, address: SocketAddr, peer: PeerKey, kind: ClaimKind) {
        if let Some(SharedPort { strays, claims }) = &mut self.shared {
            if kind != ClaimKind::GivenUp {
                strays.forget(address);
            }
            claims.push_back(Claim {
                address,
                owner: self.id,
                peer,
                kind,
            });
        }
    }

    fn with_transport(&mut self, key: PeerKey, act: impl FnOnce(&mut Transport, &mut Outbox)) {
        let transport = self.peers.get(&key).and_then(|Member { route }| {
            let room = self.rooms.get_mut(route.room)?;
            room.transport_mut(route.peer)
        });
        match transport {
            Some(transport) => act(transport, &mut self.output.outbox),
            None => self.output.counters.command_unknown_peer += 1,
        }
    }

    /// Makes checks find a peer under the ufrags that its transport takes at present.
    fn follow_ufrags(&mut self, key: PeerKey) {
        if let Some(Member { route }) = self.peers.get(&key)
            && let Some(room) = self.rooms.get_mut(route.room)
            && let Some(transport) = room.transport_mut(route.peer)
        {
            let refused = self.routes.hold_ufrags(*route, transport.ufrags());
            self.output.counters.command_ufrag_taken += refused;
        }
    }

    /// Takes what an input did to a peer's transport, and its new deadline.
    fn settle(&mut self, now: Instant, key: PeerKey) {
        if let Some(Member { route }) = self.peers.get(&key)
            && let Some(room) = self.rooms.get_mut(route.room)
        {
            room.drain_transport(now, route.peer, &mut self.output);
            self.output.rescheduled.push(key);
        }
        self.reschedule();
    }

    /// Notes the deadlines that may have changed.
    fn reschedule(&mut self) {
        for key in self.output.rescheduled.drain(..) {
            if let Some(Member { route }) = self.peers.get(&key)
                && let Some(room) = self.rooms.get(route.room)
            {
                self.timers.schedule(key, room.poll_timeout(route.peer));
            }
        }
        for room in self.output.floors.drain(..) {
            if let Some(slot) = self.rooms.find(&room)
                && let Some(room) = self.rooms.get(slot)
            {
                self.floor_timers.schedule(slot, room.poll_floor_timeout());
            }
        }
        if !self.output.relay.rescheduled.is_empty() {
            self.relays.settle(&self.rooms, &mut self.output);
        }
    }
}

/// Whether the peer of a route is sent to at `address` at present.
fn is_sent_to(rooms: &mut Rooms, holder: Route, address: SocketAddr) -> bool {
    let transport = rooms
        .get_mut(holder.room)
        .and_then(|room| room.transport_mut(holder.peer));
    transport.is_some_and(|transport| transport.remote() == Some(address))
}

/// How much is sealed before it is sent, in bytes: a part of a core's second-level cache (512 KiB on
/// Zen 3), and more than a system call sends.
pub const OUTBOX_BYTES: usize = 256 << 10;
/// Peers served by one call of [`Shard::handle_timeout`]. Each costs some microseconds, so that a shard of thousands whose
/// reports fall due together is not deaf for longer than a fan-out takes.
const DUE_PER_TURN: usize = 64;
/// Rooms of which one call of [`Shard::handle_timeout`] asks who speaks: the ticks of all fall together after the thread was
/// held up.
const FLOORS_PER_TURN: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::ids::WantKey;

    #[test]
    fn what_falls_due_together_is_not_done_in_one_turn() {
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let mut shard = Shard::new(ShardId(0), identity, 7);
        let t0 = Instant::now();
        for n in 0..100 {
            let room = RoomId::new(&format!("room{n}")).unwrap();
            let slot = shard.rooms.find_or_start(&room);
            shard.floor_timers.schedule(slot, Some(t0));
            shard.relays.schedule(WantKey(n), t0);
        }
        shard.handle_timeout(t0);
        assert_eq!(shard.floor_timers.poll_timeout(), Some(t0));
        assert_eq!(shard.relays.poll_timeout(), Some(t0));
        assert_eq!(shard.poll_timeout(), Some(t0), "the rest comes at once");
        shard.handle_timeout(t0);
        assert_eq!(shard.poll_timeout(), None);
    }
}
