//! What every layer shares: identifiers, quantities and deadlines as types of their own.
//!
//! Knows nothing of the wire, of rooms or of threads.

pub mod counter_map;
pub mod counters;
pub mod growth;
pub mod histogram;
pub mod ids;
pub mod layer_reason;
pub mod slab;
pub mod time;
pub mod ufrag;
