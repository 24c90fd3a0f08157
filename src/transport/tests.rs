//! Transports against the ends that browsers have: `rtc-dtls`, `rtc-srtp`, `rtc-stun`.

use super::*;
use crate::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc};
use crate::control::{FingerprintAlgorithm, SrtpProfile, TransportFailure};
use crate::transport::dtls::tests::{CHROMIUM, Peer};
use crate::transport::ice::tests::{CONTROLLING, USE_CANDIDATE, address, check, credentials};
use crate::wire::rtp::{OutgoingHeader, PacketKind, write_header};
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rtc_dtls::config::ExtendedMasterSecretType;
use std::time::Duration;

/// A transport and its peer, with a wire between that the test decides upon.
struct Pair {
    transport: Transport,
    peer: Peer,
    now: Instant,
    out: Outbox,
    events: Vec<TransportEvent>,
}

impl Pair {
    fn new(peer: impl FnOnce(Instant) -> Peer) -> Self {
        let now = Instant::now();
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let mut pair = Self {
            transport: Transport::new(now, identity, credentials("sfu1")),
            peer: peer(now),
            now,
            out: Outbox::default(),
            events: vec![],
        };
        pair.check(1, true);
        pair.out.clear();
        pair
    }

    fn chromium() -> Self {
        Self::new(|now| Peer::client(now, &CHROMIUM, |c| c))
    }

    fn connected() -> Self {
        let mut pair = Self::chromium();
        pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
        pair.run();
        assert_eq!(pair.events.len(), 1, "{:?}", pair.events);
        pair.events.clear();
        pair
    }

    fn check(&mut self, from: u8, nominate: bool) -> StunOutcome {
        let both = [CONTROLLING, USE_CANDIDATE];
        let attributes = if nominate { &both[..] } else { &both[..1] };
        let request = check(&credentials("sfu1"), attributes);
        self.transport
            .handle_stun(self.now, address(from), &request, &mut self.out)
    }

    fn describe(&mut self, algorithm: FingerprintAlgorithm, role: DtlsRole) {
        let fingerprints = vec![self.peer.fingerprint(algorithm)];
        self.transport
            .set_remote_dtls(self.now, fingerprints, role, &mut self.out);
    }

    fn wrong_fingerprint() -> Vec<Fingerprint> {
        vec![Fingerprint {
            algorithm: FingerprintAlgorithm::Sha256,
            digest: vec![7; 32],
        }]
    }

    fn deliver(&mut self, datagram: &[u8]) -> Result<(), DtlsDrop> {
        self.transport
            .handle_dtls(self.now, address(1), datagram, &mut self.out)
    }

    /// Carries everything there and back until both are silent.
    fn run(&mut self) {
        self.run_with(|_| {});
    }

    /// As [`Pair::run`], with a change to what one turn carries one way.
    fn run_with(&mut self, mut change: impl FnMut(&mut Vec<Vec<u8>>)) {
        for _ in 0..100 {
            let mut there = self.peer.transmits();
            change(&mut there);
            for datagram in &there {
                let _ = self.deliver(datagram);
            }
            let sent = self.out.iter().filter(|(to, _)| *to == address(1));
            let mut back: Vec<Vec<u8>> = sent
                .filter(|(_, d)| PacketKind::of(d) == PacketKind::Dtls)
                .map(|(_, datagram)| datagram.to_vec())
                .collect();
            self.out.clear();
            change(&mut back);
            for datagram in &back {
                self.peer.read(self.now, datagram);
            }
            self.events
                .extend(std::iter::from_fn(|| self.transport.poll_event()));
            if there.is_empty() && back.is_empty() {
                return;
            }
        }
        panic!("they never fall silent");
    }

    /// Media both ways, with the keys that the peer has.
    fn assert_media(&mut self, to: SocketAddr) {
        let keys = self.peer.keys();
        let mut sealer = Sealer::new(keys.profile, &keys.local);
        let mut opener = Opener::new(keys.profile, &keys.remote);
        let (plain, header_len) = rtp();

        let mut arena = plain.clone();
        sealer.rtp().seal(&mut arena, 0, header_len, 0);
        let mut packet = BytesMut::from(&arena[..]);
        let header = self.transport.open_rtp(&mut packet).unwrap();
        assert_eq!((header.ssrc, &packet[..]), (Ssrc(5), &plain[..]));

        let mut arena = plain.clone();
        let (path, ours) = self.transport.sealer().unwrap();
        ours.rtp().seal(&mut arena, 0, header_len, 0);
        let mut packet = BytesMut::from(&arena[..]);
        opener.open_rtp(&mut packet).unwrap();
        assert_eq!((path, &packet[..]), (to, &plain[..]));

        let report = [0x80, 201, 0, 1, 0, 0, 0, 5];
        self.out.clear();
        assert!(self.transport.seal_rtcp(&report, &mut self.out));
        let (path, sealed) = self.out.iter().next().unwrap();
        let mut packet = BytesMut::from(sealed);
        opener.open_rtcp(&mut packet).unwrap();
        assert_eq!((path, &packet[..]), (to, &report[..]));
        let mut sealed = vec![];
        assert!(sealer.seal_rtcp(&report, &mut sealed));
        let mut packet = BytesMut::from(&sealed[..]);
        self.transport.open_rtcp(&mut packet).unwrap();
        assert_eq!(packet[..], report);
    }

