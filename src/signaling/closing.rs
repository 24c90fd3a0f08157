//! Why the server ends a connection or a stay in a room, and how it says so.

use crate::control::TransportFailure;
use crate::signaling::refusal::ErrorCode;

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Silent too long, or without a room too long.
    Timeout,
    /// Another connection took over the peer's id.
    Replaced,
    /// The server is stopping.
    ShuttingDown,
    /// A frame above the limit.
    TooLarge,
    /// Frames too fast.
    RateLimited,
    /// Too many errors.
    TooManyErrors,
    /// The client does not read.
    SlowConsumer,
    /// The peer's transport cannot be used.
    TransportFailed(TransportFailure),
}

impl CloseReason {
    /// The WebSocket close code (RFC 6455 §7.4; 4000 and above are this protocol's own).
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::ShuttingDown => 1001,
            Self::RateLimited | Self::TooManyErrors => 1008,
            Self::TooLarge => 1009,
            Self::Replaced => 4001,
            Self::Timeout => 4002,
            Self::TransportFailed(_) => 4003,
            Self::SlowConsumer => 4004,
        }
    }

    /// The reason as text: the code of the `error` that was sent before.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.error().as_str()
    }

    /// The code of the `error` that is sent before.
    #[must_use]
    pub fn error(self) -> ErrorCode {
        match self {
            Self::Timeout => ErrorCode::Timeout,
            Self::Replaced => ErrorCode::Replaced,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::TooManyErrors => ErrorCode::TooManyErrors,
            Self::SlowConsumer => ErrorCode::SlowConsumer,
            Self::TransportFailed(failure) => transport_error(failure),
        }
    }

    /// What that error says.
    #[must_use]
    pub fn message(self) -> &'static str {
        match self {
            Self::Timeout => "the connection was silent, or without a room, for too long",
            Self::Replaced => "another connection joined with the same id",
            Self::ShuttingDown => "the server is stopping",
            Self::TooLarge => "the frame is larger than 256 KiB",
            Self::RateLimited => "too many frames",
            Self::TooManyErrors => "too many errors",
            Self::SlowConsumer => "the client reads too slowly",
            Self::TransportFailed(failure) => transport_message(failure),
        }
    }
}

/// The code of the `error` that tells why a transport failed.
#[must_use]
pub fn transport_error(failure: TransportFailure) -> ErrorCode {
    match failure {
        TransportFailure::FingerprintMismatch => ErrorCode::FingerprintMismatch,
        TransportFailure::DtlsHandshake => ErrorCode::DtlsFailed,
        TransportFailure::DtlsClosed => ErrorCode::DtlsClosed,
    }
}

/// What that error says.
#[must_use]
pub fn transport_message(failure: TransportFailure) -> &'static str {
    match failure {
        TransportFailure::FingerprintMismatch => {
            "the DTLS certificate has none of the fingerprints of the description"
        }
        TransportFailure::DtlsHandshake => "the DTLS handshake failed",
        TransportFailure::DtlsClosed => "the peer connection was closed",
    }
}
