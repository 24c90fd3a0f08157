//! The paths between shards that share a port: what reached the wrong one goes over once, and claims to
//! addresses go to all.
//!
//! Bounded, and nobody waits: a stray that finds its queue full is dropped and counted, like a datagram that
//! finds the socket's buffer full; a claim is too, and comes again with the peer's next check. They have
//! queues of their own, so that a flood of strays costs no claim. A shard is woken at most once until it
//! looks.

use std::net::SocketAddr;
use std::time::Instant;

use bytes::BytesMut;
use crossbeam_channel::{Receiver, Sender, TrySendError, bounded};

use crate::io::shard_waker::ShardWaker;
use crate::io::udp_batch::{BATCH_MAX, RecvBatch};
use crate::shard::Shard;
use crate::shard::strays::{Claim, ClaimKind, Sorted};

/// One shard's end of the paths.
#[derive(Debug)]
pub struct Crossing {
    strays_rx: Receiver<(SocketAddr, BytesMut)>,
    claims_rx: Receiver<Claim>,
    /// One for each shard, its own too, which is not used.
    others: Box<[Outlet]>,
    steering: Option<Sender<Claim>>,
    counts: CrossingCounts,
}

/// What one shard handed over.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct CrossingCounts {
    /// Datagrams handed to the shard they are for.
    pub handed_over: u64,
    /// Datagrams dropped, because that shard's queue was full.
    pub dropped_full: u64,
    /// Datagrams that other shards handed over.
    pub taken: u64,
    /// Claims dropped, because a queue was full.
    pub claims_dropped_full: u64,
}

#[derive(Debug, Clone)]
struct Outlet {
    strays_tx: Sender<(SocketAddr, BytesMut)>,
    claims_tx: Sender<Claim>,
    waker: ShardWaker,
    /// Something was pushed since the last wake-up.
    is_due: bool,
}

/// Makes the ends of all shards, in the order of their `wakers`. `steering` is told every claim, if there is
/// steering.
#[must_use]
pub fn crossings(wakers: &[ShardWaker], steering: Option<&Sender<Claim>>) -> Vec<Crossing> {
    let ends: Vec<_> = wakers
        .iter()
        .map(|_| (bounded(STRAYS_MAX), bounded(CLAIMS_MAX)))
        .collect();
    let others: Box<[Outlet]> = wakers
        .iter()
        .zip(&ends)
        .map(|(waker, ((strays_tx, _), (claims_tx, _)))| Outlet {
            strays_tx: strays_tx.clone(),
            claims_tx: claims_tx.clone(),
            waker: waker.clone(),
            is_due: false,
        })
        .collect();
    ends.into_iter()
        .map(|((_, strays_rx), (_, claims_rx))| Crossing {
            strays_rx,
            claims_rx,
            others: others.clone(),
            steering: steering.cloned(),
            counts: CrossingCounts::default(),
        })
        .collect()
}

impl Crossing {
    /// What was handed over so far.
    #[must_use]
    pub fn counts(&self) -> CrossingCounts {
        self.counts
    }

    /// How many shards there are.
    #[must_use]
    pub fn shards(&self) -> u16 {
        self.others.len() as u16
    }

    /// Whether something waits to be taken.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        !self.strays_rx.is_empty() || !self.claims_rx.is_empty()
    }

    /// Takes the claims of the others. To be called after datagrams were received and before they are sorted:
    /// who sends from an address only after its check was answered is then known.
    pub fn take_claims(&mut self, shard: &mut Shard, now: Instant) {
        for claim in self.claims_rx.try_iter().take(CLAIMS_PER_TURN) {
            shard.handle_claim(now, &claim);
        }
    }

    /// Hands over what of `batch` is for another shard, and wakes those shards.
    pub fn hand_over(&mut self, shard: &mut Shard, now: Instant, batch: &mut RecvBatch) {
        batch.retain(|from, datagram| match shard.sort(now, from, datagram) {
            Sorted::Mine => true,
            Sorted::Of(owner) => {
                let outlet = &mut self.others[usize::from(owner.0)];
                match outlet.strays_tx.try_send((from, datagram.split())) {
                    Ok(()) => self.counts.handed_over += 1,
                    Err(_) => self.counts.dropped_full += 1,
                }
                outlet.is_due = true;
                false
            }
            Sorted::UnknownShard | Sorted::AddressTaken => false,
        });
        self.wake();
    }

    /// Puts what the others handed over behind what is in `batch`, while it is short.
    pub fn take_strays(&mut self, batch: &mut RecvBatch) {
        let room = BATCH_MAX.saturating_sub(batch.len());
        // At least a few in each turn, also when the own socket always has more.
        for (from, datagram) in self.strays_rx.try_iter().take(room.max(STRAYS_PER_TURN)) {
            self.counts.taken += 1;
            batch.push(from, datagram);
        }
    }

    /// Tells the others of the addresses that the shard took or gave up. To be called before what the shard
    /// has to send is sent.
    pub fn share_claims(&mut self, shard: &mut Shard) {
        let me = usize::from(shard.id().0);
        while let Some(claim) = shard.poll_claim() {
            for (index, outlet) in self.others.iter_mut().enumerate() {
                if index == me {
                    continue;
                }
                if outlet.claims_tx.try_send(claim).is_err() {
                    self.counts.claims_dropped_full += 1;
                }
                // A repeated claim can wait until the shard wakes of itself.
                outlet.is_due |= claim.kind == ClaimKind::Taken;
            }
            match self.steering.as_ref().map(|tx| tx.try_send(claim)) {
                Some(Err(TrySendError::Full(_))) => self.counts.claims_dropped_full += 1,
                // The system cannot steer.
                Some(Err(TrySendError::Disconnected(_))) => self.steering = None,
                Some(Ok(())) | None => {}
            }
        }
        self.wake();
    }

    fn wake(&mut self) {
        for outlet in self.others.iter_mut().filter(|outlet| outlet.is_due) {
            outlet.is_due = false;
            outlet.waker.wake();
        }
    }
}

