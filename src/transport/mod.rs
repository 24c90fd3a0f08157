//! One peer's transport: ICE-lite, DTLS and SRTP; datagrams on one side, plain RTP and RTCP on the
//! other.

pub mod outbox;
