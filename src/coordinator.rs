//! The registry of rooms: which shard holds each, who is in it, and what changed.
