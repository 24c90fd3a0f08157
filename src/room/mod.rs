//! Rooms: peers, the tracks they publish, and the subscriptions that copy them.
