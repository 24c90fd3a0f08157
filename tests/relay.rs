//! Rooms over several shards under random operations: who gets what, and what is left when all have gone.

#[path = "support/relay_mesh.rs"]
mod relay_mesh;
#[path = "support/shard_world.rs"]
mod support;

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use mio::Events;
use proptest::prelude::*;
use shardcast::base::ids::{
    EncodingIndex, MediaKind, PeerKey, RoomId, RtpTime, ShardId, Ssrc, TrackKey, WantKey,
};
use shardcast::control::layers::{LayerChange, Preference, Preferences};
use shardcast::control::relay::RelayMessage;
use shardcast::control::{
    Command, DtlsRole, EncodingConfig, Event, LayerReason, RoomOptions, SubscriptionConfig,
    TrackConfig,
};
use shardcast::io::relay::RelayLinks;
use shardcast::io::scheduling::Scheduling;
use shardcast::io::shard_thread::{ShardHandle, ShardSeat, shard_poll};
use shardcast::io::udp::UdpSocket;
use shardcast::shard::Shard;
use shardcast::transport::DtlsIdentity;
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::rtcp::{
    NtpTime, RtcpPacket, SenderReport, write_nack, write_pli, write_sender_report,
};

use crate::relay_mesh::Mesh;
use crate::support::{Client, Rtp, client_identity, codec, subscription, track_of};

const MS: Duration = Duration::from_millis(1);
const ROOMS: [&str; 2] = ["red", "blue"];

/// Several shards, their peers, and the time.
struct Cluster {
    now: Instant,
    shards: Vec<Shard>,
    mesh: Mesh,
    peers: Vec<Peer>,
    by_address: HashMap<SocketAddr, usize>,
    seed: u64,
    /// Where the next peer joins, who is waited for.
    awaited: Option<(usize, usize)>,
    /// What publishers heard of which encodings are wanted, and when.
    wanted: Vec<(Instant, Vec<bool>)>,
    /// What went wrong, as text.
    faults: Vec<String>,
}

struct Peer {
    client: Client,
    room: &'static str,
    shard: usize,
    is_here: bool,
    tracks: BTreeMap<u32, Published>,
    unpublished: Vec<Published>,
    subscriptions: BTreeMap<u32, SubscriptionConfig>,
    next_track: u32,
    next_subscription: u32,
}

struct Published {
    config: TrackConfig,
    seq: u16,
}

fn identity() -> Arc<DtlsIdentity> {
    static IDENTITY: OnceLock<Arc<DtlsIdentity>> = OnceLock::new();
    let make = || Arc::new(DtlsIdentity::generate().expect("an identity"));
    IDENTITY.get_or_init(make).clone()
}

impl Cluster {
    fn new(shards: u16, seed: u64) -> Self {
        Self {
            now: Instant::now(),
            shards: (0..shards)
                .map(|id| Shard::new(ShardId(id), identity(), seed + u64::from(id)))
                .collect(),
            mesh: Mesh::new(seed, 5 * MS),
            peers: Vec::new(),
            by_address: HashMap::new(),
            seed,
            awaited: None,
            wanted: Vec::new(),
            faults: Vec::new(),
        }
    }

    // --- operations ----------------------------------------------------------------------------

    /// A peer joins and connects.
    fn join(&mut self, room: usize, shard: usize) -> usize {
        let at = self.peers.len();
        let (room, shard) = (ROOMS[room % ROOMS.len()], shard % self.shards.len());
        let client = Client::new(at);
        let (peer, ice, address) = (client.key, client.ice.clone(), client.address);
        self.by_address.insert(address, at);
        self.peers.push(Peer {
            client,
            room,
            shard,
            is_here: true,
            tracks: BTreeMap::new(),
            unpublished: Vec::new(),
            subscriptions: BTreeMap::new(),
            next_track: 0,
            next_subscription: 0,
        });
        let room = RoomId::new(room).unwrap();
        self.command(at, Command::AddPeer { peer, room, ice });
        let fingerprints = vec![client_identity().1.clone()];
        let role = DtlsRole::Server;
        self.command(
            at,
            Command::SetRemoteDtls {
                peer,
                fingerprints,
                role,
            },
        );
        let check = self.peers[at].client.check();
        self.datagram(at, &check);
        let now = self.now;
        self.peers[at].client.start_dtls(now);
        self.drain(shard);
        at
    }

    fn publish(&mut self, at: usize, video: bool) -> TrackKey {
        let peer = &mut self.peers[at];
        let index = peer.next_track;
        peer.next_track += 1;
        let config = track_of(peer.client.key, index, &[upstream(video)]);
        let key = config.key;
        peer.tracks.insert(index, Published { config, seq: 100 });
        self.configure(at);
        key
    }

    fn unpublish(&mut self, at: usize, index: usize) {
        let peer = &mut self.peers[at];
        let keys: Vec<u32> = peer.tracks.keys().copied().collect();
        if let Some(key) = keys.get(index % keys.len().max(1)) {
            peer.unpublished.extend(peer.tracks.remove(key));
            self.configure(at);
        }
    }

    fn republish(&mut self, at: usize) {
        let peer = &mut self.peers[at];
        if let Some(track) = peer.unpublished.pop() {
            peer.tracks.insert(track.config.key.index, track);
            self.configure(at);
        }
    }

