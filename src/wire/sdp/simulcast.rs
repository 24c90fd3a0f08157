//! Simulcast by restriction identifier: `a=rid` (RFC 8851) and `a=simulcast` (RFC 8853).
//!
//! Of a stream's alternatives the first is kept that an `a=rid` line of the same direction describes in a
//! format that is known. A line that is no simulcast
//! line, or names a stream twice, counts as none: the section is then used without simulcast.

use std::fmt;

use crate::base::ids::{PayloadType, Rid};

/// What a section says of simulcast, seen from the describing side.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Simulcast {
    /// The streams it sends, in its order of preference.
    pub send: Vec<RidStream>,
    /// The streams it is ready to receive, in its order of preference.
    pub recv: Vec<RidStream>,
}

/// One simulcast stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RidStream {
    /// Its identifier.
    pub rid: Rid,
    /// Width times height at most (`max-width` and `max-height`, RFC 8851 §5), where both are restricted.
    pub pixels_max: Option<u64>,
    /// Initially not sent (`~`). Chromium says it of an encoding that is not active, and makes active what an
    /// answer does not say it of.
    pub paused: bool,
}

impl RidStream {
    /// A stream without restrictions.
    #[must_use]
    pub fn new(rid: Rid) -> Self {
        Self {
            rid,
            pixels_max: None,
            paused: false,
        }
    }
}

/// `a=rid` lines of a section read at most; further ones are ignored.
pub const RIDS_MAX: usize = 16;
/// Streams of one direction read at most; further ones are ignored.
pub const STREAMS_MAX: usize = 8;

/// A direction of `a=rid` and of a list in `a=simulcast`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum RidDirection {
    Send,
    Recv,
}

impl RidDirection {
    fn parse(word: &str) -> Option<Self> {
        match word {
            "send" => Some(Self::Send),
            "recv" => Some(Self::Recv),
            _ => None,
        }
    }
}

/// An `a=rid` line: `<rid> <direction> [pt=<formats>;]<restrictions>`. Restrictions other than the size are
/// tolerated; whoever sends within narrower limits than are asked for breaks nothing here.
#[derive(Debug)]
pub(crate) struct RidLine<'a> {
    stream: RidStream,
    direction: RidDirection,
    /// The list after `pt=`.
    formats: Option<&'a str>,
}

impl<'a> RidLine<'a> {
    pub(crate) fn parse(value: &'a str) -> Option<Self> {
        let mut words = value.splitn(3, char::is_whitespace);
        let rid = Rid::new(words.next()?)?;
        let direction = RidDirection::parse(words.next()?)?;
        let (mut width, mut height, mut formats) = (None, None, None);
        for restriction in words.next().unwrap_or("").split(';') {
            let (name, value) = restriction.split_once('=').unwrap_or((restriction, ""));
            match name.trim() {
                "pt" => formats = Some(value.trim()),
                "max-width" => width = value.trim().parse::<u32>().ok(),
                "max-height" => height = value.trim().parse::<u32>().ok(),
                _ => {}
            }
        }
        let pixels_max = width.zip(height).map(|(w, h)| u64::from(w) * u64::from(h));
        Some(Self {
            stream: RidStream {
                pixels_max,
                ..RidStream::new(rid)
            },
            direction,
            formats,
        })
    }

    /// Whether it may be of a format that `is_known`.
    fn is_usable(&self, is_known: &impl Fn(PayloadType) -> bool) -> bool {
        self.formats.is_none_or(|formats| {
            let numbers = formats.split(',').filter_map(|n| n.trim().parse().ok());
            numbers.map(PayloadType).any(is_known)
        })
    }
}

