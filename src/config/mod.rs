//! Options: flags, environment and a TOML file, validated once.
//!
//! Every option is one row of a table (`option.rs`): a flag `--name`, an environment variable `SHARDCAST_NAME`
//! and a key `name` of the file. A flag wins over the environment, that over the file, that over the
//! default. Owns no file and no environment: the caller passes both in as functions.

mod error;
mod ice_server;
mod option;
mod values;

use std::ffi::OsString;
use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::str::FromStr;
use std::time::Duration;

use crate::base::ids::ShardId;
use crate::base::ufrag::ICE_CHARS;
pub use crate::config::error::{ConfigError, Source};
pub use crate::config::ice_server::IceServer;
use crate::config::ice_server::{ICE_SERVER_ALLOWED, ice_server};
use crate::config::option::{CONFIG_OPTION, OPTIONS, VARIABLE_PREFIX, variable};
use crate::config::values::Values;

/// The most shards that can be configured.
pub const SHARDS_MAX: u16 = 64;

// A ufrag names its shard by one character.
const _: () = assert!(SHARDS_MAX as usize <= ICE_CHARS.len());

/// The options of a run, all valid.
#[derive(Debug, Clone, PartialEq)]
pub struct Config {
    /// Where HTTP and WebSocket are served. `[::]` stands for every address of the machine, IPv4
    /// too, and for `0.0.0.0` where there is no IPv6. Port 0 lets the system choose.
    pub http: SocketAddr,
    /// Where media sockets are bound; the unspecified address stands as in [`Config::http`].
    pub udp_bind: IpAddr,
    /// The first shard's UDP port, the others follow (or share it, see [`Config::single_port`]); 0 lets
    /// the system choose.
    pub udp_port: u16,
    /// The addresses clients are told instead of those of the interfaces; may be empty.
    pub announce: Vec<IpAddr>,
    /// How many shards, 1–[`SHARDS_MAX`].
    pub shards: u16,
    /// Whether all shards share the port [`Config::udp_port`].
    pub single_port: bool,
    /// Whether each shard thread is bound to a core.
    pub pin_cores: bool,
    /// Whether shard threads go before every thread of ordinary priority, where the system lets them.
    pub real_time: bool,
    /// Peers of one room on one shard, from which on the next goes to another shard, if there is one.
    pub spill_peers: usize,
    /// From this share of its time at work on, in percent, a shard takes no further peers while another can; above
    /// 100: whatever its load.
    pub spill_load: u8,
    /// The most HTTP and WebSocket connections at a time.
    pub max_connections: usize,
    /// The most of those from one IPv4 address or IPv6 /64; `None`: no limit.
    pub max_connections_per_ip: Option<usize>,
    /// The most rooms at a time.
    pub max_rooms: usize,
    /// The most peers in one room.
    pub max_peers_per_room: usize,
    /// How many publishers' pictures each peer gets at most, those who spoke last; `None`: all.
    pub last_n: Option<usize>,
    /// How many audio streams of a room are forwarded at most, the loudest; `None`: all.
    pub max_audio_streams: Option<usize>,
    /// How long a shard that has received media waits for more before it sends it on; zero: not at all.
    pub batch_window: Duration,
    /// The STUN and TURN servers that clients are told of.
    pub ice_servers: Vec<IceServer>,
    /// What is logged, in the syntax of `tracing_subscriber::EnvFilter`.
    pub log: String,
}

