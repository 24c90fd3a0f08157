//! The edge: sockets, threads, locks, channels and the clock.

mod assets;
mod dual_stack;
mod http;
pub mod interfaces;
pub mod mailbox;
pub mod udp;
