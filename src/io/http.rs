//! HTTP/1.1 as far as this server needs it: bytes to requests, requests to answers (RFC 9110, RFC 9112),
//! and the opening of a WebSocket (RFC 6455 §4.2).
//!
//! Pure: reads and writes no socket. Requests have no bodies here; one that announces a body is refused.
//! The `Origin` of a WebSocket is not checked: clients of other sites and of none (native ones) are
//! welcome, and nothing here acts on cookies or on the user's network position.

use std::borrow::Cow;

use tungstenite::handshake::derive_accept_key;

use crate::io::assets::{self, Asset};

/// The longest request head, in bytes.
pub(in crate::io) const HEAD_MAX: usize = 16 << 10;

/// The longest request target, in bytes; the pages here need a few dozen.
const TARGET_MAX: usize = 4 << 10;

/// The most header fields of a request; browsers send about 20.
const FIELDS_MAX: usize = 64;

/// What the bytes at the start of a connection are.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) enum Head {
    /// More bytes are needed.
    Incomplete,
    /// A request, and how many bytes its head has.
    Complete(Request, usize),
    /// Nothing that can be served; the connection cannot go on.
    Refused(Status),
}

/// A request that can be answered.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) struct Request {
    /// HEAD instead of GET: the answer goes without its body.
    pub is_head: bool,
    /// The target's path, without the query; not percent-decoded.
    pub path: String,
    /// Whether the connection may carry another request.
    pub keep_alive: bool,
    if_none_match: Option<String>,
    upgrade: Upgrade,
}

#[derive(Debug, PartialEq, Eq)]
enum Upgrade {
    None,
    /// The value of `Sec-WebSocket-Accept`.
    WebSocket(String),
    Refused(Status),
}

/// The statuses this server answers with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::io) enum Status {
    SwitchingProtocols,
    Ok,
    NotModified,
    BadRequest,
    NotFound,
    MethodNotAllowed,
    RequestTimeout,
    ContentTooLarge,
    UriTooLong,
    UpgradeRequired,
    HeadTooLarge,
    ServiceUnavailable,
    GatewayTimeout,
    VersionNotSupported,
}

impl Status {
    /// The code and phrase of the status line.
    pub fn line(self) -> &'static str {
        match self {
            Self::SwitchingProtocols => "101 Switching Protocols",
            Self::Ok => "200 OK",
            Self::NotModified => "304 Not Modified",
            Self::BadRequest => "400 Bad Request",
            Self::NotFound => "404 Not Found",
            Self::MethodNotAllowed => "405 Method Not Allowed",
            Self::RequestTimeout => "408 Request Timeout",
            Self::ContentTooLarge => "413 Content Too Large",
            Self::UriTooLong => "414 URI Too Long",
            Self::UpgradeRequired => "426 Upgrade Required",
            Self::HeadTooLarge => "431 Request Header Fields Too Large",
            Self::ServiceUnavailable => "503 Service Unavailable",
            Self::GatewayTimeout => "504 Gateway Timeout",
            Self::VersionNotSupported => "505 HTTP Version Not Supported",
        }
    }
}

/// Reads a request's head from the first bytes of `bytes`.
pub(in crate::io) fn parse_head(bytes: &[u8]) -> Head {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut parsed = httparse::Request::new(&mut fields);
    match parsed.parse(bytes) {
        Ok(httparse::Status::Complete(len)) if len <= HEAD_MAX => match read_request(&parsed) {
            Ok(request) => Head::Complete(request, len),
            Err(status) => Head::Refused(status),
        },
        Ok(httparse::Status::Complete(_)) => Head::Refused(Status::HeadTooLarge),
        Ok(httparse::Status::Partial) => {
            let target_end = bytes.iter().position(|b| *b == b'\n');
            if target_end.unwrap_or(bytes.len()) > TARGET_MAX {
                Head::Refused(Status::UriTooLong)
            } else if bytes.len() >= HEAD_MAX {
                Head::Refused(Status::HeadTooLarge)
            } else {
                Head::Incomplete
            }
        }
        Err(httparse::Error::TooManyHeaders) => Head::Refused(Status::HeadTooLarge),
        Err(httparse::Error::Version) => Head::Refused(Status::VersionNotSupported),
        Err(_) => Head::Refused(Status::BadRequest),
    }
}

