//! Which simulcast streams of a client's section are taken, and in which order of quality.
//!
//! Two ways of saying it are understood: RIDs (RFC 8853), as browsers do, and a group of SSRCs
//! (`a=ssrc-group:SIM`), as scripts wrote it into Chromium's descriptions before. At most
//! [`ENCODINGS_MAX`] streams are taken: of RIDs the first ones of the client's list, and the answer names
//! only these, so that the client sends no others; of SSRCs the lowest, as an answer cannot refuse one.
//!
//! # Order
//!
//! RFC 8853 §5.2 has the *preferred* stream first, which would mean the best. Browsers write their
//! `sendEncodings` as the page gave them, and pages give them in either order. So quality is decided, the
//! first of these that says it:
//!
//! 1. `max-width` and `max-height` of every stream, if they differ (RFC 8851 §5);
//! 2. names of one of the usual `VOCABULARIES`;
//! 3. the client's order, lowest first, as libwebrtc and the web's examples have it.
//!
//! Nothing but the meaning of "the highest layer" depends on it: the server allocates by measured rates.

use crate::base::ids::{ENCODINGS_MAX, Rid, Ssrc};
use crate::control::EncodingConfig;
use crate::wire::extension::Extension;
use crate::wire::sdp::{RidStream, Section};

/// The RID streams of the client's section that are taken, in the client's order; empty without simulcast.
/// Without the header extension that names the stream, packets could not be told apart.
#[must_use]
pub fn accepted(section: &Section) -> Vec<RidStream> {
    if section.extensions.id(Extension::RtpStreamId).is_none() {
        return Vec::new();
    }
    let streams = section.simulcast.send.iter().copied();
    streams.take(ENCODINGS_MAX).collect()
}

/// The encodings of the track that the client sends in this section, lowest quality first; at least one.
#[must_use]
pub fn of(section: &Section) -> Vec<EncodingConfig> {
    let by_ssrc = |ssrc: Ssrc| EncodingConfig {
        rid: None,
        ssrc: Some(ssrc),
        rtx_ssrc: rtx_of(section, ssrc),
    };
    let rids = accepted(section);
    if !rids.is_empty() {
        // Firefox declares SSRCs as well; which is whose only the packets say.
        let streams = by_quality(rids).into_iter();
        return streams
            .map(|stream| EncodingConfig {
                rid: Some(stream.rid),
                ..EncodingConfig::default()
            })
            .collect();
    }
    if !section.simulcast_ssrcs.is_empty() {
        let group = section.simulcast_ssrcs.iter().copied();
        return group.take(ENCODINGS_MAX).map(by_ssrc).collect();
    }
    // Of several SSRCs without a role none is declared: the packets tell that they are the track's.
    vec![match section.ssrcs[..] {
        [only] => by_ssrc(only),
        _ => EncodingConfig::default(),
    }]
}

fn rtx_of(section: &Section, ssrc: Ssrc) -> Option<Ssrc> {
    let pair = section.rtx_ssrcs.iter().find(|(media, _)| *media == ssrc);
    pair.map(|(_, rtx)| *rtx)
}

/// Names that say which stream is the best, lowest first: LiveKit's and the W3C's, and the other usual ones.
const VOCABULARIES: [&[&str]; 5] = [
    &["q", "h", "f"],
    &["l", "m", "h"],
    &["lo", "mid", "hi"],
    &["low", "mid", "high"],
    &["low", "medium", "high"],
];

