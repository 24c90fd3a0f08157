//! Rooms: peers, the tracks they publish, and the subscriptions that copy them.
//!
//! Everything a packet needs is laid out when a peer is configured; per packet nothing is looked up
//! by name, hashed per subscriber or allocated per subscriber.

mod configure;
mod feedback;
mod forward;
pub mod output;
mod payload;
mod peer;
pub mod slots;
mod source;
mod state;
mod subscription;
mod track;

pub use state::Room;