fn read_request(parsed: &httparse::Request<'_, '_>) -> Result<Request, Status> {
    let fields = Fields(parsed.headers);
    let is_1_1 = parsed.version == Some(1);
    let is_head = match parsed.method {
        Some("GET") => false,
        Some("HEAD") => true,
        _ => return Err(Status::MethodNotAllowed),
    };
    let target = parsed.path.unwrap_or_default();
    if target.len() > TARGET_MAX {
        return Err(Status::UriTooLong);
    }
    let has_body = fields.all("content-length").any(|v| v != b"0")
        || fields.all("transfer-encoding").next().is_some();
    if has_body {
        return Err(Status::ContentTooLarge);
    }
    // RFC 9112 §3.2: exactly one Host field.
    if is_1_1 && fields.all("host").count() != 1 {
        return Err(Status::BadRequest);
    }
    Ok(Request {
        is_head,
        path: path_of(target).ok_or(Status::BadRequest)?.to_owned(),
        keep_alive: is_1_1 && !fields.has_token("connection", "close"),
        if_none_match: fields.text("if-none-match").map(str::to_owned),
        upgrade: read_upgrade(&fields, is_1_1 && !is_head),
    })
}

/// The path of an origin-form or absolute-form target (RFC 9112 §3.2).
fn path_of(target: &str) -> Option<&str> {
    let path = match target.split_once("://") {
        Some(("http" | "https", rest)) => rest.find('/').map_or("/", |start| &rest[start..]),
        _ => target,
    };
    let path = path.split(['?', '#']).next()?;
    path.starts_with('/').then_some(path)
}

/// RFC 6455 §4.2.1.
fn read_upgrade(fields: &Fields<'_, '_>, is_allowed: bool) -> Upgrade {
    if !fields.has_token("upgrade", "websocket") || !fields.has_token("connection", "upgrade") {
        return Upgrade::None;
    }
    if fields.text("sec-websocket-version") != Some("13") {
        return Upgrade::Refused(Status::UpgradeRequired);
    }
    match fields.text("sec-websocket-key") {
        Some(key) if is_allowed && is_base64_of_16_bytes(key) => {
            Upgrade::WebSocket(derive_accept_key(key.as_bytes()))
        }
        _ => Upgrade::Refused(Status::BadRequest),
    }
}

fn is_base64_of_16_bytes(key: &str) -> bool {
    let is_base64 = |b: &u8| b.is_ascii_alphanumeric() || matches!(b, b'+' | b'/');
    let digits = key.as_bytes().strip_suffix(b"==");
    digits.is_some_and(|digits| digits.len() == 22 && digits.iter().all(is_base64))
}

struct Fields<'h, 'b>(&'h [httparse::Header<'b>]);

impl<'h, 'b> Fields<'h, 'b> {
    fn all(&self, name: &'static str) -> impl Iterator<Item = &'b [u8]> + 'h {
        self.0
            .iter()
            .filter(move |field| field.name.eq_ignore_ascii_case(name))
            .map(|field| field.value)
    }

    /// The value of a field that comes once, if it is text.
    fn text(&self, name: &'static str) -> Option<&'b str> {
        let mut values = self.all(name);
        let value = values.next()?;
        match values.next() {
            None => std::str::from_utf8(value).ok().map(str::trim),
            Some(_) => None,
        }
    }

    /// Whether one of the comma-separated tokens is `token`, in upper or lower case.
    fn has_token(&self, name: &'static str, token: &str) -> bool {
        self.all(name)
            .filter_map(|value| std::str::from_utf8(value).ok())
            .flat_map(|value| value.split(','))
            .any(|part| part.trim().eq_ignore_ascii_case(token))
    }
}

/// An answer.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) struct Response {
    status: Status,
    fields: Vec<(&'static str, Cow<'static, str>)>,
    body: Cow<'static, [u8]>,
}

/// What a request leads to.
#[derive(Debug, PartialEq, Eq)]
pub(in crate::io) enum Answer {
    /// The answer, after which the connection speaks HTTP on.
    Http(Response),
    /// The answer, after which the connection speaks WebSocket.
    WebSocket(Response),
}

