//! STUN and TURN servers as clients are told of them (RFC 7064, RFC 7065).

use std::fmt;

use crate::config::values::Item;

/// A STUN or TURN server as clients are told of it (`RTCIceServer`). `Debug` hides the credential.
#[derive(Clone, PartialEq, Eq)]
pub struct IceServer {
    /// At least one URL (RFC 7064, RFC 7065).
    pub urls: Vec<String>,
    /// For TURN.
    pub username: Option<String>,
    /// For TURN: the password.
    pub credential: Option<String>,
}

impl fmt::Debug for IceServer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("IceServer")
            .field("urls", &self.urls)
            .field("username", &self.username)
            .finish_non_exhaustive()
    }
}

/// What [`ice_server`] takes, in words.
pub(in crate::config) const ICE_SERVER_ALLOWED: &str = "a URL stun:HOST[:PORT] or stuns:HOST[:PORT], or in the file a table \
     with urls, username and credential, which turn: and turns: URLs need";

/// A server from one text or table; `None` if it is not allowed.
pub(in crate::config) fn ice_server(item: &Item) -> Option<IceServer> {
    let (urls, username, credential) = match item {
        Item::Text(url) => (vec![url.clone()], None, None),
        Item::Table(table) => {
            let (mut urls, mut username, mut credential) = (Vec::new(), None, None);
            for (key, value) in table {
                match (key.as_str(), value) {
                    ("urls", toml::Value::String(url)) => urls.push(url.clone()),
                    ("urls", toml::Value::Array(values)) => {
                        for value in values {
                            urls.push(value.as_str()?.to_owned());
                        }
                    }
                    ("username", toml::Value::String(text)) => username = Some(text.clone()),
                    ("credential", toml::Value::String(text)) => credential = Some(text.clone()),
                    _ => return None,
                }
            }
            (urls, username, credential)
        }
    };
    // Browsers refuse the whole configuration if a TURN URL comes without both.
    let has_credentials = username.is_some() && credential.is_some();
    let is_allowed = |url: &String| match ice_url_scheme(url) {
        Some("stun" | "stuns") => true,
        Some(_) => has_credentials,
        None => false,
    };
    (!urls.is_empty() && urls.iter().all(is_allowed)).then_some(IceServer {
        urls,
        username,
        credential,
    })
}

/// The scheme of a well-formed STUN or TURN URL (RFC 7064 §3.1, RFC 7065 §3.1).
fn ice_url_scheme(url: &str) -> Option<&str> {
    let (scheme, rest) = url.split_once(':')?;
    let (address, query) = match rest.split_once('?') {
        Some((address, query)) => (address, Some(query)),
        None => (rest, None),
    };
    let is_query_allowed = match scheme {
        "stun" | "stuns" => query.is_none(),
        "turn" | "turns" => matches!(query, None | Some("transport=udp" | "transport=tcp")),
        _ => false,
    };
    let (host, port) = match address.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            host.parse::<std::net::Ipv6Addr>().ok()?;
            (
                host,
                port.strip_prefix(':').or(port.is_empty().then_some("1"))?,
            )
        }
        None => address.split_once(':').unwrap_or((address, "1")),
    };
    let is_port_allowed = port.parse::<u16>().is_ok_and(|port| port != 0);
    let is_host_allowed = !host.is_empty()
        && host
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_' | ':'));
    (is_query_allowed && is_port_allowed && is_host_allowed).then_some(scheme)
}
