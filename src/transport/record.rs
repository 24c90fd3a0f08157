//! DTLS records (RFC 6347 §4.1) and handshake fragments (§4.2.2), as far as they are in the clear.
//!
//! Every datagram is looked through here before `rtc-dtls` gets it, because that library answers a
//! broken plaintext record with a fatal alert, which would let anybody who can forge a source
//! address end the association; because it keeps fragments that add up to nothing without a bound,
//! and searches them in quadratic time; and because its count of messages overflows at 65 536.

/// One record of a datagram.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Record<'a> {
    /// [`CHANGE_CIPHER_SPEC`], [`ALERT`], [`HANDSHAKE`] or [`APPLICATION_DATA`].
    pub(crate) content_type: u8,
    /// 0 for plaintext.
    pub(crate) epoch: u16,
    /// Not empty.
    pub(crate) body: &'a [u8],
}

/// Takes a datagram apart. `Err` is the last item of a malformed one.
pub(crate) fn records(datagram: &[u8]) -> impl Iterator<Item = Result<Record<'_>, Malformed>> {
    split(datagram, |rest| {
        let (header, tail) = rest.split_first_chunk::<RECORD_HEADER_LEN>()?;
        let [content_type, major, minor, ..] = *header;
        let len = usize::from(u16::from_be_bytes([header[11], header[12]]));
        let known = (CHANGE_CIPHER_SPEC..=APPLICATION_DATA).contains(&content_type)
            && major == VERSION_MAJOR
            && VERSION_MINORS.contains(&minor);
        if !known || len == 0 || len > tail.len() {
            return None;
        }
        let (body, tail) = tail.split_at(len);
        let epoch = u16::from_be_bytes([header[3], header[4]]);
        Some((
            Record {
                content_type,
                epoch,
                body,
            },
            tail,
        ))
    })
}

/// One fragment of a handshake message, or a whole one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Fragment<'a> {
    /// The message's type; [`CLIENT_HELLO`].
    pub(crate) message_type: u8,
    /// The whole message's length, at most [`MESSAGE_LEN_MAX`].
    pub(crate) message_len: usize,
    /// The message's number.
    pub(crate) message_seq: u16,
    /// Where `data` begins in the message.
    pub(crate) offset: usize,
    /// `offset + data.len()` is at most `message_len`.
    pub(crate) data: &'a [u8],
}

/// Takes the body of a plaintext handshake record apart.
pub(crate) fn fragments(body: &[u8]) -> impl Iterator<Item = Result<Fragment<'_>, Malformed>> {
    split(body, |rest| {
        let (header, tail) = rest.split_first_chunk::<FRAGMENT_HEADER_LEN>()?;
        let number = |at: usize| {
            u32::from_be_bytes([0, header[at], header[at + 1], header[at + 2]]) as usize
        };
        let (message_len, offset, len) = (number(1), number(6), number(9));
        let is_part = len < message_len;
        if message_len > MESSAGE_LEN_MAX
            || offset + len > message_len
            || len > tail.len()
            // rtc-dtls takes all that follows for one fragment's data.
            || (is_part && len != tail.len())
            // An empty part of a message adds nothing but work.
            || (is_part && len == 0)
        {
            return None;
        }
        let (data, tail) = tail.split_at(len);
        Some((
            Fragment {
                message_type: header[0],
                message_len,
                message_seq: u16::from_be_bytes([header[4], header[5]]),
                offset,
                data,
            },
            tail,
        ))
    })
}

/// What a datagram costs to process, in records and handshake fragments.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Weight {
    /// Handshake fragments, and encrypted handshake records.
    pub(crate) handshake: usize,
    /// Other records.
    pub(crate) other: usize,
}