    fn subscribe(&mut self, at: usize, source: &TrackConfig, source_shard: usize) -> Ssrc {
        let peer = &mut self.peers[at];
        let number = peer.next_subscription;
        peer.next_subscription += 1;
        let video = source.kind == MediaKind::Video;
        let mut config = subscription(number, source, &[downstream(video)]);
        config.source_shard = ShardId(source_shard as u16);
        let ssrc = config.ssrc;
        peer.subscriptions.insert(number, config);
        self.configure(at);
        ssrc
    }

    fn configure(&mut self, at: usize) {
        let peer = &self.peers[at];
        let command = Command::Configure {
            peer: peer.client.key,
            tracks: peer.tracks.values().map(|t| t.config.clone()).collect(),
            subscriptions: peer.subscriptions.values().cloned().collect(),
        };
        self.command(at, command);
    }

    fn leave(&mut self, at: usize) {
        if std::mem::take(&mut self.peers[at].is_here) {
            let peer = self.peers[at].client.key;
            self.command(at, Command::RemovePeer { peer });
        }
    }

    /// What a session does once it is told that others have unpublished or left.
    fn forget_ended(&mut self) {
        let live: HashSet<TrackKey> = self.live_tracks().map(|(_, t)| t.key).collect();
        for at in 0..self.peers.len() {
            let peer = &mut self.peers[at];
            let before = peer.subscriptions.len();
            peer.subscriptions.retain(|_, s| live.contains(&s.source));
            if peer.is_here && peer.subscriptions.len() != before {
                self.configure(at);
            }
        }
    }

    /// A shard loses everything it knew, as after a panic: its peers are gone, and it says so.
    fn break_shard(&mut self, shard: usize) {
        self.seed += 1000;
        let id = ShardId(shard as u16);
        self.shards[shard] = Shard::new(id, identity(), self.seed);
        for peer in &mut self.peers {
            peer.is_here &= peer.shard != shard;
        }
        for other in (0..self.shards.len()).filter(|other| *other != shard) {
            let other = ShardId(other as u16);
            self.mesh.push(self.now, id, other, RelayMessage::Reset);
        }
    }

    /// One packet of each live track.
    fn send_media(&mut self) {
        for at in 0..self.peers.len() {
            let indices: Vec<u32> = self.peers[at].tracks.keys().copied().collect();
            if self.peers[at].is_here {
                indices
                    .into_iter()
                    .for_each(|index| self.send_packet(at, index));
            }
        }
    }

    fn send_packet(&mut self, at: usize, index: u32) {
        let peer = &mut self.peers[at];
        let track = peer.tracks.get_mut(&index).expect("it is published");
        track.seq = track.seq.wrapping_add(1);
        let start = match track.config.kind {
            // Of VP8 a keyframe (RFC 7741 §4.2): who comes back goes on with it.
            MediaKind::Video => "\x10\0",
            MediaKind::Audio => "",
        };
        // Says where it belongs, for whoever gets it.
        let payload = format!(
            "{start}{} {} {index} {}",
            peer.room, track.config.key.peer, track.seq
        );
        let packet = Rtp {
            ssrc: track.config.encodings[0].ssrc.unwrap().0,
            seq: track.seq,
            timestamp: 960 * u32::from(track.seq),
            payload_type: track.config.codecs[0].payload_type.0,
            extensions: &[],
            payload: payload.as_bytes(),
        };
        let sealed = peer.client.seal_rtp(&packet.bytes());
        self.datagram(at, &sealed);
    }

    fn send_rtcp(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut compound = Vec::new();
        write(&mut compound);
        let sealed = self.peers[at].client.seal_rtcp(&compound);
        self.datagram(at, &sealed);
    }

    // --- plumbing ------------------------------------------------------------------------------

    fn command(&mut self, at: usize, command: Command) {
        let shard = self.peers[at].shard;
        self.shards[shard].handle_command(self.now, command);
        self.drain(shard);
    }

    fn datagram(&mut self, at: usize, datagram: &[u8]) {
        let (shard, from) = (self.peers[at].shard, self.peers[at].client.address);
        self.shards[shard].handle_datagram(self.now, from, BytesMut::from(datagram));
        self.drain(shard);
    }

    fn drain(&mut self, shard: usize) {
        loop {
            while let Some((to, message)) = self.shards[shard].poll_relay() {
                self.mesh.push(self.now, ShardId(shard as u16), to, message);
            }
            while let Some((_, event)) = self.shards[shard].poll_event() {
                if let Event::LayersWanted(_, wanted) = event {
                    let wanted = wanted.encodings.iter().map(|e| e.is_wanted).collect();
                    self.wanted.push((self.now, wanted));
                }
            }
            let outbox = self.shards[shard].outbox();
            let sent: Vec<_> = outbox.iter().map(|(to, d)| (to, d.to_vec())).collect();
            outbox.clear();
            for (to, datagram) in sent {
                self.receive(shard, to, &datagram);
            }
            let mut is_quiet = true;
            for at in 0..self.peers.len() {
                while self.peers[at].shard == shard
                    && let Some(datagram) = self.peers[at].client.to_send.pop_front()
                {
                    is_quiet = false;
                    let from = self.peers[at].client.address;
                    self.shards[shard].handle_datagram(self.now, from, datagram);
                }
            }
            if is_quiet && self.shards[shard].outbox().is_empty() {
                return;
            }
        }
    }