/// Answers a request; `metrics` makes the text of `/metrics`, and `api` the JSON of a path below `/api/`.
pub(in crate::io) fn answer(
    request: &Request,
    metrics: impl FnOnce() -> String,
    api: impl FnOnce(&str) -> (Status, String),
) -> Answer {
    if let ("/" | "/ws", Upgrade::WebSocket(accept)) = (request.path.as_str(), &request.upgrade) {
        return Answer::WebSocket(Response {
            status: Status::SwitchingProtocols,
            fields: vec![
                ("Upgrade", "websocket".into()),
                ("Connection", "Upgrade".into()),
                ("Sec-WebSocket-Accept", accept.clone().into()),
            ],
            body: Cow::Borrowed(&[]),
        });
    }
    Answer::Http(match (request.path.as_str(), &request.upgrade) {
        ("/" | "/ws", Upgrade::Refused(status)) => Response::error(*status),
        ("/ws", _) => Response::error(Status::UpgradeRequired),
        ("/healthz", _) => Response::text("text/plain; charset=utf-8", "ok\n".to_owned()),
        ("/metrics", _) => Response::text("text/plain; version=0.0.4; charset=utf-8", metrics()),
        (path, _) if path.starts_with("/api/") => {
            let (status, body) = api(path);
            Response::with_status(status, "application/json", body)
        }
        (path, _) => match assets::find(path) {
            Some(asset) => Response::asset(asset, request.if_none_match.as_deref()),
            None => Response::error(Status::NotFound),
        },
    })
}

impl Response {
    /// A status with its phrase as body, and the fields that belong to it.
    pub fn error(status: Status) -> Self {
        let body = format!("{}\n", status.line());
        Self::with_status(status, "text/plain; charset=utf-8", body)
    }

    fn with_status(status: Status, content_type: &'static str, body: String) -> Self {
        let mut response = Self::text(content_type, body);
        response.status = status;
        match status {
            // RFC 9110 §15.5.6.
            Status::MethodNotAllowed => response.fields.push(("Allow", "GET, HEAD".into())),
            // RFC 9110 §15.5.22, RFC 6455 §4.2.2.
            Status::UpgradeRequired => {
                response.fields.push(("Upgrade", "websocket".into()));
                response.fields.push(("Sec-WebSocket-Version", "13".into()));
            }
            Status::ServiceUnavailable => response.fields.push(("Retry-After", "5".into())),
            _ => {}
        }
        response
    }

    fn text(content_type: &'static str, body: String) -> Self {
        Self {
            status: Status::Ok,
            fields: vec![
                ("Content-Type", content_type.into()),
                ("Cache-Control", "no-store".into()),
                ("X-Content-Type-Options", "nosniff".into()),
            ],
            body: body.into_bytes().into(),
        }
    }

    fn asset(asset: &'static Asset, if_none_match: Option<&str>) -> Self {
        let etag = asset.etag();
        let mut fields = vec![
            ("ETag", etag.clone().into()),
            // Kept, but asked for again every time: pages and modules of two versions never mix.
            ("Cache-Control", "no-cache".into()),
            ("X-Content-Type-Options", "nosniff".into()),
        ];
        let is_known = if_none_match.is_some_and(|list| {
            list.split(',')
                .map(|tag| tag.trim().trim_start_matches("W/"))
                .any(|tag| tag == etag || tag == "*")
        });
        if is_known {
            return Self {
                status: Status::NotModified,
                fields,
                body: Cow::Borrowed(&[]),
            };
        }
        fields.push(("Content-Type", asset.content_type.into()));
        if asset.path.starts_with("/sdk/") {
            // Pages of other sites may import the SDK.
            fields.push(("Access-Control-Allow-Origin", "*".into()));
        } else {
            fields.extend(PAGE_FIELDS.map(|(name, value)| (name, value.into())));
        }
        Self {
            status: Status::Ok,
            fields,
            body: asset.body.into(),
        }
    }

    /// The answer as it goes onto the wire.
    pub fn encode(&self, is_head: bool, keep_alive: bool) -> Vec<u8> {
        let mut bytes = Vec::with_capacity(512 + self.body.len());
        let mut line = |parts: &[&str]| {
            parts
                .iter()
                .for_each(|p| bytes.extend_from_slice(p.as_bytes()));
            bytes.extend_from_slice(b"\r\n");
        };
        line(&["HTTP/1.1 ", self.status.line()]);
        for (name, value) in &self.fields {
            line(&[name, ": ", value]);
        }
        if self.status != Status::SwitchingProtocols {
            line(&[
                "Connection: ",
                if keep_alive { "keep-alive" } else { "close" },
            ]);
            // A 304 has no body, and a length would be that of the page (RFC 9110 §8.6).
            if self.status != Status::NotModified {
                line(&["Content-Length: ", &self.body.len().to_string()]);
            }
        }
        line(&[]);
        if !is_head {
            bytes.extend_from_slice(&self.body);
        }
        bytes
    }
}