impl Config {
    /// Reads every source and validates what they say together.
    ///
    /// `args` begins with the program's name. `env` looks one variable up, `read_file` reads the
    /// file that `--config` names. `cores` is how many shards there are by default (at most
    /// [`SHARDS_MAX`], at least 1). A variable that is set but empty counts as not set, so that a
    /// compose file can pass on what may be missing.
    ///
    /// # Errors
    /// [`ConfigError::Information`] if `--help` or `--version` was asked for; otherwise the first
    /// thing that is wrong, with the option, the value, what is allowed and where it came from.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
        read_file: impl Fn(&Path) -> std::io::Result<String>,
        cores: usize,
    ) -> Result<Self, ConfigError> {
        let values = Values::collect(args, env, read_file)?;
        Self::validate(&values, cores)
    }

    fn validate(values: &Values, cores: usize) -> Result<Self, ConfigError> {
        let config = Self {
            http: values.one(
                "http",
                "an IP address and a port, such as 0.0.0.0:8080 or [::]:8080",
                parsed,
            )?,
            udp_bind: values.one("udp-bind", "an IP address", |text| {
                parsed::<IpAddr>(text).filter(|ip| !ip.is_multicast())
            })?,
            udp_port: values.one("udp-port", "a port, 0 to 65535", parsed)?,
            announce: values.many(
                "announce",
                "an IP address that clients can send to",
                |item| item.text().and_then(announced),
            )?,
            shards: values.one(
                "shards",
                "auto, or a number from 1 to 64",
                |text| match text {
                    "auto" => Some(cores.clamp(1, usize::from(SHARDS_MAX)) as u16),
                    _ => parsed(text).filter(|n| (1..=SHARDS_MAX).contains(n)),
                },
            )?,
            single_port: values.one("single-port", "true or false", parsed)?,
            pin_cores: values.one("pin-cores", "true or false", parsed)?,
            real_time: values.one("real-time", "true or false", parsed)?,
            spill_peers: values.one(
                "spill-peers",
                "a number from 1 to 10000",
                number_up_to(10_000),
            )?,
            spill_load: values.one("spill-load", "off, or a percentage from 1 to 100", |text| {
                match text {
                    "off" => Some(u8::MAX),
                    _ => parsed(text).filter(|n| (1..=100).contains(n)),
                }
            })?,
            max_connections: values.one(
                "max-connections",
                "a number from 1 to 65536",
                number_up_to(65_536),
            )?,
            max_connections_per_ip: values.one(
                "max-connections-per-ip",
                "off, or a number from 1 to 65536",
                |text| match text {
                    "off" => Some(None),
                    _ => number_up_to(65_536)(text).map(Some),
                },
            )?,
            max_rooms: values.one(
                "max-rooms",
                "a number from 1 to 1000000",
                number_up_to(1_000_000),
            )?,
            max_peers_per_room: values.one(
                "max-peers-per-room",
                "a number from 1 to 10000",
                number_up_to(10_000),
            )?,
            last_n: off_or_number(values, "last-n")?,
            max_audio_streams: off_or_number(values, "max-audio-streams")?,
            batch_window: batch_window(values)?,
            ice_servers: values.many("ice-server", ICE_SERVER_ALLOWED, ice_server)?,
            log: log_filter(values)?,
        };
        config.check_together(values)?;
        Ok(config)
    }

    /// What only several options together can break.
    fn check_together(&self, values: &Values) -> Result<(), ConfigError> {
        if !self.single_port
            && self.udp_port != 0
            && self.udp_port.checked_add(self.shards - 1).is_none()
        {
            return Err(values.refuse(
                "udp-port",
                &self.udp_port.to_string(),
                format!(
                    "a port that leaves room below 65536 for one port for each of {} shards",
                    self.shards
                ),
            ));
        }
        // A socket of one family, or of one address, can never receive what is sent to the other.
        let unreachable = |ip: &&IpAddr| match self.udp_bind {
            IpAddr::V4(_) => ip.is_ipv6(),
            IpAddr::V6(bind) => !bind.is_unspecified() && ip.is_ipv4(),
        };
        if let Some(ip) = self.announce.iter().find(unreachable) {
            return Err(values.refuse(
                "announce",
                &ip.to_string(),
                format!(
                    "an address of the same family as udp-bind {}",
                    self.udp_bind
                ),
            ));
        }
        Ok(())
    }

    /// Those of the environment's variables that look like options of this program and are none: misspelt ones, most
    /// likely, which nobody would miss otherwise.
    pub fn unknown_variables(names: impl IntoIterator<Item = OsString>) -> Vec<String> {
        let known: Vec<String> = OPTIONS.iter().map(|o| variable(o.name)).collect();
        let config = variable(CONFIG_OPTION);
        let names = names.into_iter().filter_map(|name| name.into_string().ok());
        let mut unknown: Vec<String> = names
            .filter(|name| name.starts_with(VARIABLE_PREFIX))
            .filter(|name| *name != config && !known.contains(name))
            .collect();
        unknown.sort_unstable();
        unknown
    }

    /// The UDP port of one shard: consecutive from [`Config::udp_port`], or 0 for any; with
    /// [`Config::single_port`] the same for all.
    #[must_use]
    pub fn udp_port_of(&self, shard: ShardId) -> u16 {
        match self.udp_port {
            0 => 0,
            shared if self.single_port => shared,
            first => first.saturating_add(shard.0),
        }
    }
}

