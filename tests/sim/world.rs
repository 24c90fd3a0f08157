//! A room server without its edge: sessions, a coordinator stripe and shards, joined by hand and
//! driven by one virtual clock, with clients at the other end of the network.

use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shardcast::base::ids::{PeerKey, RoomId, ShardId};
use shardcast::control::{Event, Joined};
use shardcast::coordinator::placement::{Policy, ShardLoad};
use shardcast::coordinator::{Limits, Stripe};
use shardcast::shard::Shard;
use shardcast::signaling::session::{Output, Session, SessionConfig};
use shardcast::transport::DtlsIdentity;

use crate::network::{Conditions, Network};
use crate::relay_mesh::Mesh;
use crate::support::client::{Client, ClientOptions, Style};
use crate::support::flavor::Flavor;
use crate::support::media::{Rate, Received};

/// Where a shard's socket is.
fn server(shard: ShardId) -> SocketAddr {
    SocketAddr::from(([192, 0, 2, 1], 40_000 + shard.0))
}

pub struct World {
    pub now: Instant,
    zero: Instant,
    seed: u64,
    stripe: Stripe<usize>,
    pub shards: Vec<Shard>,
    pub mesh: Mesh,
    spill_peers: usize,
    pub seats: Vec<Seat>,
    by_key: HashMap<PeerKey, usize>,
    network: Network<Delivery>,
    next_key: u64,
    config: Arc<SessionConfig>,
    /// Every media packet sent, by addressee, SSRC and sequence number, as a hash.
    sealed: HashMap<(PeerKey, u32, u16), u64>,
    /// What went wrong on the server's side, as text.
    pub faults: Vec<String>,
}

/// One client with its connection.
pub struct Seat {
    pub client: Client,
    session: Option<Session>,
    pub key: Option<PeerKey>,
    /// Whether the client means to be in its room.
    pub wants_in: bool,
    /// Where it was placed.
    pub shard: ShardId,
    /// The stay in the room, by the coordinator's book.
    room: Option<RoomId>,
    pub address: SocketAddr,
    /// Addresses it had before: a NAT forwards nothing to them any more.
    former: Vec<SocketAddr>,
    /// When the server forgot it.
    removed_at: Option<Instant>,
    pub closed: Option<String>,
    /// Whether datagrams get through at all.
    pub plugged: bool,
}

#[derive(Clone)]
enum Delivery {
    FrameUp(usize, String),
    FrameDown(usize, String),
    Closed(usize, String),
    DatagramUp(SocketAddr, SocketAddr, Vec<u8>),
    DatagramDown(SocketAddr, SocketAddr, Vec<u8>),
}

impl World {
    pub fn new(seed: u64, conditions: Conditions) -> Self {
        Self::with_shards(seed, conditions, 1, usize::MAX)
    }

    /// A server whose rooms spill onto the next shard with so many peers.
    pub fn with_shards(seed: u64, conditions: Conditions, shards: u16, spill_peers: usize) -> Self {
        let now = Instant::now();
        let identity = Arc::new(DtlsIdentity::generate().expect("an identity can be made"));
        let config = Arc::new(SessionConfig {
            fingerprint: identity.fingerprint().clone(),
            ice_servers: Arc::from([]),
        });
        Self {
            now,
            zero: now,
            seed,
            stripe: Stripe::new(Limits {
                peers_per_room_max: 100,
            }),
            shards: (0..shards)
                .map(|id| Shard::new(ShardId(id), Arc::clone(&identity), seed + u64::from(id)))
                .collect(),
            mesh: Mesh::new(seed, Duration::from_micros(300)),
            spill_peers,
            seats: Vec::new(),
            by_key: HashMap::new(),
            network: Network::new(now, seed, conditions),
            next_key: 1,
            config,
            sealed: HashMap::new(),
            faults: Vec::new(),
        }
    }

    pub fn elapsed(&self) -> Duration {
        self.now - self.zero
    }

    /// Changes how bad the way is from now on; how it was is returned.
    pub fn set_conditions(&mut self, conditions: Conditions) -> Conditions {
        let former = self.network.conditions;
        self.network.set_conditions(self.now, conditions);
        former
    }

