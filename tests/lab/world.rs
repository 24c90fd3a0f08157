//! A shard, its peers, and links between them, in virtual time; what happens is sampled as it goes.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use shardcast::base::ids::{PeerKey, Ssrc};
use shardcast::control::layers::LayerChange;
use shardcast::control::{Event, SubscriptionConfig, TrackConfig};
use shardcast::network::{Conditions, HEADERS_LEN, Link};
use shardcast::shard::Shard;
use shardcast::wire::codec::Codec;
use shardcast::wire::extension::Extension;
use shardcast::wire::rtp::PacketKind;

use crate::publisher::{
    Camera, DESCRIPTOR_ID, EncodingSpec, Feedback, OPUS, Outgoing, Publisher, RED, video_codec,
};
use crate::subscriber::Subscriber;
use crate::support::{World, codec, extensions, subscription};

const TRANSPORT_ID: u8 = 5;
/// As the server's.
const CHUNK: usize = 64 * 1024;
const SAMPLE_EVERY: Duration = Duration::from_millis(100);
/// Consent must be confirmed within 30 s.
const CHECK_EVERY: Duration = Duration::from_secs(4);

/// How a subscriber gets what it misses of pictures.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repair {
    /// On a stream of its own.
    Rtx,
    /// As the same packet once more, which therefore carries no transport-wide number.
    Plain,
    None,
}

pub struct Lab {
    pub world: World,
    pub zero: Instant,
    links: Vec<Link<Parcel>>,
    parties: Vec<Party>,
    seed: u64,
    next_sample: Instant,
    next_check: Instant,
    chunk: BytesMut,
    /// What pictures are coded in. To be set before anybody publishes.
    pub coding: Codec,
    /// How subscribers get what they miss. To be set before anybody subscribes.
    pub repair: Repair,
    /// What the shard allocates, where that is counted.
    pub meter: Option<Meter>,
    /// What clients are told of layers: when, in s, and who.
    told: Vec<(f64, PeerKey, LayerChange)>,
}

/// Counts what the shard allocates for media.
#[derive(Debug, Clone, Copy)]
pub struct Meter {
    read: fn() -> u64,
    /// For packets of publishers: until their copies are on their way.
    pub forwarding: u64,
    /// Deadlines at which nothing but media went out, and those of them at which anything was allocated.
    pub pacings: u64,
    pub pacings_allocating: u64,
}

impl Meter {
    /// With how often was allocated.
    #[allow(dead_code, reason = "the lab itself counts nothing")]
    pub fn new(read: fn() -> u64) -> Self {
        Self {
            read,
            forwarding: 0,
            pacings: 0,
            pacings_allocating: 0,
        }
    }
}

/// What the shard did in one step.
#[derive(Debug, Default, Clone, Copy)]
struct Step {
    allocations: u64,
    media: u64,
    others: u64,
}

struct Parcel {
    to_server: bool,
    /// Whose it is, to or from the server.
    party: usize,
    datagram: Vec<u8>,
}

impl Clone for Parcel {
    fn clone(&self) -> Self {
        Self {
            datagram: self.datagram.clone(),
            ..*self
        }
    }
}

struct Party {
    client: usize,
    up: LinkId,
    down: LinkId,
    publisher: Option<Publisher>,
    subscriber: Option<Subscriber>,
    subscriptions: Vec<SubscriptionConfig>,
    sent_bytes: u64,
    /// How long each packet of media waited for the line, in ms, and when it came, in s.
    queued: Vec<(f64, f64)>,
    queued_most_ms: f64,
    samples: Vec<Sample>,
    /// The same of the way to the server, if it is told what it may send there.
    up_bytes: u64,
    up_queued: Vec<(f64, f64)>,
    up_queued_most_ms: f64,
    up_samples: Vec<Sample>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LinkId(usize);

/// A tenth of a second of one subscriber.
#[derive(Debug, Clone, Copy)]
pub struct Sample {
    pub at_s: f64,
    /// Of the link, shared or not; 0 for no limit.
    pub capacity_bps: f64,
    /// What the server thinks that it can send.
    pub estimate_bps: Option<f64>,
    /// What it sent, with headers.
    pub sent_bps: f64,
    /// The longest that a packet waited.
    pub queue_ms: f64,
    /// Of the last picture shown within the last second: encoding and temporal layer.
    pub layer: Option<(u8, u8)>,
}

impl Lab {
    pub fn new(seed: u64) -> Self {
        let world = World::new();
        let zero = world.now;
        Self {
            world,
            zero,
            links: Vec::new(),
            parties: Vec::new(),
            seed,
            next_sample: zero + SAMPLE_EVERY,
            next_check: zero + CHECK_EVERY,
            chunk: BytesMut::new(),
            coding: Codec::Vp8,
            repair: Repair::Rtx,
            meter: None,
            told: Vec::new(),
        }
    }

