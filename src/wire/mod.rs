//! Bytes and text to values and back: STUN, RTP, RTCP, SDP, codecs and header extensions.
//!
//! Knows nothing of peers, keys or time. Every parser takes hostile input: it returns `None` or a
//! small error, never panics, and allocates in proportion to its input at most.

pub mod audio_level;
pub mod bandwidth;
pub mod codec;
pub mod extension;
pub mod ntp;
pub mod payload;
pub mod rtcp;
pub mod rtp;
pub mod sdes;
pub mod sdp;
pub mod stun;
pub mod xr;