fn parsed<T: FromStr>(text: &str) -> Option<T> {
    text.parse().ok()
}

fn number_up_to(max: usize) -> impl Fn(&str) -> Option<usize> {
    move |text| parsed(text).filter(|n| (1..=max).contains(n))
}

fn off_or_number(values: &Values, name: &'static str) -> Result<Option<usize>, ConfigError> {
    values.one(name, "off, or a number from 1 to 1000", |text| match text {
        "off" => Some(None),
        _ => number_up_to(1000)(text).map(Some),
    })
}

fn batch_window(values: &Values) -> Result<Duration, ConfigError> {
    let allowed = "a number of microseconds from 0 to 10000";
    values.one("batch-window-us", allowed, |text| {
        let window = parsed(text).filter(|us| *us <= 10_000);
        window.map(Duration::from_micros)
    })
}

fn log_filter(values: &Values) -> Result<String, ConfigError> {
    let allowed = "a tracing filter, such as info or warn,shardcast=debug";
    values.one("log", allowed, |text| {
        let filter = tracing_subscriber::EnvFilter::try_new(text);
        filter.ok().map(|_| text.to_owned())
    })
}

/// An address that a client can be told: one machine, and not in need of a scope.
fn announced(text: &str) -> Option<IpAddr> {
    let ip = parsed::<IpAddr>(text)?.to_canonical();
    let is_scoped = matches!(ip, IpAddr::V6(v6) if v6.is_unicast_link_local());
    (!ip.is_unspecified() && !ip.is_multicast() && !is_scoped).then_some(ip)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Loads with flags, variables and the text of the file that `--config f` or the variable names.
    fn load(args: &[&str], env: &[(&str, &str)], file: &str) -> Result<Config, ConfigError> {
        let args = std::iter::once("shardcast").chain(args.iter().copied());
        Config::load(
            args.map(OsString::from),
            |name| {
                let found = env.iter().find(|(n, _)| *n == name);
                found.map(|(_, value)| OsString::from(value))
            },
            |path| match path.to_str() {
                Some("f") => Ok(file.to_owned()),
                _ => Err(std::io::ErrorKind::NotFound.into()),
            },
            2,
        )
    }

    #[test]
    fn defaults() {
        let config = load(&[], &[], "").unwrap();
        let expected = Config {
            http: "[::]:8080".parse().unwrap(),
            udp_bind: "::".parse().unwrap(),
            udp_port: 40_000,
            announce: vec![],
            shards: 2,
            single_port: false,
            pin_cores: false,
            real_time: false,
            spill_peers: 250,
            spill_load: 60,
            max_connections: 4096,
            max_connections_per_ip: None,
            max_rooms: 10_000,
            max_peers_per_room: 1000,
            last_n: None,
            max_audio_streams: None,
            batch_window: Duration::ZERO,
            ice_servers: vec![],
            log: "info".to_owned(),
        };
        assert_eq!(config, expected);
        assert_eq!(config.udp_port_of(ShardId(1)), 40_001);
    }

    #[test]
    fn a_flag_wins_over_the_environment_and_that_over_the_file() {
        let file = "udp-port = 1000\nmax-rooms = 7";
        let env = ("SHARDCAST_UDP_PORT", "2000");
        let flags = ["--config", "f", "--udp-port", "3000"];
        assert_eq!(load(&flags, &[env], file).unwrap().udp_port, 3000);
        assert_eq!(load(&flags[..2], &[env], file).unwrap().udp_port, 2000);
        let by_file = load(&flags[..2], &[("SHARDCAST_UDP_PORT", "")], file).unwrap();
        assert_eq!((by_file.udp_port, by_file.max_rooms), (1000, 7));
        let by_variable = load(&[], &[("SHARDCAST_CONFIG", "f")], file).unwrap();
        assert_eq!(by_variable.udp_port, 1000);
    }

    #[test]
    fn misspelt_variables_are_found() {
        let names = [
            "SHARDCAST_MAX_ROOM",
            "PATH",
            "SHARDCAST_CONFIG",
            "SHARDCAST_MAX_ROOMS",
            "SHARDCAST_",
            "shardcast_http",
        ];
        let unknown = Config::unknown_variables(names.map(OsString::from));
        assert_eq!(unknown, ["SHARDCAST_", "SHARDCAST_MAX_ROOM"]);
    }

    #[test]
    fn every_option_has_three_ways_in() {
        let samples: [(&str, &str); 19] = [
            ("http", "127.0.0.1:0"),
            ("udp-bind", "127.0.0.1"),
            ("udp-port", "0"),
            ("announce", "203.0.113.7"),
            ("shards", "3"),
            ("single-port", "true"),
            ("pin-cores", "true"),
            ("real-time", "true"),
            ("spill-peers", "4"),
            ("spill-load", "75"),
            ("max-connections", "5"),
            ("max-connections-per-ip", "2"),
            ("max-rooms", "6"),
            ("max-peers-per-room", "7"),
            ("last-n", "8"),
            ("max-audio-streams", "9"),
            ("batch-window-us", "250"),
            ("ice-server", "stun:stun.example.org"),
            ("log", "debug"),
        ];
        let default = load(&[], &[], "").unwrap();
        assert_eq!(samples.len(), OPTIONS.len());
        for (name, value) in samples {
            let by_flag = load(&[&format!("--{name}={value}")], &[], "").unwrap();
            let by_env = load(&[], &[(&variable(name), value)], "").unwrap();
            let file = format!("{name} = \"{value}\"");
            let by_file = load(&["--config=f"], &[], &file).unwrap();
            assert_ne!(by_flag, default, "{name}");
            assert_eq!(by_flag, by_env, "{name}");
            assert_eq!(by_flag, by_file, "{name}");
        }
    }

    #[test]
    fn a_switch_needs_no_value_and_takes_no_other_word() {
        let on = load(&["--single-port", "--shards", "3"], &[], "").unwrap();
        assert!(on.single_port && on.shards == 3);
        assert_eq!(on.udp_port_of(ShardId(2)), on.udp_port);
        let file = "single-port = true\nudp-port = 65535";
        assert!(load(&["--config=f"], &[], file).unwrap().single_port);
        let off = load(
            &["--config=f", "--single-port=false"],
            &[],
            "single-port = true",
        );
        assert!(!off.unwrap().single_port);
        assert!(load(&["--single-port", "false"], &[], "").is_err());
        assert!(load(&["--single-port=perhaps"], &[], "").is_err());
    }

    #[test]
    fn lists_come_repeated_comma_separated_or_as_arrays() {
        let expected: Vec<IpAddr> =
            vec!["1.2.3.4".parse().unwrap(), "2001:db8::1".parse().unwrap()];
        let flags = ["--announce", "1.2.3.4", "--announce", "2001:db8::1"];
        let file = r#"announce = ["1.2.3.4", "2001:db8::1"]"#;
        let env = [("SHARDCAST_ANNOUNCE", "1.2.3.4, 2001:db8::1")];
        assert_eq!(load(&flags, &[], "").unwrap().announce, expected);
        assert_eq!(load(&[], &env, "").unwrap().announce, expected);
        assert_eq!(load(&["--config=f"], &[], file).unwrap().announce, expected);
        let none = load(&["--config=f"], &[], "announce = []").unwrap();
        assert!(none.announce.is_empty());
    }

    #[test]
    fn bad_values_name_option_value_source_and_what_is_allowed() {
        /// Flags, variables, the file, and a part of the message.
        type Case<'a> = (&'a [&'a str], &'a [(&'a str, &'a str)], &'a str, &'a str);
        let cases: [Case<'_>; 14] = [
            (
                &["--udp-port", "70000"],
                &[],
                "",
                "flag --udp-port: \"70000\" is not allowed; expected a port, 0 to 65535",
            ),
            (&["--udp-port", "-1"], &[], "", "flag --udp-port: \"-1\""),
            (
                &[],
                &[("SHARDCAST_SHARDS", "65")],
                "",
                "environment variable SHARDCAST_SHARDS: \"65\"",
            ),
            (
                &["--config=f"],
                &[],
                "max-rooms = 0",
                "key max-rooms in f: \"0\" is not allowed; expected a number from 1 to 1000000",
            ),
            (&["--config=f"], &[], "max-rooms = 1.5", "\"1.5\""),
            (
                &["--config=f"],
                &[],
                "max-rooms = [1, 2]",
                "a list of 2 values",
            ),
            (&["--config=f"], &[], "[http]\na = 1", "a table with a"),
            (
                &["--http", "localhost"],
                &[],
                "",
                "an IP address and a port",
            ),
            (
                &["--announce", "1.2.3.4,"],
                &[],
                "",
                "flag --announce: \"\"",
            ),
            (
                &["--announce", "0.0.0.0"],
                &[],
                "",
                "flag --announce: \"0.0.0.0\"",
            ),
            (
                &["--announce", "fe80::1"],
                &[],
                "",
                "flag --announce: \"fe80::1\"",
            ),
            (
                &["--udp-bind", "10.0.0.1", "--announce", "2001:db8::1"],
                &[],
                "",
                "the same family as udp-bind 10.0.0.1",
            ),
            (&["--udp-port", "65535"], &[], "", "for each of 2 shards"),
            (&["--log", "shardcast=loud"], &[], "", "flag --log"),
        ];
        for (args, env, file, message) in cases {
            let error = load(args, env, file).unwrap_err();
            assert!(matches!(error, ConfigError::BadValue { .. }), "{error:?}");
            assert!(error.to_string().contains(message), "{error} / {message}");
        }
    }

    #[test]
    fn files_and_flags_that_make_no_sense_are_refused() {
        let unknown = load(&["--config=f"], &[], "udp_port = 1")
            .unwrap_err()
            .to_string();
        assert!(
            unknown.contains("unknown key \"udp_port\" in f"),
            "{unknown}"
        );
        assert!(unknown.contains("udp-port"), "{unknown}");
        let syntax = load(&["--config=f"], &[], "\nhttp = ")
            .unwrap_err()
            .to_string();
        assert!(
            syntax.contains("f is not valid TOML") && syntax.contains("line 2"),
            "{syntax}"
        );
        let missing = load(&["--config=g"], &[], "").unwrap_err().to_string();
        assert!(missing.contains("cannot read g"), "{missing}");
        let flag = load(&["--bogus"], &[], "").unwrap_err();
        assert!(
            matches!(&flag, ConfigError::Usage(text) if text.contains("--bogus")),
            "{flag}"
        );
        assert!(matches!(
            load(&["--http"], &[], ""),
            Err(ConfigError::Usage(_))
        ));
    }

    #[test]
    fn ice_servers() {
        let accepted: [(&str, usize); 5] = [
            (r#"ice-server = "stun:stun.example.org""#, 1),
            (
                r#"ice-server = ["stun:192.0.2.1:3478", "stuns:[2001:db8::1]:5349"]"#,
                2,
            ),
            (
                "[[ice-server]]\nurls = [\"turn:t.example:3478?transport=tcp\"]\nusername = \"u\"\ncredential = \"secret\"",
                1,
            ),
            (
                r#"ice-server = ["stun:a", {urls = "turns:b", username = "u", credential = "secret"}]"#,
                2,
            ),
            ("ice-server = []", 0),
        ];
        for (file, count) in accepted {
            let config = load(&["--config=f"], &[], file).unwrap();
            assert_eq!(config.ice_servers.len(), count, "{file}");
            assert!(!format!("{config:?}").contains("secret"));
        }
        let refused = [
            r#"ice-server = "turn:needs.credentials""#,
            r#"ice-server = "http://example.org""#,
            r#"ice-server = "stun:""#,
            r#"ice-server = "stun:a:0""#,
            r#"ice-server = "stun:a?transport=udp""#,
            r#"ice-server = "stun:[::1""#,
            r#"ice-server = {urls = [], username = "u"}"#,
            r#"ice-server = {urls = "stun:a", password = "secret"}"#,
        ];
        for file in refused {
            let error = load(&["--config=f"], &[], file).unwrap_err().to_string();
            assert!(error.contains("key ice-server in f"), "{file}: {error}");
            assert!(!error.contains("secret"), "{error}");
        }
    }

    #[test]
    fn help_explains_every_option() {
        let Err(ConfigError::Information(help)) = load(&["--help"], &[], "") else {
            panic!("help is information");
        };
        for option in &OPTIONS {
            assert!(help.contains(&format!("--{}", option.name)), "{help}");
            assert!(help.contains(&variable(option.name)), "{help}");
        }
        assert!(help.contains("SHARDCAST_CONFIG") && help.contains("[default: 40000]"));
        let version = load(&["--version"], &[], "").unwrap_err();
        assert!(version.to_string().starts_with("shardcast "));
    }
}