    pub fn link(&mut self, conditions: Conditions) -> LinkId {
        let seed = self.seed * 1000 + self.links.len() as u64;
        self.links.push(Link::new(self.zero, conditions, seed));
        LinkId(self.links.len() - 1)
    }

    /// A connected peer. All are to be made before time goes on.
    pub fn party(&mut self, up: LinkId, down: LinkId) -> usize {
        let client = self.world.join("lab");
        self.parties.push(Party {
            client,
            up,
            down,
            publisher: None,
            subscriber: None,
            subscriptions: Vec::new(),
            sent_bytes: 0,
            queued: Vec::new(),
            queued_most_ms: 0.0,
            samples: Vec::new(),
            up_bytes: 0,
            up_queued: Vec::new(),
            up_queued_most_ms: 0.0,
            up_samples: Vec::new(),
        });
        self.parties.len() - 1
    }

    pub fn publish(&mut self, party: usize, encodings: &[EncodingSpec]) {
        self.publish_by(party, encodings, Feedback::TransportWide);
    }

    pub fn publish_by(&mut self, party: usize, encodings: &[EncodingSpec], feedback: Feedback) {
        let client = self.parties[party].client;
        let key = self.world.clients[client].key;
        let seed = self.seed + party as u64;
        let publisher = Publisher::new(
            self.zero,
            party,
            key,
            encodings,
            self.coding,
            feedback,
            seed,
        );
        self.parties[party].publisher = Some(publisher);
        self.configure(party);
    }

    pub fn set_camera(&mut self, party: usize, camera: Camera) {
        let publisher = self.parties[party].publisher.as_mut();
        publisher.expect("it publishes").camera = camera;
    }

    pub fn set_feedback_every(&mut self, party: usize, every: Duration) {
        let subscriber = self.parties[party].subscriber.as_mut();
        subscriber.expect("it receives").feedback_every = every;
    }

    /// Everything of a publisher. `rtt` is what the receiver takes for the round trip.
    pub fn subscribe(&mut self, party: usize, to: usize, rtt: Duration) {
        self.subscribe_sound(party, to, rtt);
        self.subscribe_pictures(party, to, rtt);
    }

    pub fn subscribe_sound(&mut self, party: usize, to: usize, rtt: Duration) {
        let track = self.publisher(to).audio.clone();
        self.subscribe_track(party, track, rtt);
    }

    pub fn subscribe_pictures(&mut self, party: usize, to: usize, rtt: Duration) {
        let track = self.publisher(to).video.clone();
        self.subscribe_track(party, track, rtt);
    }

    fn subscribe_track(&mut self, party: usize, track: TrackConfig, rtt: Duration) {
        let zero = self.zero;
        let at = &mut self.parties[party];
        let receiver = at
            .subscriber
            .get_or_insert_with(|| Subscriber::new(zero, rtt));
        let number = at.subscriptions.len() as u32;
        let is_video = !track.codecs.iter().any(|c| c.codec == Codec::Opus);
        let codecs = if is_video {
            let mut codec = video_codec(self.coding);
            codec.rtx = codec.rtx.filter(|_| self.repair == Repair::Rtx);
            codec.nack = self.repair != Repair::None;
            vec![codec]
        } else {
            let mut codecs = vec![codec(RED, Codec::Red), codec(OPUS, Codec::Opus)];
            codecs.iter_mut().for_each(|c| c.transport_cc = true);
            codecs
        };
        let mut config = subscription(number, &track, &codecs);
        config.extensions = extensions(&[
            (Extension::Mid, 9),
            (Extension::TransportSequenceNumber, TRANSPORT_ID),
            (Extension::DependencyDescriptor, DESCRIPTOR_ID),
        ]);
        let rtx_ssrc = config.ssrc.0 + 0x0100_0000;
        config.rtx_ssrc = (is_video && self.repair == Repair::Rtx).then_some(Ssrc(rtx_ssrc));
        let coding = is_video.then_some(self.coding);
        receiver.add(config.ssrc.0, rtx_ssrc, coding, TRANSPORT_ID);
        at.subscriptions.push(config);
        self.configure(party);
    }

