//! What a video payload says of itself: where frames begin and end, which layer they belong to, and the
//! numbers that a decoder follows. One file for each codec.
//!
//! Reads headers only, and writes back no more than the numbers in them; knows nothing of what came
//! before, but for the template structure that the dependency descriptor refers to.

pub mod av1;
pub mod bits;
pub mod dependency;
pub mod h264;
pub mod numbers;
pub mod vp8;
pub mod vp9;