    // --- clients -------------------------------------------------------------------------------

    /// Connects a client that does not join yet.
    pub fn connect(
        &mut self,
        room: &str,
        id: &str,
        flavor: Flavor,
        style: Style,
        rate: Rate,
    ) -> usize {
        let seat = self.seats.len();
        let client = Client::new(ClientOptions {
            room: room.to_owned(),
            id: id.to_owned(),
            flavor,
            style,
            rate,
            seed: self.seed ^ (seat as u64 + 1) << 32,
            zero: self.zero,
        });
        let rng = StdRng::seed_from_u64(self.seed + seat as u64);
        let session = Session::new(self.now, Arc::clone(&self.config), rng);
        self.seats.push(Seat {
            client,
            session: Some(session),
            key: None,
            wants_in: false,
            shard: ShardId(0),
            room: None,
            address: SocketAddr::from(([10, 0, seat as u8, 1], 5000)),
            former: Vec::new(),
            removed_at: None,
            closed: None,
            plugged: true,
        });
        self.drain_session(seat);
        seat
    }

    /// Connects a client that publishes sound and pictures, and joins.
    pub fn join(&mut self, room: &str, id: &str, flavor: Flavor, rate: Rate) -> usize {
        let seat = self.connect(room, id, flavor, Style::Modern, rate);
        self.seats[seat].client.publish(false);
        self.seats[seat].client.publish(true);
        self.start(seat);
        seat
    }

    pub fn start(&mut self, seat: usize) {
        self.seats[seat].wants_in = true;
        self.act(seat, |client, now| client.join(now));
    }

    /// Lets a client do something, and sends what comes of it.
    pub fn act<R>(&mut self, seat: usize, action: impl FnOnce(&mut Client, Instant) -> R) -> R {
        let result = action(&mut self.seats[seat].client, self.now);
        self.drain_client(seat);
        result
    }

    /// A frame as text, whatever it says.
    pub fn send_frame(&mut self, seat: usize, text: &str) {
        self.network
            .send_frame(self.now, Delivery::FrameUp(seat, text.to_owned()));
    }

    /// A datagram from anywhere, to the first shard.
    pub fn send_datagram(&mut self, from: SocketAddr, bytes: &[u8]) {
        let to = server(ShardId(0));
        let delivery = Delivery::DatagramUp(from, to, bytes.to_vec());
        self.network.send_datagram(self.now, true, delivery);
    }

    /// A NAT gives the client another address; what goes to the old one is lost.
    pub fn move_address(&mut self, seat: usize, address: SocketAddr) {
        let former = std::mem::replace(&mut self.seats[seat].address, address);
        self.seats[seat].former.push(former);
    }

    /// The client leaves with a word.
    pub fn leave(&mut self, seat: usize) {
        self.seats[seat].wants_in = false;
        self.act(seat, |client, _| client.leave());
    }

    /// The client's socket closes without a word.
    pub fn vanish(&mut self, seat: usize) {
        if let Some(mut session) = self.seats[seat].session.take() {
            session.handle_closed(self.now);
            self.seats[seat].session = Some(session);
            self.drain_session(seat);
            self.seats[seat].session = None;
        }
        self.seats[seat].closed = Some("gone".to_owned());
        self.seats[seat].wants_in = false;
    }

    pub fn client(&self, seat: usize) -> &Client {
        &self.seats[seat].client
    }

    /// Seats of clients that are in the room.
    pub fn present(&self, room: &str) -> Vec<usize> {
        (0..self.seats.len())
            .filter(|seat| {
                let seat = &self.seats[*seat];
                seat.room.as_ref().is_some_and(|r| r.as_str() == room)
            })
            .collect()
    }

    // --- time ----------------------------------------------------------------------------------

    pub fn run_for(&mut self, duration: Duration) {
        self.run_until(self.now + duration, |_| false);
    }

