//! STUN Binding messages (RFC 8489) as ICE uses them (RFC 8445 §7).
//!
//! Reads requests and writes responses, on top of `rtc-stun`, which is only ever handed messages
//! whose layout was checked here: its integrity and fingerprint checks compute offsets from lengths
//! they take for granted. Knows nothing of whose ufrag is whose.

use std::fmt;
use std::net::SocketAddr;

use rtc_crypto::RTCCryptoProvider;
use rtc_crypto::providers::RingProvider;
use rtc_stun::attributes::{
    ATTR_FINGERPRINT, ATTR_ICE_CONTROLLED, ATTR_ICE_CONTROLLING, ATTR_MESSAGE_INTEGRITY,
    ATTR_PRIORITY, ATTR_USE_CANDIDATE, ATTR_USERNAME, AttrType, RawAttribute,
};
use rtc_stun::error_code::{CODE_UNKNOWN_ATTRIBUTE, ErrorCode, ErrorCodeAttribute};
use rtc_stun::fingerprint::FINGERPRINT;
use rtc_stun::integrity::MessageIntegrity;
use rtc_stun::message::{
    BINDING_ERROR, BINDING_REQUEST, BINDING_SUCCESS, MAGIC_COOKIE, Message, MessageType, Setter,
    TransactionId,
};
use rtc_stun::uattrs::UnknownAttributes;
use rtc_stun::xoraddr::XorMappedAddress;

/// Why a datagram is not a Binding request to look at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StunError {
    /// A length leads nowhere, there are too many attributes, or one of those read here has a size
    /// it cannot have.
    Malformed,
    /// Well-formed, but of another method or class: this server sends no request, so it expects no
    /// response.
    NotBindingRequest,
    /// The FINGERPRINT attribute is wrong (RFC 8489 §14.7).
    WrongFingerprint,
    /// No USERNAME of the form `local:remote` (RFC 8445 §7.2.2).
    NoUsername,
}

impl fmt::Display for StunError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Malformed => "malformed STUN message",
            Self::NotBindingRequest => "not a Binding request",
            Self::WrongFingerprint => "wrong STUN fingerprint",
            Self::NoUsername => "no ICE username",
        })
    }
}

impl std::error::Error for StunError {}

/// A connectivity check (RFC 8445 §7.1). What it says is not to be believed before
/// [`BindingRequest::verify`]; attributes after MESSAGE-INTEGRITY, which it does not cover, are not
/// read at all.
#[derive(Debug, Clone)]
pub struct BindingRequest {
    message: Message,
    local_ufrag: String,
    remote_ufrag: String,
    priority: Option<u32>,
    use_candidate: bool,
    ice_controlled: Option<u64>,
    ice_controlling: Option<u64>,
    has_integrity: bool,
    unknown: Vec<AttrType>,
}

impl BindingRequest {
    /// Reads a Binding request of at most [`MESSAGE_BYTES_MAX`] bytes and [`ATTRIBUTES_MAX`]
    /// attributes.
    ///
    /// # Errors
    /// [`StunError`] says what is wrong with it; none of it is worth an answer, as nobody could be
    /// authenticated.
    pub fn parse(datagram: &[u8]) -> Result<Self, StunError> {
        check_layout(datagram)?;
        let mut message = Message {
            raw: datagram.to_vec(),
            ..Message::default()
        };
        message.decode().map_err(|_| StunError::Malformed)?;
        if message.typ != BINDING_REQUEST {
            return Err(StunError::NotBindingRequest);
        }
        if message.contains(ATTR_FINGERPRINT) {
            FINGERPRINT
                .check(&message)
                .map_err(|_| StunError::WrongFingerprint)?;
        }
        let mut request = Self {
            local_ufrag: String::new(),
            remote_ufrag: String::new(),
            priority: None,
            use_candidate: false,
            ice_controlled: None,
            ice_controlling: None,
            has_integrity: message.contains(ATTR_MESSAGE_INTEGRITY),
            unknown: Vec::new(),
            message: Message::default(),
        };
        for attribute in &message.attributes.0 {
            if attribute.typ == ATTR_MESSAGE_INTEGRITY {
                break;
            }
            request.read_attribute(attribute)?;
        }
        if request.local_ufrag.is_empty() {
            return Err(StunError::NoUsername);
        }
        request.message = message;
        Ok(request)
    }

