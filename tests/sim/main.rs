//! Whole rooms on a virtual clock.
#[path = "../support/mod.rs"]
mod support;
