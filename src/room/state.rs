//! The room itself: who and what is in it, and the deadlines of its peers.

use std::collections::HashMap;
use std::time::Instant;

use rand::RngExt;
use rand::rngs::StdRng;

use crate::base::ids::{PeerKey, RoomId, ShardId, Ssrc, TrackKey, WantKey};
use crate::base::slab::Slab;
use crate::base::time::{Beat, earliest};
use crate::control::TransportEvent;
use crate::room::encoding::Encoding;
use crate::room::floor::Floor;
use crate::room::origin::{Remote, Served};
use crate::room::output::Output;
use crate::room::payload::RouteTables;
use crate::room::peer::Peer;
use crate::room::slots::{
    EncodingSlot, OfPeers, OfSubscriptions, OfTracks, PeerSlot, SubscriptionSlot, TrackSlot,
};
use crate::room::subnets::Subnets;
use crate::room::subscription::Subscription;
use crate::room::track::Track;
use crate::transport::Transport;

/// The peers of one room that one shard holds. A subscription reaches only tracks in here, or in the same room on
/// another shard.
pub struct Room {
    pub(in crate::room) id: RoomId,
    /// The shard it is on.
    pub(in crate::room) shard: ShardId,
    pub(in crate::room) peers: Slab<Peer, OfPeers>,
    pub(in crate::room) tracks: Slab<Track, OfTracks>,
    pub(in crate::room) subscriptions: Slab<Subscription, OfSubscriptions>,
    pub(in crate::room) tracks_by_key: HashMap<TrackKey, TrackSlot>,
    /// Those of sound: what is looked at ten times a second.
    pub(in crate::room) sounds: Vec<(TrackKey, TrackSlot)>,
    /// Subscriptions whose track is not known (yet): each is in here once.
    pub(in crate::room) waiting: HashMap<TrackKey, Vec<SubscriptionSlot>>,
    /// Tracks that other shards want and that are not here (yet).
    pub(in crate::room) wanted: HashMap<TrackKey, Vec<Served>>,
    /// What this shard wants of others.
    pub(in crate::room) remotes: HashMap<WantKey, Remote>,
    /// The want of each such track.
    pub(in crate::room) wants: HashMap<TrackKey, WantKey>,
    /// Tracks of other shards whose subscriptions have changed; empty between inputs.
    pub(in crate::room) unreviewed: Vec<TrackKey>,
    /// Who speaks.
    pub(in crate::room) floor: Floor,
    /// The routes of its subscriptions, each that is different once.
    pub(in crate::room) routes: RouteTables,
    /// Who may share a bottleneck.
    pub(in crate::room) subnets: Subnets,
    /// When what need not be exact is done for its peers.
    pub(in crate::room) beat: Beat,
}

impl Room {
    /// The part of a room that is on `shard`, without peers.
    #[must_use]
    pub fn new(id: RoomId, shard: ShardId) -> Self {
        Self {
            id,
            shard,
            peers: Slab::new(),
            tracks: Slab::new(),
            subscriptions: Slab::new(),
            tracks_by_key: HashMap::new(),
            sounds: Vec::new(),
            waiting: HashMap::new(),
            wanted: HashMap::new(),
            remotes: HashMap::new(),
            wants: HashMap::new(),
            unreviewed: Vec::new(),
            floor: Floor::default(),
            routes: RouteTables::default(),
            subnets: Subnets::default(),
            beat: Beat::default(),
        }
    }

    /// Which room it is (part of).
    #[must_use]
    pub fn id(&self) -> &RoomId {
        &self.id
    }

    /// Adds a peer that publishes and receives nothing yet.
    pub fn add_peer(&mut self, key: PeerKey, transport: Transport, rng: &mut StdRng) -> PeerSlot {
        // An SSRC of 0 stands for "none" in some receivers.
        let rtcp_ssrc = Ssrc(rng.random_range(1..=u32::MAX));
        self.peers.insert(Peer::new(key, transport, rtcp_ssrc))
    }