    fn receive(&mut self, shard: usize, to: SocketAddr, datagram: &[u8]) {
        let at = self.by_address[&to];
        let peer = &mut self.peers[at];
        let is_media = datagram.first().is_some_and(|b| (128..192).contains(b));
        if is_media && !peer.is_here {
            self.faults.push(format!("media to peer {at}, which left"));
            return;
        }
        if peer.shard != shard {
            self.faults
                .push(format!("peer {at} hears of shard {shard}"));
            return;
        }
        let before = peer.client.rtp.len();
        peer.client.receive(self.now, datagram);
        for packet in &peer.client.rtp[before..] {
            let payload = String::from_utf8_lossy(&packet[packet.len() - 40.min(packet.len())..]);
            if !payload.contains(peer.room) {
                self.faults.push(format!("{} hears {payload}", peer.room));
            }
        }
    }

    fn run_for(&mut self, duration: Duration) {
        let end = self.now + duration;
        loop {
            let timeouts = self.shards.iter().map(Shard::poll_timeout);
            let due = timeouts.chain([self.mesh.next_at()]).flatten().min();
            let Some(due) = due.filter(|due| *due <= end) else {
                self.now = end;
                return;
            };
            self.now = self.now.max(due);
            while let Some((to, from, message)) = self.mesh.poll(self.now) {
                let to = usize::from(to.0);
                self.shards[to].handle_relay(self.now, from, message);
                self.drain(to);
            }
            for shard in 0..self.shards.len() {
                self.shards[shard].handle_timeout(self.now);
                self.drain(shard);
            }
        }
    }

    // --- what must hold ------------------------------------------------------------------------

    fn live_tracks(&self) -> impl Iterator<Item = (usize, &TrackConfig)> {
        let here = self.peers.iter().enumerate().filter(|(_, p)| p.is_here);
        here.flat_map(|(at, peer)| peer.tracks.values().map(move |t| (at, &t.config)))
    }

