//! One peer's transport: ICE-lite, DTLS and SRTP; datagrams on one side, plain RTP and RTCP on the
//! other.

pub(crate) mod cipher;
pub mod keys;
pub mod outbox;
pub(crate) mod replay;
pub mod srtp;