/// Looks a whole datagram through.
pub(crate) fn weigh(datagram: &[u8]) -> Result<Weight, Malformed> {
    if datagram.is_empty() || datagram.len() > DATAGRAM_BYTES_MAX {
        return Err(Malformed);
    }
    let mut weight = Weight::default();
    for record in records(datagram) {
        let record = record?;
        match (record.content_type, record.epoch) {
            (HANDSHAKE, 0) => {
                for fragment in fragments(record.body) {
                    fragment?;
                    weight.handshake += 1;
                }
            }
            (HANDSHAKE, _) => weight.handshake += 1,
            (CHANGE_CIPHER_SPEC, 0) if record.body != [1] => return Err(Malformed),
            (ALERT, 0) if record.body.len() != 2 => return Err(Malformed),
            (APPLICATION_DATA, 0) => return Err(Malformed),
            _ => weight.other += 1,
        }
    }
    Ok(weight)
}

/// Whether a datagram of ours tells the peer in the clear that the handshake has failed.
pub(crate) fn has_fatal_alert(datagram: &[u8]) -> bool {
    records(datagram).flatten().any(|record| {
        record.content_type == ALERT && record.epoch == 0 && record.body.first() == Some(&FATAL)
    })
}

/// A plaintext fatal alert, for a handshake that ends before `rtc-dtls` has begun it.
pub(crate) fn handshake_failure_alert() -> [u8; RECORD_HEADER_LEN + 2] {
    let minor = VERSION_MINORS[0];
    [
        ALERT,
        VERSION_MAJOR,
        minor,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        0,
        2,
        FATAL,
        HANDSHAKE_FAILURE,
    ]
}

/// The datagram, or what it holds, is not DTLS 1.2, or not such as we take.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Malformed;

/// Applies `first` to what is left until nothing is, or it fails.
fn split<'a, T>(
    bytes: &'a [u8],
    first: impl Fn(&'a [u8]) -> Option<(T, &'a [u8])>,
) -> impl Iterator<Item = Result<T, Malformed>> {
    let mut rest = bytes;
    std::iter::from_fn(move || {
        if rest.is_empty() {
            return None;
        }
        match first(rest) {
            Some((item, tail)) => {
                rest = tail;
                Some(Ok(item))
            }
            None => {
                rest = &[];
                Some(Err(Malformed))
            }
        }
    })
}

/// Content types (RFC 6347 §4.3.1).
pub(crate) const CHANGE_CIPHER_SPEC: u8 = 20;
pub(crate) const ALERT: u8 = 21;
pub(crate) const HANDSHAKE: u8 = 22;
pub(crate) const APPLICATION_DATA: u8 = 23;
/// Handshake message type (RFC 5246 §7.4).
pub(crate) const CLIENT_HELLO: u8 = 1;
/// The longest handshake message taken, in bytes: a certificate chain of some 4096-bit RSA keys.
pub(crate) const MESSAGE_LEN_MAX: usize = 16 * 1024;
/// The longest datagram taken, in bytes: handshakes are cut to the path's MTU, mostly 1200.
pub(crate) const DATAGRAM_BYTES_MAX: usize = 4096;