    fn configure(&mut self, party: usize) {
        let party = &self.parties[party];
        let publisher = party.publisher.as_ref();
        let tracks = publisher.map_or(Vec::new(), |p| vec![p.audio.clone(), p.video.clone()]);
        self.world
            .configure(party.client, &tracks, &party.subscriptions);
    }

    /// Lets conditions change by themselves, `at` after the beginning.
    pub fn schedule(&mut self, link: LinkId, at: Duration, conditions: Conditions) {
        self.links[link.0].schedule(self.zero + at, conditions);
    }

    pub fn drop_next(&mut self, link: LinkId, count: u32) {
        let now = self.world.now;
        self.links[link.0].drop_next(now, count);
    }

    pub fn publisher(&self, party: usize) -> &Publisher {
        self.parties[party]
            .publisher
            .as_ref()
            .expect("it publishes")
    }

    pub fn subscriber(&self, party: usize) -> &Subscriber {
        self.parties[party]
            .subscriber
            .as_ref()
            .expect("it receives")
    }

    /// How long each packet of media that came between two times (in s) waited for the line, in ms, sorted.
    pub fn queued(&self, party: usize, from_s: f64, to_s: f64) -> Vec<f64> {
        sorted_between(&self.parties[party].queued, from_s, to_s)
    }

    /// As [`Lab::queued`], on the way to the server.
    pub fn queued_up(&self, party: usize, from_s: f64, to_s: f64) -> Vec<f64> {
        sorted_between(&self.parties[party].up_queued, from_s, to_s)
    }

    /// What a party was told of the layers of its pictures between two times.
    pub fn told(&self, party: usize, from_s: f64, to_s: f64) -> Vec<LayerChange> {
        let key = self.world.clients[self.parties[party].client].key;
        let told = self.told.iter();
        told.filter(|(at, peer, _)| *peer == key && (from_s..to_s).contains(at))
            .map(|(.., change)| *change)
            .collect()
    }

    pub fn samples(&self, party: usize) -> &[Sample] {
        &self.parties[party].samples
    }

    /// Of a publisher that is told what it may send.
    pub fn samples_up(&self, party: usize) -> &[Sample] {
        &self.parties[party].up_samples
    }

    // --- time ----------------------------------------------------------------------------------

    /// Runs until `at` after the beginning.
    pub fn run_to(&mut self, at: Duration) {
        let end = self.zero + at;
        self.drain_shard();
        loop {
            let next = self.next_deadline();
            if next > end {
                self.world.now = end;
                return;
            }
            self.world.now = self.world.now.max(next);
            self.turn();
        }
    }

    fn next_deadline(&self) -> Instant {
        let links = self.links.iter().filter_map(Link::poll_timeout);
        let parties = self.parties.iter().flat_map(|party| {
            let publisher = party.publisher.as_ref().map(Publisher::poll_timeout);
            let subscriber = party.subscriber.as_ref().map(Subscriber::poll_timeout);
            [publisher, subscriber].into_iter().flatten()
        });
        links
            .chain(parties)
            .chain(self.world.shard.poll_timeout())
            .chain([self.next_sample, self.next_check])
            .min()
            .expect("there are samples to take")
    }

