//! What the clients of one worker have counted and measured.

use std::collections::BTreeMap;
use std::ops::AddAssign;
use std::time::Duration;

use crate::load::histogram::Histogram;

macro_rules! tally {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// Counts since the run began.
        #[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
        pub struct Tally {
            $($(#[$doc])* pub $name: u64,)*
        }

        impl AddAssign for Tally {
            fn add_assign(&mut self, other: Self) {
                $(self.$name += other.$name;)*
            }
        }
    };
}

tally! {
    /// Clients that have begun to connect.
    started,
    /// Clients whose join the server confirmed.
    joined,
    /// Clients whose DTLS is up.
    connected,
    /// Clients that have all they are to have: DTLS, and media of every track unless the run is idle.
    ready,
    /// Clients that failed.
    failed,
    /// RTP packets sent by publishers.
    rtp_sent,
    /// RTP packets that the server sent to clients, before any impairment.
    rtp_arrived,
    /// Of these, retransmissions and padding on streams of their own.
    rtx_arrived,
    /// Packets that were missing and came as a retransmission on a stream of its own.
    repaired,
    /// Bytes of the datagrams of those that arrived.
    bytes_arrived,
    /// Different RTP packets that clients have received.
    rtp_received,
    /// RTP packets received twice.
    duplicates,
    /// RTP packets that came after later ones, those sent again on a NACK included.
    reordered,
    /// RTP packets so old that nobody can tell whether they were received before.
    too_old,
    /// RTP packets missing now, by the gaps in sequence numbers.
    missing,
    /// RTP packets of an SSRC that no description names.
    unknown_ssrc,
    /// Packets that were opened.
    opened,
    /// Packets that could not be opened.
    not_opened,
    /// Packets opened whose payload is not what was sent, or belongs to another room or stream.
    wrong_payload,
    /// RTP packets asked for again.
    nacked,
    /// Keyframes that publishers were asked for.
    keyframe_requests,
    /// Datagrams that the impairment dropped on their way to the server.
    impaired_up,
    /// Datagrams that the impairment dropped on their way from it.
    impaired_down,
    /// Datagrams that this machine's kernel did not take from a client.
    not_sent,
}

impl Tally {
    /// RTP packets that the server forwarded to clients: without padding, and what it sent again.
    #[must_use]
    pub fn media_arrived(&self) -> u64 {
        self.rtp_arrived.saturating_sub(self.rtx_arrived)
    }
}

/// How long one client took, from its joinRoom on.
#[derive(Debug, Clone, Copy, Default)]
pub struct JoinTimes {
    /// Until the server confirmed.
    pub joined: Option<Duration>,
    /// Until DTLS was up.
    pub connected: Option<Duration>,
    /// Until the first RTP packet came.
    pub media: Option<Duration>,
}

/// A stream at one subscriber, at the end.
#[derive(Debug, Clone, Copy)]
pub struct Received {
    /// The publisher's number and which of its streams, if that became known.
    pub origin: Option<(u32, u8)>,
    /// Different packets received.
    pub received: u64,
    /// Packets there were to receive, from the gaps in sequence numbers alone.
    pub expected_seen: u64,
    /// The counter of the first packet received, where the origin is known.
    pub first_counter: u64,
}

/// All that a worker leaves.
#[derive(Debug, Default)]
pub struct Harvest {
    /// The counts.
    pub tally: Tally,
    /// One-way latency from publisher to subscriber's socket while the run was steady.
    pub latency: Histogram,
    /// The same until the subscriber has read it.
    pub read_latency: Histogram,
    /// One entry for each client that joined.
    pub joins: Vec<JoinTimes>,
    /// One for each stream received by clients that lasted.
    pub received: Vec<Received>,
    /// How many packets each stream of each publisher had in all.
    pub sent: Vec<((u32, u8), u64)>,
    /// Why clients failed, and how many each.
    pub failures: BTreeMap<String, u64>,
    /// Tracks promised by a description of which nothing came.
    pub silent_tracks: u64,
    /// Tracks of which nothing came any more although they were sent.
    pub stopped_tracks: u64,
    /// The longest turn of the worker's loop: a part of what is measured as latency.
    pub turn: Histogram,
}

impl Harvest {
    /// Adds what another worker leaves.
    pub fn merge(&mut self, other: Self) {
        self.tally += other.tally;
        self.latency.merge(&other.latency);
        self.read_latency.merge(&other.read_latency);
        self.joins.extend(other.joins);
        self.received.extend(other.received);
        self.sent.extend(other.sent);
        for (why, count) in other.failures {
            *self.failures.entry(why).or_default() += count;
        }
        self.silent_tracks += other.silent_tracks;
        self.stopped_tracks += other.stopped_tracks;
        self.turn.merge(&other.turn);
    }

    /// Packets there were to receive, and how many of them were not: from what the publishers had
    /// sent in all, so that what is missing at the end counts too.
    #[must_use]
    pub fn loss(&self) -> (u64, u64) {
        let sent: BTreeMap<(u32, u8), u64> = self.sent.iter().copied().collect();
        let (mut expected, mut lost) = (0, 0);
        for stream in &self.received {
            let total = stream.origin.and_then(|origin| sent.get(&origin));
            let by_counter = total.map_or(0, |sent| sent.saturating_sub(stream.first_counter));
            let due = by_counter.max(stream.expected_seen).max(stream.received);
            expected += due;
            lost += due - stream.received;
        }
        (expected, lost)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn loss_counts_gaps_and_what_is_missing_at_the_end() {
        let stream = |origin, received, expected_seen, first_counter| Received {
            origin,
            received,
            expected_seen,
            first_counter,
        };
        let mut harvest = Harvest {
            sent: vec![((1, 0), 100)],
            received: vec![
                stream(Some((1, 0)), 90, 90, 10),
                stream(Some((1, 0)), 88, 89, 10),
                stream(None, 5, 6, 0),
                stream(Some((2, 0)), 5, 5, 0),
            ],
            ..Harvest::default()
        };
        assert_eq!(harvest.loss(), (90 + 90 + 6 + 5, 2 + 1));
        let other = Harvest {
            sent: vec![((2, 0), 7)],
            failures: BTreeMap::from([("x".to_owned(), 1)]),
            ..Harvest::default()
        };
        harvest.merge(other);
        assert_eq!(harvest.loss().1, 5);
        assert_eq!(harvest.failures["x"], 1);
    }
}
