//! A shard and its peers in memory: full ICE checks, DTLS handshakes and SRTP on a virtual clock, without
//! a socket. The peers' cryptography is `rtc-dtls` and `rtc-srtp`, not the server's own.
#![allow(dead_code, reason = "each test and bench uses its part")]

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_srtp::config::LABEL_EXTRACTOR_DTLS_SRTP;
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_no_replay_protection, srtp_no_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;
use rtc_stun::attributes::{AttrType, RawAttribute};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, Message, Setter, TransactionId};
use shardcast::base::ids::{
    MediaKind, Mid, PayloadType, PeerKey, RoomId, ShardId, Ssrc, SubscriptionKey, TrackKey,
};
use shardcast::control::{
    Command, DtlsRole, EncodingConfig, Event, Fingerprint, FingerprintAlgorithm, IceCredentials,
    SubscriptionConfig, TrackConfig, TransportEvent,
};
use shardcast::shard::Shard;
use shardcast::transport::DtlsIdentity;
use shardcast::wire::codec::{Codec, CodecMapping};
use shardcast::wire::extension::{Extension, ExtensionId, ExtensionMap};
use shardcast::wire::rtcp::{self, RtcpPacket};
use shardcast::wire::rtp::{PacketKind, RtpHeader};
use shardcast::wire::sdes::{self, SourceDescription};

static PROVIDER: RingProvider = RingProvider::new();

/// A shard, its peers, and the time.
pub struct World {
    pub shard: Shard,
    pub now: Instant,
    pub clients: Vec<Client>,
    /// What the shard reported, oldest first.
    pub events: Vec<(PeerKey, Event)>,
    /// The number of its first client, as several shards' clients are told apart.
    first_client: usize,
}

/// One peer's end.
pub struct Client {
    pub key: PeerKey,
    pub address: SocketAddr,
    pub ice: IceCredentials,
    endpoint: Endpoint,
    srtp: Option<Srtp>,
    pub to_send: VecDeque<BytesMut>,
    /// Every RTP datagram as it came, still protected.
    pub sealed_rtp: Vec<Vec<u8>>,
    /// Every RTP packet, opened.
    pub rtp: Vec<Vec<u8>>,
    /// Every RTCP message, opened.
    pub rtcp: Vec<RtcpPacket>,
    /// Answers to its checks.
    pub stun_answers: usize,
    /// The server said that it closes.
    pub is_closed: bool,
}

struct Srtp {
    outgoing: Context,
    incoming: Context,
}

impl World {
    pub fn new() -> Self {
        Self::of_shard(ShardId(0), 0)
    }

    /// A shard among others; its clients are numbered from `first_client` on.
    pub fn of_shard(shard: ShardId, first_client: usize) -> Self {
        static IDENTITY: OnceLock<Arc<DtlsIdentity>> = OnceLock::new();
        let identity =
            IDENTITY.get_or_init(|| Arc::new(DtlsIdentity::generate().expect("an identity")));
        Self {
            shard: Shard::new(shard, identity.clone(), 7),
            now: Instant::now(),
            clients: Vec::new(),
            events: Vec::new(),
            first_client,
        }
    }

    /// Adds a peer that the shard knows, but has not heard from.
    pub fn add(&mut self, room: &str) -> usize {
        let at = self.clients.len();
        let client = Client::new(self.first_client + at);
        let (key, ice) = (client.key, client.ice.clone());
        self.clients.push(client);
        let room = RoomId::new(room).unwrap();
        let peer = key;
        self.command(Command::AddPeer { peer, room, ice });
        at
    }

    /// Adds a peer and connects it.
    pub fn join(&mut self, room: &str) -> usize {
        let at = self.add(room);
        self.connect(at);
        at
    }

