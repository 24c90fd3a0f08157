//! A controlling agent's side of ICE with one candidate pair (RFC 8445): a check that nominates at
//! once, as the server is lite, repeated until it is answered, and consent afterwards (RFC 7675).
//!
//! Knows no socket and no clock.

use std::time::{Duration, Instant};

use ring::hmac;
use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_stun::attributes::{
    ATTR_ICE_CONTROLLING, ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, AttrType, RawAttribute,
};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{BINDING_REQUEST, MAGIC_COOKIE, Message, Setter, TransactionId};
use rtc_stun::textattrs::Username;

use crate::wire::sdp::IceLines;

/// The checks of one client.
#[derive(Debug)]
pub struct Checks {
    local_ufrag: String,
    remote: IceLines,
    /// Those that may still be answered, the newest last; at most [`PENDING_MAX`].
    pending: Vec<[u8; 12]>,
    tries: u32,
    next_at: Instant,
    /// When the last answer came; before the first one, when the checks began.
    answered_at: Instant,
    is_answered: bool,
}

impl Checks {
    /// The first check is due at once.
    #[must_use]
    pub fn new(now: Instant, local_ufrag: String, remote: IceLines) -> Self {
        Self {
            local_ufrag,
            remote,
            pending: Vec::new(),
            tries: 0,
            next_at: now,
            answered_at: now,
            is_answered: false,
        }
    }

    /// Whether nothing was answered for so long that the path must be given up (RFC 7675 §5.1).
    #[must_use]
    pub fn has_expired(&self, now: Instant) -> bool {
        now.saturating_duration_since(self.answered_at) >= CONSENT_TIMEOUT
    }

    /// When the next check is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Instant {
        self.next_at
    }

    /// The check that is due at `now`, if one is.
    pub fn handle_timeout(&mut self, now: Instant) -> Option<Vec<u8>> {
        if now < self.next_at {
            return None;
        }
        let interval = if self.is_answered && self.tries == 0 {
            CONSENT_INTERVAL
        } else {
            CHECK_INTERVAL * (1 << self.tries.min(4))
        };
        self.tries += 1;
        self.next_at = now + interval;
        let id = TransactionId::new();
        if self.pending.len() >= PENDING_MAX {
            self.pending.remove(0);
        }
        self.pending.push(id.0);
        Some(self.request(id))
    }

    /// Takes a STUN message. True if it answers a check; a message that does not is ignored.
    pub fn handle_message(&mut self, now: Instant, message: &[u8]) -> bool {
        let Some(id) = success_id(message) else {
            return false;
        };
        let Some(at) = self.pending.iter().position(|pending| *pending == id) else {
            return false;
        };
        if !has_integrity(message, &self.remote.pwd) {
            return false;
        }
        self.pending.drain(..=at);
        self.tries = 0;
        self.is_answered = true;
        self.answered_at = now;
        self.next_at = now + CONSENT_INTERVAL;
        true
    }

    fn request(&self, id: TransactionId) -> Vec<u8> {
        let attribute = |typ, value: Vec<u8>| -> Box<dyn Setter> {
            Box::new(RawAttribute {
                typ,
                length: value.len() as u16,
                value,
            })
        };
        let username = format!("{}:{}", self.remote.ufrag, self.local_ufrag);
        let setters: Vec<Box<dyn Setter + '_>> = vec![
            Box::new(BINDING_REQUEST),
            Box::new(id),
            Box::new(Username::new(ATTR_USERNAME, username)),
            attribute(ATTR_PRIORITY, PRIORITY.to_be_bytes().to_vec()),
            attribute(ATTR_ICE_CONTROLLING, TIE_BREAKER.to_be_bytes().to_vec()),
            attribute(ATTR_USE_CANDIDATE, Vec::new()),
            Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
                self.remote.pwd.clone(),
                PROVIDER.crypto(),
            )),
            Box::new(FINGERPRINT),
        ];
        let mut message = Message::new();
        message
            .build(&setters)
            .expect("a ufrag from a description is shorter than a user name may be");
        message.raw
    }
}

/// The transaction of a Binding success response.
fn success_id(message: &[u8]) -> Option<[u8; 12]> {
    let (header, body) = message.split_first_chunk::<HEADER_LEN>()?;
    let is_success = header[..2] == BINDING_SUCCESS.to_be_bytes()
        && usize::from(u16::from_be_bytes([header[2], header[3]])) == body.len()
        && header[4..8] == MAGIC_COOKIE.to_be_bytes();
    is_success.then(|| header[8..].try_into().ok())?
}

