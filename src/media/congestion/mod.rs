//! Congestion control of one peer, in both directions: what arrives from it is reported
//! (draft-holmer-rmcat-transport-wide-cc-extensions-01), what may be sent to it is estimated from its reports
//! (draft-ietf-rmcat-gcc-02, and libwebrtc where the two differ), probed for and paced.

pub mod capacity;
pub mod history;
pub mod leap;
pub mod loss;
pub mod pacer;
pub mod probe;
pub mod queueing;
pub mod rate;
pub mod receive_side;
pub mod recorder;
pub mod send_side;
#[cfg(test)]
mod simulation;
pub mod throughput;
pub mod trend;
