//! The command line of `shardcast load`.

use std::net::{SocketAddr, ToSocketAddrs};
use std::num::NonZero;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use clap::Parser;

use crate::load::sampler::ONE_OF_MAX;
use crate::network::Conditions;

/// Loads a running server with synthetic clients and measures what arrives.
#[derive(Debug, Clone, Parser)]
#[command(
    name = "shardcast load",
    about = "Loads a running server with synthetic clients, over its real signaling, ICE, DTLS and SRTP, \
             and measures what arrives",
    after_help = AFTER_HELP,
    allow_negative_numbers = true
)]
pub struct Options {
    /// Where the server's signaling is, such as ws://127.0.0.1:8080 (path /ws unless there is one)
    #[arg(value_name = "URL", value_parser = Target::from_str)]
    pub target: Target,
    /// How many rooms
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    pub rooms: u32,
    /// How many publishers in each room. They receive each other, too
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(1..=1_000))]
    pub publishers: u32,
    /// How many in each room only watch
    #[arg(long, value_name = "N", default_value = "1", value_parser = clap::value_parser!(u32).range(0..=100_000))]
    pub subscribers: u32,
    /// Publishers send audio: 50 packets/s of 100 bytes
    #[arg(long)]
    pub audio: bool,
    /// Bits/s of each publisher's video (k, M, G); 0: no video. With --simulcast of the largest layer
    #[arg(long, value_name = "RATE", default_value = "1M", value_parser = bits)]
    pub video_bitrate: u64,
    /// Frames/s of video. A frame is a burst of packets of at most 1100 bytes (see --paced)
    #[arg(long, value_name = "N", default_value = "30", value_parser = clap::value_parser!(u32).range(1..=240))]
    pub fps: u32,
    /// Spread the packets of a frame as libwebrtc's pacer does, at 2.5 times the bitrate, instead of sending
    /// them together
    #[arg(long)]
    pub paced: bool,
    /// Send video in three layers (RIDs q, h, f), as Chromium does. Ends with an error if the server
    /// does not accept simulcast
    #[arg(long)]
    pub simulcast: bool,
    /// Number packets and report their arrivals both ways, as browsers do (transport-cc), so that the server
    /// estimates what each client can take; lost packets come on RTX then
    #[arg(long)]
    pub transport_cc: bool,
    /// Publish tracks but send no media: what idle clients cost
    #[arg(long)]
    pub idle: bool,
    /// How long to measure, from when all have joined
    #[arg(long, value_name = "TIME", default_value = "30s", value_parser = time)]
    pub duration: Duration,
    /// How long to wait, once all have joined, before measuring: with --transport-cc, until the server knows what
    /// they can take
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = time)]
    pub warm_up: Duration,
    /// How fast clients join: 100/s, or a time for all of them, such as 10s
    #[arg(long, value_name = "RATE|TIME", default_value = "100/s", value_parser = Ramp::from_str)]
    pub ramp: Ramp,
    /// How long a client may take from its start to media of every track
    #[arg(long, value_name = "TIME", default_value = "20s", value_parser = time)]
    pub join_timeout: Duration,
    /// Lose this share of each client's datagrams, each way
    #[arg(long, value_name = "PERCENT", default_value = "0%", value_parser = percent)]
    pub loss: f64,
    /// Delay each client's datagrams by this, each way
    #[arg(long, value_name = "TIME", default_value = "0ms", value_parser = time)]
    pub delay: Duration,
    /// Let through only so many bits/s for each client, each way; 0: no limit
    #[arg(long, value_name = "RATE", default_value = "0", value_parser = bits)]
    pub rate: u64,
    /// How many received packets are decrypted and looked into: full, sample (1 in 16), or sample:N.
    /// Only these tell latency; the others are counted by their headers
    #[arg(long, value_name = "HOW", default_value = "sample", value_parser = Verify::from_str)]
    pub verify: Verify,
    /// Worker threads; 0: half of the cores
    #[arg(long, value_name = "N", default_value = "0", value_parser = clap::value_parser!(u16).range(0..=256))]
    pub threads: u16,
    /// The server's process: report its CPU time per forwarded packet, and its memory
    #[arg(long, value_name = "PID")]
    pub server_pid: Option<u32>,
    /// Write the numbers as JSON to this file; - is standard output (the table goes to standard error
    /// then)
    #[arg(long, value_name = "FILE")]
    pub json: Option<PathBuf>,
    /// Fail if more than this share of packets is lost
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    pub max_loss: Option<f64>,
    /// Fail if the 99th percentile of the one-way latency is above this
    #[arg(long, value_name = "TIME", value_parser = time)]
    pub max_p99: Option<Duration>,
    /// Of all random choices: loss, sizes of frames, sampling
    #[arg(long, value_name = "N", default_value = "1")]
    pub seed: u64,
    /// Allow a server that is not on loopback
    #[arg(long)]
    pub allow_remote: bool,
}