/// Strays waiting for one shard at most: 20 ms of 50,000 a second. Each may hold a chunk of 64 KiB, so that
/// this bounds memory too.
const STRAYS_MAX: usize = 1024;
/// Strays taken in one turn even if the socket filled the batch.
const STRAYS_PER_TURN: usize = 16;
/// Claims waiting for one shard at most: one for each check of a thousand peers.
const CLAIMS_MAX: usize = 4096;
/// Claims taken in one turn at most.
const CLAIMS_PER_TURN: usize = 256;

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use mio::{Events, Poll, Token, Waker};
    use std::time::Duration;

    use super::*;
    use crate::base::ids::{PeerKey, ShardId};
    use crate::transport::DtlsIdentity;

    fn world() -> (Vec<Poll>, Vec<Shard>, Vec<Crossing>, Receiver<Claim>) {
        let identity = Arc::new(DtlsIdentity::generate().unwrap());
        let polls: Vec<Poll> = (0..3).map(|_| Poll::new().unwrap()).collect();
        let waker = |poll: &Poll| ShardWaker::new(Waker::new(poll.registry(), Token(0)).unwrap());
        let wakers: Vec<_> = polls.iter().map(waker).collect();
        let shards = (0..3).map(|n| {
            let mut shard = Shard::new(ShardId(n), Arc::clone(&identity), 1);
            shard.share_port(3);
            shard
        });
        let (steering_tx, steering_rx) = bounded(16);
        let crossings = crossings(&wakers, Some(&steering_tx));
        (polls, shards.collect(), crossings, steering_rx)
    }

    fn is_woken(poll: &mut Poll) -> bool {
        let mut events = Events::with_capacity(4);
        poll.poll(&mut events, Some(Duration::ZERO)).unwrap();
        !events.is_empty()
    }

    fn claimed(port: u16) -> Claim {
        Claim {
            address: SocketAddr::from(([192, 0, 2, 1], port)),
            owner: ShardId(2),
            peer: PeerKey(1),
            kind: ClaimKind::Taken,
        }
    }

    #[test]
    fn strays_cross_once_and_a_full_queue_drops_them() {
        let (mut polls, mut shards, mut crossings, _) = world();
        let now = Instant::now();
        let mine = SocketAddr::from(([192, 0, 2, 1], 1));
        shards[0].handle_claim(now, &claimed(2));
        let mut batch = RecvBatch::default();
        for n in 0..STRAYS_MAX + 7 {
            batch.push(claimed(2).address, BytesMut::from(&[128, n as u8][..]));
        }
        batch.push(mine, BytesMut::from(&[128, 1][..]));
        crossings[0].hand_over(&mut shards[0], now, &mut batch);
        assert_eq!(
            batch.drain().map(|(from, _)| from).collect::<Vec<_>>(),
            [mine]
        );
        let counts = crossings[0].counts();
        assert_eq!(
            (counts.handed_over, counts.dropped_full),
            (STRAYS_MAX as u64, 7)
        );
        assert!(is_woken(&mut polls[2]) && !is_woken(&mut polls[1]));

        assert!(crossings[2].is_ready() && !crossings[1].is_ready());
        crossings[2].take_strays(&mut batch);
        assert_eq!(batch.len(), BATCH_MAX);
        crossings[2].take_strays(&mut batch);
        assert_eq!(batch.len(), BATCH_MAX + STRAYS_PER_TURN);
        assert_eq!(crossings[2].counts().taken, batch.len() as u64);
        // The order of one source is kept.
        let seconds: Vec<u8> = batch.drain().map(|(_, d)| d[1]).collect();
        assert!(seconds.iter().copied().eq(0..BATCH_MAX as u8));
    }

    #[test]
    fn claims_cross_beside_a_flood_of_strays() {
        let (mut polls, mut shards, mut crossings, _) = world();
        let now = Instant::now();
        shards[0].handle_claim(now, &claimed(2));
        let mut batch = RecvBatch::default();
        for _ in 0..2 * STRAYS_MAX {
            batch.push(claimed(2).address, BytesMut::from(&[128, 0][..]));
        }
        crossings[0].hand_over(&mut shards[0], now, &mut batch);
        let claim = Claim {
            owner: ShardId(1),
            ..claimed(9)
        };
        crossings[0].others[2].claims_tx.send(claim).unwrap();
        crossings[2].take_claims(&mut shards[2], now);
        let media = shards[2].sort(now, claim.address, &[128, 0]);
        assert_eq!(media, Sorted::Of(ShardId(1)));
        // Nothing to tell wakes nobody more than the strays did.
        assert!(is_woken(&mut polls[2]));
        crossings[1].share_claims(&mut shards[1]);
        assert!(!polls.iter_mut().any(is_woken));
    }
}
