//! DTLS 1.2 for one peer (RFC 6347, RFC 5764, RFC 8842): the handshake, the peer's identity, and the
//! SRTP keys that come out of it.
//!
//! `rtc-dtls` does the protocol. Here is decided which SRTP profile it may choose, when a handshake
//! has taken too long, what an error means, and whether the certificate is the one that the peer's
//! description named. Knows no address: its one association has a made-up one.

use std::collections::VecDeque;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use ring::digest;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_dtls::cipher_suite::CipherSuiteId;
use rtc_dtls::config::{ClientAuthType, ConfigBuilder, ExtendedMasterSecretType, HandshakeConfig};
use rtc_dtls::crypto::Certificate;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use crate::base::time::earliest;
use crate::control::{DtlsRole, Fingerprint, FingerprintAlgorithm, SrtpProfile, TransportFailure};
use crate::transport::client_hello::{Hello, HelloCollector};
use crate::transport::keys::{EXPORTER_LABEL, MasterKeys};
use crate::transport::record;

/// Why the server's DTLS identity could not be made.
#[derive(Debug)]
pub enum TransportError {
    /// The key or certificate could not be generated.
    Certificate(Error),
    /// `rtc-dtls` refused the configuration.
    Configuration(Error),
}

impl fmt::Display for TransportError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Certificate(error) => write!(f, "cannot make a certificate: {error}"),
            Self::Configuration(error) => write!(f, "cannot configure DTLS: {error}"),
        }
    }
}

impl std::error::Error for TransportError {}

/// The server's certificate with its key, made anew at each start (RFC 8827 §6.5: one is enough for
/// all peers of one origin), and ready-made configurations, shared by all peers.
pub struct DtlsIdentity {
    fingerprint: Fingerprint,
    /// One for each profile, so that `rtc-dtls` cannot choose another.
    servers: [(SrtpProfile, Arc<HandshakeConfig>); PREFERENCE.len()],
    client: Arc<HandshakeConfig>,
}

impl DtlsIdentity {
    /// Makes an ECDSA P-256 key and a self-signed certificate for it.
    ///
    /// # Errors
    /// [`TransportError`], if the system has no randomness or `rtc-dtls` lacks an algorithm.
    pub fn generate() -> Result<Self, TransportError> {
        let provider: Arc<dyn RTCCryptoProvider> = Arc::new(RingProvider::new());
        let certificate =
            Certificate::generate_self_signed(vec![SERVER_NAME.to_owned()], provider.crypto())
                .map_err(TransportError::Certificate)?;
        let fingerprint = Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: hash(FingerprintAlgorithm::Sha256, &certificate.certificate[0]),
        };
        let server = |profile| -> Result<_, TransportError> {
            let config = configuration(&provider, &certificate, &[profile])
                .with_cipher_suites(vec![CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256])
                .build(false, None)
                .map_err(TransportError::Configuration)?;
            Ok((profile, Arc::new(config)))
        };
        let client = configuration(&provider, &certificate, &PREFERENCE)
            .with_cipher_suites(vec![
                CipherSuiteId::Tls_Ecdhe_Ecdsa_With_Aes_128_Gcm_Sha256,
                // For a peer whose own certificate is RSA.
                CipherSuiteId::Tls_Ecdhe_Rsa_With_Aes_128_Gcm_Sha256,
            ])
            .build(true, None)
            .map_err(TransportError::Configuration)?;
        Ok(Self {
            fingerprint,
            servers: [
                server(PREFERENCE[0])?,
                server(PREFERENCE[1])?,
                server(PREFERENCE[2])?,
            ],
            client: Arc::new(client),
        })
    }

    /// The certificate's SHA-256 hash, for our descriptions.
    #[must_use]
    pub fn fingerprint(&self) -> &Fingerprint {
        &self.fingerprint
    }
}

impl fmt::Debug for DtlsIdentity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("DtlsIdentity")
            .field("fingerprint", &self.fingerprint)
            .finish_non_exhaustive()
    }
}

/// Why a DTLS datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsDrop {
    /// No valid check has come from its source.
    NotValidated,
    /// It is not DTLS 1.2, or something in it is broken.
    Malformed,
    /// It fits no state we are in: too late, too early, or a repeated part of a ClientHello.
    Unexpected,
    /// The peer has sent more handshake messages than any handshake has.
    TooMany,
    /// `rtc-dtls` refused it; the association goes on.
    Rejected,
}