fn by_quality(mut streams: Vec<RidStream>) -> Vec<RidStream> {
    let sizes: Option<Vec<u64>> = streams.iter().map(|s| s.pixels_max).collect();
    if sizes.is_some_and(|sizes| sizes.windows(2).any(|pair| pair[0] != pair[1])) {
        streams.sort_by_key(|stream| stream.pixels_max);
        return streams;
    }
    let place = |names: &[&str], rid: &Rid| names.iter().position(|name| *name == rid.as_str());
    let known = VOCABULARIES
        .iter()
        .find(|names| streams.iter().all(|s| place(names, &s.rid).is_some()));
    if let Some(names) = known {
        streams.sort_by_key(|stream| place(names, &stream.rid));
    }
    streams
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::sdp::Description;

    const CHROMIUM: &str = include_str!("../../../fuzz/seeds/sdp/chromium-simulcast.sdp");
    const FIREFOX: &str = include_str!("../../../fuzz/seeds/sdp/firefox-simulcast.sdp");
    const GROUP: &str = include_str!("../../../fuzz/seeds/sdp/chromium-ssrc-group.sdp");

    fn video(text: &str) -> Section {
        Description::parse(text).unwrap().sections.remove(1)
    }

    fn rids(section: &Section) -> Vec<String> {
        let encodings = of(section).into_iter();
        encodings
            .map(|e| e.rid.map_or_else(|| "-".to_owned(), |rid| rid.to_string()))
            .collect()
    }

    #[test]
    fn browsers_name_their_streams() {
        for text in [CHROMIUM, FIREFOX] {
            let section = video(text);
            assert_eq!(rids(&section), ["q", "h", "f"]);
            let declared = of(&section).iter().any(|e| e.ssrc.is_some());
            assert!(!declared, "the packets tell");
        }
    }

    #[test]
    fn a_group_of_ssrcs_is_simulcast_too() {
        let encodings = of(&video(GROUP));
        let numbers: Vec<_> = encodings.iter().map(|e| (e.ssrc, e.rtx_ssrc)).collect();
        let pair = |n: u32| (Some(Ssrc(n)), Some(Ssrc(n + 10)));
        assert_eq!(numbers, [pair(1001), pair(1002), pair(1003)]);
        assert!(encodings.iter().all(|e| e.rid.is_none()));
    }

    #[test]
    fn without_simulcast_there_is_one() {
        let mut section = video(CHROMIUM);
        section.simulcast.send.clear();
        assert_eq!(of(&section), [EncodingConfig::default()]);
        let mut section = video(GROUP);
        section.simulcast_ssrcs.clear();
        assert_eq!(of(&section), [EncodingConfig::default()], "three SSRCs");
        section.ssrcs.truncate(1);
        let [only] = of(&section)[..] else {
            panic!("one encoding");
        };
        assert_eq!(only.ssrc, Some(Ssrc(1001)));
        assert_eq!(only.rtx_ssrc, Some(Ssrc(1011)));
    }

    #[test]
    fn streams_that_could_not_be_told_apart_are_not_taken() {
        let section = video(&CHROMIUM.replace("rtp-stream-id", "other"));
        assert!(accepted(&section).is_empty());
        assert_eq!(rids(&section), ["-"]);
    }

    #[test]
    fn order_is_by_size_then_name_then_as_given() {
        let sized = |line: &str| {
            let lines: Vec<String> = line
                .split(' ')
                .map(|part| {
                    let (rid, size) = part.split_once('=').unwrap_or((part, ""));
                    match size {
                        "" => format!("a=rid:{rid} send\r\n"),
                        size => format!("a=rid:{rid} send max-width={size};max-height={size}\r\n"),
                    }
                })
                .collect();
            let names: Vec<&str> = line
                .split(' ')
                .map(|p| p.split('=').next().unwrap())
                .collect();
            let text = CHROMIUM
                .replace(
                    "a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\n",
                    &lines.concat(),
                )
                .replace("send q;h;f", &format!("send {}", names.join(";")));
            rids(&video(&text)).join(" ")
        };
        let cases = [
            ("q h f", "q h f"),
            ("f h q", "q h f"),
            ("h m l", "l m h"),
            ("hi mid lo", "lo mid hi"),
            ("high medium low", "low medium high"),
            ("h q", "q h"),
            ("b a", "b a"),
            ("r0 r1 r2", "r0 r1 r2"),
            ("f=100 h=200 q=300", "f h q"),
            ("a=300 b=200 c=100", "c b a"),
            ("a=300 b=200 c", "a b c"),
            ("b=100 a=100", "b a"),
            ("1 2 3 4 5", "1 2 3 4"),
        ];
        for (given, expected) in cases {
            assert_eq!(sized(given), expected, "{given}");
        }
    }
}
