//! The edge: sockets, threads, locks, channels and the clock.

pub mod acceptor;
mod assets;
mod connection;
mod dual_stack;
mod http;
pub mod interfaces;
pub mod mailbox;
pub mod signaling_thread;
#[cfg(test)]
mod testing;
pub mod udp;
mod websocket;