/// What a transport is told.
#[derive(Debug)]
pub(crate) enum DtlsEvent {
    /// The handshake is over and the peer is who its description says: keys for SRTP.
    Connected(MasterKeys),
    /// There will be no (more) DTLS with this peer.
    Failed(TransportFailure),
}

/// DTLS with one peer.
pub(crate) struct Dtls {
    identity: Arc<DtlsIdentity>,
    /// From the peer's description, once there is one.
    expected: Option<Vec<Fingerprint>>,
    state: State,
    transmits: VecDeque<BytesMut>,
    events: VecDeque<DtlsEvent>,
}

enum State {
    /// The peer is to begin.
    Listening {
        hello: HelloCollector,
        /// Runs from the first part of a ClientHello on.
        deadline: Option<Instant>,
    },
    /// We are to begin, once there is an address to send to.
    Calling,
    /// The deadline bounds the whole handshake.
    Handshaking(Association, Instant),
    /// The handshake is over, but the peer's description has not come yet.
    Unverified(Association, Established),
    /// The peer is known by this certificate.
    Up(Association, Vec<u8>),
    /// Failed or closed.
    Over,
}

/// What a handshake leaves.
struct Established {
    certificate: Vec<u8>,
    keys: MasterKeys,
}

impl Dtls {
    pub(crate) fn new(identity: Arc<DtlsIdentity>) -> Self {
        Self {
            identity,
            expected: None,
            state: State::listening(),
            transmits: VecDeque::new(),
            events: VecDeque::new(),
        }
    }

    /// Takes what the peer's description says. A role changes nothing once a handshake has begun
    /// (RFC 8842 §5.4: a new association would need new ICE credentials and fingerprints).
    pub(crate) fn set_remote(
        &mut self,
        now: Instant,
        fingerprints: Vec<Fingerprint>,
        role: DtlsRole,
    ) {
        self.expected = Some(fingerprints);
        match (&self.state, role) {
            (State::Listening { .. }, DtlsRole::Client) => self.state = State::Calling,
            (State::Calling, DtlsRole::Server) => self.state = State::listening(),
            _ => self.check_fingerprint(now),
        }
    }