    /// One check and the DTLS handshake.
    pub fn connect(&mut self, at: usize) {
        let peer = self.clients[at].key;
        let fingerprints = vec![client_identity().1.clone()];
        let role = DtlsRole::Server;
        self.command(Command::SetRemoteDtls {
            peer,
            fingerprints,
            role,
        });
        self.check(at);
        let now = self.now;
        self.clients[at].start_dtls(now);
        self.settle();
        assert!(self.clients[at].srtp.is_some(), "the handshake is done");
        let connected = |(key, event): &(PeerKey, Event)| {
            *key == peer && matches!(event, Event::Transport(_, TransportEvent::Connected { .. }))
        };
        assert!(self.events.iter().any(connected), "{:?}", self.events);
    }

    /// Sends an authenticated check with USE-CANDIDATE.
    pub fn check(&mut self, at: usize) {
        let client = &self.clients[at];
        let (from, check) = (client.address, client.check());
        self.datagram(from, &check);
    }

    pub fn command(&mut self, command: Command) {
        self.shard.handle_command(self.now, command);
        self.settle();
    }

    pub fn configure(
        &mut self,
        at: usize,
        tracks: &[TrackConfig],
        subscriptions: &[SubscriptionConfig],
    ) {
        self.command(Command::Configure {
            peer: self.clients[at].key,
            tracks: tracks.to_vec(),
            subscriptions: subscriptions.to_vec(),
        });
    }

    pub fn remove(&mut self, at: usize) {
        let peer = self.clients[at].key;
        self.command(Command::RemovePeer { peer });
    }

    pub fn datagram(&mut self, from: SocketAddr, datagram: &[u8]) {
        self.shard
            .handle_datagram(self.now, from, BytesMut::from(datagram));
        self.settle();
    }

    /// Protects and sends an RTP packet.
    pub fn send_rtp(&mut self, at: usize, packet: &[u8]) {
        let sealed = self.clients[at].seal_rtp(packet);
        let from = self.clients[at].address;
        self.datagram(from, &sealed);
    }

    /// Protects and sends what `write` makes.
    pub fn send_rtcp(&mut self, at: usize, write: impl FnOnce(&mut Vec<u8>)) {
        let mut compound = Vec::new();
        write(&mut compound);
        let sealed = self.clients[at].seal_rtcp(&compound);
        let from = self.clients[at].address;
        self.datagram(from, &sealed);
    }

    /// Lets time pass, with all that comes due in it.
    pub fn advance(&mut self, by: Duration) {
        let end = self.now + by;
        while let Some(due) = self.shard.poll_timeout().filter(|due| *due <= end) {
            self.now = self.now.max(due);
            self.shard.handle_timeout(self.now);
            self.settle();
        }
        self.now = end;
    }

    pub fn count(&self, name: &str) -> u64 {
        let mut counters = self.shard.counters().iter();
        counters.find(|(n, _)| *n == name).expect("a counter").1
    }

    /// Carries datagrams to and fro until there are none.
    pub fn settle(&mut self) {
        loop {
            while let Some(event) = self.shard.poll_event() {
                self.events.push(event);
            }
            let mut datagrams: Vec<(SocketAddr, Vec<u8>)> = Vec::new();
            while let Some(outbox) = self.shard.poll_outbox(self.now) {
                datagrams.extend(outbox.iter().map(|(to, d)| (to, d.to_vec())));
                outbox.clear();
            }
            for (to, datagram) in datagrams {
                if let Some(client) = self.clients.iter_mut().find(|c| c.address == to) {
                    client.receive(self.now, &datagram);
                }
            }
            let mut is_quiet = true;
            for client in &mut self.clients {
                while let Some(datagram) = client.to_send.pop_front() {
                    is_quiet = false;
                    self.shard
                        .handle_datagram(self.now, client.address, datagram);
                }
            }
            if is_quiet && self.shard.poll_outbox(self.now).is_none() {
                return;
            }
        }
    }
}