impl Simulcast {
    /// Whether the section has none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.send.is_empty() && self.recv.is_empty()
    }

    /// Reads the value of `a=simulcast` with the section's `a=rid` lines; empty where it cannot be used.
    pub(crate) fn parse(
        value: &str,
        rids: &[RidLine<'_>],
        is_known: &impl Fn(PayloadType) -> bool,
    ) -> Self {
        Self::parse_lists(value, rids, is_known).unwrap_or_default()
    }

    /// RFC 8853 §5.1: a direction and its list, and perhaps the other direction and its list.
    fn parse_lists(
        value: &str,
        rids: &[RidLine<'_>],
        is_known: &impl Fn(PayloadType) -> bool,
    ) -> Option<Self> {
        let mut this = Self::default();
        let mut words = value.split_whitespace();
        let mut seen = Vec::new();
        while let Some(word) = words.next() {
            let direction = RidDirection::parse(word)?;
            if seen.contains(&direction) {
                return None;
            }
            seen.push(direction);
            let list = parse_list(words.next()?, direction, rids, is_known)?;
            match direction {
                RidDirection::Send => this.send = list,
                RidDirection::Recv => this.recv = list,
            }
        }
        (!seen.is_empty()).then_some(this)
    }
}

/// Streams between `;`, of each its alternatives between `,`, any of them with a `~`.
fn parse_list(
    list: &str,
    direction: RidDirection,
    rids: &[RidLine<'_>],
    is_known: &impl Fn(PayloadType) -> bool,
) -> Option<Vec<RidStream>> {
    let mut named: Vec<Rid> = Vec::new();
    let mut streams = Vec::new();
    for alternatives in list.split(';').take(STREAMS_MAX) {
        let mut chosen = None;
        for name in alternatives.split(',').take(RIDS_MAX) {
            let (paused, name) = match name.strip_prefix('~') {
                Some(name) => (true, name),
                None => (false, name),
            };
            let rid = Rid::new(name)?;
            if named.contains(&rid) {
                return None;
            }
            named.push(rid);
            if chosen.is_none() {
                chosen = rids
                    .iter()
                    .find(|l| l.stream.rid == rid && l.direction == direction)
                    .filter(|line| line.is_usable(is_known))
                    .map(|line| RidStream {
                        paused,
                        ..line.stream
                    });
            }
        }
        streams.extend(chosen);
    }
    Some(streams)
}

/// The value of `a=simulcast`.
impl fmt::Display for Simulcast {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut gap = "";
        for (word, streams) in [("send", &self.send), ("recv", &self.recv)] {
            if streams.is_empty() {
                continue;
            }
            write!(f, "{gap}{word} ")?;
            gap = " ";
            for (index, stream) in streams.iter().enumerate() {
                let semicolon = if index > 0 { ";" } else { "" };
                let tilde = if stream.paused { "~" } else { "" };
                write!(f, "{semicolon}{tilde}{}", stream.rid)?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `a=rid` lines, the value of `a=simulcast`, and the streams of either direction.
    type Case<'a> = (&'a [&'a str], &'a str, &'a [&'a str], &'a [&'a str]);

    /// Parses with formats 96 and 97 known; streams as text.
    fn parse(rids: &[&str], value: &str) -> (Vec<String>, Vec<String>) {
        let lines: Vec<RidLine<'_>> = rids.iter().filter_map(|l| RidLine::parse(l)).collect();
        let known = |pt: PayloadType| pt.0 == 96 || pt.0 == 97;
        let simulcast = Simulcast::parse(value, &lines, &known);
        let names = |list: &[RidStream]| list.iter().map(|s| s.rid.to_string()).collect::<Vec<_>>();
        (names(&simulcast.send), names(&simulcast.recv))
    }

    #[test]
    fn reads_streams_alternatives_and_pauses() {
        let send = [
            "q send",
            "h send max-br=500000",
            "f send pt=96,97;max-fps=30",
        ];
        let cases: [Case<'_>; 12] = [
            (&send, "send q;h;f", &["q", "h", "f"], &[]),
            (&send, "send ~q;h;~f", &["q", "h", "f"], &[]),
            (&send, "send f,h;q", &["f", "q"], &[]),
            (&send, "send x,h;q", &["h", "q"], &[]),
            (&send, "send x;q", &["q"], &[]),
            (&send, "recv q;h", &[], &[]),
            (&["q send", "a recv"], "send q recv a", &["q"], &["a"]),
            (&["q send", "a recv"], "recv a send q", &["q"], &["a"]),
            (
                &["q send pt=100", "h send pt=100,96"],
                "send q;h",
                &["h"],
                &[],
            ),
            (&["q send pt=x"], "send q", &[], &[]),
            (&["q both", "", "q"], "send q", &[], &[]),
            (&send, "  send   q;h ", &["q", "h"], &[]),
        ];
        for (rids, value, sent, received) in cases {
            let (send, recv) = parse(rids, value);
            assert_eq!(send, sent, "{value}");
            assert_eq!(recv, received, "{value}");
        }
    }

    #[test]
    fn what_is_malformed_is_no_simulcast() {
        let rids = ["q send", "h send", "f send"];
        for value in [
            "",
            "send",
            "q;h;f",
            "send q;;h",
            "send q;h,",
            "send q;q",
            "send q;~q",
            "send q send h",
            "sendrecv q;h",
            "send q;h recv",
            "send q;a b;c",
            "send q~;h",
            "send ~~q",
            "send rid=q;h",
            "send aaaaaaaaaaaaaaaaa",
        ] {
            let (send, recv) = parse(&rids, value);
            assert!(send.is_empty() && recv.is_empty(), "{value}");
        }
    }

    #[test]
    fn sizes_are_read_where_both_sides_are_restricted() {
        let pixels = |line| RidLine::parse(line).unwrap().stream.pixels_max;
        assert_eq!(pixels("q send max-width=320;max-height=180"), Some(57_600));
        assert_eq!(pixels("q send pt=96; max-height=2 ;max-width=4"), Some(8));
        assert_eq!(pixels("q send max-width=320"), None);
        assert_eq!(pixels("q send max-width=x;max-height=180"), None);
        let most = format!("q send max-width={0};max-height={0}", u32::MAX);
        assert_eq!(pixels(&most), Some(u64::from(u32::MAX).pow(2)));
    }

    #[test]
    fn streams_are_bounded() {
        let names: Vec<String> = (0..100).map(|n| format!("r{n}")).collect();
        let lines: Vec<String> = names.iter().map(|n| format!("{n} send")).collect();
        let lines: Vec<&str> = lines.iter().map(String::as_str).collect();
        let (send, _) = parse(&lines, &format!("send {}", names.join(";")));
        assert_eq!(send.len(), STREAMS_MAX);
    }

    #[test]
    fn reads_back_what_it_writes() {
        let lines = ["q send", "h send", "a recv"];
        for value in ["send q;h", "recv ~a", "send ~q;h recv a"] {
            let lines: Vec<RidLine<'_>> = lines.iter().filter_map(|l| RidLine::parse(l)).collect();
            let simulcast = Simulcast::parse(value, &lines, &|_| true);
            assert_eq!(simulcast.to_string(), value);
        }
    }
}