    /// Runs until `done` says so or the time is up; says which.
    pub fn run_until(&mut self, end: Instant, done: impl Fn(&Self) -> bool) -> bool {
        loop {
            if done(self) {
                return true;
            }
            let next = self.next_deadline().filter(|at| *at <= end);
            let Some(next) = next else {
                self.now = end;
                return done(self);
            };
            self.now = self.now.max(next);
            self.turn();
        }
    }

    fn next_deadline(&self) -> Option<Instant> {
        let seats = self.seats.iter().flat_map(|seat| {
            let client = seat.client.poll_timeout().filter(|_| seat.closed.is_none());
            let session = seat.session.as_ref().and_then(Session::poll_timeout);
            [client, session]
        });
        seats
            .chain(self.shards.iter().map(Shard::poll_timeout))
            .chain([self.network.next_at(), self.mesh.next_at()])
            .flatten()
            .min()
    }

    fn turn(&mut self) {
        while let Some(delivery) = self.network.poll(self.now) {
            self.deliver(delivery);
        }
        while let Some((to, from, message)) = self.mesh.poll(self.now) {
            self.shards[usize::from(to.0)].handle_relay(self.now, from, message);
            self.drain_shard(to);
        }
        for index in 0..self.shards.len() {
            let shard = &mut self.shards[index];
            if shard.poll_timeout().is_some_and(|at| at <= self.now) {
                shard.handle_timeout(self.now);
                self.drain_shard(ShardId(index as u16));
            }
        }
        for seat in 0..self.seats.len() {
            let now = self.now;
            let due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
            if let Some(session) = &mut self.seats[seat].session
                && due(session.poll_timeout())
            {
                session.handle_timeout(now);
                self.drain_session(seat);
            }
            if self.seats[seat].closed.is_none() && due(self.seats[seat].client.poll_timeout()) {
                self.act(seat, |client, now| client.handle_timeout(now));
            }
        }
    }

    fn deliver(&mut self, delivery: Delivery) {
        match delivery {
            Delivery::FrameUp(seat, text) => {
                if let Some(session) = &mut self.seats[seat].session {
                    session.handle_text(self.now, &text);
                    self.drain_session(seat);
                }
            }
            Delivery::FrameDown(seat, text) => {
                if self.seats[seat].closed.is_none() {
                    self.act(seat, |client, now| client.handle_frame(now, &text));
                }
            }
            Delivery::Closed(seat, why) => {
                self.seats[seat].closed = Some(why);
                self.seats[seat].wants_in = false;
            }
            Delivery::DatagramUp(from, to, bytes) => {
                let shard = ShardId(to.port() - 40_000);
                self.shards[usize::from(shard.0)].handle_datagram(
                    self.now,
                    from,
                    BytesMut::from(&bytes[..]),
                );
                self.drain_shard(shard);
            }
            Delivery::DatagramDown(from, to, bytes) => {
                let seat = self.seats.iter().position(|s| s.address == to);
                if let Some(seat) = seat.filter(|s| self.seats[*s].closed.is_none()) {
                    self.act(seat, |client, now| {
                        client.handle_datagram(now, from, &bytes)
                    });
                }
            }
        }
    }

    // --- plumbing ------------------------------------------------------------------------------

    fn drain_client(&mut self, seat: usize) {
        while let Some(frame) = self.seats[seat].client.poll_frame() {
            self.network
                .send_frame(self.now, Delivery::FrameUp(seat, frame));
        }
        while let Some((to, bytes)) = self.seats[seat].client.poll_transmit() {
            assert_eq!(to, server(self.seats[seat].shard));
            if self.seats[seat].plugged {
                let from = self.seats[seat].address;
                self.network
                    .send_datagram(self.now, true, Delivery::DatagramUp(from, to, bytes));
            }
        }
    }

    fn drain_session(&mut self, seat: usize) {
        while let Some(output) = self.seats[seat]
            .session
            .as_mut()
            .and_then(Session::poll_output)
        {
            self.perform(seat, output);
        }
    }