impl Client {
    /// The end of a peer that is called `at` + 1.
    pub fn new(at: usize) -> Self {
        let [high, low] = (at as u16).to_be_bytes();
        let address = SocketAddr::from(([10, 0, high, low], 5000));
        Self {
            key: PeerKey(at as u64 + 1),
            address,
            ice: IceCredentials {
                ufrag: format!("ufrag{at}").into(),
                pwd: format!("password-of-22-characters-{at}").into(),
            },
            endpoint: Endpoint::new(address, TransportProtocol::UDP, None),
            srtp: None,
            to_send: VecDeque::new(),
            sealed_rtp: Vec::new(),
            rtp: Vec::new(),
            rtcp: Vec::new(),
            stun_answers: 0,
            is_closed: false,
        }
    }

    pub fn check(&self) -> Vec<u8> {
        let attribute = |typ, value: &[u8]| -> Box<dyn Setter> {
            Box::new(RawAttribute {
                typ: AttrType(typ),
                length: value.len() as u16,
                value: value.to_vec(),
            })
        };
        let username = format!("{}:client", self.ice.ufrag);
        let integrity = MessageIntegrity::new_short_term_integrity_with_provider(
            self.ice.pwd.to_string(),
            PROVIDER.crypto(),
        );
        let mut message = Message::new();
        message
            .build(&[
                Box::new(TransactionId([9; 12])),
                Box::new(BINDING_REQUEST),
                attribute(0x0006, username.as_bytes()),
                attribute(0x0024, &[0, 0, 1, 0]),
                attribute(0x802a, &[1; 8]),
                attribute(0x0025, &[]),
                Box::new(integrity),
                Box::new(FINGERPRINT),
            ])
            .unwrap();
        message.raw
    }

    pub fn seal_rtp(&mut self, packet: &[u8]) -> BytesMut {
        let srtp = self.srtp.as_mut().expect("connected");
        srtp.outgoing.encrypt_rtp(packet).unwrap()
    }

    pub fn seal_rtcp(&mut self, compound: &[u8]) -> BytesMut {
        let srtp = self.srtp.as_mut().expect("connected");
        srtp.outgoing.encrypt_rtcp(compound).unwrap()
    }

    /// The RTP packets that came since last asked, as (header, payload).
    pub fn take_rtp(&mut self) -> Vec<(RtpHeader, Vec<u8>)> {
        self.sealed_rtp.clear();
        let packets = self.rtp.drain(..);
        packets
            .map(|packet| {
                let header = RtpHeader::parse(&packet).unwrap();
                let payload = header.payload(&packet).unwrap().to_vec();
                (header, payload)
            })
            .collect()
    }

    pub fn take_rtcp(&mut self) -> Vec<RtcpPacket> {
        std::mem::take(&mut self.rtcp)
    }

    pub fn start_dtls(&mut self, now: Instant) {
        self.endpoint
            .connect(now, server(), client_config(), None)
            .unwrap();
        self.drain_dtls();
    }

    fn drain_dtls(&mut self) {
        while let Some(transmit) = self.endpoint.poll_transmit() {
            self.to_send.push_back(transmit.message);
        }
    }

    pub fn receive(&mut self, now: Instant, datagram: &[u8]) {
        match PacketKind::of(datagram) {
            PacketKind::Stun => self.stun_answers += 1,
            PacketKind::Dtls => self.receive_dtls(now, datagram),
            PacketKind::Rtp => {
                self.sealed_rtp.push(datagram.to_vec());
                let srtp = self.srtp.as_mut().expect("media only after the handshake");
                let packet = srtp.incoming.decrypt_rtp(datagram).expect("opens");
                self.rtp.push(packet.to_vec());
            }
            PacketKind::Rtcp => {
                let srtp = self.srtp.as_mut().expect("media only after the handshake");
                let compound = srtp.incoming.decrypt_rtcp(datagram).expect("opens");
                assert_whole(&compound);
                let compound = rtcp::parse(&compound);
                assert_eq!(compound.dropped, 0, "the server writes what it reads");
                self.rtcp.extend(compound.packets);
            }
            PacketKind::Other => panic!("the server sent {datagram:02x?}"),
        }
    }

