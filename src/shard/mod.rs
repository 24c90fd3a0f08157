//! A shard: many rooms, the routes to their peers, and everything they want sent.
