//! The edge: sockets, threads, locks, channels and the clock.