const AFTER_HELP: &str = "\
Rates are numbers with k, M or G; times have us, ms, s, m or h; shares are percentages.

Only a server on loopback is loaded unless --allow-remote is given: be sure that it is yours.

Publishers and subscribers read one clock, so that latency is one way. It is told to arrival at a subscriber's \
socket, which --max-p99 asks for, and to being read there by this program. With --delay it holds the delay \
twice: on the way up and on the way down.

Loss counts over the whole run, from each stream's first packet on. With --loss and --rate clients lose \
themselves; publishers send at their bitrate, whatever the way up carries.

Exit code: 0 if everybody joined and lasted and --max-loss and --max-p99 hold, 1 if not, 2 if the command \
line is wrong, or the server cannot be reached or does not do what was asked for.

  shardcast load ws://127.0.0.1:8080 --subscribers 50 --audio --server-pid $(pidof shardcast) \\
      --max-loss 0.1% --max-p99 5ms";

impl Options {
    /// How many clients there are.
    #[must_use]
    pub fn clients(&self) -> u32 {
        self.rooms
            .saturating_mul(self.publishers.saturating_add(self.subscribers))
    }

    /// How many worker threads there are.
    #[must_use]
    pub fn workers(&self) -> usize {
        let cores = std::thread::available_parallelism().map_or(1, NonZero::get);
        match usize::from(self.threads) {
            0 => (cores / 2).max(1),
            count => count,
        }
    }

    /// How bad each client's link is.
    #[must_use]
    pub fn impairment(&self) -> Conditions {
        Conditions {
            loss: self.loss,
            delay: self.delay,
            rate_bps: (self.rate > 0).then_some(self.rate),
            ..Conditions::default()
        }
    }

    /// What only several options together can break.
    ///
    /// # Errors
    /// What is wrong, for people.
    pub fn check(&self) -> Result<(), String> {
        if !self.allow_remote && !self.target.address.ip().is_loopback() {
            return Err(format!(
                "{} is not on this machine; --allow-remote loads it all the same",
                self.target.address
            ));
        }
        if self.clients() > CLIENTS_MAX {
            return Err(format!(
                "{} clients are too many: every client needs a port, so {CLIENTS_MAX} is the most",
                self.clients()
            ));
        }
        if !self.audio && self.video_bitrate == 0 {
            return Err("there is nothing to send: neither --audio nor --video-bitrate".to_owned());
        }
        if self.simulcast && self.video_bitrate == 0 {
            return Err("--simulcast needs a --video-bitrate".to_owned());
        }
        Ok(())
    }
}

/// The ephemeral ports of Linux are 28 232.
const CLIENTS_MAX: u32 = 28_000;

/// A server's signaling.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// What the WebSocket asks for.
    pub url: String,
    /// Where it is.
    pub address: SocketAddr,
}

impl FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let rest = text.strip_prefix("ws://").ok_or_else(|| {
            "expected ws://host:port (TLS is not spoken: load the server, not its proxy)".to_owned()
        })?;
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, "/ws"),
        };
        let path = if path == "/" { "/ws" } else { path };
        let has_port = authority.rsplit_once(':').is_some_and(|(host, port)| {
            port.parse::<u16>().is_ok() && (!host.contains(':') || host.ends_with(']'))
        });
        let full = match has_port {
            true => authority.to_owned(),
            false => format!("{authority}:80"),
        };
        let mut addresses: Vec<SocketAddr> = full
            .to_socket_addrs()
            .map_err(|error| format!("{authority}: {error}"))?
            .collect();
        // A server may listen on IPv4 only; one that listens on IPv6 takes IPv4, too.
        addresses.sort_by_key(SocketAddr::is_ipv6);
        let address = *addresses
            .first()
            .ok_or_else(|| format!("{authority} has no address"))?;
        Ok(Self {
            url: format!("ws://{authority}{path}"),
            address,
        })
    }
}

