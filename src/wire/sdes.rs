//! RTCP source descriptions (RFC 3550 §6.5): what a stream is called, and where it belongs (`mid`, RFC 9143 §15.1;
//! the stream ids of RFC 8852 §4.1 and §4.2).
//!
//! By hand, because `rtc-rtcp` takes an item that it does not know, such as `mid`, for the end of its list, and then
//! refuses the message. Other items (names, places, tools) are stepped over.

use bytes::Bytes;

use crate::base::ids::{Mid, Rid, Ssrc};

/// What a source says of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SourceDescription {
    /// The source.
    pub source: Ssrc,
    /// Its canonical name (RFC 3550 §6.5.1): at most 255 bytes, not validated.
    pub cname: Option<Bytes>,
    /// The media section it belongs to.
    pub mid: Option<Mid>,
    /// The encoding it is, or whose retransmissions it carries.
    pub rid: Option<Rid>,
}

/// The packet type of source descriptions (RFC 3550 §12.1).
pub const SOURCE_DESCRIPTION: u8 = 202;
/// The most sources of one message (RFC 3550 §6.5: a five-bit count).
pub const SOURCES_MAX: usize = 31;

/// Reads one message, header included: sources that say nothing of use are left out. `None` if one is cut short.
#[must_use]
pub fn parse(message: &[u8]) -> Option<Vec<SourceDescription>> {
    let sources = usize::from(message.first()? & 0x1f);
    let mut rest = message.get(4..)?;
    let mut descriptions = Vec::new();
    for _ in 0..sources {
        let (description, len) = parse_chunk(rest)?;
        rest = rest.get(len..)?;
        let SourceDescription {
            cname, mid, rid, ..
        } = &description;
        if cname.is_some() || mid.is_some() || rid.is_some() {
            descriptions.push(description);
        }
    }
    Some(descriptions)
}

/// Appends a message with the canonical name of one source; of the name no more than one item holds.
pub fn write_cname(out: &mut Vec<u8>, source: Ssrc, cname: &str) {
    let name = &cname[..cname.floor_char_boundary(ITEM_BYTES_MAX)];
    // At least one zero ends the items, and zeros fill the last word.
    let padded = (ITEM_HEADER_LEN + name.len() + 1).next_multiple_of(4);
    let words = (4 + padded) / 4;
    out.extend([0x81, SOURCE_DESCRIPTION]);
    out.extend((words as u16).to_be_bytes());
    out.extend(source.0.to_be_bytes());
    let end = out.len() + padded;
    out.extend([CNAME, name.len() as u8]);
    out.extend_from_slice(name.as_bytes());
    out.resize(end, END);
}

/// Reads one source's chunk, and how long it is.
fn parse_chunk(chunk: &[u8]) -> Option<(SourceDescription, usize)> {
    let mut description = SourceDescription {
        source: Ssrc(u32::from_be_bytes(*chunk.first_chunk()?)),
        cname: None,
        mid: None,
        rid: None,
    };
    let mut at = 4;
    loop {
        let kind = *chunk.get(at)?;
        if kind == END {
            return Some((description, (at + 1).next_multiple_of(4)));
        }
        let len = usize::from(*chunk.get(at + 1)?);
        at += ITEM_HEADER_LEN;
        let text = chunk.get(at..at + len)?;
        at += len;
        match kind {
            CNAME => description.cname = Some(Bytes::copy_from_slice(text)),
            RTP_STREAM_ID | REPAIRED_RTP_STREAM_ID => description.rid = Rid::from_bytes(text),
            MID => description.mid = Mid::from_bytes(text),
            _ => {}
        }
    }
}