    fn assert_no_media(&mut self) {
        assert_eq!(self.transport.remote(), None);
        assert!(self.transport.sealer().is_none());
        let (plain, _) = rtp();
        let mut packet = BytesMut::from(&plain[..]);
        assert_eq!(
            self.transport.open_rtp(&mut packet),
            Err(OpenError::NotReady)
        );
        assert_eq!(
            self.transport.open_rtcp(&mut packet),
            Err(OpenError::NotReady)
        );
        assert!(
            !self
                .transport
                .seal_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 5], &mut self.out)
        );
    }
}

fn rtp() -> (Vec<u8>, usize) {
    let header = OutgoingHeader {
        payload_type: PayloadType(96),
        marker: false,
        seq: SeqNo16(1),
        timestamp: RtpTime(2),
        ssrc: Ssrc(5),
        padding: false,
    };
    let mut packet = Vec::new();
    let header_len = write_header(&mut packet, &header, std::iter::empty());
    packet.extend_from_slice(&[0x5a; 1000]);
    (packet, header_len)
}

fn connected(profile: SrtpProfile) -> Vec<TransportEvent> {
    vec![TransportEvent::Connected { profile }]
}

fn failed(failure: TransportFailure) -> Vec<TransportEvent> {
    vec![TransportEvent::Failed(failure)]
}

#[test]
fn transports_can_move_between_threads() {
    fn is_send<T: Send>() {}
    fn is_shared<T: Send + Sync>() {}
    is_send::<Transport>();
    is_shared::<DtlsIdentity>();
}

#[test]
fn the_cheapest_profile_offered_is_chosen() {
    use SrtpProfile::{AeadAes128Gcm, AeadAes256Gcm, Aes128CmSha1_80};
    let cases: [(&[SrtpProfile], SrtpProfile); 4] = [
        (&CHROMIUM, AeadAes128Gcm),
        (&[Aes128CmSha1_80, AeadAes256Gcm], AeadAes256Gcm),
        (&[Aes128CmSha1_80], Aes128CmSha1_80),
        (&[AeadAes128Gcm, Aes128CmSha1_80], AeadAes128Gcm),
    ];
    for (offered, chosen) in cases {
        let mut pair = Pair::new(|now| Peer::client(now, offered, |c| c));
        pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
        pair.assert_no_media();
        pair.run();
        assert_eq!(pair.events, connected(chosen), "{offered:?}");
        assert!(pair.peer.is_complete);
        assert_eq!(pair.peer.keys().profile, chosen);
        pair.assert_media(address(1));
    }
}

#[test]
fn as_client_the_transport_calls_once_there_is_a_path() {
    let now = Instant::now();
    let identity = Arc::new(DtlsIdentity::generate().unwrap());
    let mut pair = Pair::chromium();
    pair.peer = Peer::server(&CHROMIUM);
    pair.transport = Transport::new(now, identity, credentials("sfu1"));
    pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Client);
    assert!(pair.out.is_empty(), "nowhere to call yet");
    pair.check(1, true);
    pair.run();
    assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm));
    pair.assert_media(address(1));
}

#[test]
fn every_hash_function_of_a_fingerprint_is_taken() {
    for algorithm in [FingerprintAlgorithm::Sha384, FingerprintAlgorithm::Sha512] {
        let mut pair = Pair::chromium();
        pair.describe(algorithm, DtlsRole::Server);
        pair.run();
        assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm));
    }
    let mut pair = Pair::chromium();
    let mut both = Pair::wrong_fingerprint();
    both.push(pair.peer.fingerprint(FingerprintAlgorithm::Sha256));
    let now = pair.now;
    pair.transport
        .set_remote_dtls(now, both, DtlsRole::Server, &mut pair.out);
    pair.run();
    assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm));
}