    fn read_attribute(&mut self, attribute: &RawAttribute) -> Result<(), StunError> {
        let value = &attribute.value[..];
        match attribute.typ {
            ATTR_USERNAME => {
                let (local, remote) = std::str::from_utf8(value)
                    .ok()
                    .and_then(|username| username.split_once(':'))
                    .ok_or(StunError::NoUsername)?;
                self.local_ufrag = local.to_owned();
                self.remote_ufrag = remote.to_owned();
            }
            ATTR_PRIORITY => self.priority = Some(u32::from_be_bytes(exactly(value)?)),
            ATTR_USE_CANDIDATE => self.use_candidate = true,
            ATTR_ICE_CONTROLLED => self.ice_controlled = Some(u64::from_be_bytes(exactly(value)?)),
            ATTR_ICE_CONTROLLING => {
                self.ice_controlling = Some(u64::from_be_bytes(exactly(value)?));
            }
            other if other.required() && !UNDERSTOOD.contains(&other.value()) => {
                self.unknown.push(other);
            }
            _ => {}
        }
        Ok(())
    }

    /// Pairs a response with this request.
    #[must_use]
    pub fn transaction_id(&self) -> [u8; 12] {
        self.message.transaction_id.0
    }

    /// The receiver's user fragment: the first part of USERNAME. Not empty.
    #[must_use]
    pub fn local_ufrag(&self) -> &str {
        &self.local_ufrag
    }

    /// The sender's user fragment: the second part of USERNAME.
    #[must_use]
    pub fn remote_ufrag(&self) -> &str {
        &self.remote_ufrag
    }

    /// PRIORITY (RFC 8445 §7.1.1).
    #[must_use]
    pub fn priority(&self) -> Option<u32> {
        self.priority
    }

    /// Whether the sender nominates this pair (RFC 8445 §7.1.2).
    #[must_use]
    pub fn use_candidate(&self) -> bool {
        self.use_candidate
    }

    /// The tie-breaker of a sender that takes itself for the controlled agent (RFC 8445 §7.1.3).
    #[must_use]
    pub fn ice_controlled(&self) -> Option<u64> {
        self.ice_controlled
    }

    /// The tie-breaker of a sender that takes itself for the controlling agent.
    #[must_use]
    pub fn ice_controlling(&self) -> Option<u64> {
        self.ice_controlling
    }

    /// Whether there is a MESSAGE-INTEGRITY attribute, right or wrong.
    #[must_use]
    pub fn has_integrity(&self) -> bool {
        self.has_integrity
    }

    /// Whether there are attributes that must be understood and are not (RFC 8489 §6.3.1): the
    /// request is then to be answered with error 420.
    #[must_use]
    pub fn has_unknown_required(&self) -> bool {
        !self.unknown.is_empty()
    }

    /// Whether MESSAGE-INTEGRITY is present and was made with `pwd` (RFC 8489 §14.5). Compares in
    /// constant time.
    #[must_use]
    pub fn verify(&self, pwd: &str) -> bool {
        // The check writes the message's length field for a moment, hence the copy.
        self.has_integrity
            && MessageIntegrity::check(&mut self.message.clone(), pwd.as_bytes(), PROVIDER.crypto())
                .is_ok()
    }
}

/// The receiver's user fragment of what may be a Binding request, with nothing else looked at: enough
/// to tell whose it is, not to believe it. `None` if there is none in the first attributes.
#[must_use]
pub fn peek_local_ufrag(datagram: &[u8]) -> Option<&[u8]> {
    let (header, mut rest) = datagram.split_first_chunk::<HEADER_LEN>()?;
    if header[..2] != BINDING_REQUEST.value().to_be_bytes() {
        return None;
    }
    for _ in 0..ATTRIBUTES_MAX {
        let (attribute, tail) = rest.split_first_chunk::<4>()?;
        let typ = AttrType(u16::from_be_bytes([attribute[0], attribute[1]]));
        let len = usize::from(u16::from_be_bytes([attribute[2], attribute[3]]));
        if typ == ATTR_USERNAME {
            let username = tail.get(..len)?;
            let colon = username.iter().position(|byte| *byte == b':')?;
            return Some(&username[..colon]);
        }
        rest = tail.get(len.next_multiple_of(4)..)?;
    }
    None
}