/// What a page may do: load what this server has, talk to WebSockets anywhere (a page can be given
/// another server's address), show what it captures, and nothing else.
const PAGE_FIELDS: [(&str, &str); 3] = [
    (
        "Content-Security-Policy",
        "default-src 'self'; connect-src 'self' ws: wss:; img-src 'self' data: blob:; \
         media-src 'self' blob: mediastream:; object-src 'none'; base-uri 'none'; \
         form-action 'self'; frame-ancestors 'self'",
    ),
    (
        "Permissions-Policy",
        "camera=(self), microphone=(self), display-capture=(self)",
    ),
    // A room's name stands in the page's address.
    ("Referrer-Policy", "no-referrer"),
];

#[cfg(test)]
mod tests {
    use super::*;

    const UPGRADE: &str = "Upgrade: websocket\r\nConnection: keep-alive, Upgrade\r\n\
        Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n";

    fn parse(line: &str, fields: &str) -> Head {
        parse_head(format!("{line}\r\nHost: a\r\n{fields}\r\n").as_bytes())
    }

    /// The answer's bytes as text; a WebSocket answer is told by its status.
    fn answered(line: &str, fields: &str) -> String {
        let Head::Complete(request, _) = parse(line, fields) else {
            panic!("{line} is a request");
        };
        let api = |path: &str| match path {
            "/api/there" => (Status::Ok, "{}".to_owned()),
            _ => (Status::NotFound, r#"{"error":{}}"#.to_owned()),
        };
        let response = match answer(&request, || "m 1\n".to_owned(), api) {
            Answer::Http(response) | Answer::WebSocket(response) => response,
        };
        let bytes = response.encode(request.is_head, request.keep_alive);
        String::from_utf8_lossy(&bytes).into_owned()
    }

    #[test]
    fn heads_that_cannot_be_served_have_their_status() {
        let long = format!("GET /{} HTTP/1.1", "a".repeat(5000));
        let many = "A: b\r\n".repeat(FIELDS_MAX + 1);
        let large = format!("A: {}\r\n", "b".repeat(HEAD_MAX));
        let cases = [
            ("POST / HTTP/1.1", "", Status::MethodNotAllowed),
            (
                "GET / HTTP/1.1",
                "Content-Length: 5\r\n",
                Status::ContentTooLarge,
            ),
            (
                "GET / HTTP/1.1",
                "Transfer-Encoding: chunked\r\n",
                Status::ContentTooLarge,
            ),
            ("GET / HTTP/1.1", "Host: b\r\n", Status::BadRequest),
            ("GET / HTTP/1.1", "no colon\r\n", Status::BadRequest),
            ("GET /\0 HTTP/1.1", "", Status::BadRequest),
            ("GET a HTTP/1.1", "", Status::BadRequest),
            ("\u{16}\u{3}\u{1} TLS", "", Status::BadRequest),
            ("PRI * HTTP/2.0", "", Status::VersionNotSupported),
            (&long, "", Status::UriTooLong),
            ("GET / HTTP/1.1", &many, Status::HeadTooLarge),
            ("GET / HTTP/1.1", &large, Status::HeadTooLarge),
        ];
        for (line, fields, status) in cases {
            assert_eq!(
                parse(line, fields),
                Head::Refused(status),
                "{line} {fields}"
            );
        }
        assert_eq!(
            parse_head(b"GET / HTTP/1.1\r\n\r\n"),
            Head::Refused(Status::BadRequest)
        );
    }

    #[test]
    fn unfinished_heads_are_waited_for_up_to_a_bound() {
        let target = format!("GET /{}", "a".repeat(TARGET_MAX));
        let fields = format!("GET / HTTP/1.1\r\nA: {}", "b".repeat(HEAD_MAX));
        let cases = [
            ("", Head::Incomplete),
            ("GET / HTTP/1.1\r\nHost: a\r\n", Head::Incomplete),
            (&target, Head::Refused(Status::UriTooLong)),
            (&fields, Head::Refused(Status::HeadTooLarge)),
        ];
        for (text, head) in cases {
            assert_eq!(parse_head(text.as_bytes()), head);
        }
    }

    #[test]
    fn requests_are_read_up_to_their_end() {
        let one = "GET http://h:1/a/b?c=d HTTP/1.1\r\nHost: h\r\n\r\n";
        let two = format!("{one}HEAD / HTTP/1.0\r\n\r\n");
        let Head::Complete(first, len) = parse_head(two.as_bytes()) else {
            panic!("a request");
        };
        assert_eq!((first.path.as_str(), len), ("/a/b", one.len()));
        assert!(first.keep_alive && !first.is_head);
        let Head::Complete(second, _) = parse_head(&two.as_bytes()[len..]) else {
            panic!("another request");
        };
        assert!(second.is_head && !second.keep_alive);
        let closing = parse("GET / HTTP/1.1", "Connection: Close\r\n");
        assert!(matches!(closing, Head::Complete(r, _) if !r.keep_alive));
    }

    #[test]
    fn websockets_open_at_two_paths_with_the_key_of_the_rfc() {
        for path in ["/", "/ws", "/ws?x=y"] {
            let text = answered(&format!("GET {path} HTTP/1.1"), UPGRADE);
            assert!(text.starts_with("HTTP/1.1 101 "), "{text}");
            // RFC 6455 §1.3.
            let accept = "Sec-WebSocket-Accept: s3pPLMBiTxaQ9kYGzzhZRbK+xOo=\r\n";
            assert!(
                text.contains(accept) && text.ends_with("\r\n\r\n"),
                "{text}"
            );
        }
    }

    #[test]
    fn openings_that_break_the_rules_are_refused() {
        let cases = [
            ("GET /ws HTTP/1.1", String::new(), "426"),
            ("GET /elsewhere HTTP/1.1", UPGRADE.to_owned(), "404"),
            ("GET / HTTP/1.1", UPGRADE.replace("13", "8"), "426"),
            ("GET / HTTP/1.1", UPGRADE.replace("dGhl", "dG*l"), "400"),
            ("GET / HTTP/1.1", UPGRADE.replace("dGhl", ""), "400"),
            ("HEAD / HTTP/1.1", UPGRADE.to_owned(), "400"),
        ];
        for (line, fields, status) in cases {
            let text = answered(line, &fields);
            assert!(text.starts_with(&format!("HTTP/1.1 {status} ")), "{text}");
        }
        assert!(answered("GET /ws HTTP/1.1", "").contains("Sec-WebSocket-Version: 13\r\n"));
    }

    #[test]
    fn pages_and_texts_are_served() {
        let health = answered("GET /healthz HTTP/1.1", "");
        assert!(health.starts_with("HTTP/1.1 200 ") && health.ends_with("\r\n\r\nok\n"));
        assert!(answered("GET /metrics HTTP/1.1", "").ends_with("\r\n\r\nm 1\n"));
        let json = answered("GET /api/there?x HTTP/1.1", "");
        assert!(json.starts_with("HTTP/1.1 200 ") && json.ends_with("\r\n\r\n{}"));
        assert!(json.contains("Content-Type: application/json\r\n"));
        let missing = answered("GET /api/elsewhere HTTP/1.1", "");
        assert!(missing.starts_with("HTTP/1.1 404 ") && missing.ends_with(r#"{"error":{}}"#));
        let head = answered("HEAD /metrics HTTP/1.1", "");
        assert!(head.contains("Content-Length: 4\r\n") && head.ends_with("\r\n\r\n"));
        assert!(answered("GET /../Cargo.toml HTTP/1.1", "").contains(" 404 "));
        let page = answered("GET / HTTP/1.1", "");
        assert!(page.contains("text/html") && page.contains("Content-Security-Policy: "));
        let etag = assets::find("/").unwrap().etag();
        let again = answered(
            "GET / HTTP/1.1",
            &format!("If-None-Match: \"x\", {etag}\r\n"),
        );
        assert!(
            again.starts_with("HTTP/1.1 304 ") && again.ends_with("\r\n\r\n"),
            "{again}"
        );
    }
}