#[test]
fn a_wrong_fingerprint_means_no_media() {
    for when in ["before", "after", "none given"] {
        let mut pair = Pair::chromium();
        if when == "after" {
            pair.run();
            assert!(pair.peer.is_complete && pair.events.is_empty());
        }
        let fingerprints = match when {
            "none given" => vec![],
            _ => Pair::wrong_fingerprint(),
        };
        let now = pair.now;
        pair.transport
            .set_remote_dtls(now, fingerprints, DtlsRole::Server, &mut pair.out);
        pair.run();
        let failure = TransportFailure::FingerprintMismatch;
        assert_eq!(pair.events, failed(failure), "{when}");
        assert!(pair.peer.is_closed, "{when}: the peer is told");
        pair.assert_no_media();
    }
}

#[test]
fn a_late_fingerprint_is_waited_for() {
    let mut pair = Pair::chromium();
    pair.run();
    assert!(pair.peer.is_complete && pair.events.is_empty());
    pair.assert_no_media();
    pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
    pair.run();
    assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm));
    pair.assert_media(address(1));
}

#[test]
fn later_descriptions_must_name_the_same_certificate() {
    let mut pair = Pair::connected();
    pair.describe(FingerprintAlgorithm::Sha512, DtlsRole::Server);
    pair.run();
    assert_eq!(pair.events, []);
    pair.assert_media(address(1));
    let now = pair.now;
    let wrong = Pair::wrong_fingerprint();
    pair.transport
        .set_remote_dtls(now, wrong, DtlsRole::Server, &mut pair.out);
    pair.run();
    assert_eq!(pair.events, failed(TransportFailure::FingerprintMismatch));
    pair.assert_no_media();
}

#[test]
fn fragments_out_of_order_are_put_together() {
    let mut pair = Pair::new(|now| Peer::client(now, &CHROMIUM, |c| c.with_mtu(70)));
    pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
    let mut longest = 0;
    pair.run_with(|datagrams| {
        longest = longest.max(datagrams.len());
        // But not across a change of keys: rtc-dtls waits for a repetition then.
        let is_plain = |r: record::Record<'_>| r.content_type == record::HANDSHAKE && r.epoch == 0;
        if datagrams
            .iter()
            .all(|d| record::records(d).flatten().all(is_plain))
        {
            datagrams.reverse();
        }
    });
    assert!(longest > 2, "something was cut");
    assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm));
    pair.assert_media(address(1));
}

#[test]
fn what_cannot_be_agreed_upon_fails_and_is_told() {
    use rtc_dtls::extension::extension_use_srtp::SrtpProtectionProfile;
    let sha1_32 = vec![SrtpProtectionProfile::Srtp_Aes128_Cm_Hmac_Sha1_32];
    type Change =
        Box<dyn FnOnce(rtc_dtls::config::ConfigBuilder) -> rtc_dtls::config::ConfigBuilder>;
    let cases: [(&str, Change); 4] = [
        (
            "no known profile",
            Box::new(|c| c.with_srtp_protection_profiles(sha1_32)),
        ),
        (
            "no use_srtp",
            Box::new(|c| c.with_srtp_protection_profiles(vec![])),
        ),
        ("no certificate", Box::new(|c| c.with_certificates(vec![]))),
        (
            "no extended master secret",
            Box::new(|c| c.with_extended_master_secret(ExtendedMasterSecretType::Disable)),
        ),
    ];
    for (name, change) in cases {
        let mut pair = Pair::new(|now| Peer::client(now, &CHROMIUM, change));
        pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
        let mut alerted = false;
        pair.run_with(|datagrams| {
            alerted |= datagrams.iter().any(|d| record::has_fatal_alert(d));
        });
        assert_eq!(
            pair.events,
            failed(TransportFailure::DtlsHandshake),
            "{name}"
        );
        assert!(alerted, "{name}");
        pair.assert_no_media();
    }
}

