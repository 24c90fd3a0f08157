//! The client's side of ICE, DTLS and SRTP: a controlling full agent, a DTLS client (or server), and
//! `rtc-srtp`'s contexts, which share no code with the server's own SRTP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_crypto::RTCCryptoProvider;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile as DtlsProfile;
use rtc_shared::TransportProtocol;
use rtc_srtp::config::LABEL_EXTRACTOR_DTLS_SRTP;
use rtc_srtp::context::Context;
use rtc_srtp::option::{srtcp_replay_protection, srtp_replay_protection};
use rtc_srtp::protection_profile::ProtectionProfile;
use rtc_stun::attributes::{
    ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, RawAttribute,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, BINDING_SUCCESS, Message, Setter, TransactionId};
use rtc_stun::textattrs::Username;

/// The DTLS endpoint knows its server by this address, wherever the datagrams really go.
const DTLS_REMOTE: &str = "192.0.2.255:1";
/// RFC 6347 §4.3.2.
const HELLO_VERIFY_REQUEST: u8 = 3;
const FLIGHT_INTERVAL: Duration = Duration::from_millis(500);
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// RFC 7675 §5.1 says 4–6 s; browsers ask about twice as often.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);

/// ICE credentials as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Credentials {
    pub ufrag: String,
    pub pwd: String,
}

/// What came out of a datagram.
#[derive(Debug)]
pub enum Incoming {
    Rtp(BytesMut),
    Rtcp(BytesMut),
    DtlsUp,
    DtlsClosed,
}

/// Who sends the ClientHello.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Setup {
    Active,
    Passive,
}

/// One client's transport. Datagrams in, datagrams out; reads no clock.
pub struct ClientTransport {
    provider: Arc<dyn RTCCryptoProvider>,
    certificate: Certificate,
    profiles: Vec<DtlsProfile>,
    pub local: Credentials,
    pub remote: Option<Credentials>,
    candidates: Vec<SocketAddr>,
    pub selected: Option<SocketAddr>,
    next_check: Option<Instant>,
    /// Whether the agent asks at all: consent is lost when it stops.
    pub checks: bool,
    /// Transactions of checks that wait for an answer: where each went, whether it nominated.
    pending: VecDeque<(TransactionId, SocketAddr, bool)>,
    /// When the last nominating check was answered.
    confirmed_at: Option<Instant>,
    dtls: Option<Endpoint>,
    /// How far the handshake has come, as client: which of the server's flights are answered.
    answered: Answered,
    is_client: bool,
    pub expected_fingerprint: Option<String>,
    pub claimed_fingerprint: Option<String>,
    srtp: Option<Srtp>,
    pub profile: Option<ProtectionProfile>,
    outgoing: VecDeque<(SocketAddr, Vec<u8>)>,
    pub srtp_failures: u64,
    /// Packets that came before: the network doubles, and a NACK may be answered twice.
    pub replays: u64,
    /// Binding requests that a lite agent must not send.
    pub requests_received: u64,
}

/// See [`ClientTransport::is_repetition`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Answered {
    Nothing,
    Cookie,
    Hello,
}

struct Srtp {
    local: Context,
    remote: Context,
}

impl ClientTransport {
    pub fn new(local: Credentials, profiles: Vec<DtlsProfile>) -> Self {
        let provider = rtc_crypto::default_provider().expect("a provider is compiled in");
        let certificate =
            Certificate::generate_self_signed(vec!["client".to_owned()], provider.crypto())
                .expect("a certificate can be made");
        Self {
            provider,
            certificate,
            profiles,
            local,
            remote: None,
            candidates: Vec::new(),
            selected: None,
            next_check: None,
            checks: true,
            pending: VecDeque::new(),
            confirmed_at: None,
            dtls: None,
            answered: Answered::Nothing,
            is_client: false,
            expected_fingerprint: None,
            claimed_fingerprint: None,
            srtp: None,
            profile: None,
            outgoing: VecDeque::new(),
            srtp_failures: 0,
            replays: 0,
            requests_received: 0,
        }
    }

    /// The certificate's hash as `a=fingerprint` writes it, or what the client claims it to be.
    pub fn fingerprint(&self) -> String {
        if let Some(claimed) = &self.claimed_fingerprint {
            return claimed.clone();
        }
        fingerprint(&*self.provider, self.certificate.certificate[0].as_ref())
    }

    pub fn is_up(&self) -> bool {
        self.srtp.is_some()
    }