    /// Every active subscription of a live track gets what is sent, and nothing else is received.
    fn check_flow(&mut self) {
        self.mesh.media_loss = 0.0;
        self.run_for(100 * MS);
        for peer in &mut self.peers {
            peer.client.take_rtp();
        }
        for _ in 0..3 {
            self.send_media();
            self.run_for(20 * MS);
        }
        // Where each live track is, and in which room.
        let live: HashMap<TrackKey, (usize, &str, MediaKind)> = self
            .live_tracks()
            .map(|(by, track)| {
                let by = &self.peers[by];
                (track.key, (by.shard, by.room, track.kind))
            })
            .collect();
        let mut wrong = std::mem::take(&mut self.faults);
        for (at, peer) in self.peers.iter_mut().enumerate() {
            let mut heard: BTreeMap<Ssrc, usize> = BTreeMap::new();
            for (header, _) in peer.client.take_rtp() {
                *heard.entry(header.ssrc).or_default() += 1;
            }
            let mut expected: BTreeMap<Ssrc, usize> = BTreeMap::new();
            for wanted in peer.subscriptions.values().filter(|_| peer.is_here) {
                // A subscription made ahead may have guessed wrong.
                let fits = live.get(&wanted.source).is_some_and(|(shard, room, kind)| {
                    let found = *shard == usize::from(wanted.source_shard.0);
                    (found || *shard == peer.shard) && *room == peer.room && *kind == wanted.kind
                });
                if wanted.active && fits {
                    expected.insert(wanted.ssrc, 3);
                }
            }
            if heard != expected {
                wrong.push(format!("peer {at} heard {heard:?}, not {expected:?}"));
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }

    /// Everybody leaves, and nothing is left.
    fn check_end(&mut self) {
        for at in 0..self.peers.len() {
            self.leave(at);
        }
        self.run_for(100 * MS);
        for shard in &self.shards {
            assert_eq!(
                (shard.peers_len(), shard.rooms_len(), shard.wants_len()),
                (0, 0, 0),
                "shard {}",
                shard.id()
            );
        }
        assert!(self.faults.is_empty(), "{}", self.faults.join("\n"));
    }

    fn count(&self, shard: usize, name: &str) -> u64 {
        let mut counters = self.shards[shard].counters().iter();
        counters.find(|(n, _)| *n == name).expect("a counter").1
    }
}

fn upstream(video: bool) -> CodecMapping {
    match video {
        true => codec(96, Codec::Vp8),
        false => codec(111, Codec::Opus),
    }
}

fn downstream(video: bool) -> CodecMapping {
    match video {
        true => codec(120, Codec::Vp8),
        false => codec(109, Codec::Opus),
    }
}

// --- one by one ----------------------------------------------------------------------------------

/// A publisher of one video track on shard 0, and subscribers on the shards named.
fn stage(shards: u16, subscribers: &[usize]) -> (Cluster, TrackConfig) {
    let mut cluster = Cluster::new(shards, 1);
    let publisher = cluster.join(0, 0);
    cluster.publish(publisher, true);
    let track = cluster.peers[publisher].tracks[&0].config.clone();
    for shard in subscribers {
        let at = cluster.join(0, *shard);
        cluster.subscribe(at, &track, 0);
    }
    cluster.run_for(50 * MS);
    (cluster, track)
}

fn plis(cluster: &mut Cluster) -> usize {
    let messages = cluster.peers[0].client.take_rtcp();
    let is_pli = |m: &RtcpPacket| matches!(m, RtcpPacket::Pli { .. });
    messages.into_iter().filter(is_pli).count()
}

#[test]
fn a_packet_crosses_once_for_all_subscribers_of_a_shard() {
    let (mut cluster, _) = stage(3, &[0, 1, 1, 1, 2]);
    cluster.check_flow();
    assert_eq!(cluster.count(0, "relay_packets_sent"), 2 * 3);
    assert_eq!(cluster.count(1, "relay_packets_received"), 3);
    assert_eq!(cluster.count(1, "rtp_forwarded"), 9);
    cluster.check_end();
}

#[test]
fn a_room_on_one_shard_relays_nothing() {
    let (mut cluster, _) = stage(2, &[0, 0]);
    cluster.check_flow();
    assert_eq!(cluster.count(0, "relay_packets_sent"), 0);
    assert_eq!(cluster.shards[0].wants_len(), 0);
    assert_eq!(cluster.shards[1].rooms_len(), 0);
}

#[test]
fn keyframe_requests_of_all_shards_are_merged() {
    let (mut cluster, _) = stage(3, &[0, 1, 2, 1, 2]);
    cluster.check_flow();
    cluster.run_for(600 * MS);
    plis(&mut cluster);
    // Everybody asks, over and over, for two seconds; of one shard at most every 50 ms.
    let crossed = cluster.mesh.sent;
    for _ in 0..40 {
        for at in 1..6 {
            let pli = |out: &mut Vec<u8>| write_pli(out, Ssrc(1), Ssrc(0x5000_0000));
            cluster.send_rtcp(at, pli);
        }
        cluster.run_for(50 * MS);
    }
    let crossed = cluster.mesh.sent - crossed;
    assert!((70..=100).contains(&crossed), "by two shards: {crossed}");
    let asked = plis(&mut cluster);
    assert!((4..=5).contains(&asked), "one in half a second: {asked}");
    // What still waited goes up, and its half second passes.
    cluster.run_for(1100 * MS);
    plis(&mut cluster);
    // A single request is passed on at once.
    cluster.send_rtcp(3, |out| write_pli(out, Ssrc(1), Ssrc(0x5000_0000)));
    cluster.run_for(10 * MS);
    assert_eq!(plis(&mut cluster), 1);
}

#[test]
fn a_nack_is_answered_by_the_subscribers_shard() {
    let (mut cluster, _) = stage(2, &[1]);
    cluster.run_for(50 * MS);
    cluster.send_media();
    cluster.run_for(20 * MS);
    let sent = cluster.peers[1].client.sealed_rtp.clone();
    let (header, _) = cluster.peers[1].client.take_rtp()[0].clone();
    let seq = header.seq;
    cluster.send_rtcp(1, |out| {
        write_nack(out, Ssrc(1), Ssrc(0x5000_0000), &[seq]);
    });
    assert_eq!(
        cluster.peers[1].client.sealed_rtp, sent,
        "the same datagram"
    );
    assert_eq!(cluster.count(1, "rtp_retransmitted"), 1);
    assert_eq!(cluster.count(0, "rtp_retransmitted"), 0);
}

#[test]
fn sender_reports_cross_and_lead_to_the_subscriptions_clock() {
    let (mut cluster, track) = stage(2, &[1, 0]);
    cluster.send_media();
    cluster.run_for(20 * MS);
    let reports = |cluster: &mut Cluster, at: usize| -> Vec<SenderReport> {
        let messages = cluster.peers[at].client.take_rtcp().into_iter();
        messages
            .filter_map(|m| match m {
                RtcpPacket::SenderReport(report) => Some(report),
                _ => None,
            })
            .collect()
    };
    let timestamps: Vec<u32> = (1..3)
        .map(|at| cluster.peers[at].client.take_rtp()[0].0.timestamp.0)
        .collect();
    cluster.send_rtcp(0, |out| {
        let report = SenderReport {
            ssrc: track.encodings[0].ssrc.unwrap(),
            ntp: NtpTime(7 << 32),
            rtp_time: RtpTime(960 * 101 + 90),
            packets: 1,
            octets: 1,
        };
        write_sender_report(out, &report, "publisher");
    });
    cluster.run_for(10 * MS);
    for (at, timestamp) in (1..).zip(timestamps) {
        let got = reports(&mut cluster, at);
        assert_eq!(got.len(), 1, "peer {at}");
        // One wall clock and one RTP clock, both later by the time of the crossing.
        let later_ntp = (got[0].ntp.0 - (7 << 32)) as f64 / (1_u64 << 32) as f64;
        let later_rtp = f64::from(got[0].rtp_time.0.wrapping_sub(timestamp + 90)) / 90_000.0;
        assert!((later_ntp - later_rtp).abs() < 0.0001, "peer {at}");
        assert!(later_ntp < 0.006);
    }
}

#[test]
fn a_want_before_its_track_waits_and_one_after_its_end_is_harmless() {
    let mut cluster = Cluster::new(2, 3);
    let subscriber = cluster.join(0, 1);
    let key = PeerKey(2);
    let track = track_of(key, 0, &[upstream(true)]);
    // Neither the track nor its publisher nor the room are there.
    let ssrc = cluster.subscribe(subscriber, &track, 0);
    cluster.run_for(50 * MS);
    assert_eq!(cluster.shards[0].wants_len(), 1);
    let publisher = cluster.join(0, 0);
    assert_eq!(cluster.peers[publisher].client.key, key);
    cluster.publish(publisher, true);
    cluster.run_for(50 * MS);
    cluster.check_flow();
    cluster.leave(publisher);
    cluster.run_for(50 * MS);
    let byes = cluster.peers[subscriber].client.take_rtcp();
    assert!(byes.contains(&RtcpPacket::Bye {
        sources: vec![ssrc]
    }));
    assert_eq!(cluster.shards[0].rooms_len(), 1, "somebody waits");
    cluster.forget_ended();
    cluster.run_for(50 * MS);
    assert_eq!(cluster.shards[0].rooms_len(), 0);
    cluster.check_end();
}

#[test]
fn a_track_that_comes_back_is_relayed_again() {
    let (mut cluster, _) = stage(3, &[1, 2]);
    cluster.check_flow();
    cluster.unpublish(0, 0);
    cluster.check_flow();
    assert_eq!(cluster.shards[0].wants_len(), 2, "it is waited for");
    cluster.republish(0);
    cluster.check_flow();
    cluster.check_end();
}

/// Packets of a track that has ended may wait longer than the news of its end: they are no packets of the one that comes back.
#[test]
fn what_was_sent_before_an_end_is_not_taken_for_what_comes_back() {
    let (mut cluster, _) = stage(2, &[1]);
    cluster.check_flow();
    cluster.peers[0].tracks.get_mut(&0).expect("published").seq = 5000;
    for _ in 0..20 {
        cluster.send_media();
    }
    cluster.unpublish(0, 0);
    let former = cluster.peers[0].unpublished.last_mut().expect("it was");
    former.config.encodings[0].ssrc = Some(Ssrc(77));
    former.seq = 300;
    cluster.republish(0);
    cluster.check_flow();
    cluster.check_end();
}

/// A shard that cannot keep up skips what is old, and sound last: it does not fall behind further and further.
#[test]
fn what_waited_too_long_between_shards_is_dropped() {
    let (mut cluster, _) = stage(2, &[1]);
    cluster.publish(0, false);
    let sound = cluster.peers[0].tracks[&1].config.clone();
    cluster.subscribe(1, &sound, 0);
    cluster.check_flow();
    // (how late, of sound and pictures arrive)
    for (ms, expected) in [(900, 2), (1900, 1), (2100, 0), (0, 2)] {
        let counts = ["rtp_forwarded", "relay_late"];
        let before = counts.map(|name| cluster.count(1, name));
        cluster.send_media();
        cluster.now += ms * MS;
        cluster.run_for(10 * MS);
        let after = counts.map(|name| cluster.count(1, name));
        let grown = [after[0] - before[0], after[1] - before[1]];
        assert_eq!(grown, [expected, 2 - expected], "after {ms} ms");
    }
    cluster.check_flow();
    cluster.check_end();
}

#[test]
fn what_nobody_watches_is_not_relayed() {
    let (mut cluster, _) = stage(2, &[1]);
    cluster.check_flow();
    let before = cluster.count(0, "relay_packets_sent");
    for subscription in cluster.peers[1].subscriptions.values_mut() {
        subscription.active = false;
    }
    cluster.configure(1);
    cluster.check_flow();
    assert_eq!(cluster.count(0, "relay_packets_sent"), before);
    assert!(
        !cluster.peers[1]
            .client
            .take_rtcp()
            .iter()
            .any(|m| matches!(m, RtcpPacket::Bye { .. })),
        "a pause is no end"
    );
    for subscription in cluster.peers[1].subscriptions.values_mut() {
        subscription.active = true;
    }
    cluster.configure(1);
    cluster.check_flow();
}

/// A picture of a simulcast track in each encoding, all keyframes: 60, 200 and 600 kbit/s at 25 pictures a second.
fn send_simulcast(cluster: &mut Cluster, track: &TrackConfig, picture: u16) {
    let room = cluster.peers[0].room;
    for (at, encoding) in track.encodings.iter().enumerate() {
        let packets = [1, 1, 3][at];
        for packet in 0..packets {
            let mut payload = vec![0xaa; [300, 1_000, 1_000][at]];
            // RFC 7741 §4.2 and §4.3: the start of a partition; a keyframe's header with its size.
            payload[..2].copy_from_slice(&[if packet == 0 { 0x10 } else { 0 }, 0]);
            payload[4..7].copy_from_slice(&[0x9d, 0x01, 0x2a]);
            payload[7..9].copy_from_slice(&(320_u16 << at).to_le_bytes());
            payload[9..11].copy_from_slice(&(180_u16 << at).to_le_bytes());
            payload.extend(room.as_bytes());
            let packet = Rtp {
                ssrc: encoding.ssrc.unwrap().0,
                seq: picture * packets + packet,
                timestamp: 3_600 * u32::from(picture),
                payload_type: 96,
                extensions: &[],
                payload: &payload,
            };
            let sealed = cluster.peers[0].client.seal_rtp(&packet.bytes());
            cluster.datagram(0, &sealed);
        }
    }
}

/// What a publisher's track has to offer is told to the shards that want it, and what nobody wants on any of them to the
/// publisher.
#[test]
fn what_is_offered_and_what_is_wanted_cross_between_shards() {
    let mut cluster = Cluster::new(3, 1);
    let publisher = cluster.join(0, 0);
    cluster.publish(publisher, true);
    let peer = &mut cluster.peers[publisher];
    let published = &mut peer.tracks.get_mut(&0).unwrap().config;
    published.encodings = (0..3)
        .map(|index| EncodingConfig {
            ssrc: Some(Ssrc(70 + index)),
            ..EncodingConfig::default()
        })
        .collect();
    let track = published.clone();
    cluster.configure(publisher);
    let viewers = [cluster.join(0, 1), cluster.join(0, 2)];
    for viewer in viewers {
        cluster.subscribe(viewer, &track, 0);
    }
    let mut picture = 0;
    let mut run = |cluster: &mut Cluster, seconds: f64| {
        for _ in 0..(seconds * 25.0) as u32 {
            picture += 1;
            send_simulcast(cluster, &track, picture);
            cluster.run_for(40 * MS);
        }
        std::mem::take(&mut cluster.wanted)
    };
    let given = |cluster: &Cluster, viewer: usize| -> LayerChange {
        let peer = &cluster.peers[viewer];
        let described = cluster.shards[peer.shard].describe(cluster.now, peer.client.key);
        described.expect("it is there").subscriptions[0].change
    };
    let prefer = |cluster: &mut Cluster, viewer: usize, preference: Preference| {
        let peer = cluster.peers[viewer].client.key;
        let preferences = Preferences {
            tracks: vec![(track.key, preference)],
            last_n: None,
        };
        cluster.command(viewer, Command::Prefer { peer, preferences });
    };
    let small = Preference {
        width: Some(320),
        ..Preference::default()
    };
    let check = |cluster: &Cluster, viewer: usize, encoding: u8, kbits: u64, reason| {
        let change = given(cluster, viewer);
        assert_eq!(
            change.layer.map(|l| l.encoding),
            Some(EncodingIndex(encoding))
        );
        assert!(
            change.bitrate.0.abs_diff(kbits * 1000) < kbits * 200,
            "{change:?}"
        );
        assert_eq!(change.size, Some((320 << encoding, 180 << encoding)));
        assert_eq!(change.reason, reason);
    };

    assert_eq!(run(&mut cluster, 3.0), []);
    for viewer in viewers {
        check(&cluster, viewer, 2, 600, LayerReason::Best);
    }
    // Nobody needs more than the smallest: its publisher hears of it after a while.
    for viewer in viewers {
        prefer(&mut cluster, viewer, small);
    }
    let since = cluster.now;
    let told = run(&mut cluster, 6.5);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, [true, false, false]);
    assert!(told[0].0 - since >= 5000 * MS);
    for viewer in viewers {
        check(&cluster, viewer, 0, 60, LayerReason::Wanted);
    }
    // One of them wants more, on its own shard: that is told at once.
    prefer(&mut cluster, viewers[1], Preference::default());
    let since = cluster.now;
    let told = run(&mut cluster, 2.0);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, [true; 3]);
    assert!(told[0].0 - since < 300 * MS);
    check(&cluster, viewers[0], 0, 60, LayerReason::Wanted);
    check(&cluster, viewers[1], 2, 600, LayerReason::Best);
    // It leaves, and the other pauses.
    cluster.leave(viewers[1]);
    let told = run(&mut cluster, 7.0);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, [true, false, false]);
    let paused = Preference {
        is_paused: true,
        ..Preference::default()
    };
    prefer(&mut cluster, viewers[0], paused);
    let told = run(&mut cluster, 7.0);
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(told[0].1, [false; 3]);
    assert_eq!(given(&cluster, viewers[0]).reason, LayerReason::Paused);
    assert_eq!(cluster.faults, Vec::<String>::new());
}

