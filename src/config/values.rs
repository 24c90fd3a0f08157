//! What each option was given, layer over layer: flags over environment over file over defaults.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};

use clap::ArgMatches;

use crate::config::error::{ConfigError, Source};
use crate::config::option::{CONFIG_OPTION, OPTIONS, OptionRow, command, variable};

/// One thing an option was given: text, or in the file also a table.
#[derive(Debug, Clone)]
pub(in crate::config) enum Item {
    /// Text, or a number as text.
    Text(String),
    /// A table of the file.
    Table(toml::Table),
}

impl Item {
    /// The text, unless it is a table.
    pub fn text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Table(_) => None,
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            // Names only: a value may be a credential.
            Self::Table(table) => {
                let keys: Vec<&str> = table.keys().map(String::as_str).collect();
                write!(f, "a table with {}", keys.join(", "))
            }
        }
    }
}

#[derive(Debug, Clone)]
struct Given {
    items: Vec<Item>,
    source: Source,
}

impl Given {
    fn new(items: Vec<String>, source: Source) -> Self {
        Self {
            items: items.into_iter().map(Item::Text).collect(),
            source,
        }
    }
}

/// What each option was given by its strongest source.
pub(in crate::config) struct Values(BTreeMap<&'static str, Given>);

impl Values {
    /// Reads every source; `Config::load` says how.
    pub fn collect(
        args: impl IntoIterator<Item = OsString>,
        env: impl Fn(&str) -> Option<OsString>,
        read_file: impl Fn(&Path) -> std::io::Result<String>,
    ) -> Result<Self, ConfigError> {
        let matches = command().try_get_matches_from(args)?;
        let file = match from_flags(&matches, CONFIG_OPTION) {
            Some(paths) => paths.into_iter().next(),
            None => from_env(&env, CONFIG_OPTION)?,
        };
        // From the weakest to the strongest: each replaces what the one before gave.
        let mut given = BTreeMap::new();
        if let Some(path) = file.map(PathBuf::from) {
            let text = read_file(&path).map_err(|error| ConfigError::Unreadable {
                path: path.clone(),
                reason: error.to_string(),
            })?;
            given = read_table(&path, &text)?;
        }
        for option in &OPTIONS {
            if let Some(text) = from_env(&env, option.name)? {
                let items = split(option, text);
                given.insert(option.name, Given::new(items, Source::Environment));
            }
            if let Some(texts) = from_flags(&matches, option.name) {
                let items = texts.into_iter().flat_map(|s| split(option, s)).collect();
                given.insert(option.name, Given::new(items, Source::Flag));
            }
        }
        Ok(Self(given))
    }

    fn given(&self, name: &'static str) -> Given {
        self.0.get(name).cloned().unwrap_or_else(|| {
            let row = OPTIONS.iter().find(|o| o.name == name);
            let default = row.expect("every option read is in the table").default;
            let items = match default {
                "" => Vec::new(),
                text => vec![text.to_owned()],
            };
            Given::new(items, Source::Default)
        })
    }

    /// The error that `option` was given `value`, by whoever gave it.
    pub fn refuse(&self, option: &'static str, value: &str, allowed: String) -> ConfigError {
        ConfigError::BadValue {
            option,
            value: value.to_owned(),
            source: self.given(option).source,
            allowed,
        }
    }

    /// The value of an option that takes one.
    pub fn one<T>(
        &self,
        name: &'static str,
        allowed: &str,
        parse: impl Fn(&str) -> Option<T>,
    ) -> Result<T, ConfigError> {
        let given = self.given(name);
        let refuse = |value: String| self.refuse(name, &value, allowed.to_owned());
        let [item] = &given.items[..] else {
            return Err(refuse(format!("a list of {} values", given.items.len())));
        };
        item.text()
            .and_then(parse)
            .ok_or_else(|| refuse(item.to_string()))
    }

    /// The values of an option that takes a list.
    pub fn many<T>(
        &self,
        name: &'static str,
        allowed: &str,
        parse: impl Fn(&Item) -> Option<T>,
    ) -> Result<Vec<T>, ConfigError> {
        self.given(name)
            .items
            .iter()
            .map(|item| {
                parse(item).ok_or_else(|| self.refuse(name, &item.to_string(), allowed.to_owned()))
            })
            .collect()
    }
}

/// A list's text at its commas; other text as it is.
fn split(option: &OptionRow, text: String) -> Vec<String> {
    match option.is_list {
        true => text.split(',').map(|s| s.trim().to_owned()).collect(),
        false => vec![text],
    }
}

fn from_flags(matches: &ArgMatches, name: &str) -> Option<Vec<String>> {
    matches
        .get_many::<String>(name)
        .map(|values| values.cloned().collect())
}

fn from_env(
    env: &impl Fn(&str) -> Option<OsString>,
    name: &'static str,
) -> Result<Option<String>, ConfigError> {
    match env(&variable(name)) {
        Some(value) if !value.is_empty() => match value.into_string() {
            Ok(text) => Ok(Some(text)),
            Err(value) => Err(ConfigError::BadValue {
                option: name,
                value: value.to_string_lossy().into_owned(),
                source: Source::Environment,
                allowed: "text in UTF-8".to_owned(),
            }),
        },
        _ => Ok(None),
    }
}

fn read_table(path: &Path, text: &str) -> Result<BTreeMap<&'static str, Given>, ConfigError> {
    let table = text
        .parse::<toml::Table>()
        .map_err(|error| ConfigError::Syntax {
            path: path.to_owned(),
            reason: error.to_string(),
        })?;
    let mut given = BTreeMap::new();
    for (key, value) in table {
        let Some(option) = OPTIONS.iter().find(|o| o.name == key) else {
            return Err(ConfigError::UnknownKey {
                key,
                path: path.to_owned(),
            });
        };
        let items = match value {
            toml::Value::Array(values) => values.into_iter().map(item).collect(),
            value => vec![item(value)],
        };
        let source = Source::File(path.to_owned());
        given.insert(option.name, Given { items, source });
    }
    Ok(given)
}

fn item(value: toml::Value) -> Item {
    match value {
        toml::Value::String(text) => Item::Text(text),
        toml::Value::Integer(number) => Item::Text(number.to_string()),
        toml::Value::Float(number) => Item::Text(number.to_string()),
        toml::Value::Boolean(value) => Item::Text(value.to_string()),
        toml::Value::Datetime(value) => Item::Text(value.to_string()),
        toml::Value::Table(table) => Item::Table(table),
        toml::Value::Array(_) => Item::Text("a list in a list".to_owned()),
    }
}
