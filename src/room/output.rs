//! What one turn of a shard produces.

use std::collections::VecDeque;

use crate::base::counters::Counters;
use crate::base::ids::PeerKey;
use crate::control::TransportEvent;
use crate::transport::outbox::Outbox;

/// What comes of an input: datagrams, events, counts. Drained by the shard after every input.
#[derive(Debug, Default)]
pub struct Output {
    /// Datagrams to send.
    pub outbox: Outbox,
    /// What was done and dropped.
    pub counters: Counters,
    /// What happened to transports; one input makes a few for one peer.
    pub events: VecDeque<(PeerKey, TransportEvent)>,
    /// Peers whose next deadline may have come nearer.
    pub rescheduled: Vec<PeerKey>,
}