#[test]
fn a_changed_description_reaches_the_other_shards() {
    let (mut cluster, _) = stage(2, &[1]);
    cluster.check_flow();
    // Some of these arrive only after the new description.
    for _ in 0..20 {
        cluster.send_media();
    }
    let track = cluster.peers[0].tracks.get_mut(&0).expect("published");
    track.config.codecs = vec![codec(100, Codec::Vp8)];
    cluster.configure(0);
    cluster.check_flow();
    assert!(cluster.count(1, "relay_stale") > 0);
    let misread = ["rtp_unknown_payload_type", "forward_no_codec"];
    assert_eq!(misread.map(|name| cluster.count(1, name)), [0, 0]);
}

#[test]
fn a_track_of_another_room_is_never_relayed() {
    let (mut cluster, track) = stage(2, &[]);
    let stranger = cluster.join(1, 1);
    cluster.subscribe(stranger, &track, 0);
    cluster.check_flow();
    assert!(cluster.peers[stranger].client.rtp.is_empty());
    assert_eq!(cluster.count(0, "relay_packets_sent"), 0);
    cluster.check_end();
}

#[test]
fn messages_nobody_asked_for_are_counted() {
    let (mut cluster, _) = stage(2, &[1]);
    let from = ShardId(1);
    let want = WantKey(4711);
    let messages = [
        RelayMessage::Unwant { want },
        RelayMessage::KeyframeWanted {
            want,
            encoding: EncodingIndex::LOWEST,
        },
        RelayMessage::Ended { want },
        RelayMessage::Refused { want },
    ];
    for message in messages {
        cluster.shards[0].handle_relay(cluster.now, from, message);
    }
    assert_eq!(cluster.count(0, "relay_stale"), 4);
    cluster.check_flow();
}