/// Appends the success response to `request` (RFC 8489 §6.3.1.1): `mapped` is where the request
/// came from, `pwd` the password that authenticated it.
pub fn write_binding_success(
    out: &mut Vec<u8>,
    request: &BindingRequest,
    mapped: SocketAddr,
    pwd: &str,
) {
    let address = XorMappedAddress {
        // An IPv4 peer of a dual-stack socket is to be told its IPv4 address.
        ip: mapped.ip().to_canonical(),
        port: mapped.port(),
    };
    write_response(
        out,
        request,
        BINDING_SUCCESS,
        vec![Box::new(address)],
        Some(pwd),
    );
}

/// Appends an error response to `request` (RFC 8489 §6.3.1.2) with `code` (300–699) and a `reason`
/// of at most 127 characters. `pwd` authenticates it, where the request could be authenticated. A
/// 420 response lists the attributes that were not understood.
pub fn write_error(
    out: &mut Vec<u8>,
    request: &BindingRequest,
    code: u16,
    reason: &str,
    pwd: Option<&str>,
) {
    let mut attributes: Vec<Box<dyn Setter>> = vec![Box::new(ErrorCodeAttribute {
        code: ErrorCode(code),
        reason: reason.as_bytes().to_vec(),
    })];
    if code == CODE_UNKNOWN_ATTRIBUTE.0 {
        attributes.push(Box::new(UnknownAttributes(request.unknown.clone())));
    }
    write_response(out, request, BINDING_ERROR, attributes, pwd);
}

fn write_response(
    out: &mut Vec<u8>,
    request: &BindingRequest,
    typ: MessageType,
    attributes: Vec<Box<dyn Setter>>,
    pwd: Option<&str>,
) {
    let mut setters: Vec<Box<dyn Setter + '_>> = vec![
        Box::new(TransactionId(request.transaction_id())),
        Box::new(typ),
    ];
    for attribute in attributes {
        setters.push(attribute);
    }
    if let Some(pwd) = pwd {
        setters.push(Box::new(
            MessageIntegrity::new_short_term_integrity_with_provider(
                pwd.to_owned(),
                PROVIDER.crypto(),
            ),
        ));
    }
    setters.push(Box::new(FINGERPRINT));
    let mut message = Message::new();
    message
        .build(&setters)
        .expect("every attribute of a response is shorter than its limit");
    out.extend_from_slice(&message.raw);
}

fn exactly<const N: usize>(value: &[u8]) -> Result<[u8; N], StunError> {
    value.try_into().map_err(|_| StunError::Malformed)
}

/// Checks what `rtc-stun` takes for granted: the message fills the datagram, its attributes fill
/// the message, the two that are computed over others have their size, and FINGERPRINT is last.
fn check_layout(datagram: &[u8]) -> Result<(), StunError> {
    let (header, mut rest) = datagram
        .split_first_chunk::<HEADER_LEN>()
        .filter(|_| datagram.len() <= MESSAGE_BYTES_MAX)
        .ok_or(StunError::Malformed)?;
    if header[0] & 0xc0 != 0
        || header[4..8] != MAGIC_COOKIE.to_be_bytes()
        || usize::from(u16::from_be_bytes([header[2], header[3]])) != rest.len()
    {
        return Err(StunError::Malformed);
    }
    let mut count = 0;
    while let Some((attribute, tail)) = rest.split_first_chunk::<4>() {
        let typ = AttrType(u16::from_be_bytes([attribute[0], attribute[1]]));
        let len = usize::from(u16::from_be_bytes([attribute[2], attribute[3]]));
        rest = tail
            .get(len.next_multiple_of(4)..)
            .ok_or(StunError::Malformed)?;
        count += 1;
        let fits = match typ {
            ATTR_MESSAGE_INTEGRITY => len == INTEGRITY_LEN,
            ATTR_FINGERPRINT => len == FINGERPRINT_LEN && rest.is_empty(),
            _ => true,
        };
        if !fits || count > ATTRIBUTES_MAX {
            return Err(StunError::Malformed);
        }
    }
    if rest.is_empty() {
        Ok(())
    } else {
        Err(StunError::Malformed)
    }
}

