//! shardcast: a threaded, lock-sharded WebRTC SFU (selective forwarding unit).
//!
//! `ARCHITECTURE.md` tells how the layers below fit together.
#![deny(unsafe_code)]
#![warn(missing_docs)]

pub mod base;
pub mod config;
pub mod control;
pub mod coordinator;
pub mod io;
pub mod load;
pub mod media;
pub mod network;
pub mod room;
pub mod server;
pub mod shard;
pub mod signaling;
pub mod transport;
pub mod wire;