/// Whether MESSAGE-INTEGRITY is there and was made with `pwd` (RFC 8489 §14.5).
fn has_integrity(message: &[u8], pwd: &str) -> bool {
    let mut at = HEADER_LEN;
    while let Some(&[t0, t1, l0, l1]) = message.get(at..).and_then(<[u8]>::first_chunk::<4>) {
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let Some(value) = message.get(at + 4..at + 4 + len) else {
            return false;
        };
        if AttrType(u16::from_be_bytes([t0, t1])) == rtc_stun::attributes::ATTR_MESSAGE_INTEGRITY {
            // The length field counts up to the end of this attribute and no further.
            let mut covered = message[..at].to_vec();
            let counted = (at + 4 + len - HEADER_LEN) as u16;
            covered[2..4].copy_from_slice(&counted.to_be_bytes());
            let key = hmac::Key::new(hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY, pwd.as_bytes());
            return hmac::verify(&key, &covered, value).is_ok();
        }
        at += 4 + len.next_multiple_of(4);
    }
    false
}

const PROVIDER: RingProvider = RingProvider::new();
/// RFC 8489 §5.
const HEADER_LEN: usize = 20;
const BINDING_SUCCESS: u16 = 0x0101;
/// Of a peer-reflexive candidate (RFC 8445 §5.1.2.1).
const PRIORITY: u32 = 0x6e7f_00ff;
/// A lite agent is never the controlling one, so there is no tie to break.
const TIE_BREAKER: u64 = 1;
/// Between first tries; doubled with each up to sixteen times (RFC 8445 §14.3 leaves 50 ms at least).
const CHECK_INTERVAL: Duration = Duration::from_millis(100);
/// RFC 7675 §5.1 says 4–6 s; browsers ask about twice as often.
const CONSENT_INTERVAL: Duration = Duration::from_millis(2500);
/// RFC 7675 §5.1.
const CONSENT_TIMEOUT: Duration = Duration::from_secs(30);
const PENDING_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::stun::{BindingRequest, write_binding_success};

    const PWD: &str = "abcdefghijklmnopqrstuv";

    fn checks(now: Instant) -> Checks {
        let remote = IceLines {
            ufrag: "server".to_owned(),
            pwd: PWD.to_owned(),
        };
        Checks::new(now, "client".to_owned(), remote)
    }

    fn answer(request: &[u8], pwd: &str) -> Vec<u8> {
        let request = BindingRequest::parse(request).unwrap();
        assert!(request.verify(PWD) && request.use_candidate());
        assert_eq!(
            (request.local_ufrag(), request.remote_ufrag()),
            ("server", "client")
        );
        let mut out = Vec::new();
        write_binding_success(&mut out, &request, "127.0.0.1:9".parse().unwrap(), pwd);
        out
    }

    #[test]
    fn checks_are_repeated_until_one_is_answered() {
        let t0 = Instant::now();
        let mut checks = checks(t0);
        let first = checks.handle_timeout(t0).unwrap();
        assert!(checks.handle_timeout(t0).is_none());
        let again_at = checks.poll_timeout();
        assert_eq!(again_at, t0 + CHECK_INTERVAL);
        assert!(checks.handle_timeout(again_at).is_some());
        let response = answer(&first, PWD);
        assert!(checks.handle_message(again_at, &response));
        assert!(!checks.handle_message(again_at, &response), "once only");
        assert_eq!(checks.poll_timeout(), again_at + CONSENT_INTERVAL);
    }

    #[test]
    fn consent_is_asked_for_and_lost() {
        let t0 = Instant::now();
        let mut checks = checks(t0);
        let request = checks.handle_timeout(t0).unwrap();
        assert!(checks.handle_message(t0, &answer(&request, PWD)));
        let mut asked = 0;
        while !checks.has_expired(checks.poll_timeout()) {
            asked += u32::from(checks.handle_timeout(checks.poll_timeout()).is_some());
        }
        assert!((10..60).contains(&asked), "{asked}");
        assert!(checks.pending.len() <= PENDING_MAX);
    }

    #[test]
    fn forged_and_broken_answers_are_ignored() {
        let t0 = Instant::now();
        let mut checks = checks(t0);
        let request = checks.handle_timeout(t0).unwrap();
        assert!(!checks.handle_message(t0, &answer(&request, "another password, as long")));
        let good = answer(&request, PWD);
        for len in 0..good.len() {
            assert!(!checks.handle_message(t0, &good[..len]), "{len}");
        }
        for at in 0..good.len() - 8 {
            let mut changed = good.clone();
            changed[at] ^= 0x41;
            assert!(!checks.handle_message(t0, &changed), "{at}");
        }
        assert!(!checks.handle_message(t0, &request));
        assert!(checks.handle_message(t0, &good));
    }
}
