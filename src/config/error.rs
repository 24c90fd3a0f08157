//! Why there is no configuration, told so that people can mend it.

use std::fmt;
use std::path::PathBuf;

use clap::error::ErrorKind;

use crate::config::option::{OPTIONS, variable};

/// Why there is no `Config`. `Display` is one clear message for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ConfigError {
    /// Not an error: the text of `--help` or `--version`, for standard output; exit code 0.
    Information(String),
    /// The command line itself is wrong: an unknown flag, a missing value.
    Usage(String),
    /// A value that is not allowed.
    BadValue {
        /// The option's name, as in the file.
        option: &'static str,
        /// What was given.
        value: String,
        /// Who gave it.
        source: Source,
        /// What is allowed.
        allowed: String,
    },
    /// The file has a key that is no option.
    UnknownKey {
        /// The key.
        key: String,
        /// The file.
        path: PathBuf,
    },
    /// The file is not TOML.
    Syntax {
        /// The file.
        path: PathBuf,
        /// What is wrong and in which line.
        reason: String,
    },
    /// The file cannot be read.
    Unreadable {
        /// The file.
        path: PathBuf,
        /// What the system says.
        reason: String,
    },
}

impl fmt::Display for ConfigError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Information(text) | Self::Usage(text) => f.write_str(text.trim_end()),
            Self::BadValue {
                option,
                value,
                source,
                allowed,
            } => {
                match source {
                    Source::Flag => write!(f, "flag --{option}")?,
                    Source::Environment => {
                        write!(f, "environment variable {}", variable(option))?;
                    }
                    Source::File(path) => write!(f, "key {option} in {}", path.display())?,
                    Source::Default => write!(f, "option {option} (its default)")?,
                }
                write!(f, ": {value:?} is not allowed; expected {allowed}")
            }
            Self::UnknownKey { key, path } => {
                let known: Vec<&str> = OPTIONS.iter().map(|o| o.name).collect();
                write!(
                    f,
                    "unknown key {key:?} in {}; known keys: {}",
                    path.display(),
                    known.join(", ")
                )
            }
            Self::Syntax { path, reason } => {
                write!(
                    f,
                    "{} is not valid TOML: {}",
                    path.display(),
                    reason.trim_end()
                )
            }
            Self::Unreadable { path, reason } => {
                write!(f, "cannot read {}: {reason}", path.display())
            }
        }
    }
}

impl std::error::Error for ConfigError {}

/// What clap has to say instead of matches.
impl From<clap::Error> for ConfigError {
    fn from(error: clap::Error) -> Self {
        let text = error.render().to_string();
        match error.kind() {
            ErrorKind::DisplayHelp | ErrorKind::DisplayVersion => Self::Information(text),
            _ => Self::Usage(text),
        }
    }
}

/// Who gave a value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// A flag of the command line.
    Flag,
    /// An environment variable `SHARDCAST_*`.
    Environment,
    /// The TOML file of this path.
    File(PathBuf),
    /// Nobody: it is the default.
    Default,
}
