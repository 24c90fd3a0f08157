//! ICE-lite (RFC 8445 §2.5) for one peer: checks are answered, none is sent.
//!
//! Owns the local credentials, the addresses that a valid check came from, the one of them that is
//! used, and consent (RFC 7675). A check is valid when it carries our password; that says that the
//! peer itself named the address, and nothing more. Knows nothing of DTLS or media.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crate::control::{IceCredentials, TransportEvent};
use crate::transport::outbox::Outbox;
use crate::wire::stun::{BindingRequest, write_binding_success, write_error};

/// What became of a check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum StunOutcome {
    /// It was valid, and answered.
    Accepted {
        /// Its source was not validated before: from now on DTLS and media from there are taken.
        validated: bool,
        /// The address that had to make room, if one had to: nothing from there is taken any more.
        evicted: Option<SocketAddr>,
        /// The user fragment that ended with it: the first check after an ICE restart.
        former_ufrag_retired: Option<Arc<str>>,
    },
    /// It was not valid. An error response was sent, except where the reason says otherwise.
    Refused(StunRefusal),
}

/// Why a check is not valid.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StunRefusal {
    /// It is for another user fragment; not answered.
    UnknownUfrag,
    /// It has no MESSAGE-INTEGRITY: 400.
    NoIntegrity,
    /// Its MESSAGE-INTEGRITY is wrong: 401.
    WrongIntegrity,
    /// It has an attribute that must be understood and is not: 420.
    UnknownAttribute,
    /// Its sender takes itself for the controlled agent, which we are, always: 487.
    RoleConflict,
}

/// The ICE-lite agent of one peer.
pub(crate) struct IceLite {
    current: IceCredentials,
    /// In use until a check with the current ones has come.
    former: Option<IceCredentials>,
    /// At most [`VALIDATED_MAX`].
    validated: Vec<Validated>,
    consent: Consent,
    event: Option<TransportEvent>,
}

/// An address that a valid check came from.
struct Validated {
    address: SocketAddr,
    last_check: Instant,
}

/// Whether the peer still agrees to be sent to (RFC 7675), and where.
enum Consent {
    /// No valid check yet.
    Awaited,
    /// To this address, one of those validated.
    Given(SocketAddr),
    /// No valid check for [`CONSENT_TIMEOUT`].
    Lost,
}

impl IceLite {
    pub(crate) fn new(credentials: IceCredentials) -> Self {
        Self {
            current: credentials,
            former: None,
            validated: Vec::new(),
            consent: Consent::Awaited,
            event: None,
        }
    }

    /// Takes new credentials. Where the current ones were never used, the peer still uses the
    /// former ones, and it is the current ones that end.
    pub(crate) fn restart(&mut self, credentials: IceCredentials) {
        let replaced = std::mem::replace(&mut self.current, credentials);
        self.former.get_or_insert(replaced);
    }

    pub(crate) fn ufrags(&self) -> impl Iterator<Item = &Arc<str>> {
        std::iter::once(&self.current.ufrag).chain(self.former.as_ref().map(|c| &c.ufrag))
    }

    pub(crate) fn is_validated(&self, address: SocketAddr) -> bool {
        self.validated.iter().any(|v| v.address == address)
    }

    /// Where to send, while the peer consents: the nominated address, the first validated one
    /// before any nomination.
    pub(crate) fn path(&self) -> Option<SocketAddr> {
        match self.consent {
            Consent::Given(path) => Some(path),
            Consent::Awaited | Consent::Lost => None,
        }
    }

    /// The change of consent since last asked.
    pub(crate) fn take_event(&mut self) -> Option<TransportEvent> {
        self.event.take()
    }

    pub(crate) fn handle_check(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &BindingRequest,
        out: &mut Outbox,
    ) -> StunOutcome {
        let is_current = *request.local_ufrag() == *self.current.ufrag;
        let credentials = if is_current {
            &self.current
        } else {
            match &self.former {
                Some(former) if *request.local_ufrag() == *former.ufrag => former,
                _ => return StunOutcome::Refused(StunRefusal::UnknownUfrag),
            }
        };
        if let Err(refusal) = authorize(from, request, &credentials.pwd, out) {
            return StunOutcome::Refused(refusal);
        }
        out.push_with(from, |arena| {
            write_binding_success(arena, request, from, &credentials.pwd);
            true
        });
        let former_ufrag_retired = if is_current {
            self.former.take().map(|former| former.ufrag)
        } else {
            None
        };
        let (validated, evicted) = self.on_valid_check(now, from);
        match self.consent {
            Consent::Given(_) if !request.use_candidate() => {}
            Consent::Lost => {
                self.consent = Consent::Given(from);
                self.event = Some(TransportEvent::ConsentRegained);
            }
            // RFC 8445 §8.1.1 ends nomination with the first one, but browsers go on: a phone that
            // changes networks nominates again, without an ICE restart.
            Consent::Given(_) | Consent::Awaited => self.consent = Consent::Given(from),
        }
        StunOutcome::Accepted {
            validated,
            evicted,
            former_ufrag_retired,
        }
    }