/// Two transports that call each other over a lossy wire.
#[test]
fn losses_are_made_up_for() {
    for seed in 0..50 {
        let mut rng = StdRng::seed_from_u64(seed);
        let start = Instant::now();
        let mut now = start;
        let mut out = Outbox::default();
        let identities = [(); 2].map(|()| Arc::new(DtlsIdentity::generate().unwrap()));
        let mut ends = identities
            .clone()
            .map(|identity| Transport::new(now, identity, credentials("sfu1")));
        for (at, role) in [(0, DtlsRole::Server), (1, DtlsRole::Client)] {
            let request = check(&credentials("sfu1"), &[CONTROLLING]);
            ends[at].handle_stun(now, address(1), &request, &mut out);
            out.clear();
            let theirs = vec![identities[1 - at].fingerprint().clone()];
            ends[at].set_remote_dtls(now, theirs, role, &mut out);
        }
        // On the way: when it arrives, at which end, and what.
        let mut wire: Vec<(Instant, usize, Vec<u8>)> = vec![];
        let mut from = 1;
        while ends.iter().any(|end| end.remote().is_none()) {
            for (_, datagram) in out.iter() {
                if rng.random_bool(0.7) {
                    let delay = Duration::from_millis(rng.random_range(20..400));
                    wire.push((now + delay, 1 - from, datagram.to_vec()));
                }
            }
            out.clear();
            wire.sort_by_key(|(at, ..)| *at);
            let timeout = earliest(ends[0].poll_timeout(), ends[1].poll_timeout());
            let arrival = wire.first().map(|(at, ..)| *at);
            now = earliest(timeout, arrival).expect("one of them goes on trying");
            assert!(now < start + Duration::from_secs(30), "seed {seed}");
            if arrival == Some(now) {
                let (_, to, datagram) = wire.remove(0);
                let _ = ends[to].handle_dtls(now, address(1), &datagram, &mut out);
                from = to;
            } else {
                let due = ends[0].poll_timeout() == Some(now);
                from = usize::from(!due);
                ends[from].handle_timeout(now, &mut out);
                assert!(
                    ends[from].poll_timeout() > Some(now),
                    "a timeout without effect"
                );
            }
        }
        let profile = SrtpProfile::AeadAes128Gcm;
        for end in &mut ends {
            assert_eq!(
                end.poll_event(),
                Some(TransportEvent::Connected { profile })
            );
            assert_eq!(end.poll_event(), None);
        }
    }
}

/// What anybody can send who can forge a source address.
fn garbage(rng: &mut StdRng) -> Vec<Vec<u8>> {
    use crate::transport::record::tests::{fragment, record};
    let mut all = vec![
        vec![],
        vec![22],
        vec![63; 200],
        record(23, 0, b"plain data"),
        record(20, 0, &[9]),
        record(21, 0, &[2]),
        record(22, 0, b"not a handshake"),
        record(22, 0, &fragment(11, 700, 9, 0, b"a")),
        record(22, 1, &[7; 60]),
        record(23, 1, &[7; 60]),
        record(21, 9, &[7; 60]),
        record(24, 0, &[7; 60]),
    ];
    for _ in 0..100 {
        let len = rng.random_range(0..200);
        let mut datagram: Vec<u8> = (0..len).map(|_| rng.random()).collect();
        if let Some(first) = datagram.first_mut() {
            *first = rng.random_range(20..64);
        }
        all.push(datagram);
    }
    all
}

#[test]
fn garbage_during_the_handshake_is_survived() {
    for seed in 0..5 {
        let mut rng = StdRng::seed_from_u64(seed);
        let mut pair = Pair::chromium();
        pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
        for _ in 0..20 {
            for datagram in garbage(&mut rng).iter().take(30) {
                let _ = pair.deliver(datagram);
            }
            let there = pair.peer.transmits();
            for datagram in &there {
                let _ = pair.deliver(&datagram[..datagram.len() / 2]);
                pair.deliver(datagram).unwrap();
            }
            let back: Vec<_> = pair.out.iter().map(|(_, d)| d.to_vec()).collect();
            pair.out.clear();
            for datagram in back {
                pair.peer.read(pair.now, &datagram);
            }
        }
        pair.run();
        assert_eq!(pair.events, connected(SrtpProfile::AeadAes128Gcm), "{seed}");
        pair.assert_media(address(1));
    }
}

/// Handshake messages that are well-framed and wrong inside, to both roles: whatever becomes of
/// the association, nothing panics.
#[test]
fn broken_handshakes_do_no_harm() {
    for seed in 0..BROKEN_HANDSHAKES {
        let mut rng = StdRng::seed_from_u64(seed);
        let (mut pair, role) = if seed % 2 == 0 {
            (Pair::chromium(), DtlsRole::Server)
        } else {
            (Pair::new(|_| Peer::server(&CHROMIUM)), DtlsRole::Client)
        };
        pair.describe(FingerprintAlgorithm::Sha256, role);
        let broken_turn = rng.random_range(0..6);
        let mut turn = 0;
        pair.run_with(|datagrams| {
            if turn == broken_turn {
                for datagram in datagrams.iter_mut() {
                    break_bodies(&mut rng, datagram);
                }
            }
            turn += 1;
        });
        assert!(pair.events.len() <= 1, "{:?}", pair.events);
    }
}

/// 20 000 of them were run on 2026-11-22.
const BROKEN_HANDSHAKES: u64 = 100;

