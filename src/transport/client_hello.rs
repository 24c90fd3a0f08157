//! What a ClientHello offers in `use_srtp` (RFC 5764 §4.1.1), before `rtc-dtls` sees it.
//!
//! That library takes the client's first profile it knows, and Chromium names the most expensive
//! one first (captured 2026-11-22: SHA1_80, GCM-256, GCM-128). So the hello, which post-quantum key
//! shares have made longer than a datagram, is put together here as well, and the profile chosen by
//! whoever asks.

use crate::control::SrtpProfile;
use crate::transport::record::{self, CLIENT_HELLO, Fragment, HANDSHAKE};

/// Collects the fragments of a peer's first ClientHello, in any order, with the datagrams they came
/// in.
#[derive(Debug, Default)]
pub(crate) struct HelloCollector {
    /// As long as the message.
    bytes: Vec<u8>,
    /// Which of `bytes` have come.
    received: Vec<bool>,
    /// At most [`DATAGRAMS_MAX`].
    datagrams: Vec<Vec<u8>>,
}

/// What a datagram did to the collection.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Hello {
    /// Nothing: it holds nothing of a first ClientHello, or nothing new.
    Unchanged,
    /// Parts are still missing.
    Partial,
    /// The hello was complete and is no ClientHello; the collection starts anew.
    Malformed,
    /// The hello is complete.
    Complete {
        /// The profiles it offers, in its order, as far as they are known; empty if `use_srtp` is
        /// absent.
        offered: Vec<SrtpProfile>,
        /// What it came in, in order of arrival.
        datagrams: Vec<Vec<u8>>,
    },
}

impl HelloCollector {
    /// Takes a datagram that [`record::weigh`] found well-formed.
    pub(crate) fn push(&mut self, datagram: &[u8]) -> Hello {
        let mut is_news = false;
        let plaintext = record::records(datagram)
            .flatten()
            .filter(|record| record.content_type == HANDSHAKE && record.epoch == 0);
        for fragment in plaintext.flat_map(|record| record::fragments(record.body).flatten()) {
            if fragment.message_type == CLIENT_HELLO
                && fragment.message_seq == 0
                && (1..=HELLO_LEN_MAX).contains(&fragment.message_len)
            {
                is_news |= self.insert(&fragment);
            }
        }
        if !is_news {
            return Hello::Unchanged;
        }
        if self.datagrams.len() >= DATAGRAMS_MAX {
            // Nobody cuts a hello so small. What is missing, the client will send again.
            *self = Self::default();
            return Hello::Malformed;
        }
        self.datagrams.push(datagram.to_vec());
        if self.received.contains(&false) {
            return Hello::Partial;
        }
        let collected = std::mem::take(self);
        match offered_profiles(&collected.bytes) {
            Some(offered) => Hello::Complete {
                offered,
                datagrams: collected.datagrams,
            },
            None => Hello::Malformed,
        }
    }

    /// Puts a fragment in its place; says whether anything was missing there.
    fn insert(&mut self, fragment: &Fragment<'_>) -> bool {
        if self.bytes.len() != fragment.message_len {
            // Another hello: a client that began anew, or the former fragments were forged.
            self.bytes = vec![0; fragment.message_len];
            self.received = vec![false; fragment.message_len];
            self.datagrams.clear();
        }
        let place = fragment.offset..fragment.offset + fragment.data.len();
        let mut is_news = false;
        for (at, byte) in place.zip(fragment.data) {
            if !self.received[at] {
                self.received[at] = true;
                self.bytes[at] = *byte;
                is_news = true;
            }
        }
        is_news
    }
}

/// Reads a ClientHello's body (RFC 6347 §4.2.1) up to its `use_srtp` extension. `None` where a
/// length leads outside.
fn offered_profiles(body: &[u8]) -> Option<Vec<SrtpProfile>> {
    let mut hello = Reader(body.get(VERSION_AND_RANDOM_LEN..)?);
    hello.block_u8()?; // session id
    hello.block_u8()?; // cookie
    hello.block_u16()?; // cipher suites
    hello.block_u8()?; // compression methods
    if hello.0.is_empty() {
        return Some(Vec::new());
    }
    let mut extensions = Reader(hello.block_u16()?);
    while !extensions.0.is_empty() {
        let extension_type = extensions.u16()?;
        let mut extension = Reader(extensions.block_u16()?);
        if extension_type == USE_SRTP {
            let profiles = extension.block_u16()?.chunks_exact(2);
            return Some(profiles.filter_map(profile_of).collect());
        }
    }
    Some(Vec::new())
}