    /// Remembers `from`; says whether it is new, and whom it drove out.
    fn on_valid_check(&mut self, now: Instant, from: SocketAddr) -> (bool, Option<SocketAddr>) {
        if let Some(known) = self.validated.iter_mut().find(|v| v.address == from) {
            known.last_check = now;
            return (false, None);
        }
        let mut evicted = None;
        if self.validated.len() >= VALIDATED_MAX {
            let path = self.path();
            let stalest = (0..self.validated.len())
                .filter(|at| Some(self.validated[*at].address) != path)
                .min_by_key(|at| self.validated[*at].last_check);
            evicted = stalest.map(|at| self.validated.remove(at).address);
        }
        self.validated.push(Validated {
            address: from,
            last_check: now,
        });
        (true, evicted)
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        let path = self.path()?;
        let checked = self.validated.iter().find(|v| v.address == path)?;
        Some(checked.last_check + CONSENT_TIMEOUT)
    }

    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        if self.poll_timeout().is_none_or(|deadline| now < deadline) {
            return;
        }
        // Consent is given for one path (RFC 7675 §5.1). If the peer still checks another, it can
        // be reached there.
        let freshest = self.validated.iter().max_by_key(|v| v.last_check);
        match freshest.filter(|v| now < v.last_check + CONSENT_TIMEOUT) {
            Some(other) => self.consent = Consent::Given(other.address),
            None => {
                self.consent = Consent::Lost;
                self.event = Some(TransportEvent::ConsentLost);
            }
        }
    }
}

/// Checks what RFC 8489 §9.1.3 and §6.3.1 and RFC 8445 §7.3.1.1 ask for, in that order, and answers
/// what fails.
fn authorize(
    from: SocketAddr,
    request: &BindingRequest,
    pwd: &str,
    out: &mut Outbox,
) -> Result<(), StunRefusal> {
    let (refusal, code, reason, authenticated) = if !request.has_integrity() {
        (StunRefusal::NoIntegrity, 400, "Bad Request", false)
    } else if !request.verify(pwd) {
        (StunRefusal::WrongIntegrity, 401, "Unauthenticated", false)
    } else if request.has_unknown_required() {
        (
            StunRefusal::UnknownAttribute,
            420,
            "Unknown Attribute",
            true,
        )
    } else if request.ice_controlled().is_some() {
        (StunRefusal::RoleConflict, 487, "Role Conflict", true)
    } else {
        return Ok(());
    };
    // Hardly longer than the request: nobody is flooded through us by forging a source.
    out.push_with(from, |arena| {
        write_error(arena, request, code, reason, authenticated.then_some(pwd));
        true
    });
    Err(refusal)
}

