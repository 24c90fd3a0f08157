//! The README says what the code does: every error code and every option stands in it.

use shardcast::config::{Config, ConfigError};
use shardcast::control::LayerReason;
use shardcast::signaling::message::ErrorCode;

const README: &str = include_str!("../README.md");

#[test]
fn every_error_code_is_documented() {
    for code in ErrorCode::ALL {
        let row = format!("| `{code}` | ");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}

#[test]
fn every_layer_reason_is_documented() {
    for reason in LayerReason::ALL {
        let row = format!("| `{reason}` | ");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}

#[test]
fn every_option_is_documented() {
    let args = ["shardcast", "--help"].map(Into::into);
    let unreadable = |_: &std::path::Path| Err(std::io::ErrorKind::NotFound.into());
    let Err(ConfigError::Information(help)) = Config::load(args, |_| None, unreadable, 2) else {
        panic!("--help gives information");
    };
    let flags: Vec<&str> = help
        .lines()
        .filter_map(|line| line.trim_start().strip_prefix("--"))
        .filter_map(|line| line.split([' ', '[']).next())
        .filter(|name| !["config", "help", "version"].contains(name))
        .collect();
    assert!(flags.len() >= 10, "{flags:?}");
    for flag in flags {
        let row = format!("| `--{flag}` | `SHARDCAST_");
        assert!(README.contains(&row), "README.md lacks the row {row:?}");
    }
}