    fn perform(&mut self, seat: usize, output: Output) {
        let now = self.now;
        match output {
            Output::Send(text) => self
                .network
                .send_frame(now, Delivery::FrameDown(seat, text)),
            // A browser answers pings by itself.
            Output::Ping => self.session(seat, |session| session.handle_activity(now)),
            Output::Join(request) => self.perform_join(seat, request),
            Output::Leave => self.perform_leave(seat),
            Output::SetTracks(tracks) => {
                if let (Some(room), Some(key)) =
                    (self.seats[seat].room.clone(), self.seats[seat].key)
                {
                    let told = self.stripe.set_tracks(&room, key, tracks);
                    self.notify(&told);
                }
            }
            Output::PullChanges(since) => {
                if let (Some(room), Some(key)) =
                    (self.seats[seat].room.clone(), self.seats[seat].key)
                {
                    let changes = self.stripe.changes_since(&room, key, since);
                    self.session(seat, |session| session.handle_changes(now, changes));
                }
            }
            Output::Shard(command) => {
                if let shardcast::control::Command::RemovePeer { .. } = command {
                    self.seats[seat].removed_at = Some(now);
                }
                let shard = self.seats[seat].shard;
                self.shards[usize::from(shard.0)].handle_command(now, command);
                self.drain_shard(shard);
            }
            Output::Close(reason) => {
                let why = reason.reason().to_owned();
                self.network.send_frame(now, Delivery::Closed(seat, why));
            }
        }
    }

    fn perform_join(&mut self, seat: usize, request: shardcast::control::JoinRequest) {
        let key = PeerKey(self.next_key);
        self.next_key += 1;
        let room = request.room.clone();
        let policy = Policy {
            spill_peers: self.spill_peers,
            spill_load_percent: u8::MAX,
        };
        let load = |shard: &Shard| ShardLoad {
            shard: shard.id(),
            peers: shard.peers_len(),
            busy_percent: 0,
        };
        let loads: Vec<ShardLoad> = self.shards.iter().map(load).collect();
        let place = |room: &[_]| policy.place(room, &loads);
        let outcome = self.stripe.join(key, request, seat, place);
        let now = self.now;
        let result = match outcome {
            Err(refused) => Err(refused),
            Ok(outcome) => {
                self.seats[seat].key = Some(key);
                self.seats[seat].shard = outcome.shard;
                self.seats[seat].room = Some(room);
                self.seats[seat].removed_at = None;
                self.by_key.insert(key, seat);
                if let Some((replaced, _, former)) = outcome.replaced {
                    self.seats[former].room = None;
                    self.session(former, |session| {
                        session.handle_event(now, Event::Replaced(replaced));
                    });
                }
                self.notify(&outcome.notify);
                Ok(Joined {
                    key,
                    shard: outcome.shard,
                    addresses: Arc::new([server(outcome.shard)]),
                    roster: outcome.roster,
                })
            }
        };
        self.session(seat, |session| session.handle_joined(now, result));
    }

    fn perform_leave(&mut self, seat: usize) {
        let (Some(room), Some(key)) = (self.seats[seat].room.take(), self.seats[seat].key) else {
            return;
        };
        if let Some(outcome) = self.stripe.leave(&room, key) {
            self.notify(&outcome.notify);
        }
    }

    fn notify(&mut self, seats: &[usize]) {
        let now = self.now;
        for seat in seats {
            self.session(*seat, |session| {
                session.handle_event(now, Event::RoomChanged)
            });
        }
    }

    fn session(&mut self, seat: usize, input: impl FnOnce(&mut Session)) {
        if let Some(session) = &mut self.seats[seat].session {
            input(session);
            self.drain_session(seat);
        }
    }

    fn drain_shard(&mut self, id: ShardId) {
        let now = self.now;
        let index = usize::from(id.0);
        while let Some((to, message)) = self.shards[index].poll_relay() {
            self.mesh.push(now, id, to, message);
        }
        while let Some((key, event)) = self.shards[index].poll_event() {
            if let Some(seat) = self.by_key.get(&key).copied()
                && self.seats[seat].key == Some(key)
            {
                self.session(seat, |session| session.handle_event(now, event));
            }
        }
        let outbox = self.shards[index].outbox();
        let sent: Vec<(SocketAddr, Vec<u8>)> = outbox
            .iter()
            .map(|(to, bytes)| (to, bytes.to_vec()))
            .collect();
        outbox.clear();
        for (to, bytes) in sent {
            self.check_addressee(to, &bytes);
            let delivery = Delivery::DatagramDown(server(id), to, bytes);
            self.network.send_datagram(now, false, delivery);
        }
    }