    /// There is an address to send to: begins, if that is for us to do.
    pub(crate) fn on_path(&mut self, now: Instant) {
        if !matches!(self.state, State::Calling) {
            return;
        }
        let mut association =
            Association::new(Endpoint::new(NOWHERE, TransportProtocol::UDP, None));
        let begun = association
            .endpoint
            .connect(now, NOWHERE, self.identity.client.clone(), None);
        self.state = State::Handshaking(association, now + HANDSHAKE_TIMEOUT);
        self.drain_transmits();
        if begun.is_err() {
            self.fail(now, TransportFailure::DtlsHandshake);
        }
    }

    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
    ) -> Result<(), DtlsDrop> {
        record::weigh(datagram).map_err(|_| DtlsDrop::Malformed)?;
        match &mut self.state {
            State::Listening { hello, deadline } => match hello.push(datagram) {
                Hello::Unchanged => Err(DtlsDrop::Unexpected),
                Hello::Malformed => Err(DtlsDrop::Malformed),
                Hello::Partial => {
                    deadline.get_or_insert(now + HANDSHAKE_TIMEOUT);
                    Ok(())
                }
                Hello::Complete { offered, datagrams } => {
                    let deadline = deadline.unwrap_or(now + HANDSHAKE_TIMEOUT);
                    self.answer(now, deadline, &offered, &datagrams)
                }
            },
            State::Calling | State::Over => Err(DtlsDrop::Unexpected),
            State::Handshaking(..) | State::Unverified(..) | State::Up(..) => {
                self.feed(now, datagram)
            }
        }
    }

    /// Begins a handshake as server, with the best profile of those offered.
    fn answer(
        &mut self,
        now: Instant,
        deadline: Instant,
        offered: &[SrtpProfile],
        datagrams: &[Vec<u8>],
    ) -> Result<(), DtlsDrop> {
        let mut servers = self.identity.servers.iter();
        let Some((_, config)) = servers.find(|(profile, _)| offered.contains(profile)) else {
            let alert = record::handshake_failure_alert();
            self.transmits.push_back(BytesMut::from(&alert[..]));
            self.fail(now, TransportFailure::DtlsHandshake);
            return Ok(());
        };
        let endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, Some(config.clone()));
        self.state = State::Handshaking(Association::new(endpoint), deadline);
        datagrams.iter().fold(Ok(()), |result, datagram| {
            result.and(self.feed(now, datagram))
        })
    }

    fn feed(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsDrop> {
        let weight = record::weigh(datagram).map_err(|_| DtlsDrop::Malformed)?;
        let is_handshaking = matches!(self.state, State::Handshaking(..));
        let association = self.state.association().ok_or(DtlsDrop::Unexpected)?;
        // Before the end of the handshake all that comes is kept for a while, afterwards only
        // handshake messages are.
        let cost = weight.handshake + if is_handshaking { weight.other } else { 0 };
        association.budget = association
            .budget
            .checked_sub(cost)
            .ok_or(DtlsDrop::TooMany)?;
        let result = association
            .endpoint
            .read(now, NOWHERE, None, BytesMut::from(datagram));
        let has_given_up = self.drain_transmits() && is_handshaking;
        let closed = if is_handshaking {
            TransportFailure::DtlsHandshake
        } else {
            TransportFailure::DtlsClosed
        };
        match result {
            Ok(events) => {
                for event in events {
                    match event {
                        EndpointEvent::HandshakeComplete => self.on_complete(now),
                        EndpointEvent::PeerClosed => self.fail(now, closed),
                        // Data channels are not negotiated.
                        _ => {}
                    }
                }
            }
            Err(Error::ErrAlertFatalOrClose) => self.fail(now, closed),
            // All others leave the association as it was, unless it has told the peer otherwise.
            Err(_) if !has_given_up => return Err(DtlsDrop::Rejected),
            Err(_) => {}
        }
        if has_given_up {
            self.fail(now, closed);
        }
        Ok(())
    }

    fn on_complete(&mut self, now: Instant) {
        let State::Handshaking(association, _) = &self.state else {
            return;
        };
        let Some(established) = association.established() else {
            return self.fail(now, TransportFailure::DtlsHandshake);
        };
        if let State::Handshaking(association, _) = std::mem::replace(&mut self.state, State::Over)
        {
            self.state = State::Unverified(association, established);
        }
        self.check_fingerprint(now);
    }

    /// Compares the peer's certificate with what its description says now. Nothing of SRTP exists
    /// before they agree, and nothing is left once they do not.
    fn check_fingerprint(&mut self, now: Instant) {
        let Some(expected) = &self.expected else {
            return;
        };
        let matches = match &self.state {
            State::Unverified(_, Established { certificate, .. }) | State::Up(_, certificate) => {
                expected
                    .iter()
                    .any(|f| hash(f.algorithm, certificate) == f.digest)
            }
            _ => return,
        };
        if !matches {
            self.fail(now, TransportFailure::FingerprintMismatch);
            return;
        }
        match std::mem::replace(&mut self.state, State::Over) {
            State::Unverified(association, established) => {
                self.state = State::Up(association, established.certificate);
                self.events
                    .push_back(DtlsEvent::Connected(established.keys));
            }
            other => self.state = other,
        }
    }

    fn fail(&mut self, now: Instant, failure: TransportFailure) {
        if !matches!(self.state, State::Over) {
            self.events.push_back(DtlsEvent::Failed(failure));
        }
        self.close(now);
    }

    /// Ends the association, with a close_notify if it was up.
    pub(crate) fn close(&mut self, now: Instant) {
        if let State::Unverified(association, _) | State::Up(association, _) = &mut self.state {
            association.endpoint.stop(now, NOWHERE);
        }
        self.drain_transmits();
        self.state = State::Over;
    }

    /// Collects what the association wants to send; says whether a fatal alert in the clear was
    /// among it.
    fn drain_transmits(&mut self) -> bool {
        let Some(association) = self.state.association() else {
            return false;
        };
        let mut is_fatal = false;
        while let Some(transmit) = association.endpoint.poll_transmit() {
            is_fatal |= record::has_fatal_alert(&transmit.message);
            // Something new was sent, so its retransmission is timed from the start again.
            association.retries = 0;
            self.transmits.push_back(transmit.message);
        }
        is_fatal
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_event(&mut self) -> Option<DtlsEvent> {
        self.events.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        match &self.state {
            State::Listening { deadline, .. } => *deadline,
            State::Handshaking(association, deadline) => {
                earliest(Some(*deadline), association.poll_timeout())
            }
            State::Calling | State::Unverified(..) | State::Up(..) | State::Over => None,
        }
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        let State::Handshaking(association, deadline) = &mut self.state else {
            return self.fail(now, TransportFailure::DtlsHandshake);
        };
        if now >= *deadline {
            return self.fail(now, TransportFailure::DtlsHandshake);
        }
        let retries = association.retries + 1;
        let result = association.endpoint.handle_timeout(NOWHERE, now);
        self.drain_transmits();
        if let Some(association) = self.state.association() {
            association.retries = retries;
        }
        if result.is_err() {
            self.fail(now, TransportFailure::DtlsHandshake);
        }
    }
}

impl State {
    fn listening() -> Self {
        Self::Listening {
            hello: HelloCollector::default(),
            deadline: None,
        }
    }

    fn association(&mut self) -> Option<&mut Association> {
        match self {
            Self::Handshaking(association, _)
            | Self::Unverified(association, _)
            | Self::Up(association, _) => Some(association),
            Self::Listening { .. } | Self::Calling | Self::Over => None,
        }
    }
}

/// One association of `rtc-dtls`.
struct Association {
    endpoint: Endpoint,
    /// How many more handshake fragments and records are taken.
    budget: usize,
    /// How often the last flight was repeated.
    retries: u32,
}

impl Association {
    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            budget: FRAGMENTS_MAX,
            retries: 0,
        }
    }

    /// `rtc-dtls` repeats a flight at a fixed interval, 7 times at most; here the interval doubles
    /// each time (RFC 6347 §4.2.4.1), so that these 7 last as long as the handshake may.
    fn poll_timeout(&self) -> Option<Instant> {
        let backoff = FLIGHT_INTERVAL * ((1 << self.retries.min(BACKOFF_DOUBLINGS_MAX)) - 1);
        Some(self.endpoint.poll_timeout(&NOWHERE)? + backoff)
    }

    fn established(&self) -> Option<Established> {
        let state = self.endpoint.get_connection_state(NOWHERE)?;
        let profile = PREFERENCE
            .into_iter()
            .find(|profile| protection_profile(*profile) == state.srtp_protection_profile())?;
        let exported = state
            .export_keying_material(EXPORTER_LABEL, &[], MasterKeys::exported_len(profile))
            .ok()?;
        Some(Established {
            certificate: state.peer_certificates.first()?.clone(),
            keys: MasterKeys::from_exported(profile, exported.as_ref(), state.is_client())?,
        })
    }
}