#[test]
fn a_refused_want_is_made_again_with_the_next_description() {
    let (mut cluster, _) = stage(2, &[1]);
    // Behind shard 0's back.
    let other = ShardId(0);
    cluster.shards[1].handle_relay(cluster.now, other, RelayMessage::Reset);
    let Some((_, RelayMessage::Want { want, .. })) = cluster.shards[1].poll_relay() else {
        panic!("a reset makes the shard want anew");
    };
    cluster.shards[1].handle_relay(cluster.now, other, RelayMessage::Refused { want });
    assert_eq!(cluster.shards[1].wants_len(), 0);
    cluster.configure(1);
    cluster.check_flow();
}

#[test]
fn a_broken_shard_starts_over_with_the_others() {
    let (mut cluster, track) = stage(3, &[1, 2]);
    cluster.check_flow();
    // A subscriber's shard: its peer comes back with a new connection.
    cluster.break_shard(1);
    cluster.run_for(20 * MS);
    let again = cluster.join(0, 1);
    cluster.subscribe(again, &track, 0);
    cluster.check_flow();
    // The publisher's shard: its track ends everywhere.
    cluster.break_shard(0);
    cluster.run_for(20 * MS);
    for at in [2, again] {
        let messages = cluster.peers[at].client.take_rtcp();
        let is_bye = |m: &RtcpPacket| matches!(m, RtcpPacket::Bye { .. });
        assert_eq!(messages.iter().filter(|m| is_bye(m)).count(), 1);
    }
    cluster.forget_ended();
    cluster.check_flow();
    cluster.check_end();
}