/// How fast clients join.
#[derive(Debug, Clone, Copy, PartialEq)]
pub enum Ramp {
    /// So many a second.
    Rate(f64),
    /// All within this time.
    Within(Duration),
}

impl Ramp {
    /// When the client `index` of `count` begins, after the first one.
    #[must_use]
    pub fn offset(self, index: u32, count: u32) -> Duration {
        match self {
            Self::Rate(rate) => Duration::from_secs_f64(f64::from(index) / rate),
            Self::Within(time) => time.mul_f64(f64::from(index) / f64::from(count.max(1))),
        }
    }
}

impl FromStr for Ramp {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let ramp = match text.strip_suffix("/s") {
            None => time(text).ok().map(Self::Within),
            Some(rate) => {
                let rate = rate.parse().ok();
                let rate = rate.filter(|rate| (0.1..=100_000.0).contains(rate));
                rate.map(Self::Rate)
            }
        };
        ramp.ok_or_else(|| "expected a rate such as 100/s, or a time such as 10s".to_owned())
    }
}

/// Which packets are opened.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verify {
    /// One of so many; 1 is all.
    pub one_of: u32,
}

impl FromStr for Verify {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let one_of = match text {
            "full" => Some(1),
            "sample" => Some(SAMPLE_ONE_OF),
            _ => text.strip_prefix("sample:").and_then(|n| n.parse().ok()),
        };
        one_of
            .filter(|n| (1..=ONE_OF_MAX).contains(n))
            .map(|one_of| Self { one_of })
            .ok_or_else(|| format!("expected full, sample, or sample:N with N up to {ONE_OF_MAX}"))
    }
}

/// Opening costs about 0.5 µs a packet; of a stream of 1 Mbit/s this leaves eight latencies a second.
const SAMPLE_ONE_OF: u32 = 16;

/// `1M`, `1.5M`, `500k`, `0`.
fn bits(text: &str) -> Result<u64, String> {
    let (number, unit) = match text.char_indices().last() {
        Some((at, 'k' | 'K')) => (&text[..at], 1e3),
        Some((at, 'M')) => (&text[..at], 1e6),
        Some((at, 'G')) => (&text[..at], 1e9),
        _ => (text, 1.0),
    };
    let number: Option<f64> = number.parse().ok().filter(|n: &f64| n.is_finite());
    number
        .map(|number| number * unit)
        .filter(|bits| (0.0..=1e11).contains(bits))
        .map(|bits| bits.round() as u64)
        .ok_or_else(|| "expected bits/s such as 500k or 1.5M".to_owned())
}

/// `50ms`, `1.5s`, `2m`.
fn time(text: &str) -> Result<Duration, String> {
    let units = [
        ("us", 1e-6),
        ("ms", 1e-3),
        ("s", 1.0),
        ("m", 60.0),
        ("h", 3600.0),
    ];
    let found = units.iter().find_map(|(unit, seconds)| {
        let number: f64 = text.strip_suffix(unit)?.parse().ok()?;
        Some(number * seconds)
    });
    found
        .filter(|seconds| (0.0..=86_400.0).contains(seconds))
        .map(Duration::from_secs_f64)
        .ok_or_else(|| "expected a time such as 50ms or 30s".to_owned())
}

