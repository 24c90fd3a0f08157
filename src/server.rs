//! The running server: starts and joins its threads.