    /// Takes what the server's description says. New credentials mean a restart.
    pub fn set_remote(&mut self, now: Instant, remote: Credentials, fingerprint: Option<String>) {
        if self.remote.as_ref() != Some(&remote) {
            self.remote = Some(remote);
            self.candidates.clear();
            self.pending.clear();
            self.next_check = Some(now);
        }
        if fingerprint.is_some() {
            self.expected_fingerprint = fingerprint;
        }
    }

    pub fn add_candidate(&mut self, now: Instant, address: SocketAddr) {
        if !self.candidates.contains(&address) {
            self.candidates.push(address);
            self.next_check = Some(now);
        }
    }

    /// A new path: what was selected must be checked anew, at once and until an answer comes.
    pub fn check_now(&mut self, now: Instant) {
        self.confirmed_at = None;
        self.pending.clear();
        self.next_check = Some(now);
    }

    /// Starts the handshake. A passive side waits for the server's ClientHello.
    pub fn start_dtls(&mut self, now: Instant, setup: Setup) {
        if self.dtls.is_some() {
            return;
        }
        let config = Arc::new(self.dtls_config(setup == Setup::Active));
        let remote = DTLS_REMOTE.parse().expect("an address");
        let local = "192.0.2.254:1".parse().expect("an address");
        let server = (setup == Setup::Passive).then(|| config.clone());
        let mut endpoint = Endpoint::new(local, TransportProtocol::UDP, server);
        self.is_client = setup == Setup::Active;
        if self.is_client {
            endpoint
                .connect(now, remote, config, None)
                .expect("the ClientHello can be made");
        }
        self.dtls = Some(endpoint);
        self.flush_dtls();
    }

    fn dtls_config(&self, is_client: bool) -> HandshakeConfig {
        ConfigBuilder::default()
            .with_crypto_provider(self.provider.clone())
            .with_certificates(vec![self.certificate.clone()])
            .with_srtp_protection_profiles(self.profiles.clone())
            .with_client_auth(ClientAuthType::RequireAnyClientCert)
            .with_insecure_skip_verify(true)
            .with_verify_peer_certificate(Some(Arc::new(|_, _| Ok(()))))
            .with_extended_master_secret(ExtendedMasterSecretType::Require)
            .with_flight_interval(FLIGHT_INTERVAL)
            .build(is_client, None)
            .expect("the DTLS configuration is valid")
    }

    /// A check as this client would send it, with any credentials.
    pub fn request(&self, ufrag: &str, remote: &Credentials, nominate: bool) -> Vec<u8> {
        binding_request(&*self.provider, ufrag, remote, nominate).1
    }

    pub fn handle_datagram(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
    ) -> Vec<Incoming> {
        match datagram.first() {
            Some(0..=3) => {
                self.handle_stun(now, from, datagram);
                Vec::new()
            }
            Some(20..=63) => self.handle_dtls(now, datagram),
            Some(128..=191) => self.handle_srtp(datagram),
            _ => Vec::new(),
        }
    }

    fn handle_stun(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        let mut message = Message {
            raw: datagram.to_vec(),
            ..Message::default()
        };
        if message.decode().is_err() {
            return;
        }
        if message.typ == BINDING_REQUEST {
            self.requests_received += 1;
            return;
        }
        let Some(at) = self
            .pending
            .iter()
            .position(|(id, to, _)| *id == message.transaction_id && *to == from)
        else {
            return;
        };
        let Some(remote) = &self.remote else { return };
        let pwd = remote.pwd.clone();
        let crypto = self.provider.crypto();
        assert!(FINGERPRINT.check(&message).is_ok(), "FINGERPRINT is right");
        if MessageIntegrity::check(&mut message, pwd.as_bytes(), crypto).is_err()
            || message.typ != BINDING_SUCCESS
        {
            return;
        }
        if let Some((_, _, true)) = self.pending.remove(at) {
            self.confirmed_at = Some(now);
        }
        if self.selected != Some(from) {
            self.selected = Some(from);
            // Nominate it (and let what waited go there).
            self.next_check = Some(now);
            self.flush_dtls();
        }
    }

    fn handle_dtls(&mut self, now: Instant, datagram: &[u8]) -> Vec<Incoming> {
        if self.is_client && self.is_repetition(datagram) {
            return Vec::new();
        }
        let remote: SocketAddr = DTLS_REMOTE.parse().expect("an address");
        let Some(endpoint) = &mut self.dtls else {
            return Vec::new();
        };
        let events = endpoint
            .read(now, remote, None, BytesMut::from(datagram))
            .unwrap_or_default();
        let mut incoming = Vec::new();
        for event in events {
            match event {
                EndpointEvent::HandshakeComplete => {
                    self.take_keys(remote);
                    incoming.push(Incoming::DtlsUp);
                }
                EndpointEvent::PeerClosed => incoming.push(Incoming::DtlsClosed),
                _ => {}
            }
        }
        self.flush_dtls();
        incoming
    }

