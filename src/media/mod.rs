//! What happens to media between two transports: sequence numbers and timestamps, retransmission, reports.
//!
//! Each file is one small machine that knows a single stream and no peer, room or socket.

pub mod allocation;
pub mod cache;
pub mod congestion;
pub mod fair_share;
pub mod hearing;
pub mod keyframe;
pub mod ladder;
pub mod layer_rates;
pub mod layers;
pub mod loudest;
pub mod nack;
pub mod pace;
pub mod receive_stats;
pub mod recovered;
pub mod red;
pub mod resend;
pub mod rewrite;
pub mod rtt;
pub mod rtx;
pub mod sender_report;
pub mod sequence;
pub mod shared_bottleneck;
pub mod speakers;
pub mod stream;
pub mod timeline;
