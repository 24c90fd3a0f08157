//! The edge: sockets, threads, locks, channels and the clock.

mod dual_stack;
pub mod interfaces;
pub mod udp;