    fn turn(&mut self) {
        let now = self.world.now;
        if self.world.shard.poll_timeout().is_some_and(|at| at <= now) {
            let step = self.step(|shard| shard.handle_timeout(now));
            if let Some(meter) = &mut self.meter
                && step.others == 0
                && step.media > 0
            {
                meter.pacings += 1;
                meter.pacings_allocating += u64::from(step.allocations > 0);
            }
        }
        for index in 0..self.links.len() {
            while let Some(arrival) = self.links[index].pop(now) {
                let parcel = arrival.what;
                let is_media = PacketKind::of(&parcel.datagram) == PacketKind::Rtp;
                let waited = arrival.queued.as_secs_f64() * 1000.0;
                let at_s = (now - self.zero).as_secs_f64();
                if parcel.to_server {
                    if is_media {
                        let party = &mut self.parties[parcel.party];
                        party.up_queued.push((at_s, waited));
                        party.up_queued_most_ms = party.up_queued_most_ms.max(waited);
                    }
                    let from = self.address(parcel.party);
                    let datagram = self.received(&parcel.datagram);
                    let step = self.step(|shard| shard.handle_datagram(now, from, datagram));
                    if let Some(meter) = self.meter.as_mut().filter(|_| is_media) {
                        meter.forwarding += step.allocations;
                    }
                } else {
                    if is_media {
                        let party = &mut self.parties[parcel.party];
                        party.queued.push((at_s, waited));
                        party.queued_most_ms = party.queued_most_ms.max(waited);
                    }
                    self.receive(parcel.party, &parcel.datagram);
                }
            }
        }
        for party in 0..self.parties.len() {
            self.run_party(party);
        }
        if self.next_check <= now {
            self.next_check += CHECK_EVERY;
            for party in 0..self.parties.len() {
                let check = self.world.clients[self.parties[party].client].check();
                self.send_up(party, check);
            }
        }
        if self.next_sample <= now {
            self.next_sample += SAMPLE_EVERY;
            self.sample();
        }
    }

    /// A datagram in memory that many share, as the socket hands it over.
    fn received(&mut self, datagram: &[u8]) -> BytesMut {
        if self.chunk.capacity() < datagram.len() {
            self.chunk = BytesMut::with_capacity(CHUNK);
            // From now on it is shared.
            drop(self.chunk.split());
        }
        self.chunk.extend_from_slice(datagram);
        self.chunk.split()
    }

    fn address(&self, party: usize) -> SocketAddr {
        self.world.clients[self.parties[party].client].address
    }

    /// What comes due at a peer.
    fn run_party(&mut self, index: usize) {
        let now = self.world.now;
        let party = &mut self.parties[index];
        let mut out = Vec::new();
        if let Some(publisher) = &mut party.publisher
            && publisher.poll_timeout() <= now
        {
            out.extend(publisher.poll(now));
        }
        if let Some(subscriber) = &mut party.subscriber
            && subscriber.poll_timeout() <= now
        {
            out.extend(subscriber.poll(now).into_iter().map(Outgoing::Rtcp));
        }
        self.send(index, out);
    }

    /// A datagram has come to a peer.
    fn receive(&mut self, index: usize, datagram: &[u8]) {
        let now = self.world.now;
        let party = &mut self.parties[index];
        let client = &mut self.world.clients[party.client];
        client.receive(now, datagram);
        client.sealed_rtp.clear();
        let mut out = Vec::new();
        for packet in std::mem::take(&mut client.rtp) {
            if let Some(subscriber) = &mut party.subscriber {
                let messages = subscriber.handle_rtp(now, &packet);
                out.extend(messages.into_iter().map(Outgoing::Rtcp));
            }
        }
        for packet in client.take_rtcp() {
            if let Some(publisher) = &mut party.publisher {
                out.extend(publisher.handle_rtcp(now, &packet));
            }
            if let Some(subscriber) = &mut party.subscriber {
                subscriber.handle_rtcp(now, &packet);
            }
        }
        self.send(index, out);
    }

    fn send(&mut self, index: usize, out: Vec<Outgoing>) {
        let at = self.parties[index].client;
        for packet in out {
            let client = &mut self.world.clients[at];
            let sealed = match packet {
                Outgoing::Rtp(packet) => client.seal_rtp(&packet),
                Outgoing::Rtcp(packet) => client.seal_rtcp(&packet),
            };
            self.send_up(index, sealed.to_vec());
        }
    }

    fn send_up(&mut self, party: usize, datagram: Vec<u8>) {
        let up = self.parties[party].up;
        self.parties[party].up_bytes += datagram.len() as u64 + HEADERS_LEN;
        let parcel = Parcel {
            to_server: true,
            party,
            datagram,
        };
        self.links[up.0].push(self.world.now, parcel.datagram.len(), parcel);
    }