const RECORD_HEADER_LEN: usize = 13;
const FRAGMENT_HEADER_LEN: usize = 12;
/// DTLS 1.2 is 254.253; a ClientHello's record often says 1.0, 254.255.
const VERSION_MAJOR: u8 = 254;
const VERSION_MINORS: [u8; 2] = [253, 255];
/// Alert level and description (RFC 5246 §7.2).
const FATAL: u8 = 2;
const HANDSHAKE_FAILURE: u8 = 40;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A record with sequence number 0.
    pub(crate) fn record(content_type: u8, epoch: u16, body: &[u8]) -> Vec<u8> {
        let mut record = vec![content_type, 254, 253];
        record.extend_from_slice(&epoch.to_be_bytes());
        record.extend_from_slice(&[0; 6]);
        record.extend_from_slice(&(body.len() as u16).to_be_bytes());
        record.extend_from_slice(body);
        record
    }

    /// The body of a handshake record with one fragment.
    pub(crate) fn fragment(typ: u8, seq: u16, len: usize, offset: usize, data: &[u8]) -> Vec<u8> {
        let mut body = vec![typ];
        body.extend_from_slice(&(len as u32).to_be_bytes()[1..]);
        body.extend_from_slice(&seq.to_be_bytes());
        body.extend_from_slice(&(offset as u32).to_be_bytes()[1..]);
        body.extend_from_slice(&(data.len() as u32).to_be_bytes()[1..]);
        body.extend_from_slice(data);
        body
    }

    #[test]
    fn datagrams_are_weighed() {
        let whole = fragment(1, 0, 3, 0, b"abc");
        let part = fragment(1, 0, 9, 3, b"abc");
        let empty = fragment(14, 0, 0, 0, b"");
        let two = [whole.clone(), empty.clone()].concat();
        let weight = |handshake, other| Ok(Weight { handshake, other });
        let joined = [
            record(HANDSHAKE, 0, &whole),
            record(CHANGE_CIPHER_SPEC, 0, &[1]),
        ]
        .concat();
        let mut cut = record(HANDSHAKE, 0, &whole);
        cut.pop();
        let mut version = record(HANDSHAKE, 0, &whole);
        version[1] = 3;
        let cases = [
            ("whole message", record(HANDSHAKE, 0, &whole), weight(1, 0)),
            ("part of one", record(HANDSHAKE, 0, &part), weight(1, 0)),
            ("two messages", record(HANDSHAKE, 0, &two), weight(2, 0)),
            ("two records", joined, weight(1, 1)),
            ("encrypted", record(HANDSHAKE, 1, &[9; 40]), weight(1, 0)),
            ("alert", record(ALERT, 0, &[1, 0]), weight(0, 1)),
            (
                "encrypted data",
                record(APPLICATION_DATA, 1, &[9]),
                weight(0, 1),
            ),
            ("nothing", vec![], Err(Malformed)),
            ("cut", cut, Err(Malformed)),
            ("empty record", record(ALERT, 1, &[]), Err(Malformed)),
            ("other version", version, Err(Malformed)),
            ("unknown type", record(24, 1, &[1]), Err(Malformed)),
            (
                "plain data",
                record(APPLICATION_DATA, 0, &[1]),
                Err(Malformed),
            ),
            ("long alert", record(ALERT, 0, &[2, 0, 0]), Err(Malformed)),
            (
                "other cipher spec",
                record(CHANGE_CIPHER_SPEC, 0, &[2]),
                Err(Malformed),
            ),
            (
                "half a header",
                record(HANDSHAKE, 0, &whole[..11]),
                Err(Malformed),
            ),
            (
                "beyond its message",
                record(HANDSHAKE, 0, &fragment(1, 0, 5, 3, b"abc")),
                Err(Malformed),
            ),
            (
                "empty part",
                record(HANDSHAKE, 0, &fragment(1, 0, 5, 3, b"")),
                Err(Malformed),
            ),
            (
                "part, then more",
                record(HANDSHAKE, 0, &[part, empty].concat()),
                Err(Malformed),
            ),
            (
                "too long a message",
                record(HANDSHAKE, 0, &fragment(1, 0, MESSAGE_LEN_MAX + 1, 0, b"a")),
                Err(Malformed),
            ),
            (
                "too long",
                record(APPLICATION_DATA, 1, &[0; 4090]),
                Err(Malformed),
            ),
        ];
        for (name, datagram, expected) in cases {
            assert_eq!(weigh(&datagram), expected, "{name}");
        }
    }

    #[test]
    fn our_alert_is_a_fatal_one() {
        let alert = handshake_failure_alert();
        assert_eq!(
            weigh(&alert),
            Ok(Weight {
                handshake: 0,
                other: 1
            })
        );
        assert!(has_fatal_alert(&alert));
        assert!(!has_fatal_alert(&record(ALERT, 0, &[1, 0])));
        assert!(!has_fatal_alert(&record(ALERT, 1, &[2, 0])), "encrypted");
    }

    proptest! {
        #[test]
        fn any_bytes_can_be_weighed(datagram in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = weigh(&datagram);
            let _ = has_fatal_alert(&datagram);
            for _ in fragments(&datagram) {}
            let _ = weigh(&record(HANDSHAKE, 0, &datagram));
        }
    }
}
