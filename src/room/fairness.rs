//! Subscribers that share a bottleneck get about the same: who has more yields to who wants more.
//!
//! `media::shared_bottleneck` says what a burst shows, and `media::fair_share` what is fair; here it is found out who it is for.
//! Where there is nobody near a peer, nothing happens here, and where nobody lacks anything, no bursts are sent.

use std::time::{Duration, Instant};

use crate::base::ids::Bitrate;
use crate::media::allocation::Fair;
use crate::media::fair_share::{Consumption, FairShare, Flow, fair_share};
use crate::room::output::Output;
use crate::room::slots::PeerSlot;
use crate::room::state::Room;
use crate::room::subnets::{Burst, Candidate};

impl Room {
    /// What is fair for a peer, if others share the way to it.
    pub(in crate::room) fn fair(&mut self, now: Instant, slot: PeerSlot) -> Option<Fair> {
        let share = self.fair_share(slot);
        let division = &mut self.peers.get_mut(slot)?.division;
        let since = match share.and_then(|share| share.level) {
            Some(_) => Some(*division.ahead_since.get_or_insert(now)),
            None => None,
        };
        division.ahead_since = since;
        let share = share?;
        let waited = since.map(|since| now.saturating_duration_since(since));
        Some(Fair {
            share,
            yields: waited.is_some_and(|waited| waited >= YIELDS_AFTER),
            follows: share.is_behind && !division.consumption.is_waiting,
        })
    }

    fn fair_share(&self, slot: PeerSlot) -> Option<FairShare> {
        let peer = self.peers.get(slot)?;
        let subnet = self.subnets.get(peer.routed?)?;
        let flow = |slot| {
            let peer = self.peers.get(slot)?;
            Some(Flow {
                estimate: peer.congestion.sender.estimate()?,
                consumption: peer.division.consumption,
            })
        };
        let others: Vec<Flow> = subnet.flow_group(slot).filter_map(flow).collect();
        let own = flow(slot).filter(|_| !others.is_empty())?;
        Some(fair_share(own, &others))
    }

    /// A peer was given its part. If it lacks something and another one does not, it is looked whether they share a
    /// bottleneck.
    pub(in crate::room) fn compare(
        &mut self,
        now: Instant,
        slot: PeerSlot,
        consumption: Consumption,
        output: &mut Output,
    ) {
        let Some(peer) = self.peers.get_mut(slot) else {
            return;
        };
        peer.division.consumption = consumption;
        let Some(address) = peer.routed else {
            return;
        };
        let Some(subnet) = self.subnets.get_mut(address) else {
            return;
        };
        if let Some(burst) = &subnet.burst {
            if now.saturating_duration_since(burst.at) < SEEN_AFTER {
                return;
            }
            let burst = subnet.burst.take().expect("it was just there");
            let mut waited = |slot| self.peers.get_mut(slot)?.congestion.sender.take_watched();
            let own = waited(burst.by);
            for other in &burst.watched {
                let both = own.zip(waited(*other)).map(|(own, other)| [own, other]);
                subnet.on_burst(&burst, *other, both);
            }
        }
        if consumption.is_limited {
            self.send_burst_if_due(now, slot, output);
        }
    }

    fn send_burst_if_due(&mut self, now: Instant, slot: PeerSlot, output: &mut Output) {
        if self.padding_carrier(slot).is_none() {
            return;
        }
        let Some(peer) = self.peers.get(slot) else {
            return;
        };
        let (consumption, estimate) =
            (peer.division.consumption, peer.congestion.sender.estimate());
        let estimate = estimate.unwrap_or(Bitrate(0));
        let Some(subnet) = peer.routed.and_then(|at| self.subnets.get_mut(at)) else {
            return;
        };
        let (mut watched, mut rate, mut is_due) = (Vec::new(), Bitrate(0), false);
        for other in subnet.others(slot) {
            let Some(peer) = self.peers.get(other) else {
                continue;
            };
            let has = peer.division.consumption;
            if has.bitrate.0 == 0 || !peer.congestion.sender.is_quiet() {
                continue;
            }
            let matters = has.is_limited || consumption.is_behind(&has);
            let candidate = Candidate {
                peer: other,
                matters,
                decides: consumption.is_behind(&has) || has.is_behind(&consumption),
                takes_turns: has.is_limited,
            };
            if subnet.is_due(now, slot, candidate) {
                is_due = true;
                let strength = subnet.strength([slot, other]);
                rate = strength.rate(estimate).max(rate);
            }
            watched.push(other);
        }
        let Some(peer) = self.peers.get_mut(slot).filter(|_| is_due) else {
            return;
        };
        if !peer.congestion.sender.begin_burst(now, rate) {
            return;
        }
        for other in &watched {
            if let Some(peer) = self.peers.get_mut(*other) {
                peer.congestion.sender.watch_burst(now);
            }
        }
        subnet.burst = Some(Burst {
            at: now,
            by: slot,
            rate,
            watched,
        });
        output.counters.bursts_sent += 1;
        self.send_due_padding(now, slot, output);
    }
}

/// A burst's feedback is there by then, whatever the round trip.
const SEEN_AFTER: Duration = Duration::from_secs(1);
/// So long another one may be behind, before who is ahead gives anything up: the time in which an estimate that fell by mistake
/// is back, and a step up that was just made for one is made for the other.
const YIELDS_AFTER: Duration = Duration::from_secs(5);