/// The threads themselves: what a shard leaves for another one wakes that one, which has nothing else to wake for.
#[test]
fn a_shards_thread_wakes_the_shard_it_has_something_for() {
    let loopback = IpAddr::V4(Ipv4Addr::LOCALHOST);
    let socket = UdpSocket::bind(loopback, 0).expect("a port is free");
    let [links, mut other] = RelayLinks::mesh(2).try_into().expect("two of them");
    let (poll, waker) = shard_poll().expect("a descriptor");
    let seat = ShardSeat {
        id: ShardId(0),
        addresses: vec![socket.local_addr()],
        socket,
        poll,
        waker,
        links,
        crossing: None,
        scheduling: Scheduling::default(),
        batch_window: Duration::ZERO,
        rooms: RoomOptions::default(),
    };
    let (mut here, waker) = shard_poll().expect("a descriptor");
    other.connect(waker);
    let (handle, thread) = ShardHandle::start(seat, identity()).expect("a thread");
    let client = Client::new(0);
    let (peer, ice) = (client.key, client.ice.clone());
    let room = RoomId::new("red").expect("a name");
    handle.send(Command::AddPeer { peer, room, ice });
    let track = track_of(PeerKey(77), 0, &[upstream(true)]);
    let mut wanted = subscription(0, &track, &[downstream(true)]);
    wanted.source_shard = ShardId(1);
    handle.send(Command::Configure {
        peer,
        tracks: Vec::new(),
        subscriptions: vec![wanted],
    });
    let mut events = Events::with_capacity(4);
    // Far longer than the thread needs, and it does not end by itself.
    here.poll(&mut events, Some(60 * 1000 * MS))
        .expect("a poll");
    assert!(!events.is_empty(), "nobody woke this shard");
    let mut heard = Vec::new();
    other.take_control(|from, message| heard.push((from, message)));
    let is_want = |(from, message): &(ShardId, RelayMessage)| {
        *from == ShardId(0) && matches!(message, RelayMessage::Want { .. })
    };
    assert!(heard.len() == 1 && heard.iter().all(is_want), "{heard:?}");
    handle.stop();
    thread.join().expect("it ends");
}

// --- at random -----------------------------------------------------------------------------------

#[derive(Debug, Clone)]
enum Op {
    Join {
        room: usize,
        shard: usize,
    },
    Publish {
        who: usize,
        video: bool,
    },
    Unpublish {
        who: usize,
        which: usize,
    },
    /// A track comes back under its key.
    Republish {
        who: usize,
    },
    Subscribe {
        who: usize,
        which: usize,
    },
    /// Names a track that is not there yet, of whoever joins next.
    SubscribeAhead {
        who: usize,
        shard: usize,
    },
    Toggle {
        who: usize,
        which: usize,
    },
    Unsubscribe {
        who: usize,
        which: usize,
    },
    Redescribe {
        who: usize,
    },
    Ask {
        who: usize,
    },
    Leave {
        who: usize,
    },
    /// Everybody leaves a room.
    EndRoom {
        room: usize,
    },
    Break {
        shard: usize,
    },
    ForgetEnded,
    Media,
    Overload(bool),
    Pass {
        ms: u64,
    },
}

fn op() -> impl Strategy<Value = Op> {
    let n = || 0_usize..64;
    prop_oneof![
        6 => (n(), n()).prop_map(|(room, shard)| Op::Join { room, shard }),
        6 => (n(), any::<bool>()).prop_map(|(who, video)| Op::Publish { who, video }),
        2 => (n(), n()).prop_map(|(who, which)| Op::Unpublish { who, which }),
        2 => n().prop_map(|who| Op::Republish { who }),
        14 => (n(), n()).prop_map(|(who, which)| Op::Subscribe { who, which }),
        3 => (n(), n()).prop_map(|(who, shard)| Op::SubscribeAhead { who, shard }),
        4 => (n(), n()).prop_map(|(who, which)| Op::Toggle { who, which }),
        2 => (n(), n()).prop_map(|(who, which)| Op::Unsubscribe { who, which }),
        1 => n().prop_map(|who| Op::Redescribe { who }),
        2 => n().prop_map(|who| Op::Ask { who }),
        2 => n().prop_map(|who| Op::Leave { who }),
        1 => n().prop_map(|room| Op::EndRoom { room }),
        2 => n().prop_map(|shard| Op::Break { shard }),
        2 => Just(Op::ForgetEnded),
        10 => Just(Op::Media),
        2 => any::<bool>().prop_map(Op::Overload),
        8 => (0_u64..20).prop_map(|ms| Op::Pass { ms }),
    ]
}