/// `2%` as 0.02.
fn percent(text: &str) -> Result<f64, String> {
    let number: Option<f64> = text.strip_suffix('%').unwrap_or(text).parse().ok();
    number
        .filter(|percent| (0.0..=100.0).contains(percent))
        .map(|percent| percent / 100.0)
        .ok_or_else(|| "expected a percentage such as 0.1%".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(args: &[&str]) -> Result<Options, String> {
        let args = ["shardcast load", "ws://127.0.0.1:8080"].iter().chain(args);
        let options = Options::try_parse_from(args).map_err(|error| error.to_string())?;
        options.check().map(|()| options)
    }

    #[test]
    fn defaults_and_values() {
        let options = parse(&[]).unwrap();
        assert_eq!(
            (options.rooms, options.publishers, options.subscribers),
            (1, 1, 1)
        );
        assert_eq!((options.video_bitrate, options.fps), (1_000_000, 30));
        assert!(options.impairment().is_none() && options.workers() >= 1);
        assert_eq!(options.verify.one_of, 16);
        let args = "--rooms 2 --publishers 3 --subscribers 4 --audio --video-bitrate 1.5M --fps 25 \
            --duration 1.5s --ramp 20/s --loss 2% --delay 50ms --rate 2M --verify full --max-loss 0.1% \
            --max-p99 5ms --server-pid 77 --json - --threads 3";
        let options = parse(&args.split_whitespace().collect::<Vec<_>>()).unwrap();
        assert_eq!((options.clients(), options.workers()), (14, 3));
        assert_eq!(options.video_bitrate, 1_500_000);
        assert_eq!(options.duration, Duration::from_millis(1500));
        let impairment = options.impairment();
        assert!((impairment.loss - 0.02).abs() < 1e-9);
        assert_eq!(impairment.delay, Duration::from_millis(50));
        assert_eq!(impairment.rate_bps, Some(2_000_000));
        assert!((options.max_loss.unwrap() - 0.001).abs() < 1e-9);
        assert_eq!(options.max_p99, Some(Duration::from_millis(5)));
        assert_eq!((options.server_pid, options.verify.one_of), (Some(77), 1));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases: [&[&str]; 16] = [
            &["--rooms", "0"],
            &["--rooms", "-1"],
            &["--publishers", "0"],
            &["--rooms", "1000", "--subscribers", "100"],
            &["--video-bitrate", "0"],
            &["--video-bitrate", "fast"],
            &["--video-bitrate", "-1M"],
            &["--video-bitrate", "NaN"],
            &["--duration", "5"],
            &["--ramp", "0/s"],
            &["--ramp", "-5s"],
            &["--loss", "101%"],
            &["--verify", "sample:0"],
            &["--verify", "some"],
            &["--audio", "--video-bitrate", "0", "--simulcast"],
            &["--bogus"],
        ];
        for args in cases {
            assert!(parse(args).is_err(), "{args:?}");
        }
        assert!(parse(&["--audio", "--video-bitrate", "0"]).is_ok());
    }

    #[test]
    fn targets() {
        let good = [
            (
                "ws://127.0.0.1:8080",
                "ws://127.0.0.1:8080/ws",
                "127.0.0.1:8080",
            ),
            ("ws://127.0.0.1:1/", "ws://127.0.0.1:1/ws", "127.0.0.1:1"),
            (
                "ws://127.0.0.1:1/x/y",
                "ws://127.0.0.1:1/x/y",
                "127.0.0.1:1",
            ),
            ("ws://127.0.0.1", "ws://127.0.0.1/ws", "127.0.0.1:80"),
            ("ws://[::1]:8080", "ws://[::1]:8080/ws", "[::1]:8080"),
            ("ws://[::1]", "ws://[::1]/ws", "[::1]:80"),
        ];
        for (text, url, address) in good {
            let target: Target = text.parse().unwrap();
            assert_eq!(
                (&target.url[..], target.address.to_string()),
                (url, address.to_owned())
            );
        }
        for bad in [
            "wss://127.0.0.1",
            "127.0.0.1:8080",
            "ws://",
            "ws://127.0.0.1:99999",
        ] {
            assert!(bad.parse::<Target>().is_err(), "{bad}");
        }
        let far = Options::try_parse_from(["x", "ws://192.0.2.1:8080"]).unwrap();
        assert!(far.check().unwrap_err().contains("--allow-remote"));
        let far = Options::try_parse_from(["x", "ws://192.0.2.1:8080", "--allow-remote"]).unwrap();
        assert!(far.check().is_ok());
    }

    #[test]
    fn ramps() {
        let ms = Duration::from_millis;
        assert_eq!("100/s".parse::<Ramp>().unwrap().offset(5, 10), ms(50));
        assert_eq!("10s".parse::<Ramp>().unwrap().offset(5, 10), ms(5000));
        assert_eq!("0s".parse::<Ramp>().unwrap().offset(5, 10), ms(0));
    }
}