fn configuration(
    provider: &Arc<dyn RTCCryptoProvider>,
    certificate: &Certificate,
    profiles: &[SrtpProfile],
) -> ConfigBuilder {
    ConfigBuilder::default()
        .with_crypto_provider(provider.clone())
        .with_certificates(vec![certificate.clone()])
        .with_srtp_protection_profiles(profiles.iter().map(|p| protection_profile(*p)).collect())
        .with_client_auth(ClientAuthType::RequireAnyClientCert)
        // No chain leads to a self-signed certificate: the fingerprint is compared instead (RFC
        // 8827 §6.5), above. That its owner holds the key, rtc-dtls does check.
        .with_insecure_skip_verify(true)
        // Without it (RFC 7627) the exported keys are not bound to the certificates, and
        // rtc-dtls, which does not compare the client's Finished with the transcript, would not
        // notice a changed one. Every browser and OpenSSL since 1.1 has it.
        .with_extended_master_secret(ExtendedMasterSecretType::Require)
        .with_server_name(SERVER_NAME.to_owned())
        .with_flight_interval(FLIGHT_INTERVAL)
}

fn protection_profile(profile: SrtpProfile) -> SrtpProtectionProfile {
    match profile {
        SrtpProfile::AeadAes128Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_128_Gcm,
        SrtpProfile::AeadAes256Gcm => SrtpProtectionProfile::Srtp_Aead_Aes_256_Gcm,
        SrtpProfile::Aes128CmSha1_80 => SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_80,
    }
}

fn hash(algorithm: FingerprintAlgorithm, certificate: &[u8]) -> Vec<u8> {
    let algorithm = match algorithm {
        FingerprintAlgorithm::Sha256 => &digest::SHA256,
        FingerprintAlgorithm::Sha384 => &digest::SHA384,
        FingerprintAlgorithm::Sha512 => &digest::SHA512,
    };
    digest::digest(algorithm, certificate).as_ref().to_vec()
}