    /// Ends a peer: its transport is closed, its tracks end for everybody.
    pub fn remove_peer(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        let subscriptions = std::mem::take(&mut peer.subscriptions);
        let tracks = std::mem::take(&mut peer.tracks);
        self.subnets.on_moved(slot, peer.routed.take(), None);
        peer.transport.close(now, &mut output.outbox);
        for (_, subscription) in subscriptions {
            self.end_subscription(subscription);
        }
        for track in tracks {
            self.end_track(track, output);
        }
        self.review_wants(output);
        self.peers.remove(slot);
    }

    /// Whether nobody is in it, and no other shard waits for somebody to be.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.peers.is_empty() && self.wanted.is_empty()
    }

    /// An encoding, if it is still there.
    #[inline]
    pub(in crate::room) fn encoding(&self, slot: EncodingSlot) -> Option<&Encoding> {
        self.tracks.get(slot.track)?.encoding(slot.index)
    }

    /// A peer's transport.
    #[must_use]
    pub fn transport_mut(&mut self, slot: PeerSlot) -> Option<&mut Transport> {
        self.peers.get_mut(slot).map(|peer| &mut peer.transport)
    }

    /// Takes what happened to a peer's transport: after every input to it.
    pub fn drain_transport(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let mut has_new_keys = false;
        while let Some(peer) = self.peers.get_mut(slot)
            && let Some(event) = peer.transport.poll_event()
        {
            output.events.push_back((peer.key, event));
            has_new_keys |= matches!(event, TransportEvent::Connected { .. });
            match event {
                TransportEvent::Connected { .. } | TransportEvent::ConsentRegained => {
                    self.on_reachable(now, slot, output);
                }
                TransportEvent::ConsentLost | TransportEvent::Failed(_) => {}
            }
        }
        self.follow_transport(slot, has_new_keys, output);
    }

    /// When a peer next needs [`Room::handle_timeout`].
    #[must_use]
    pub fn poll_timeout(&self, slot: PeerSlot) -> Option<Instant> {
        let peer = self.peers.get(slot)?;
        let tracks = peer.tracks.iter().filter_map(|slot| self.tracks.get(*slot));
        let encodings = tracks.clone().flat_map(|track| &track.encodings);
        encodings
            .map(|encoding| {
                let keyframes = encoding.keyframes.poll_timeout();
                earliest(keyframes, encoding.nack.poll_timeout())
            })
            .chain(tracks.map(Track::poll_encodings))
            .chain([
                peer.transport.poll_timeout(),
                peer.report_at,
                peer.measure_at,
                peer.division.due,
                peer.congestion.poll_timeout(),
                peer.uplink.poll_timeout(),
                peer.congestion
                    .sender
                    .silence_timeout()
                    .map(|at| self.beat.not_before(at)),
            ])
            .fold(None, earliest)
    }

    /// Does what is due for a peer.
    pub fn handle_timeout(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.transport.handle_timeout(now, &mut output.outbox);
        self.drain_transport(now, slot, output);
        for at in 0.. {
            let tracks = self.peers.get(slot).map(|peer| &peer.tracks);
            let Some(&track) = tracks.and_then(|tracks| tracks.get(at)) else {
                break;
            };
            self.handle_encodings_timeout(now, track, output);
        }
        self.send_due_keyframe_requests(now, slot, output);
        self.send_due_nacks(now, slot, output);
        self.send_due_report(now, slot, output);
        self.handle_congestion_timeout(now, slot, output);
        self.measure_if_due(now, slot, output);
        self.allocate_if_due(now, slot, output);
    }

    /// The peer can be sent to: the pictures it waits for start with a keyframe.
    fn on_reachable(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        let Some(peer) = self.peers.get(slot) else {
            return;
        };
        let subscriptions: Vec<_> = peer.subscriptions.iter().map(|(_, slot)| *slot).collect();
        for subscription in subscriptions {
            self.want_keyframe(now, subscription, output);
        }
        self.allocate_soon(now, slot, output);
        self.tell_speakers(slot, output);
    }
}
