//! The table of options: what `--help` says, and every name by which an option can be given.

use clap::{Arg, ArgAction, value_parser};

/// One option as people see it.
pub(in crate::config) struct OptionRow {
    /// The flag without its dashes, and the key in the file.
    pub name: &'static str,
    value_name: &'static str,
    /// Parsed like any given value; empty for a list that is empty by default.
    pub default: &'static str,
    /// Whether it can be given several times.
    pub is_list: bool,
    help: &'static str,
}

impl OptionRow {
    /// Whether it is off by default and switched on by its name alone.
    fn is_switch(&self) -> bool {
        self.default == "false"
    }
}

pub(in crate::config) const OPTIONS: [OptionRow; 19] = [
    OptionRow {
        name: "http",
        value_name: "IP:PORT",
        default: "[::]:8080",
        is_list: false,
        help: "Where HTTP and WebSocket are served. [::] means every address, IPv4 too (and 0.0.0.0 \
               where there is no IPv6). Port 0: any free port",
    },
    OptionRow {
        name: "udp-bind",
        value_name: "IP",
        default: "::",
        is_list: false,
        help: "The address that media sockets are bound to. :: means every address, IPv4 too",
    },
    OptionRow {
        name: "udp-port",
        value_name: "PORT",
        default: "40000",
        is_list: false,
        help: "The first UDP port for media: each shard has one, counted up from here. 0: any free \
               ports",
    },
    OptionRow {
        name: "announce",
        value_name: "IP",
        default: "",
        is_list: true,
        help: "An address clients are told to send media to, for servers behind 1:1 NAT. Can be \
               repeated. Without it: the addresses of every interface that is up",
    },
    OptionRow {
        name: "shards",
        value_name: "N",
        default: "auto",
        is_list: false,
        help: "How many shard threads carry media, 1 to 64. auto: one for each core",
    },
    OptionRow {
        name: "single-port",
        value_name: "BOOL",
        default: "false",
        is_list: false,
        help: "All shards share the one port --udp-port, instead of a port each. For firewalls that \
               open no range; costs a little more for each datagram received",
    },
    OptionRow {
        name: "pin-cores",
        value_name: "BOOL",
        default: "false",
        is_list: false,
        help: "Each shard thread stays on one core (Linux). For machines that do nothing else",
    },
    OptionRow {
        name: "real-time",
        value_name: "BOOL",
        default: "false",
        is_list: false,
        help: "Shard threads go before every thread of ordinary priority, so that no other work on the \
               machine delays media. Needs root, CAP_SYS_NICE or RLIMIT_RTPRIO; without it: a warning",
    },
    OptionRow {
        name: "spill-peers",
        value_name: "N",
        default: "250",
        is_list: false,
        help: "How many peers of one room a shard takes before further ones go to other shards. A room \
               on one shard costs a little less; a room on several can use several cores",
    },
    OptionRow {
        name: "spill-load",
        value_name: "PERCENT",
        default: "60",
        is_list: false,
        help: "From which load on (of one core) a shard takes no further peers while another shard \
               can. off: whatever its load",
    },
    OptionRow {
        name: "max-connections",
        value_name: "N",
        default: "4096",
        is_list: false,
        help: "The most HTTP and WebSocket connections at a time; further ones are answered with 503",
    },
    OptionRow {
        name: "max-connections-per-ip",
        value_name: "N",
        default: "off",
        is_list: false,
        help: "The most of them from one IPv4 address or IPv6 /64; further ones are answered with 503. A \
               reverse proxy, a NAT and an office count as one: set it where clients connect directly. \
               off: no such limit",
    },
    OptionRow {
        name: "max-rooms",
        value_name: "N",
        default: "10000",
        is_list: false,
        help: "The most rooms at a time",
    },
    OptionRow {
        name: "max-peers-per-room",
        value_name: "N",
        default: "1000",
        is_list: false,
        help: "The most peers in one room",
    },
    OptionRow {
        name: "last-n",
        value_name: "N",
        default: "off",
        is_list: false,
        help: "Each peer gets the pictures of the N others who spoke last, and sound of all. A client may \
               ask for fewer. off: pictures of all",
    },
    OptionRow {
        name: "max-audio-streams",
        value_name: "N",
        default: "off",
        is_list: false,
        help: "In rooms with more audio streams only the N loudest are forwarded. For very large rooms, \
               with 5 or more. off: all",
    },
    OptionRow {
        name: "batch-window-us",
        value_name: "MICROSECONDS",
        default: "0",
        is_list: false,
        help: "How long a shard that has received media waits for more, so that more goes out together: \
               less cost for more latency under overload, at most 10000. 0: never waits",
    },
    OptionRow {
        name: "ice-server",
        value_name: "URL",
        default: "",
        is_list: true,
        help: "A STUN server that clients are told of (stun:host:port). Can be repeated. TURN \
               servers need a table in the file: [[ice-server]] with urls, username, credential",
    },
    OptionRow {
        name: "log",
        value_name: "FILTER",
        default: "info",
        is_list: false,
        help: "What is logged: error, warn, info, debug or trace, or a tracing filter such as \
               warn,shardcast=debug",
    },
];

/// The option that cannot stand in the file, because it names the file.
pub(in crate::config) const CONFIG_OPTION: &str = "config";

const AFTER_HELP: &str = "\
`shardcast load` loads a running server with synthetic clients and measures it; it has a
--help of its own.

A flag wins over the environment, the environment over the file, the file over the default.
Every option but --config is also a key of the TOML file under the same name. In the
environment, lists are separated by commas. Example of a file:

  http = \"[::]:8080\"
  announce = [\"203.0.113.7\"]
  ice-server = [\"stun:stun.example.org:3478\"]";

/// What every variable begins with.
pub(in crate::config) const VARIABLE_PREFIX: &str = "SHARDCAST_";

/// The environment variable of an option.
pub(in crate::config) fn variable(name: &str) -> String {
    let name = name.to_uppercase().replace('-', "_");
    format!("{VARIABLE_PREFIX}{name}")
}

/// The command line as clap reads it. Values are plain text here: they are checked with those of the
/// other sources.
pub(in crate::config) fn command() -> clap::Command {
    let config = Arg::new(CONFIG_OPTION)
        .long(CONFIG_OPTION)
        .value_name("FILE")
        .value_parser(value_parser!(String))
        .help("A TOML file with options [env: SHARDCAST_CONFIG] [default: none]");
    let command = clap::Command::new("shardcast")
        .version(env!("CARGO_PKG_VERSION"))
        .about("A WebRTC SFU (selective forwarding unit): rooms in which everybody sees everybody")
        .after_help(AFTER_HELP)
        .arg(config);
    OPTIONS.iter().fold(command, |command, option| {
        let default = match option.default {
            "" => "none",
            text => text,
        };
        let help = format!(
            "{} [env: {}] [default: {default}]",
            option.help,
            variable(option.name)
        );
        let arg = Arg::new(option.name);
        let arg = match option.is_switch() {
            // With "=" only, so that a word behind a switch is never taken for its value.
            true => arg
                .num_args(0..=1)
                .require_equals(true)
                .default_missing_value("true"),
            false => arg,
        };
        command.arg(
            arg.long(option.name)
                .value_name(option.value_name)
                .value_parser(value_parser!(String))
                .allow_negative_numbers(true)
                .action(match option.is_list {
                    true => ArgAction::Append,
                    false => ArgAction::Set,
                })
                .help(help),
        )
    })
}