    fn take_keys(&mut self, remote: SocketAddr) {
        let endpoint = self.dtls.as_ref().expect("the handshake is complete");
        let state = endpoint
            .get_connection_state(remote)
            .expect("the handshake is complete");
        let presented = fingerprint(&*self.provider, &state.peer_certificates[0]);
        if let Some(expected) = &self.expected_fingerprint {
            assert_eq!(expected, &presented, "the server's fingerprint");
        }
        let profile = match state.srtp_protection_profile() {
            DtlsProfile::Srtp_Aead_Aes_128_Gcm => ProtectionProfile::AeadAes128Gcm,
            DtlsProfile::Srtp_Aead_Aes_256_Gcm => ProtectionProfile::AeadAes256Gcm,
            DtlsProfile::Srtp_Aes128_Cm_Hmac_Sha1_80 => ProtectionProfile::Aes128CmHmacSha1_80,
            other => panic!("the server chose {other:?}"),
        };
        let mut config = rtc_srtp::config::Config {
            profile,
            ..Default::default()
        };
        let length = config.keying_material_len();
        let material = state
            .export_keying_material(LABEL_EXTRACTOR_DTLS_SRTP, &[], length)
            .expect("keys can be exported");
        config
            .set_session_keys_from_keying_material(material.as_ref(), state.is_client())
            .expect("the length is right");
        let crypto = self.provider.crypto();
        let keys = &config.keys;
        let local = Context::new(
            &keys.local_master_key,
            &keys.local_master_salt,
            profile,
            None,
            None,
            crypto,
        );
        let remote = Context::new(
            &keys.remote_master_key,
            &keys.remote_master_salt,
            profile,
            Some(srtp_replay_protection(1024)),
            Some(srtcp_replay_protection(1024)),
            crypto,
        );
        self.profile = Some(profile);
        self.srtp = Some(Srtp {
            local: local.expect("keys of the right length"),
            remote: remote.expect("keys of the right length"),
        });
    }

    fn handle_srtp(&mut self, datagram: &[u8]) -> Vec<Incoming> {
        let Some(srtp) = &mut self.srtp else {
            return Vec::new();
        };
        // RFC 5761 §4: RTCP packet types are 192–223.
        let is_rtcp = datagram.len() > 1 && (192..=223).contains(&datagram[1]);
        let opened = if is_rtcp {
            srtp.remote.decrypt_rtcp(datagram).map(Incoming::Rtcp)
        } else {
            srtp.remote.decrypt_rtp(datagram).map(Incoming::Rtp)
        };
        match opened {
            Ok(packet) => vec![packet],
            Err(
                rtc_shared::error::Error::SrtpSsrcDuplicated(..)
                | rtc_shared::error::Error::SrtcpSsrcDuplicated(..),
            ) => {
                self.replays += 1;
                Vec::new()
            }
            Err(_) => {
                self.srtp_failures += 1;
                Vec::new()
            }
        }
    }

    /// Seals and sends; returns what went onto the wire, so that it can be sent again.
    pub fn send_rtp(&mut self, packet: &[u8]) -> Option<Vec<u8>> {
        let (srtp, to) = (self.srtp.as_mut()?, self.selected?);
        let sealed = srtp.local.encrypt_rtp(packet).expect("a valid packet");
        self.outgoing.push_back((to, sealed.to_vec()));
        Some(sealed.to_vec())
    }

    pub fn send_rtcp(&mut self, packet: &[u8]) {
        let (Some(srtp), Some(to)) = (self.srtp.as_mut(), self.selected) else {
            return;
        };
        let sealed = srtp.local.encrypt_rtcp(packet).expect("a valid packet");
        self.outgoing.push_back((to, sealed.to_vec()));
    }

    /// Sends bytes as they are to where media goes.
    pub fn send_raw(&mut self, datagram: Vec<u8>) {
        if let Some(to) = self.selected {
            self.outgoing.push_back((to, datagram));
        }
    }

    /// Ends DTLS with a close_notify.
    pub fn close(&mut self, now: Instant) {
        if let Some(endpoint) = &mut self.dtls {
            endpoint.close(now).ok();
        }
        self.flush_dtls();
    }

    fn flush_dtls(&mut self) {
        let (Some(endpoint), Some(to)) = (&mut self.dtls, self.selected) else {
            return;
        };
        while let Some(transmit) = endpoint.poll_transmit() {
            self.outgoing.push_back((to, transmit.message.to_vec()));
        }
    }