/// Without a valid check for so long, nothing is sent (RFC 7675 §5.1).
pub(crate) const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
/// The most addresses of one peer: its interfaces, with and without NAT. The one longest without a
/// check makes room, the one in use never.
pub(crate) const VALIDATED_MAX: usize = 8;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::wire::rtp::PacketKind;
    use rtc_crypto::RTCCryptoProvider;
    use rtc_crypto::providers::RingProvider;
    use rtc_stun::attributes::{AttrType, RawAttribute};
    use rtc_stun::error_code::ErrorCodeAttribute;
    use rtc_stun::fingerprint::FINGERPRINT;
    use rtc_stun::integrity::MessageIntegrity;
    use rtc_stun::message::{BINDING_REQUEST, Getter, Message, Setter, TransactionId};

    static PROVIDER: RingProvider = RingProvider::new();

    pub(crate) fn credentials(name: &str) -> IceCredentials {
        IceCredentials {
            ufrag: name.into(),
            pwd: format!("{name}-password-of-22-chars").into(),
        }
    }

    pub(crate) fn address(last: u8) -> SocketAddr {
        SocketAddr::from(([192, 0, 2, last], 40_000))
    }

    pub(crate) fn check(
        credentials: &IceCredentials,
        attributes: &[(u16, &[u8])],
    ) -> BindingRequest {
        let mut setters: Vec<Box<dyn Setter>> =
            vec![Box::new(TransactionId([9; 12])), Box::new(BINDING_REQUEST)];
        let username = format!("{}:peer", credentials.ufrag);
        let all = [(0x0006, username.as_bytes())].into_iter();
        for (typ, value) in all.chain(attributes.iter().copied()) {
            setters.push(Box::new(RawAttribute {
                typ: AttrType(typ),
                length: value.len() as u16,
                value: value.to_vec(),
            }));
        }
        setters.push(Box::new(
            MessageIntegrity::new_short_term_integrity_with_provider(
                credentials.pwd.to_string(),
                PROVIDER.crypto(),
            ),
        ));
        setters.push(Box::new(FINGERPRINT));
        let mut message = Message::new();
        message.build(&setters).unwrap();
        BindingRequest::parse(&message.raw).unwrap()
    }

    pub(crate) const CONTROLLING: (u16, &[u8]) = (0x802a, &[0, 0, 0, 0, 0, 0, 0, 1]);
    pub(crate) const USE_CANDIDATE: (u16, &[u8]) = (0x0025, &[]);

    struct Agent {
        ice: IceLite,
        start: Instant,
    }

    impl Agent {
        fn new() -> Self {
            Self {
                ice: IceLite::new(credentials("sfu1")),
                start: Instant::now(),
            }
        }

        fn at(&self, seconds: u64) -> Instant {
            self.start + Duration::from_secs(seconds)
        }

        fn check(&mut self, seconds: u64, from: u8, nominate: bool) -> StunOutcome {
            let both = [CONTROLLING, USE_CANDIDATE];
            let attributes = if nominate { &both[..] } else { &both[..1] };
            let request = check(&credentials("sfu1"), attributes);
            let mut out = Outbox::default();
            let now = self.at(seconds);
            let outcome = self
                .ice
                .handle_check(now, address(from), &request, &mut out);
            let sent: Vec<_> = out.iter().map(|(to, d)| (to, PacketKind::of(d))).collect();
            assert_eq!(sent, [(address(from), PacketKind::Stun)]);
            outcome
        }

        fn timeout(&mut self, seconds: u64) -> Option<TransportEvent> {
            self.ice.handle_timeout(self.at(seconds));
            self.ice.take_event()
        }
    }

    fn accepted(validated: bool) -> StunOutcome {
        StunOutcome::Accepted {
            validated,
            evicted: None,
            former_ufrag_retired: None,
        }
    }

    #[test]
    fn the_first_address_is_used_until_one_is_nominated() {
        let mut agent = Agent::new();
        assert_eq!(agent.ice.path(), None);
        assert_eq!(agent.check(0, 1, false), accepted(true));
        assert_eq!(agent.check(0, 2, false), accepted(true));
        assert_eq!(agent.check(1, 1, false), accepted(false));
        assert_eq!(agent.ice.path(), Some(address(1)));
        agent.check(2, 2, true);
        assert_eq!(agent.ice.path(), Some(address(2)));
        agent.check(3, 1, false);
        assert_eq!(agent.ice.path(), Some(address(2)));
        agent.check(4, 3, true);
        assert_eq!(
            agent.ice.path(),
            Some(address(3)),
            "a later nomination moves it too"
        );
        assert!(agent.ice.is_validated(address(1)) && !agent.ice.is_validated(address(4)));
    }

    #[test]
    fn invalid_checks_are_answered_and_change_nothing() {
        let wrong = IceCredentials {
            ufrag: "sfu1".into(),
            pwd: "another-password-of-22".into(),
        };
        let cases: [(&str, BindingRequest, StunRefusal, Option<u16>); 4] = [
            (
                "unknown ufrag",
                check(&credentials("other"), &[CONTROLLING]),
                StunRefusal::UnknownUfrag,
                None,
            ),
            (
                "wrong password",
                check(&wrong, &[CONTROLLING, USE_CANDIDATE]),
                StunRefusal::WrongIntegrity,
                Some(401),
            ),
            (
                "unknown attribute",
                check(&credentials("sfu1"), &[CONTROLLING, (0x7777, &[])]),
                StunRefusal::UnknownAttribute,
                Some(420),
            ),
            (
                "controlled",
                check(&credentials("sfu1"), &[(0x8029, &[0; 8])]),
                StunRefusal::RoleConflict,
                Some(487),
            ),
        ];
        for (name, request, refusal, code) in cases {
            let mut agent = Agent::new();
            let mut out = Outbox::default();
            let outcome = agent
                .ice
                .handle_check(agent.start, address(1), &request, &mut out);
            assert_eq!(outcome, StunOutcome::Refused(refusal), "{name}");
            let answer = out.iter().next().map(|(_, datagram)| {
                let mut message = Message::new();
                message.unmarshal_binary(datagram).unwrap();
                let mut error = ErrorCodeAttribute::default();
                error.get_from(&message).unwrap();
                error.code.0
            });
            assert_eq!(answer, code, "{name}");
            assert!(!agent.ice.is_validated(address(1)), "{name}");
            assert_eq!(agent.ice.path(), None, "{name}");
        }
    }

    #[test]
    fn the_stalest_unused_address_makes_room() {
        let mut agent = Agent::new();
        for n in 1..=8 {
            assert_eq!(agent.check(u64::from(n), n, n == 1), accepted(true));
        }
        agent.check(9, 2, false);
        let outcome = agent.check(10, 9, false);
        // 1 is in use and 2 was checked again, so it is 3.
        assert_eq!(
            outcome,
            StunOutcome::Accepted {
                validated: true,
                evicted: Some(address(3)),
                former_ufrag_retired: None
            }
        );
        assert!(!agent.ice.is_validated(address(3)));
        assert_eq!(agent.ice.path(), Some(address(1)));
    }

    #[test]
    fn consent_is_lost_once_and_comes_back() {
        let mut agent = Agent::new();
        assert_eq!(
            agent.ice.poll_timeout(),
            None,
            "the clock starts with a check"
        );
        agent.check(0, 1, true);
        agent.check(20, 1, false);
        assert_eq!(agent.ice.poll_timeout(), Some(agent.at(50)));
        assert_eq!(agent.timeout(49), None);
        assert_eq!(agent.ice.path(), Some(address(1)));
        assert_eq!(agent.timeout(50), Some(TransportEvent::ConsentLost));
        assert_eq!(agent.timeout(60), None, "told once");
        assert_eq!((agent.ice.path(), agent.ice.poll_timeout()), (None, None));
        agent.check(70, 2, false);
        assert_eq!(
            agent.ice.take_event(),
            Some(TransportEvent::ConsentRegained)
        );
        assert_eq!(agent.ice.path(), Some(address(2)));
        assert_eq!(agent.timeout(99), None);
        assert_eq!(agent.timeout(100), Some(TransportEvent::ConsentLost));
    }

    #[test]
    fn a_silent_path_gives_way_to_one_that_is_checked() {
        let mut agent = Agent::new();
        agent.check(0, 1, true);
        agent.check(25, 2, false);
        assert_eq!(agent.timeout(30), None);
        assert_eq!(agent.ice.path(), Some(address(2)));
        assert_eq!(agent.timeout(55), Some(TransportEvent::ConsentLost));
    }

    #[test]
    fn a_restart_ends_the_former_credentials_with_the_first_new_check() {
        let mut agent = Agent::new();
        agent.check(0, 1, true);
        agent.ice.restart(credentials("sfu2"));
        agent.ice.restart(credentials("sfu3"));
        let ufrags: Vec<&str> = agent.ice.ufrags().map(|u| &**u).collect();
        assert_eq!(ufrags, ["sfu3", "sfu1"], "what was never used is forgotten");
        assert_eq!(
            agent.check(1, 1, false),
            accepted(false),
            "former ones still work"
        );
        let mut out = Outbox::default();
        let request = check(&credentials("sfu3"), &[CONTROLLING]);
        let outcome = agent
            .ice
            .handle_check(agent.at(2), address(1), &request, &mut out);
        assert_eq!(
            outcome,
            StunOutcome::Accepted {
                validated: false,
                evicted: None,
                former_ufrag_retired: Some("sfu1".into())
            }
        );
        let request = check(&credentials("sfu1"), &[CONTROLLING]);
        let outcome = agent
            .ice
            .handle_check(agent.at(3), address(1), &request, &mut out);
        assert_eq!(outcome, StunOutcome::Refused(StunRefusal::UnknownUfrag));
        assert_eq!(
            agent.ice.path(),
            Some(address(1)),
            "media goes on meanwhile"
        );
    }
}