impl Cluster {
    /// One of those who are here.
    fn pick(&self, who: usize) -> Option<usize> {
        let here: Vec<usize> = (0..self.peers.len())
            .filter(|at| self.peers[*at].is_here)
            .collect();
        here.get(who % here.len().max(1)).copied()
    }

    fn pick_subscription(&self, at: usize, which: usize) -> Option<u32> {
        let keys: Vec<u32> = self.peers[at].subscriptions.keys().copied().collect();
        keys.get(which % keys.len().max(1)).copied()
    }

    fn apply(&mut self, op: Op) {
        match op {
            Op::Join { room, shard } if self.peers.len() < 16 => {
                let awaited = self.awaited.take();
                let (room, shard) = awaited.unwrap_or((room, shard));
                let at = self.join(room, shard);
                if awaited.is_some() {
                    self.publish(at, true);
                }
            }
            Op::Join { .. } => {}
            Op::Publish { who, video } => {
                if let Some(at) = self.pick(who) {
                    self.publish(at, video);
                }
            }
            Op::Unpublish { who, which } => {
                if let Some(at) = self.pick(who) {
                    self.unpublish(at, which);
                }
            }
            Op::Republish { who } => {
                if let Some(at) = self.pick(who) {
                    self.republish(at);
                }
            }
            Op::Subscribe { who, which } => self.subscribe_to_any(who, which),
            Op::SubscribeAhead { who, shard } => {
                if let Some(at) = self.pick(who) {
                    let key = PeerKey(self.peers.len() as u64 + 1);
                    let track = track_of(key, 0, &[upstream(true)]);
                    let room = ROOMS.iter().position(|room| *room == self.peers[at].room);
                    let place = (room.unwrap_or(0), shard % self.shards.len());
                    // A track has one shard, whoever names it.
                    let (_, shard) = *self.awaited.get_or_insert(place);
                    self.subscribe(at, &track, shard);
                }
            }
            Op::Toggle { who, which } => {
                if let Some(at) = self.pick(who)
                    && let Some(key) = self.pick_subscription(at, which)
                    && let Some(wanted) = self.peers[at].subscriptions.get_mut(&key)
                {
                    wanted.active ^= true;
                    self.configure(at);
                }
            }
            Op::Unsubscribe { who, which } => {
                if let Some(at) = self.pick(who)
                    && let Some(key) = self.pick_subscription(at, which)
                {
                    self.peers[at].subscriptions.remove(&key);
                    self.configure(at);
                }
            }
            Op::Redescribe { who } => {
                if let Some(at) = self.pick(who) {
                    for track in self.peers[at].tracks.values_mut() {
                        let mapping = &mut track.config.codecs[0];
                        mapping.payload_type.0 ^= 2;
                        mapping.rtx = None;
                    }
                    self.configure(at);
                }
            }
            Op::Ask { who } => {
                if let Some(at) = self.pick(who)
                    && let Some(key) = self.pick_subscription(at, who)
                {
                    let ssrc = self.peers[at].subscriptions[&key].ssrc;
                    self.send_rtcp(at, |out| write_pli(out, Ssrc(1), ssrc));
                }
            }
            Op::Leave { who } => {
                if let Some(at) = self.pick(who) {
                    self.leave(at);
                }
            }
            Op::EndRoom { room } => {
                let room = ROOMS[room % ROOMS.len()];
                for at in 0..self.peers.len() {
                    if self.peers[at].room == room {
                        self.leave(at);
                    }
                }
            }
            Op::Break { shard } => self.break_shard(shard % self.shards.len()),
            Op::ForgetEnded => self.forget_ended(),
            Op::Media => self.send_media(),
            Op::Overload(on) => self.mesh.media_loss = if on { 0.5 } else { 0.0 },
            Op::Pass { ms } => self.run_for(Duration::from_millis(ms)),
        }
    }

    /// To a track that the peer does not have yet; mostly of its room, as sessions do.
    fn subscribe_to_any(&mut self, who: usize, which: usize) {
        let Some(at) = self.pick(who) else {
            return;
        };
        let peer = &self.peers[at];
        let held: BTreeSet<TrackKey> = peer.subscriptions.values().map(|s| s.source).collect();
        let fitting: Vec<(usize, TrackConfig)> = self
            .live_tracks()
            .filter(|(by, t)| *by != at && !held.contains(&t.key))
            .filter(|(by, _)| self.peers[*by].room == peer.room || which.is_multiple_of(8))
            .map(|(by, track)| (self.peers[by].shard, track.clone()))
            .collect();
        if let Some((shard, track)) = fitting.get(which % fitting.len().max(1)) {
            self.subscribe(at, track, *shard);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 96, ..ProptestConfig::default() })]

    /// Whatever happens in whatever order: nobody hears another room or hears anything after leaving; once things
    /// settle everybody hears what they subscribed to, and nothing is left when all have gone.
    #[test]
    fn rooms_over_shards_stay_whole_and_apart(
        shards in 2_u16..5,
        seed: u32,
        ops in proptest::collection::vec(op(), 1..80),
    ) {
        let mut cluster = Cluster::new(shards, u64::from(seed));
        for op in ops {
            cluster.apply(op);
        }
        cluster.check_flow();
        cluster.forget_ended();
        cluster.check_flow();
        cluster.check_end();
    }
}
