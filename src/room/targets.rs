//! Where the packets of an encoding go: a flat table, so that for each packet there is nothing to look up or to
//! decide. `routing` keeps it up to date.

use std::net::SocketAddr;

use crate::base::growth::insert;
use crate::room::slots::{PeerSlot, SubscriptionSlot};
use crate::transport::RtpSealer;

/// One subscription that an encoding's packets go to.
#[derive(Debug)]
pub struct Target {
    /// Whose it is.
    pub subscriber: PeerSlot,
    /// The subscription.
    pub subscription: SubscriptionSlot,
    /// Where its subscriber is.
    pub to: SocketAddr,
    /// What protects the packets.
    pub sealer: RtpSealer,
}

/// The targets of an encoding, sorted by subscriber, so that the tables of several encodings can be walked
/// together subscriber by subscriber.
#[derive(Debug, Default)]
pub struct Targets(Vec<Target>);

impl Targets {
    /// The target at a place, if there are so many.
    #[inline]
    pub fn get(&self, at: usize) -> Option<&Target> {
        self.0.get(at)
    }

    /// Those from a place on, at most `count`.
    pub fn from(&self, at: usize, count: usize) -> &[Target] {
        let rest = self.0.get(at..).unwrap_or_default();
        &rest[..rest.len().min(count)]
    }

    /// Whether nobody is sent this encoding.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Adds a target, or replaces what is known of it.
    pub fn set(&mut self, target: Target) {
        match self.find((target.subscriber, target.subscription)) {
            Ok(at) => self.0[at] = target,
            Err(at) => insert(&mut self.0, at, target),
        }
    }

    /// Takes a target out. False if it is not there.
    pub fn remove(&mut self, key: (PeerSlot, SubscriptionSlot)) -> bool {
        let found = self.find(key);
        if let Ok(at) = found {
            self.0.remove(at);
        }
        found.is_ok()
    }

    fn find(&self, key: (PeerSlot, SubscriptionSlot)) -> Result<usize, usize> {
        let key_of = |target: &Target| (target.subscriber, target.subscription);
        self.0.binary_search_by_key(&key, key_of)
    }
}
