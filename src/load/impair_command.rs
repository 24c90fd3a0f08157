//! What `shardcast impair` is told and what it answers, as JSON.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::network::{Bursts, Conditions, Jitter, Link, QueueLimit, Reordering};

/// One line of input.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub enum Command {
    /// A port that forwards to `to`, through the link of that name.
    Open {
        /// Made if it is not there.
        link: String,
        /// The server's address.
        to: SocketAddr,
        /// Where to listen; any port of the server's own address unless given.
        bind: Option<SocketAddr>,
    },
    /// New conditions.
    Set {
        /// Of which link.
        link: String,
        /// From the client to the server.
        up: Option<Box<Wish>>,
        /// From the server to the client.
        down: Option<Box<Wish>>,
        /// When.
        #[serde(default)]
        after_ms: u64,
    },
    /// Loses the next datagrams.
    Drop {
        /// Of which link.
        link: String,
        /// Which way.
        direction: Direction,
        /// How many.
        count: u32,
    },
    /// Asks what a link has done.
    Stats {
        /// Which.
        link: String,
    },
}

impl Command {
    /// The link that it is about.
    #[must_use]
    pub fn link(&self) -> &str {
        match self {
            Self::Open { link, .. }
            | Self::Set { link, .. }
            | Self::Drop { link, .. }
            | Self::Stats { link } => link,
        }
    }
}

/// A way of a link.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Direction {
    /// From the client to the server.
    Up,
    /// From the server to the client.
    Down,
}

impl Direction {
    /// That one of the two.
    pub fn of<T>(self, up: T, down: T) -> T {
        match self {
            Self::Up => up,
            Self::Down => down,
        }
    }
}

/// Conditions as they are written. See [`Conditions`].
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Wish {
    delay_ms: f64,
    jitter_ms: f64,
    keeps_order: bool,
    loss: f64,
    bursts: Option<BurstsWish>,
    reordering: Option<ReorderingWish>,
    duplication: f64,
    rate_bps: Option<u64>,
    queue_ms: Option<f64>,
    queue_bytes: Option<u64>,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct BurstsWish {
    enter: f64,
    leave: f64,
    loss: f64,
}

#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(deny_unknown_fields)]
struct ReorderingWish {
    chance: f64,
    held_ms: f64,
}

impl Wish {
    /// What the model takes. Numbers out of range count as the nearest in it.
    #[must_use]
    pub fn conditions(&self) -> Conditions {
        let share = |share: f64| share.clamp(0.0, 1.0);
        let queue = match (self.queue_bytes, self.queue_ms) {
            (Some(bytes), _) => QueueLimit::Bytes(bytes),
            (None, Some(ms)) => QueueLimit::Time(milliseconds(ms)),
            (None, None) => QueueLimit::default(),
        };
        Conditions {
            delay: milliseconds(self.delay_ms),
            jitter: Jitter {
                up_to: milliseconds(self.jitter_ms),
                keeps_order: self.keeps_order,
            },
            loss: share(self.loss),
            bursts: self.bursts.map(|bursts| Bursts {
                enter: share(bursts.enter),
                leave: share(bursts.leave),
                loss: share(bursts.loss),
            }),
            reordering: self.reordering.map(|reordering| Reordering {
                chance: share(reordering.chance),
                held: milliseconds(reordering.held_ms),
            }),
            duplication: share(self.duplication),
            rate_bps: self.rate_bps,
            queue,
        }
    }
}

/// A minute is more than any path takes.
fn milliseconds(ms: f64) -> Duration {
    Duration::from_secs_f64(ms.clamp(0.0, 60_000.0) / 1000.0)
}

/// One line of output.
#[derive(Debug, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Answer {
    /// To [`Command::Open`].
    Opened {
        /// Where clients are to send.
        address: SocketAddr,
    },
    /// It is done.
    Done {},
    /// To [`Command::Stats`].
    Stats {
        /// From the client to the server.
        up: DirectionReport,
        /// From the server to the client.
        down: DirectionReport,
    },
    /// Nothing was done, and why.
    Error(String),
}

/// What one direction has done.
#[derive(Debug, Serialize)]
pub struct DirectionReport {
    pushed: u64,
    arrived: u64,
    arrived_bytes: u64,
    lost: u64,
    overflowed: u64,
    doubled: u64,
    /// How long something that came now would wait.
    queue_ms: f64,
}

impl DirectionReport {
    /// As of now.
    #[must_use]
    pub fn new<T: Clone>(now: Instant, link: &Link<T>) -> Self {
        let stats = link.stats();
        Self {
            pushed: stats.pushed,
            arrived: stats.arrived,
            arrived_bytes: stats.arrived_bytes,
            lost: stats.lost,
            overflowed: stats.overflowed,
            doubled: stats.doubled,
            queue_ms: link.queue_delay(now).as_secs_f64() * 1000.0,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn commands_are_read() {
        let line = r#"{"set": {"link": "bob", "down": {"rate_bps": 300000, "delay_ms": 12.5, "loss": 7,
            "queue_bytes": 20000, "bursts": {"enter": 0.01, "leave": 0.05, "loss": 1}}}}"#;
        let command: Command = serde_json::from_str(line).unwrap();
        assert_eq!(command.link(), "bob");
        let Command::Set { up, down, .. } = command else {
            panic!("{command:?}");
        };
        assert!(up.is_none());
        let conditions = down.unwrap().conditions();
        assert_eq!(conditions.rate_bps, Some(300_000));
        assert_eq!(conditions.delay, Duration::from_micros(12_500));
        assert_eq!(conditions.queue, QueueLimit::Bytes(20_000));
        assert!((conditions.loss - 1.0).abs() < 1e-9, "clamped");
        assert!(conditions.bursts.is_some());
        for wrong in [
            r#"{"set": {"link": "bob", "down": {"rate": 1}}}"#,
            r#"{"open": {"link": "bob", "to": "nowhere"}}"#,
            "[]",
        ] {
            assert!(serde_json::from_str::<Command>(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn answers_are_written() {
        let answer = Answer::Opened {
            address: SocketAddr::from(([127, 0, 0, 1], 5)),
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert_eq!(text, r#"{"opened":{"address":"127.0.0.1:5"}}"#);
        let link: Link<()> = Link::new(Instant::now(), Conditions::default(), 0);
        let report = || DirectionReport::new(Instant::now(), &link);
        let answer = Answer::Stats {
            up: report(),
            down: report(),
        };
        let text = serde_json::to_string(&answer).unwrap();
        assert!(text.starts_with(r#"{"stats":{"up":{"pushed":0,"#), "{text}");
    }
}