    fn receive_dtls(&mut self, now: Instant, datagram: &[u8]) {
        let data = BytesMut::from(datagram);
        let events = self.endpoint.read(now, server(), None, data).unwrap();
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => self.export_keys(),
                EndpointEvent::PeerClosed => self.is_closed = true,
                _ => {}
            }
        }
        self.drain_dtls();
    }

    fn export_keys(&mut self) {
        let state = self.endpoint.get_connection_state(server()).unwrap();
        let profile = ProtectionProfile::AeadAes128Gcm;
        let mut config = rtc_srtp::config::Config {
            profile,
            ..Default::default()
        };
        let length = config.keying_material_len();
        let material = state
            .export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], length)
            .unwrap();
        config
            .set_session_keys_from_keying_material(material.as_ref(), true)
            .unwrap();
        let context = |key: &[u8], salt: &[u8]| {
            // Retransmissions under the same number are to be seen.
            Context::new(
                key,
                salt,
                profile,
                Some(srtp_no_replay_protection()),
                Some(srtcp_no_replay_protection()),
                PROVIDER.crypto(),
            )
            .unwrap()
        };
        let keys = &config.keys;
        self.srtp = Some(Srtp {
            outgoing: context(&keys.local_master_key, &keys.local_master_salt),
            incoming: context(&keys.remote_master_key, &keys.remote_master_salt),
        });
    }
}

/// Whatever was negotiated, the server sends whole compounds, not reduced-size ones (RFC 5506): a report first, then its
/// sender's canonical name, a BYE last, and nothing padded in between (RFC 3550 §6.1).
fn assert_whole(compound: &[u8]) {
    let mut messages = Vec::new();
    let mut rest = compound;
    while !rest.is_empty() {
        let words = usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (message, after) = rest.split_at(4 + 4 * words);
        assert!(message[0] & 0x20 == 0 || after.is_empty(), "{compound:x?}");
        messages.push(message);
        rest = after;
    }
    let kinds: Vec<u8> = messages.iter().map(|message| message[1]).collect();
    let is_report = |kind: &u8| [200, 201].contains(kind);
    let reports = kinds.iter().take_while(|kind| is_report(kind)).count();
    assert!(reports > 0 && kinds[reports] == 202, "{kinds:?}");
    let byes = kinds.iter().rev().take_while(|kind| **kind == 203).count();
    assert!(!kinds[..kinds.len() - byes].contains(&203), "{kinds:?}");
    let names = sdes::parse(messages[reports]).expect("a source description");
    let source = |message: &[u8]| Ssrc(u32::from_be_bytes(message[4..8].try_into().unwrap()));
    let named = |report: &&[u8]| {
        let of = |name: &SourceDescription| name.source == source(report) && name.cname.is_some();
        names.iter().any(of)
    };
    assert!(messages[..reports].iter().all(named));
}

fn server() -> SocketAddr {
    SocketAddr::from(([10, 1, 0, 1], 3478))
}

/// One certificate for all clients: only the handshakes matter here.
pub fn client_identity() -> &'static (Certificate, Fingerprint) {
    static IDENTITY: OnceLock<(Certificate, Fingerprint)> = OnceLock::new();
    IDENTITY.get_or_init(|| {
        let names = vec!["client".to_owned()];
        let certificate = Certificate::generate_self_signed(names, PROVIDER.crypto()).unwrap();
        let digest =
            ring::digest::digest(&ring::digest::SHA256, certificate.certificate[0].as_ref());
        let fingerprint = Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: digest.as_ref().to_vec(),
        };
        (certificate, fingerprint)
    })
}