/// The longest message taken, in bytes: a check has about 110, with the longest ufrags about 700.
pub const MESSAGE_BYTES_MAX: usize = 1024;
/// The most attributes taken: libwebrtc sends up to 9.
pub const ATTRIBUTES_MAX: usize = 32;

/// RFC 8489 §5.
const HEADER_LEN: usize = 20;
/// HMAC-SHA1 (RFC 8489 §14.5).
const INTEGRITY_LEN: usize = 20;
/// CRC-32 (RFC 8489 §14.7).
const FINGERPRINT_LEN: usize = 4;

/// Comprehension-required attributes that are known, though those not read above mean nothing in a
/// check: MAPPED-ADDRESS, ERROR-CODE, UNKNOWN-ATTRIBUTES, REALM, NONCE, XOR-MAPPED-ADDRESS.
const UNDERSTOOD: [u16; 6] = [0x0001, 0x0009, 0x000a, 0x0014, 0x0015, 0x0020];

static PROVIDER: RingProvider = RingProvider::new();

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use rtc_stun::attributes::ATTR_XORMAPPED_ADDRESS;
    use rtc_stun::message::{Getter, METHOD_ALLOCATE, MessageClass};
    use rtc_stun::textattrs::TextAttribute;

    const PWD: &str = "0123456789abcdefghijkl";

    fn attribute(typ: u16, value: &[u8]) -> Box<dyn Setter> {
        Box::new(RawAttribute {
            typ: AttrType(typ),
            length: value.len() as u16,
            value: value.to_vec(),
        })
    }

    fn username(text: &str) -> Box<dyn Setter> {
        Box::new(TextAttribute::new(ATTR_USERNAME, text.to_owned()))
    }

    fn integrity() -> Box<dyn Setter> {
        Box::new(MessageIntegrity::new_short_term_integrity_with_provider(
            PWD.to_owned(),
            PROVIDER.crypto(),
        ))
    }

    fn built(typ: MessageType, attributes: Vec<Box<dyn Setter>>) -> Vec<u8> {
        let mut setters: Vec<Box<dyn Setter>> =
            vec![Box::new(TransactionId([7; 12])), Box::new(typ)];
        setters.extend(attributes);
        let mut message = Message::new();
        message.build(&setters).unwrap();
        message.raw
    }

    /// What Chromium sends, attribute for attribute.
    fn check(extra: Vec<Box<dyn Setter>>) -> Vec<u8> {
        let mut attributes = vec![
            username("sfuU:9zXk"),
            attribute(0xc057, &[0, 1, 0, 10]),
            attribute(0x802a, &9u64.to_be_bytes()),
            attribute(0x0024, &0x6e00_1eff_u32.to_be_bytes()),
        ];
        attributes.extend(extra);
        attributes.push(integrity());
        attributes.push(Box::new(FINGERPRINT));
        built(BINDING_REQUEST, attributes)
    }

    fn decoded(raw: Vec<u8>) -> Message {
        let mut message = Message {
            raw,
            ..Message::default()
        };
        message.decode().unwrap();
        message
    }

    #[test]
    fn a_peek_sees_the_ufrag_that_parsing_finds() {
        let raw = check(vec![]);
        assert_eq!(peek_local_ufrag(&raw), Some(&b"sfuU"[..]));
        for len in 0..raw.len() {
            // Cut off anywhere, it is found whole or not at all.
            let peeked = peek_local_ufrag(&raw[..len]);
            assert!(peeked.is_none() || peeked == Some(b"sfuU"));
        }
        let late = built(
            BINDING_REQUEST,
            vec![attribute(0x8022, b"sw"), username("a:b")],
        );
        assert_eq!(peek_local_ufrag(&late), Some(&b"a"[..]));
        for other in [
            built(BINDING_REQUEST, vec![]),
            built(BINDING_REQUEST, vec![username("nocolon")]),
            built(BINDING_SUCCESS, vec![username("a:b")]),
        ] {
            assert_eq!(peek_local_ufrag(&other), None);
        }
    }

    #[test]
    fn a_check_is_read_and_verified() {
        let request = BindingRequest::parse(&check(vec![attribute(0x0025, &[])])).unwrap();
        assert_eq!(request.transaction_id(), [7; 12]);
        assert_eq!(
            (request.local_ufrag(), request.remote_ufrag()),
            ("sfuU", "9zXk")
        );
        assert_eq!(request.priority(), Some(0x6e00_1eff));
        assert!(request.use_candidate());
        assert_eq!(
            (request.ice_controlling(), request.ice_controlled()),
            (Some(9), None)
        );
        assert!(!request.has_unknown_required());
        assert!(request.verify(PWD));
        assert!(!request.verify("0123456789abcdefghijkm"));
        assert!(!request.verify(""));
    }

    #[test]
    fn a_changed_check_does_not_verify() {
        let good = check(vec![]);
        // FINGERPRINT covers all before it and its own value; its type (and with it the attribute)
        // may be changed, which MESSAGE-INTEGRITY allows.
        let fingerprint = good.len() - 8;
        for at in (0..good.len()).filter(|at| !(fingerprint..fingerprint + 2).contains(at)) {
            let mut bad = good.clone();
            bad[at] ^= 1;
            if let Ok(request) = BindingRequest::parse(&bad) {
                panic!("byte {at}: {request:?}");
            }
        }
        let bare = built(BINDING_REQUEST, vec![username("a:b"), integrity()]);
        assert!(BindingRequest::parse(&bare).unwrap().verify(PWD));
        for at in 8..bare.len() {
            let mut bad = bare.clone();
            bad[at] ^= 1;
            if let Ok(request) = BindingRequest::parse(&bad) {
                assert!(!request.verify(PWD), "byte {at}");
            }
        }
    }

    #[test]
    fn what_integrity_does_not_cover_is_not_read() {
        let raw = built(
            BINDING_REQUEST,
            vec![
                username("a:b"),
                integrity(),
                attribute(0x0025, &[]),
                attribute(0x8029, &[0; 8]),
                attribute(0x7777, &[]),
                Box::new(FINGERPRINT),
            ],
        );
        let request = BindingRequest::parse(&raw).unwrap();
        assert!(request.verify(PWD));
        assert!(!request.use_candidate() && request.ice_controlled().is_none());
        assert!(!request.has_unknown_required());
    }

    #[test]
    fn malformed_messages_are_refused() {
        let allocate = MessageType::new(METHOD_ALLOCATE, BINDING_REQUEST.class);
        let indication = MessageType::new(BINDING_REQUEST.method, {
            let mut typ = MessageType::default();
            typ.read_value(0x0011);
            let class: MessageClass = typ.class;
            class
        });
        let with = |attributes| built(BINDING_REQUEST, attributes);
        let many = (0..33).map(|_| attribute(0x8022, b"x")).collect();
        let cases: [(&str, Vec<u8>, StunError); 12] = [
            ("empty", vec![], StunError::Malformed),
            ("half a header", vec![0; 19], StunError::Malformed),
            ("no attributes", with(vec![]), StunError::NoUsername),
            (
                "no colon",
                with(vec![username("ab")]),
                StunError::NoUsername,
            ),
            (
                "no local part",
                with(vec![username(":b")]),
                StunError::NoUsername,
            ),
            (
                "short integrity",
                with(vec![username("a:b"), attribute(8, &[])]),
                StunError::Malformed,
            ),
            (
                "long integrity",
                with(vec![username("a:b"), attribute(8, &[0; 32])]),
                StunError::Malformed,
            ),
            (
                "fingerprint not last",
                with(vec![Box::new(FINGERPRINT), username("a:b")]),
                StunError::Malformed,
            ),
            ("too many attributes", with(many), StunError::Malformed),
            (
                "too long",
                with(vec![attribute(0x8022, &[0; 1010])]),
                StunError::Malformed,
            ),
            (
                "allocate",
                built(allocate, vec![username("a:b")]),
                StunError::NotBindingRequest,
            ),
            (
                "indication",
                built(indication, vec![username("a:b")]),
                StunError::NotBindingRequest,
            ),
        ];
        for (name, raw, expected) in cases {
            assert_eq!(BindingRequest::parse(&raw).err(), Some(expected), "{name}");
        }
        let mut trailing = check(vec![]);
        trailing.push(0);
        assert_eq!(
            BindingRequest::parse(&trailing).err(),
            Some(StunError::Malformed)
        );
        let short_priority = with(vec![username("a:b"), attribute(0x0024, &[1])]);
        assert_eq!(
            BindingRequest::parse(&short_priority).err(),
            Some(StunError::Malformed)
        );
    }

    #[test]
    fn success_carries_the_mapped_address_and_verifies() {
        let request = BindingRequest::parse(&check(vec![])).unwrap();
        let cases = [
            ("192.0.2.7:4000", "192.0.2.7:4000"),
            ("[2001:db8::9]:65535", "[2001:db8::9]:65535"),
            ("[::ffff:192.0.2.7]:4000", "192.0.2.7:4000"),
        ];
        for (from, mapped) in cases {
            let mut out = b"kept".to_vec();
            write_binding_success(&mut out, &request, from.parse().unwrap(), PWD);
            assert_eq!(&out[..4], b"kept");
            let mut message = decoded(out.split_off(4));
            assert_eq!(message.typ, BINDING_SUCCESS);
            assert_eq!(message.transaction_id.0, [7; 12]);
            FINGERPRINT.check(&message).unwrap();
            MessageIntegrity::check(&mut message, PWD.as_bytes(), PROVIDER.crypto()).unwrap();
            let mut address = XorMappedAddress::default();
            assert!(message.contains(ATTR_XORMAPPED_ADDRESS));
            address.get_from(&message).unwrap();
            assert_eq!(
                SocketAddr::new(address.ip, address.port),
                mapped.parse::<SocketAddr>().unwrap()
            );
        }
    }

    #[test]
    fn errors_carry_code_and_unknown_attributes() {
        let request = BindingRequest::parse(&check(vec![
            attribute(0x7001, &[]),
            attribute(0x7002, b"x"),
        ]))
        .unwrap();
        assert!(request.has_unknown_required());
        for (code, pwd) in [(420, Some(PWD)), (487, Some(PWD)), (401, None)] {
            let mut out = vec![];
            write_error(&mut out, &request, code, "Reason", pwd);
            let mut message = decoded(out);
            assert_eq!(message.typ, BINDING_ERROR);
            let mut error = ErrorCodeAttribute::default();
            error.get_from(&message).unwrap();
            assert_eq!((error.code.0, &error.reason[..]), (code, &b"Reason"[..]));
            FINGERPRINT.check(&message).unwrap();
            let verified =
                MessageIntegrity::check(&mut message, PWD.as_bytes(), PROVIDER.crypto()).is_ok();
            assert_eq!(verified, pwd.is_some());
            let mut unknown = UnknownAttributes(vec![]);
            let listed = unknown.get_from(&message).is_ok();
            assert_eq!(listed, code == 420);
            if listed {
                assert_eq!(unknown.0, [AttrType(0x7001), AttrType(0x7002)]);
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_parsed(datagram in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = BindingRequest::parse(&datagram);
        }

        #[test]
        fn any_attributes_can_be_parsed_and_answered(
            attributes in proptest::collection::vec(
                (prop_oneof![
                    Just(0x0006u16), Just(0x0008), Just(0x8028), Just(0x0024), Just(0x0025),
                    Just(0x8020), Just(0x8029), Just(0x001c), any::<u16>()
                ], proptest::collection::vec(any::<u8>(), 0..24)), 0..12),
        ) {
            let mut all = vec![username("a:b")];
            all.extend(attributes.iter().map(|(typ, value)| attribute(*typ, value)));
            if let Ok(request) = BindingRequest::parse(&built(BINDING_REQUEST, all)) {
                prop_assert!(!request.verify(PWD));
                write_error(&mut vec![], &request, 420, "Unknown Attribute", Some(PWD));
            }
        }
    }
}
