//! The edge: sockets, threads, locks, channels and the clock.

pub mod acceptor;
mod assets;
mod chunks;
mod connection;
mod dual_stack;
pub mod file_limit;
mod http;
pub mod interfaces;
mod load;
pub mod mailbox;
pub mod registry;
pub mod relay;
pub mod shard_thread;
pub mod signaling_thread;
mod stats;
#[cfg(test)]
mod testing;
pub mod udp;
mod udp_batch;
#[cfg(any(not(target_os = "linux"), test))]
mod udp_portable;
mod websocket;