// The IANA registry "RTP SDES Item Types".
const END: u8 = 0;
const CNAME: u8 = 1;
const RTP_STREAM_ID: u8 = 12;
const REPAIRED_RTP_STREAM_ID: u8 = 13;
const MID: u8 = 15;
/// An item's type and length, a byte each (RFC 3550 §6.5).
const ITEM_HEADER_LEN: usize = 2;
const ITEM_BYTES_MAX: usize = 255;

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// A source and its items.
    type Chunk<'a> = (u32, &'a [(u8, &'a [u8])]);

    fn message(chunks: &[Chunk<'_>]) -> Vec<u8> {
        let mut bytes = vec![0x80 | chunks.len() as u8, SOURCE_DESCRIPTION, 0, 0];
        for (source, items) in chunks {
            bytes.extend(source.to_be_bytes());
            for (kind, text) in *items {
                bytes.extend([*kind, text.len() as u8]);
                bytes.extend_from_slice(text);
            }
            bytes.push(END);
            bytes.resize(bytes.len().next_multiple_of(4), END);
        }
        let words = (bytes.len() / 4 - 1) as u16;
        bytes[2..4].copy_from_slice(&words.to_be_bytes());
        bytes
    }

    fn named(source: u32, cname: &'static [u8]) -> SourceDescription {
        SourceDescription {
            source: Ssrc(source),
            cname: Some(Bytes::from_static(cname)),
            mid: None,
            rid: None,
        }
    }

    #[test]
    fn names_are_found_between_other_items_of_any_length() {
        // NAME, TOOL, PRIV and one of the future; chunks that end at each place of a word.
        let bytes = message(&[
            (1, &[(2, b"Ann"), (CNAME, b"a"), (6, b"")]),
            (2, &[(8, b"\x01px"), (200, b"?"), (CNAME, b"bc")]),
            (3, &[(CNAME, b"def")]),
            (4, &[(CNAME, b"")]),
            (5, &[]),
            (6, &[(6, b"tool")]),
        ]);
        let expected = [named(1, b"a"), named(2, b"bc"), named(3, b"def")];
        let found = parse(&bytes).unwrap();
        assert_eq!(found[..3], expected);
        assert_eq!(found[3..], [named(4, b"")], "5 and 6 say nothing of use");
    }

    #[test]
    fn where_a_stream_belongs_is_read() {
        let bytes = message(&[
            (1, &[(CNAME, b"a"), (MID, b"0"), (RTP_STREAM_ID, b"hi")]),
            (2, &[(REPAIRED_RTP_STREAM_ID, b"hi"), (MID, b"0")]),
            (3, &[(MID, b"no mid"), (RTP_STREAM_ID, b"")]),
        ]);
        let (mid, rid) = (Mid::new("0"), Rid::new("hi"));
        let first = SourceDescription {
            mid,
            rid,
            ..named(1, b"a")
        };
        let second = SourceDescription {
            source: Ssrc(2),
            cname: None,
            mid,
            rid,
        };
        assert_eq!(parse(&bytes).unwrap(), [first, second]);
    }

    #[test]
    fn what_is_written_is_read_back_and_whole_words() {
        for len in 0..=255 {
            let name = "n".repeat(len);
            let mut out = vec![0xee; 3];
            write_cname(&mut out, Ssrc(7), &name);
            let words = usize::from(u16::from_be_bytes([out[5], out[6]]));
            assert_eq!(out.len(), 3 + 4 + 4 * words, "{len}");
            assert_eq!(out[out.len() - 1], END, "{len}");
            let found = parse(&out[3..]).unwrap();
            assert_eq!(found[0].cname.as_deref(), Some(name.as_bytes()));
        }
    }

    #[test]
    fn a_message_cut_anywhere_is_refused() {
        let bytes = message(&[(1, &[(CNAME, b"abc")]), (2, &[(CNAME, b"d"), (MID, b"1")])]);
        for len in 0..bytes.len() {
            assert_eq!(parse(&bytes[..len]), None, "{len}");
        }
        assert!(parse(&bytes).is_some());
        // More sources than there are.
        let mut more = bytes;
        more[0] += 1;
        assert_eq!(parse(&more), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(count in 0_u8..32, bytes in proptest::collection::vec(any::<u8>(), 0..80)) {
            let mut message = vec![0x80 | count, SOURCE_DESCRIPTION, 0, 0];
            message.extend(bytes);
            if let Some(found) = parse(&message) {
                prop_assert!(found.len() <= SOURCES_MAX);
            }
        }
    }
}