/// Best first: GCM-128 costs a third of SHA1_80 here (DESIGN.md §3).
const PREFERENCE: [SrtpProfile; 3] = [
    SrtpProfile::AeadAes128Gcm,
    SrtpProfile::AeadAes256Gcm,
    SrtpProfile::Aes128CmSha1_80,
];
/// From the first ClientHello to the end of the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);
/// When a flight is first repeated. RFC 6347 §4.2.4.1 says 1 s and lets time-sensitive applications
/// take less; libwebrtc begins with 50 ms.
const FLIGHT_INTERVAL: Duration = Duration::from_millis(250);
/// 32 s, more than a handshake may take.
const BACKOFF_DOUBLINGS_MAX: u32 = 7;
/// The most handshake fragments and records of one association. A handshake takes about 12, and 9
/// repetitions of each flight fit into its 30 s when the interval doubles from 50 ms on.
const FRAGMENTS_MAX: usize = 256;
/// In our certificate and, where we are the client, in `server_name`; nobody looks at it.
const SERVER_NAME: &str = "shardcast";
/// The address of both ends of every association, as far as `rtc-dtls` knows (RFC 5737).
const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Where the peers of these tests believe the server to be.
    pub(crate) const SERVER: SocketAddr =
        SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 99)), 443);

    pub(crate) const CHROMIUM: [SrtpProfile; 3] = [
        SrtpProfile::Aes128CmSha1_80,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AeadAes128Gcm,
    ];

    /// A peer's side of DTLS: `rtc-dtls` under another certificate.
    pub(crate) struct Peer {
        pub(crate) endpoint: Endpoint,
        certificate: Certificate,
        pub(crate) is_complete: bool,
        pub(crate) is_closed: bool,
    }

    impl Peer {
        /// One that sends the ClientHello, after `change` to its usual configuration.
        pub(crate) fn client(
            now: Instant,
            profiles: &[SrtpProfile],
            change: impl FnOnce(ConfigBuilder) -> ConfigBuilder,
        ) -> Self {
            let (certificate, builder) = Self::configuration(profiles);
            let config = change(builder).build(true, None).unwrap();
            let mut endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, None);
            endpoint
                .connect(now, SERVER, Arc::new(config), None)
                .unwrap();
            Self::of(endpoint, certificate)
        }

        /// One that waits for the ClientHello.
        pub(crate) fn server(profiles: &[SrtpProfile]) -> Self {
            let (certificate, builder) = Self::configuration(profiles);
            let config = Arc::new(builder.build(false, None).unwrap());
            let endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, Some(config));
            Self::of(endpoint, certificate)
        }

        fn of(endpoint: Endpoint, certificate: Certificate) -> Self {
            Self {
                endpoint,
                certificate,
                is_complete: false,
                is_closed: false,
            }
        }

        fn configuration(profiles: &[SrtpProfile]) -> (Certificate, ConfigBuilder) {
            let provider: Arc<dyn RTCCryptoProvider> = Arc::new(RingProvider::new());
            let certificate =
                Certificate::generate_self_signed(vec!["peer".to_owned()], provider.crypto())
                    .unwrap();
            let builder = configuration(&provider, &certificate, profiles);
            (certificate, builder)
        }

        pub(crate) fn fingerprint(&self, algorithm: FingerprintAlgorithm) -> Fingerprint {
            Fingerprint {
                algorithm,
                digest: hash(algorithm, &self.certificate.certificate[0]),
            }
        }

        pub(crate) fn read(&mut self, now: Instant, datagram: &[u8]) {
            let events = self
                .endpoint
                .read(now, SERVER, None, BytesMut::from(datagram));
            for event in events.into_iter().flatten() {
                self.is_complete |= matches!(event, EndpointEvent::HandshakeComplete);
                self.is_closed |= matches!(event, EndpointEvent::PeerClosed);
            }
        }

        pub(crate) fn transmits(&mut self) -> Vec<Vec<u8>> {
            std::iter::from_fn(|| self.endpoint.poll_transmit())
                .map(|transmit| transmit.message.to_vec())
                .collect()
        }

        pub(crate) fn keys(&self) -> MasterKeys {
            let state = self.endpoint.get_connection_state(SERVER).unwrap();
            let profile = PREFERENCE
                .into_iter()
                .find(|profile| protection_profile(*profile) == state.srtp_protection_profile())
                .unwrap();
            let exported = state
                .export_keying_material(EXPORTER_LABEL, &[], MasterKeys::exported_len(profile))
                .unwrap();
            MasterKeys::from_exported(profile, exported.as_ref(), state.is_client()).unwrap()
        }
    }

    fn dtls() -> Dtls {
        Dtls::new(Arc::new(DtlsIdentity::generate().unwrap()))
    }

    #[test]
    fn the_fingerprint_is_the_certificates() {
        let identity = DtlsIdentity::generate().unwrap();
        assert_eq!(identity.fingerprint().digest.len(), 32);
        let other = DtlsIdentity::generate().unwrap();
        assert_ne!(identity.fingerprint(), other.fingerprint());
        let peer = Peer::server(&PREFERENCE);
        for (algorithm, len) in [
            (FingerprintAlgorithm::Sha256, 32),
            (FingerprintAlgorithm::Sha384, 48),
            (FingerprintAlgorithm::Sha512, 64),
        ] {
            assert_eq!(peer.fingerprint(algorithm).digest.len(), len);
        }
    }

    #[test]
    fn flights_are_repeated_at_doubling_intervals_until_the_handshake_times_out() {
        let start = Instant::now();
        let mut dtls = dtls();
        dtls.set_remote(start, vec![], DtlsRole::Client);
        assert_eq!(dtls.poll_timeout(), None, "nothing to send to yet");
        dtls.on_path(start);
        let mut sent_after = vec![];
        let mut now = start;
        loop {
            while dtls.poll_transmit().is_some() {
                sent_after.push((now - start).as_millis());
            }
            let Some(deadline) = dtls.poll_timeout() else {
                break;
            };
            assert!(deadline > now, "a timeout that does nothing");
            now = deadline;
            dtls.handle_timeout(now);
        }
        assert_eq!(sent_after, [0, 250, 750, 1750, 3750, 7750, 15_750]);
        assert_eq!(now, start + HANDSHAKE_TIMEOUT);
        assert!(matches!(
            dtls.poll_event(),
            Some(DtlsEvent::Failed(TransportFailure::DtlsHandshake))
        ));
        assert!(dtls.poll_event().is_none(), "told once");
    }

    #[test]
    fn a_hello_that_never_ends_times_out() {
        let start = Instant::now();
        let mut dtls = dtls();
        let mut peer = Peer::client(start, &CHROMIUM, |c| c.with_mtu(60));
        let parts = peer.transmits();
        assert!(parts.len() > 2);
        assert_eq!(dtls.poll_timeout(), None);
        dtls.handle_datagram(start, &parts[0]).unwrap();
        let later = start + Duration::from_secs(20);
        dtls.handle_datagram(later, &parts[1]).unwrap();
        assert_eq!(dtls.poll_timeout(), Some(start + HANDSHAKE_TIMEOUT));
        dtls.handle_timeout(start + HANDSHAKE_TIMEOUT);
        assert!(matches!(
            dtls.poll_event(),
            Some(DtlsEvent::Failed(TransportFailure::DtlsHandshake))
        ));
        assert_eq!(
            dtls.handle_datagram(later, &parts[2]),
            Err(DtlsDrop::Unexpected)
        );
    }

    #[test]
    fn a_flood_of_fragments_is_bounded() {
        let now = Instant::now();
        let mut dtls = dtls();
        let mut peer = Peer::client(now, &CHROMIUM, |c| c);
        for datagram in peer.transmits() {
            dtls.handle_datagram(now, &datagram).unwrap();
        }
        // Whole, empty messages, many to a record: each would be kept, and searched for.
        let message = record::tests::fragment(14, 900, 0, 0, &[]);
        let mut taken = 0;
        for seq in 10..100u8 {
            let mut datagram = record::tests::record(record::HANDSHAKE, 0, &message.repeat(50));
            datagram[10] = seq;
            match dtls.handle_datagram(now, &datagram) {
                Ok(()) | Err(DtlsDrop::Rejected) => taken += 50,
                Err(other) => assert_eq!(other, DtlsDrop::TooMany),
            }
        }
        assert!((50..=FRAGMENTS_MAX).contains(&taken), "{taken}");
    }
}
