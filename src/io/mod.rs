//! The edge: sockets, threads, locks, channels and the clock.

pub mod acceptor;
pub mod api;
mod assets;
mod chunks;
mod connection;
pub mod crossing;
mod dual_stack;
pub mod file_limit;
mod http;
pub mod interfaces;
pub mod load;
pub mod mailbox;
pub mod registry;
pub mod relay;
pub mod scheduling;
mod shard_metrics;
pub mod shard_thread;
pub mod shard_waker;
pub mod signaling_thread;
mod stats;
pub mod steer_program;
pub mod steering;
#[cfg(test)]
mod testing;
pub mod udp;
mod udp_batch;
#[cfg(any(not(target_os = "linux"), test))]
mod udp_portable;
mod websocket;