    /// The shard does something, and what it sends goes onto the links.
    fn step(&mut self, act: impl FnOnce(&mut Shard)) -> Step {
        let read = self.meter.map(|meter| meter.read);
        let count = || read.map_or(0, |read| read());
        let before = count();
        act(&mut self.world.shard);
        let allocations = count() - before;
        let mut step = self.drain_shard();
        step.allocations += allocations;
        step
    }

    /// What the shard sends goes onto the links.
    fn drain_shard(&mut self) -> Step {
        let read = self.meter.map(|meter| meter.read);
        let count = || read.map_or(0, |read| read());
        let mut step = Step::default();
        let now = self.world.now;
        let world = &mut self.world;
        while let Some(event) = world.shard.poll_event() {
            let at_s = (now - self.zero).as_secs_f64();
            if let Event::Layer(peer, change) = event.1 {
                self.told.push((at_s, peer, change));
            } else {
                world.events.push(event);
            }
        }
        loop {
            let before = count();
            let Some(outbox) = world.shard.poll_outbox(now) else {
                break;
            };
            step.allocations += count() - before;
            for (to, datagram) in outbox.iter() {
                match PacketKind::of(datagram) {
                    PacketKind::Rtp => step.media += 1,
                    _ => step.others += 1,
                }
                let found = self.parties.iter_mut().enumerate();
                let Some((index, party)) = found
                    .into_iter()
                    .find(|(_, party)| world.clients[party.client].address == to)
                else {
                    continue;
                };
                party.sent_bytes += datagram.len() as u64 + HEADERS_LEN;
                let parcel = Parcel {
                    to_server: false,
                    party: index,
                    datagram: datagram.to_vec(),
                };
                self.links[party.down.0].push(now, datagram.len(), parcel);
            }
            outbox.clear();
        }
        step
    }

    fn sample(&mut self) {
        let now = self.world.now;
        for party in &mut self.parties {
            if let Some(told) = party.publisher.as_ref().and_then(|p| p.told) {
                party.up_samples.push(Sample {
                    at_s: (now - self.zero).as_secs_f64(),
                    capacity_bps: self.links[party.up.0].conditions().rate_bps.unwrap_or(0) as f64,
                    estimate_bps: Some(told as f64),
                    sent_bps: party.up_bytes as f64 * 8.0 / SAMPLE_EVERY.as_secs_f64(),
                    queue_ms: std::mem::take(&mut party.up_queued_most_ms),
                    layer: None,
                });
            }
            party.up_bytes = 0;
            let Some(subscriber) = &party.subscriber else {
                continue;
            };
            let shown = subscriber.receptions.iter().filter_map(|r| {
                let (at, encoding, _) = r.video.shown.last()?;
                let recent = r.video.shown.iter().rev();
                let recent = recent.take_while(|(at, ..)| now - *at < Duration::from_millis(500));
                let temporal = recent.filter(|(_, e, _)| e == encoding).map(|(.., t)| *t);
                (now - *at < Duration::from_secs(1))
                    .then(|| (*encoding, temporal.max().unwrap_or(0)))
            });
            let conditions = self.links[party.down.0].conditions();
            let key = self.world.clients[party.client].key;
            party.samples.push(Sample {
                at_s: (now - self.zero).as_secs_f64(),
                capacity_bps: conditions.rate_bps.unwrap_or(0) as f64,
                estimate_bps: estimate(&self.world.shard, key),
                sent_bps: party.sent_bytes as f64 * 8.0 / SAMPLE_EVERY.as_secs_f64(),
                queue_ms: std::mem::take(&mut party.queued_most_ms),
                layer: shown.max(),
            });
            party.sent_bytes = 0;
        }
    }
}

/// What came between two times.
fn sorted_between(times: &[(f64, f64)], from_s: f64, to_s: f64) -> Vec<f64> {
    let within = times.iter().filter(|(at, _)| (from_s..to_s).contains(at));
    let mut found: Vec<f64> = within.map(|(_, value)| *value).collect();
    found.sort_by(f64::total_cmp);
    found
}

/// What the server thinks that it can send to a peer.
fn estimate(shard: &Shard, peer: PeerKey) -> Option<f64> {
    shard.estimate(peer).map(|estimate| estimate.0 as f64)
}