    /// Whether a datagram only repeats what is answered already. `rtc-dtls` stops its retransmission
    /// timer at any handshake message, so such a one would keep a lost answer lost.
    fn is_repetition(&mut self, datagram: &[u8]) -> bool {
        // RFC 6347 §4.1: type 22 is a handshake record, epoch 0 is in the clear.
        let is_plain_handshake = datagram.len() > 13 && datagram[0] == 22 && datagram[4] == 0;
        let kind = is_plain_handshake.then(|| datagram[13]);
        let (is_repetition, answered) = match (self.answered, kind) {
            (Answered::Nothing, Some(HELLO_VERIFY_REQUEST)) => (false, Answered::Cookie),
            (Answered::Cookie, Some(HELLO_VERIFY_REQUEST)) => (true, Answered::Cookie),
            (Answered::Cookie, Some(_)) => (false, Answered::Hello),
            (Answered::Hello, Some(_)) => (true, Answered::Hello),
            (other, _) => (false, other),
        };
        self.answered = answered;
        is_repetition
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        if self.next_check.is_some_and(|at| at <= now) {
            self.send_checks(now);
        }
        let remote: SocketAddr = DTLS_REMOTE.parse().expect("an address");
        if let Some(endpoint) = &mut self.dtls {
            endpoint.handle_timeout(remote, now).ok();
        }
        self.flush_dtls();
    }

    fn send_checks(&mut self, now: Instant) {
        let confirmed = self
            .confirmed_at
            .is_some_and(|at| now.saturating_duration_since(at) < CONSENT_INTERVAL);
        let interval = if self.selected.is_some() && confirmed {
            CONSENT_INTERVAL
        } else {
            CHECK_INTERVAL
        };
        self.next_check = Some(now + interval);
        let Some(remote) = self.remote.clone() else {
            return;
        };
        if !self.checks {
            return;
        }
        let targets = match self.selected {
            Some(selected) => vec![selected],
            None => self.candidates.clone(),
        };
        for to in targets {
            let nominate = self.selected == Some(to);
            let (id, request) =
                binding_request(&*self.provider, &self.local.ufrag, &remote, nominate);
            self.pending.push_back((id, to, nominate));
            if self.pending.len() > 50 {
                self.pending.pop_front();
            }
            self.outgoing.push_back((to, request));
        }
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let remote: SocketAddr = DTLS_REMOTE.parse().expect("an address");
        let dtls = self.dtls.as_ref().and_then(|e| e.poll_timeout(&remote));
        [self.next_check.filter(|_| self.remote.is_some()), dtls]
            .into_iter()
            .flatten()
            .min()
    }

    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.outgoing.pop_front()
    }
}

/// An authenticated Binding request (RFC 8445 §7.1.1) from a controlling agent.
pub fn binding_request(
    provider: &dyn RTCCryptoProvider,
    local_ufrag: &str,
    remote: &Credentials,
    nominate: bool,
) -> (TransactionId, Vec<u8>) {
    let attribute = |typ, value: Vec<u8>| -> Box<dyn Setter> {
        Box::new(RawAttribute {
            typ,
            length: value.len() as u16,
            value,
        })
    };
    let username = format!("{}:{local_ufrag}", remote.ufrag);
    let id = TransactionId::new();
    let mut setters: Vec<Box<dyn Setter + '_>> = vec![
        Box::new(BINDING_REQUEST),
        Box::new(id),
        Box::new(Username::new(ATTR_USERNAME, username)),
        attribute(ATTR_PRIORITY, 0x6e7f_00ffu32.to_be_bytes().to_vec()),
        attribute(ATTR_ICE_CONTROLLING, 1u64.to_be_bytes().to_vec()),
    ];
    if nominate {
        setters.push(attribute(ATTR_USE_CANDIDATE, Vec::new()));
    }
    setters.push(Box::new(
        MessageIntegrity::new_short_term_integrity_with_provider(
            remote.pwd.clone(),
            provider.crypto(),
        ),
    ));
    setters.push(Box::new(FINGERPRINT));
    let mut message = Message::new();
    message.build(&setters).expect("the request can be built");
    (id, message.raw)
}

fn fingerprint(provider: &dyn RTCCryptoProvider, der: &[u8]) -> String {
    let digest = provider
        .crypto()
        .hash(rtc_crypto::HashAlgorithm::Sha256, der)
        .expect("sha-256 is supported");
    digest
        .iter()
        .map(|byte| format!("{byte:02X}"))
        .collect::<Vec<_>>()
        .join(":")
}
