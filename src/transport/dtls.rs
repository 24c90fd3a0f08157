//! DTLS 1.2 for one peer (RFC 6347, RFC 5764, RFC 8842): who begins, which SRTP profile is chosen,
//! when a handshake has taken too long, and whether the peer's certificate is the one that its
//! description names.
//!
//! Knows no address.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;

use crate::base::time::earliest;
use crate::control::{DtlsRole, Fingerprint, SrtpProfile, TransportFailure};
use crate::transport::association::{Association, DtlsDrop, Established, Progress};
use crate::transport::client_hello::{Hello, HelloCollector};
use crate::transport::identity::{DtlsIdentity, hash};
use crate::transport::keys::MasterKeys;
use crate::transport::record;

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
        match Association::client(now, self.identity.client()) {
            Some(association) => {
                self.state = State::Handshaking(association, now + HANDSHAKE_TIMEOUT);
            }
            None => self.fail(now, TransportFailure::DtlsHandshake),
        }
    }

    pub(crate) fn handle_datagram(
        &mut self,
        now: Instant,
        datagram: &[u8],
    ) -> Result<(), DtlsDrop> {
        match &mut self.state {
            State::Listening { hello, deadline } => {
                record::weigh(datagram).map_err(|_| DtlsDrop::Malformed)?;
                match hello.push(datagram) {
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
                }
            }
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
        let Some(config) = self.identity.server(offered) else {
            let alert = record::handshake_failure_alert();
            self.transmits.push_back(BytesMut::from(&alert[..]));
            self.fail(now, TransportFailure::DtlsHandshake);
            return Ok(());
        };
        self.state = State::Handshaking(Association::server(config), deadline);
        let mut result = Ok(());
        for datagram in datagrams {
            result = result.and(self.feed(now, datagram));
        }
        result
    }

    fn feed(&mut self, now: Instant, datagram: &[u8]) -> Result<(), DtlsDrop> {
        let association = self.state.association().ok_or(DtlsDrop::Unexpected)?;
        match association.read(now, datagram)? {
            Progress::None => {}
            Progress::Complete => self.on_complete(now),
            Progress::Ended => {
                let failure = match self.state {
                    State::Handshaking(..) => TransportFailure::DtlsHandshake,
                    _ => TransportFailure::DtlsClosed,
                };
                self.fail(now, failure);
            }
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
            return self.fail(now, TransportFailure::FingerprintMismatch);
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
            association.stop(now);
        }
        while let Some(datagram) = self
            .state
            .association()
            .and_then(Association::poll_transmit)
        {
            self.transmits.push_back(datagram);
        }
        self.state = State::Over;
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits
            .pop_front()
            .or_else(|| self.state.association()?.poll_transmit())
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
        let deadline = match &self.state {
            State::Listening { deadline, .. } => *deadline,
            State::Handshaking(_, deadline) => Some(*deadline),
            State::Calling | State::Unverified(..) | State::Up(..) | State::Over => None,
        };
        if deadline.is_some_and(|deadline| deadline <= now) {
            self.fail(now, TransportFailure::DtlsHandshake);
        } else if let State::Handshaking(association, _) = &mut self.state {
            association.handle_timeout(now);
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

/// From the first ClientHello to the end of the handshake.
pub(crate) const HANDSHAKE_TIMEOUT: Duration = Duration::from_secs(30);

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::control::FingerprintAlgorithm;
    use crate::transport::association::{FRAGMENTS_MAX, NOWHERE};
    use crate::transport::identity::{PREFERENCE, configuration, protection_profile};
    use crate::transport::keys::EXPORTER_LABEL;
    use rtc_crypto::RTCCryptoProvider;
    use rtc_crypto::providers::RingProvider;
    use rtc_dtls::config::ConfigBuilder;
    use rtc_dtls::crypto::Certificate;
    use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
    use rtc_shared::TransportProtocol;
    use std::net::{IpAddr, Ipv4Addr, SocketAddr};

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