/// Changes some bytes after the record and fragment headers.
fn break_bodies(rng: &mut StdRng, datagram: &mut [u8]) {
    for _ in 0..rng.random_range(1..4) {
        if datagram.len() > 26 {
            let at = rng.random_range(25..datagram.len());
            datagram[at] = rng.random();
        }
    }
}

#[test]
fn forgeries_after_the_handshake_change_nothing() {
    let mut pair = Pair::connected();
    let mut rng = StdRng::seed_from_u64(1);
    for datagram in garbage(&mut rng) {
        let _ = pair.deliver(&datagram);
    }
    for alert in [[2, 40], [1, 0], [2, 0], [1, 100]] {
        let mut datagram = record::tests::record(record::ALERT, 0, &alert);
        datagram[10] = 200;
        let _ = pair.deliver(&datagram);
    }
    pair.run();
    assert_eq!(pair.events, []);
    pair.assert_media(address(1));
}

#[test]
fn before_validation_nothing_but_stun_is_looked_at() {
    let mut pair = Pair::chromium();
    pair.describe(FingerprintAlgorithm::Sha256, DtlsRole::Server);
    for datagram in pair.peer.transmits() {
        let result = pair
            .transport
            .handle_dtls(pair.now, address(2), &datagram, &mut pair.out);
        assert_eq!(result, Err(DtlsDrop::NotValidated));
    }
    assert!(pair.out.is_empty());
    assert_eq!(
        pair.transport.poll_timeout(),
        Some(pair.now + ice::CONSENT_TIMEOUT)
    );
    assert!(pair.transport.is_validated(address(1)));
    assert!(!pair.transport.is_validated(address(2)));
}

#[test]
fn a_nomination_moves_media_and_dtls() {
    let mut pair = Pair::connected();
    pair.check(2, false);
    assert_eq!(pair.transport.remote(), Some(address(1)));
    pair.check(2, true);
    assert_eq!(pair.transport.remote(), Some(address(2)));
    pair.assert_media(address(2));
    pair.out.clear();
    pair.transport.close(pair.now, &mut pair.out);
    let closed: Vec<_> = pair.out.iter().map(|(to, _)| to).collect();
    assert_eq!(closed, [address(2)]);
}

#[test]
fn without_consent_nothing_is_sent() {
    let mut pair = Pair::connected();
    pair.now += ice::CONSENT_TIMEOUT;
    assert_eq!(pair.transport.poll_timeout(), Some(pair.now));
    pair.transport.handle_timeout(pair.now, &mut pair.out);
    pair.run();
    assert_eq!(pair.events, [TransportEvent::ConsentLost]);
    assert_eq!(pair.transport.remote(), None);
    assert!(pair.transport.sealer().is_none());
    assert!(
        !pair
            .transport
            .seal_rtcp(&[0x80, 201, 0, 1, 0, 0, 0, 5], &mut pair.out)
    );
    assert_eq!(pair.transport.poll_timeout(), None);
    pair.now += Duration::from_secs(5);
    pair.check(3, false);
    pair.run();
    assert_eq!(
        pair.events,
        [TransportEvent::ConsentLost, TransportEvent::ConsentRegained]
    );
    pair.assert_media(address(3));
}

#[test]
fn a_close_by_the_peer_ends_media() {
    let mut pair = Pair::connected();
    pair.peer.endpoint.close(pair.now).unwrap();
    pair.run();
    assert_eq!(pair.events, failed(TransportFailure::DtlsClosed));
    pair.assert_no_media();
    assert!(matches!(pair.check(1, false), StunOutcome::Accepted { .. }));
}

#[test]
fn our_close_is_told_and_leaves_nothing() {
    let mut pair = Pair::connected();
    pair.transport.close(pair.now, &mut pair.out);
    pair.run();
    assert!(pair.peer.is_closed);
    assert_eq!(pair.events, []);
    pair.assert_no_media();
}

#[test]
fn a_restart_goes_on_with_the_same_keys() {
    let mut pair = Pair::connected();
    pair.transport.restart_ice(credentials("sfu2"));
    pair.assert_media(address(1));
    let request = check(&credentials("sfu2"), &[CONTROLLING, USE_CANDIDATE]);
    let outcome = pair
        .transport
        .handle_stun(pair.now, address(4), &request, &mut pair.out);
    assert_eq!(
        outcome,
        StunOutcome::Accepted {
            validated: true,
            evicted: None,
            former_ufrag_retired: Some("sfu1".into())
        }
    );
    let ufrags: Vec<&str> = pair.transport.ufrags().map(|u| &**u).collect();
    assert_eq!(ufrags, ["sfu2"]);
    assert_eq!(pair.transport.remote(), Some(address(4)));
}