fn profile_of(id: &[u8]) -> Option<SrtpProfile> {
    match id {
        [0, 1] => Some(SrtpProfile::Aes128CmSha1_80),
        [0, 7] => Some(SrtpProfile::AeadAes128Gcm),
        [0, 8] => Some(SrtpProfile::AeadAes256Gcm),
        _ => None,
    }
}

/// Reads TLS's length-prefixed vectors.
struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn u16(&mut self) -> Option<u16> {
        let (number, rest) = self.0.split_first_chunk()?;
        self.0 = rest;
        Some(u16::from_be_bytes(*number))
    }

    fn block(&mut self, len: usize) -> Option<&'a [u8]> {
        let (block, rest) = self.0.split_at_checked(len)?;
        self.0 = rest;
        Some(block)
    }

    fn block_u8(&mut self) -> Option<&'a [u8]> {
        let (len, rest) = self.0.split_first()?;
        self.0 = rest;
        self.block(usize::from(*len))
    }

    fn block_u16(&mut self) -> Option<&'a [u8]> {
        let len = self.u16()?;
        self.block(usize::from(len))
    }
}

/// The longest ClientHello taken, in bytes: Firefox 153's has 1461.
const HELLO_LEN_MAX: usize = 8 * 1024;
/// The most datagrams kept: a hello of that length in pieces of 512 bytes.
const DATAGRAMS_MAX: usize = 16;
const VERSION_AND_RANDOM_LEN: usize = 2 + 32;
/// RFC 5764 §9.
const USE_SRTP: u16 = 14;

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::transport::record::tests::{fragment, record};
    use proptest::prelude::*;

    /// A ClientHello's body with `use_srtp` after an extension as long as Chromium's key shares.
    fn hello(profiles: Option<&[u16]>) -> Vec<u8> {
        let mut extensions = vec![0, 51];
        extensions.extend_from_slice(&1200u16.to_be_bytes());
        extensions.resize(4 + 1200, 0xee);
        if let Some(profiles) = profiles {
            extensions.extend_from_slice(&USE_SRTP.to_be_bytes());
            extensions.extend_from_slice(&(profiles.len() as u16 * 2 + 3).to_be_bytes());
            extensions.extend_from_slice(&(profiles.len() as u16 * 2).to_be_bytes());
            for profile in profiles {
                extensions.extend_from_slice(&profile.to_be_bytes());
            }
            extensions.push(0);
        }
        let mut body = vec![254, 253];
        body.extend_from_slice(&[7; 32]);
        body.extend_from_slice(&[0, 0, 0, 2, 0xc0, 0x2b, 1, 0]);
        body.extend_from_slice(&(extensions.len() as u16).to_be_bytes());
        body.extend_from_slice(&extensions);
        body
    }

    fn datagram(body: &[u8], range: std::ops::Range<usize>) -> Vec<u8> {
        let part = fragment(1, 0, body.len(), range.start, &body[range]);
        record(HANDSHAKE, 0, &part)
    }

    const CHROMIUM: [u16; 3] = [1, 8, 7];
    const CHROMIUM_OFFERS: [SrtpProfile; 3] = [
        SrtpProfile::Aes128CmSha1_80,
        SrtpProfile::AeadAes256Gcm,
        SrtpProfile::AeadAes128Gcm,
    ];

    #[test]
    fn fragments_come_in_any_order_and_more_than_once() {
        let body = hello(Some(&CHROMIUM));
        let len = body.len();
        let parts = [
            datagram(&body, 0..500),
            datagram(&body, 500..900),
            datagram(&body, 900..len),
        ];
        for order in [
            [0, 1, 2],
            [0, 2, 1],
            [1, 0, 2],
            [1, 2, 0],
            [2, 0, 1],
            [2, 1, 0],
        ] {
            let mut collector = HelloCollector::default();
            let [first, second, third] = order.map(|at| &parts[at]);
            assert_eq!(collector.push(first), Hello::Partial);
            assert_eq!(collector.push(first), Hello::Unchanged);
            assert_eq!(collector.push(second), Hello::Partial);
            assert_eq!(collector.push(first), Hello::Unchanged);
            let complete = Hello::Complete {
                offered: CHROMIUM_OFFERS.to_vec(),
                datagrams: vec![first.clone(), second.clone(), third.clone()],
            };
            assert_eq!(collector.push(third), complete, "{order:?}");
        }
    }

    #[test]
    fn offers_are_read_in_the_clients_order() {
        let cases: [(Option<&[u16]>, Vec<SrtpProfile>); 4] = [
            (Some(&CHROMIUM), CHROMIUM_OFFERS.to_vec()),
            (
                Some(&[7, 8, 1, 2]), // Firefox
                vec![
                    SrtpProfile::AeadAes128Gcm,
                    SrtpProfile::AeadAes256Gcm,
                    SrtpProfile::Aes128CmSha1_80,
                ],
            ),
            (Some(&[2, 0x1234]), vec![]),
            (None, vec![]),
        ];
        for (profiles, expected) in cases {
            let body = hello(profiles);
            let whole = datagram(&body, 0..body.len());
            let Hello::Complete { offered, .. } = HelloCollector::default().push(&whole) else {
                panic!("not complete")
            };
            assert_eq!(offered, expected);
        }
    }

    #[test]
    fn other_messages_are_not_for_us() {
        let body = hello(Some(&CHROMIUM));
        let cases = [
            record(HANDSHAKE, 0, &fragment(1, 1, body.len(), 0, &body)),
            record(HANDSHAKE, 0, &fragment(2, 0, body.len(), 0, &body)),
            record(HANDSHAKE, 1, &fragment(1, 0, body.len(), 0, &body)),
            record(HANDSHAKE, 0, &fragment(1, 0, HELLO_LEN_MAX + 1, 0, &body)),
            record(HANDSHAKE, 0, &fragment(1, 0, 0, 0, &[])),
            record(record::ALERT, 0, &[1, 0]),
        ];
        for other in cases {
            assert_eq!(HelloCollector::default().push(&other), Hello::Unchanged);
        }
    }

    #[test]
    fn forged_fragments_are_survived() {
        let body = hello(Some(&CHROMIUM));
        let (first, second) = (datagram(&body, 0..900), datagram(&body, 900..body.len()));
        let mut collector = HelloCollector::default();
        // One that claims another length, before and between.
        let forged = record(HANDSHAKE, 0, &fragment(1, 0, 77, 0, b"forged"));
        assert_eq!(collector.push(&forged), Hello::Partial);
        assert_eq!(collector.push(&first), Hello::Partial);
        assert_eq!(collector.push(&forged), Hello::Partial);
        assert_eq!(collector.push(&second), Hello::Partial);
        assert!(matches!(collector.push(&first), Hello::Complete { .. }));
        // A complete one that is none.
        let nonsense = record(HANDSHAKE, 0, &fragment(1, 0, 6, 0, b"forged"));
        assert_eq!(collector.push(&nonsense), Hello::Malformed);
        assert_eq!(collector.push(&first), Hello::Partial);
        assert!(matches!(collector.push(&second), Hello::Complete { .. }));
    }

    #[test]
    fn crumbs_are_not_collected_for_ever() {
        let body = hello(Some(&CHROMIUM));
        let mut collector = HelloCollector::default();
        for at in 0..DATAGRAMS_MAX {
            assert_eq!(collector.push(&datagram(&body, at..at + 1)), Hello::Partial);
        }
        assert_eq!(collector.push(&datagram(&body, 100..101)), Hello::Malformed);
        assert!(collector.datagrams.is_empty() && collector.bytes.is_empty());
    }

    proptest! {
        #[test]
        fn any_hello_can_be_read(
            cut in 0usize..1300, noise in proptest::collection::vec(any::<u8>(), 0..80), at in 0usize..1300,
        ) {
            let mut body = hello(Some(&CHROMIUM));
            body.truncate(cut);
            for (byte, noise) in body.iter_mut().skip(at).zip(&noise) {
                *byte = *noise;
            }
            let _ = offered_profiles(&body);
            let _ = offered_profiles(&noise);
            let _ = HelloCollector::default().push(&noise);
        }
    }
}
