//! Why an event of a client is refused, as it is told: codes from one list.

use std::borrow::Cow;
use std::fmt;

macro_rules! error_codes {
    ($($(#[$doc:meta])* $name:ident => $text:literal,)*) => {
        /// What an `error` frame says; the documentation of each is what its client should know.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum ErrorCode {
            $($(#[$doc])* $name,)*
        }

        impl ErrorCode {
            /// Every code.
            pub const ALL: &[Self] = &[$(Self::$name,)*];

            /// The code on the wire.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$name => $text,)*
                }
            }
        }
    };
}

error_codes! {
    /// The frame is not a JSON object with a string `event`.
    BadJson => "bad-json",
    /// The JSON nests deeper than 32.
    TooDeep => "too-deep",
    /// The frame is larger than 256 KiB; the connection is closed.
    TooLarge => "too-large",
    /// The frame is binary; only text frames are understood.
    NotText => "not-text",
    /// The event is not one of this protocol.
    UnknownEvent => "unknown-event",
    /// The event's data is not of its form.
    BadData => "bad-data",
    /// A room or peer id is missing or is not 1 to 128 printable characters.
    BadId => "bad-id",
    /// The event needs a room, and the client has joined none.
    NotJoined => "not-joined",
    /// The client is in a room already; it must leave first.
    AlreadyJoined => "already-joined",
    /// `self_id` or `room_id` differ from those of the join.
    IdentityMismatch => "identity-mismatch",
    /// The room has as many peers as the server allows.
    RoomFull => "room-full",
    /// The server has as many rooms as it allows.
    TooManyRooms => "too-many-rooms",
    /// The server is stopping; the connection is closed.
    ShuttingDown => "shutting-down",
    /// The session description cannot be read, contradicts the session, or lacks what a
    /// connection needs.
    BadDescription => "bad-description",
    /// An answer came, but no offer of the server waits for one.
    UnexpectedAnswer => "unexpected-answer",
    /// The description is valid but asks for what this server does not do; the message says what.
    Unsupported => "unsupported",
    /// The ICE candidate cannot be read.
    BadCandidate => "bad-candidate",
    /// The client's certificate is not the one its description names; the connection is closed.
    FingerprintMismatch => "fingerprint-mismatch",
    /// The DTLS handshake failed; the connection is closed.
    DtlsFailed => "dtls-failed",
    /// The client closed its peer connection: it has left the room and may join again.
    DtlsClosed => "dtls-closed",
    /// Another connection joined the room with the same peer id; this one is closed.
    Replaced => "replaced",
    /// The client reads too slowly; the connection is closed.
    SlowConsumer => "slow-consumer",
    /// The client sends too much too fast; the connection is closed.
    RateLimited => "rate-limited",
    /// The client made too many errors; the connection is closed.
    TooManyErrors => "too-many-errors",
    /// Nothing came for 30 s, or no room was joined within 60 s; the connection is closed.
    Timeout => "timeout",
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// Why an event is refused, as the client is told.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The code.
    pub code: ErrorCode,
    /// For people.
    pub message: Cow<'static, str>,
}

impl Refusal {
    /// A refusal.
    #[must_use]
    pub fn new(code: ErrorCode, message: impl Into<Cow<'static, str>>) -> Self {
        Self {
            code,
            message: message.into(),
        }
    }

    /// The event's data is not of its form.
    #[must_use]
    pub fn bad_data(message: impl Into<Cow<'static, str>>) -> Self {
        Self::new(ErrorCode::BadData, message)
    }
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;

    use super::*;

    #[test]
    fn codes_are_distinct_kebab_case() {
        let texts: HashSet<_> = ErrorCode::ALL.iter().map(|code| code.as_str()).collect();
        assert_eq!(texts.len(), ErrorCode::ALL.len());
        for text in texts {
            assert!(
                text.bytes().all(|b| b.is_ascii_lowercase() || b == b'-'),
                "{text}"
            );
        }
    }
}
