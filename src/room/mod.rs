//! Rooms: peers, the tracks they publish, and the subscriptions that copy them.
//!
//! Everything a packet needs is laid out when a peer is configured; per packet nothing is looked up
//! by name, hashed per subscriber or allocated per subscriber.

mod allocate;
mod allotment;
pub mod batch;
mod configure;
mod congestion;
mod describe;
mod doubling;
mod encoding;
mod fairness;
mod feedback;
mod floor;
mod forward;
mod incoming;
mod last_n;
mod learn;
mod loss;
mod measure;
pub mod origin;
pub mod output;
mod padding;
pub mod path;
mod payload;
mod peer;
mod recall;
mod reception;
mod recovery;
mod redundancy;
mod relay;
mod remote;
mod repair;
mod retransmissions;
mod routing;
mod rtcp_budget;
mod select;
mod sending;
mod sent_names;
pub mod slots;
mod source;
mod speakers;
mod state;
mod subnets;
mod subscription;
mod supply;
mod switching;
mod targets;
mod track;
mod uplink;
mod wanted;

pub use reception::Wish;
pub use state::Room;