    /// Nothing goes to who left, nor to where nobody ever was. A last word (a DTLS alert) may, and
    /// so may the short refusal of a check.
    fn check_addressee(&mut self, to: SocketAddr, bytes: &[u8]) {
        let seat = self
            .seats
            .iter()
            .position(|s| s.address == to || s.former.contains(&to));
        let Some(seat) = seat else {
            let is_stun_error = bytes.starts_with(&[0x01, 0x11]) && bytes.len() <= 100;
            if !is_stun_error {
                self.fault(format!("a datagram to {to}, where nobody is"));
            }
            return;
        };
        let is_media = bytes.first().is_some_and(|b| (128..=191).contains(b));
        let gone = self.seats[seat].removed_at.is_some_and(|at| at < self.now);
        if is_media && gone {
            let id = self.seats[seat].client.id().to_owned();
            self.fault(format!("media to {id}, which left"));
        }
        if is_media && !(192..=223).contains(&bytes[1]) {
            self.check_nonce(seat, bytes);
        }
    }

    /// One key, SSRC and sequence number seal one packet: a second one would give the key away
    /// (RFC 7714 §8.4). No test sends enough for a sequence number to come around.
    fn check_nonce(&mut self, seat: usize, bytes: &[u8]) {
        let Some(key) = self.seats[seat].key else {
            return;
        };
        let sequence = u16::from_be_bytes([bytes[2], bytes[3]]);
        let ssrc = u32::from_be_bytes([bytes[8], bytes[9], bytes[10], bytes[11]]);
        let mut hasher = DefaultHasher::new();
        bytes.hash(&mut hasher);
        let hash = hasher.finish();
        let former = self.sealed.insert((key, ssrc, sequence), hash);
        if former.is_some_and(|former| former != hash) {
            self.fault(format!("two packets sealed under SSRC {ssrc}, {sequence}"));
        }
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 20 {
            self.faults.push(text);
        }
    }

    // --- what must hold ------------------------------------------------------------------------

    /// Everything published in the room: peer and track ids, by the clients' own books.
    pub fn published(&self, room: &str) -> BTreeSet<(String, String)> {
        let mut all = BTreeSet::new();
        for seat in self.present(room) {
            let client = self.client(seat);
            for transceiver in &client.negotiation.transceivers {
                if let Some(local) = transceiver.local.as_ref().filter(|_| !transceiver.stopped) {
                    all.insert((client.id().to_owned(), local.id.clone()));
                }
            }
        }
        all
    }

    /// Whether everybody present has exactly the others' tracks.
    pub fn is_settled(&self, room: &str) -> bool {
        let on_the_way = |seat: &Seat| seat.wants_in != seat.room.is_some();
        if self.seats.iter().any(on_the_way) {
            return false;
        }
        let published = self.published(room);
        let present = self.present(room);
        let ids: BTreeSet<String> = present
            .iter()
            .map(|seat| self.client(*seat).id().to_owned())
            .collect();
        present.iter().all(|seat| {
            let client = self.client(*seat);
            let mut expected = published.clone();
            expected.retain(|(peer, _)| peer != client.id());
            let mut others = ids.clone();
            others.remove(client.id());
            let has_media = client.negotiation.sections > 0;
            (client.connected_at.is_some() || !has_media)
                && client.receiving() == expected
                && (client.published == expected && client.roster == others)
                && !client.negotiation.has_pending_offer()
                && !client.negotiation.needed
        })
    }