fn client_config() -> Arc<HandshakeConfig> {
    static CONFIG: OnceLock<Arc<HandshakeConfig>> = OnceLock::new();
    let make = || {
        let config = ConfigBuilder::default()
            .with_crypto_provider(Arc::new(RingProvider::new()))
            .with_certificates(vec![client_identity().0.clone()])
            .with_srtp_protection_profiles(vec![SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm])
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .build(true, Some(server()))
            .unwrap();
        Arc::new(config)
    };
    CONFIG.get_or_init(make).clone()
}

/// A codec mapping; video with RTX on the next payload type.
pub fn codec(payload_type: u8, codec: Codec) -> CodecMapping {
    let is_video = codec.kind() == MediaKind::Video;
    CodecMapping {
        payload_type: PayloadType(payload_type),
        codec,
        rtx: is_video.then_some(PayloadType(payload_type + 1)),
        nack: is_video,
        transport_cc: false,
        remb: false,
    }
}

pub fn extensions(ids: &[(Extension, u8)]) -> ExtensionMap {
    let mut map = ExtensionMap::default();
    for (extension, id) in ids {
        map.insert(*extension, ExtensionId::new(*id).unwrap());
    }
    map
}

/// The track number `index` of a client, in the section of that name.
pub fn track(world: &World, at: usize, index: u32, codecs: &[CodecMapping]) -> TrackConfig {
    track_of(world.clients[at].key, index, codecs)
}

/// As [`track`], of a peer that may not be there yet.
pub fn track_of(peer: PeerKey, index: u32, codecs: &[CodecMapping]) -> TrackConfig {
    TrackConfig {
        key: TrackKey { peer, index },
        mid: Mid::new(&index.to_string()).unwrap(),
        kind: codecs[0].codec.kind(),
        codecs: codecs.to_vec(),
        extensions: extensions(&[(Extension::Mid, 4), (Extension::AudioLevel, 1)]),
        reference_times: true,
        encodings: vec![EncodingConfig {
            ssrc: Some(Ssrc(1000 * peer.0 as u32 + index)),
            ..EncodingConfig::default()
        }],
    }
}

/// A subscription to `source` under a number of the subscriber's.
pub fn subscription(
    number: u32,
    source: &TrackConfig,
    codecs: &[CodecMapping],
) -> SubscriptionConfig {
    SubscriptionConfig {
        key: SubscriptionKey(number),
        source: source.key,
        source_shard: ShardId(0),
        mid: Mid::new(&format!("s{number}")).unwrap(),
        kind: source.kind,
        ssrc: Ssrc(0x5000_0000 + number),
        rtx_ssrc: None,
        codecs: codecs.into(),
        extensions: extensions(&[(Extension::Mid, 9), (Extension::AudioLevel, 6)]),
        active: true,
    }
}

/// An RTP packet with extensions in the one-byte form.
pub struct Rtp<'a> {
    pub ssrc: u32,
    pub seq: u16,
    pub timestamp: u32,
    pub payload_type: u8,
    pub extensions: &'a [(u8, &'a [u8])],
    pub payload: &'a [u8],
}

impl Rtp<'_> {
    pub fn bytes(&self) -> Vec<u8> {
        let first = if self.extensions.is_empty() {
            0x80
        } else {
            0x90
        };
        let mut packet = vec![first, self.payload_type];
        packet.extend(self.seq.to_be_bytes());
        packet.extend(self.timestamp.to_be_bytes());
        packet.extend(self.ssrc.to_be_bytes());
        if !self.extensions.is_empty() {
            let mut block = Vec::new();
            for (id, value) in self.extensions {
                block.push(id << 4 | (value.len() - 1) as u8);
                block.extend_from_slice(value);
            }
            block.resize(block.len().next_multiple_of(4), 0);
            packet.extend([0xbe, 0xde]);
            packet.extend(((block.len() / 4) as u16).to_be_bytes());
            packet.extend(block);
        }
        packet.extend_from_slice(self.payload);
        packet
    }
}