    /// Runs until the room is settled; panics with what is missing otherwise.
    pub fn settle(&mut self, room: &str) {
        let end = self.now + Duration::from_secs(15);
        let settled = self.run_until(end, |world| world.is_settled(room));
        if !settled {
            let published = self.published(room);
            for seat in self.present(room) {
                let client = self.client(seat);
                eprintln!(
                    "{}: connected {:?}, receives {:?}, told of {:?} and {:?}, pending {}, needed {}, errors {:?}, faults {:?}, {} sections",
                    client.id(),
                    client.connected_at.map(|at| at - self.zero),
                    client.receiving(),
                    client.roster,
                    client.published,
                    client.negotiation.has_pending_offer(),
                    client.negotiation.needed,
                    client.errors,
                    client.faults,
                    client.negotiation.sections,
                );
            }
            panic!("the room is not settled; published: {published:?}");
        }
    }

    /// How many packets each track's sender has made.
    pub fn mark(&self) -> BTreeMap<(String, String), u64> {
        let mut marks = BTreeMap::new();
        for seat in &self.seats {
            for (track, sender) in &seat.client.senders {
                let name = (seat.client.id().to_owned(), track.clone());
                marks.insert(name, sender.packets_made());
            }
        }
        marks
    }

    /// Runs on, and checks that at least `part` of what was sent meanwhile reached everybody, intact.
    pub fn flows(&mut self, room: &str, duration: Duration, part: f64) {
        let from = self.mark();
        self.run_for(duration);
        let to = self.mark();
        // What is under way arrives, and what was lost is asked for again.
        self.run_for(Duration::from_millis(800));
        let published = self.published(room);
        for seat in self.present(room) {
            let client = self.client(seat);
            for (peer, track) in published.iter().filter(|(peer, _)| peer != client.id()) {
                let name = (peer.clone(), track.clone());
                let (first, last) = (from.get(&name).copied().unwrap_or(0), to[&name]);
                assert!(last > first, "{peer}/{track} was sent");
                let Some(received) = client.reception(peer, track) else {
                    panic!("{} does not receive {peer}/{track}", client.id());
                };
                let arrived = arrived(received, first, last);
                let share = arrived as f64 / (last - first) as f64;
                assert!(
                    share >= part,
                    "{} received {arrived} of {} packets of {peer}/{track}",
                    client.id(),
                    last - first
                );
            }
        }
        self.check();
    }

    /// What must hold at any time.
    pub fn check(&self) {
        let mut wrong = self.faults.clone();
        for seat in &self.seats {
            let client = &seat.client;
            wrong.extend(client.faults.iter().cloned());
            if client.strays > 0 {
                wrong.push(format!("{}: {} stray packets", client.id(), client.strays));
            }
            if client.transport.srtp_failures > 0 {
                let failures = client.transport.srtp_failures;
                wrong.push(format!("{}: {failures} packets not authentic", client.id()));
            }
            if client.transport.requests_received > 0 {
                wrong.push(format!("{}: a lite agent sent checks", client.id()));
            }
            for received in client.received.values() {
                let texts = received.inconsistencies();
                wrong.extend(
                    texts
                        .iter()
                        .map(|text| format!("{} <- {text}", client.id())),
                );
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Sound and pictures of one publisher lie on one clock at everybody who receives them.
    pub fn check_lip_sync(&self, room: &str) {
        for seat in self.present(room) {
            let client = self.client(seat);
            let mut clocks: BTreeMap<String, Vec<f64>> = BTreeMap::new();
            for track in client.negotiation.remote_tracks() {
                let received = client
                    .reception(&track.peer, &track.track)
                    .expect("the room is settled");
                let offset = received.clock_offset_ms();
                let offset = offset.unwrap_or_else(|| {
                    panic!(
                        "{} has no report of {}/{}",
                        client.id(),
                        track.peer,
                        track.track
                    )
                });
                clocks.entry(track.peer).or_default().push(offset);
            }
            for (peer, offsets) in clocks {
                let least = offsets.iter().copied().fold(f64::INFINITY, f64::min);
                let most = offsets.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                assert!(
                    most - least < 5.0,
                    "{}: tracks of {peer} lie {} ms apart",
                    client.id(),
                    most - least
                );
            }
        }
    }
}

fn arrived(received: &Received, first: u64, last: u64) -> u64 {
    let counters: BTreeSet<u64> = received
        .packets
        .values()
        .map(|record| record.stamp.counter)
        .filter(|counter| (first..last).contains(counter))
        .collect();
    counters.len() as u64
}
