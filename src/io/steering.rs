//! Tells the kernel which of a port's sockets a source address belongs to, so that steady traffic reaches
//! its shard at once.
//!
//! A thread of its own gathers the claims of all shards and, a moment after they changed, attaches a new
//! program (see [`crate::io::steer_program`]) to the port. That takes the kernel a millisecond or two,
//! which no shard should wait. What is not steered (yet, or because there are too many addresses, or the
//! system cannot) is handed over between shards.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};
use std::{io, thread};

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};

use crate::base::ids::{PeerKey, ShardId};
use crate::io::steer_program::{ADDRESSES_MAX, compile};
use crate::io::udp::PortGroup;
use crate::shard::strays::{CLAIM_LIFETIME, Claim, ClaimKind};

/// The running thread. It ends when every sender of claims is gone.
#[derive(Debug)]
pub struct Steering {
    /// Where shards send their claims.
    pub claims: Sender<Claim>,
    /// How many addresses are steered.
    pub steered: Arc<AtomicUsize>,
    /// Ends after the last sender.
    pub thread: JoinHandle<()>,
}

impl Steering {
    /// Starts to steer a group of sockets.
    ///
    /// # Errors
    /// When the operating system refuses the thread.
    pub fn start(group: PortGroup) -> io::Result<Self> {
        let (claims, rx) = bounded(CLAIMS_MAX);
        let steered = Arc::new(AtomicUsize::new(0));
        let told = Arc::clone(&steered);
        let thread = thread::Builder::new()
            .name("steering".to_owned())
            .spawn(move || run(&group, &rx, &told))?;
        Ok(Self {
            claims,
            steered,
            thread,
        })
    }
}

fn run(group: &PortGroup, claims: &Receiver<Claim>, steered: &AtomicUsize) {
    let mut table = Table::default();
    let mut due: Option<Instant> = None;
    loop {
        let wait = due.map_or(SWEEP_PERIOD, |due| {
            due.saturating_duration_since(Instant::now())
        });
        let claim = match claims.recv_timeout(wait) {
            Ok(claim) => Some(claim),
            Err(RecvTimeoutError::Timeout) => None,
            Err(RecvTimeoutError::Disconnected) => return,
        };
        let now = Instant::now();
        let has_changed = match claim {
            Some(claim) => table.on_claim(now, &claim) | table.sweep(now),
            None => table.sweep(now),
        };
        if has_changed {
            due.get_or_insert(now + SETTLE_TIME);
        }
        if due.is_some_and(|due| due <= now) {
            due = None;
            match group.attach(&compile(table.addresses())) {
                Ok(()) => steered.store(table.addresses().count(), Ordering::Relaxed),
                Err(error) if table.limit > 1 => {
                    // Older systems allow shorter programs (net.core.optmem_max).
                    table.limit /= 2;
                    tracing::debug!(%error, limit = table.limit, "a shorter steering program is tried");
                    due = Some(now + SETTLE_TIME);
                }
                Err(error) => {
                    tracing::warn!(%error, "the system cannot steer datagrams; all are handed over between shards");
                    return;
                }
            }
        }
    }
}

/// What is claimed, as far as it is steered.
#[derive(Debug)]
struct Table {
    entries: HashMap<SocketAddr, Entry>,
    limit: usize,
    next_sweep: Option<Instant>,
}

#[derive(Debug)]
struct Entry {
    owner: ShardId,
    peer: PeerKey,
    at: Instant,
}

impl Default for Table {
    fn default() -> Self {
        Self {
            entries: HashMap::new(),
            limit: ADDRESSES_MAX,
            next_sweep: None,
        }
    }
}

impl Table {
    fn addresses(&self) -> impl Iterator<Item = (SocketAddr, u16)> + '_ {
        let entries = self.entries.iter().take(self.limit);
        entries.map(|(address, entry)| (*address, entry.owner.0))
    }

    /// Says whether the program must change.
    fn on_claim(&mut self, now: Instant, claim: &Claim) -> bool {
        let known = self.entries.get(&claim.address);
        if claim.kind == ClaimKind::GivenUp {
            let is_holder = known.is_some_and(|known| known.peer == claim.peer);
            return is_holder && self.entries.remove(&claim.address).is_some();
        }
        if known.is_none() && self.entries.len() >= self.limit {
            return false;
        }
        let is_news = known.is_none_or(|known| known.owner != claim.owner);
        let entry = Entry {
            owner: claim.owner,
            peer: claim.peer,
            at: now,
        };
        self.entries.insert(claim.address, entry);
        is_news
    }

    /// Forgets what was not claimed again, now and then. Says whether something was.
    fn sweep(&mut self, now: Instant) -> bool {
        if self.next_sweep.is_some_and(|due| now < due) {
            return false;
        }
        self.next_sweep = Some(now + SWEEP_PERIOD);
        let before = self.entries.len();
        self.entries
            .retain(|_, entry| now.saturating_duration_since(entry.at) < CLAIM_LIFETIME);
        self.entries.len() != before
    }
}

/// How long changes are gathered before a program is attached: with 2 ms for a program of 1024 addresses
/// (measured, 2-core Zen 3 VM, Linux 6.18, November 2026) this thread takes below one hundredth of a core.
const SETTLE_TIME: Duration = Duration::from_millis(250);
const SWEEP_PERIOD: Duration = Duration::from_secs(10);
/// Claims waiting at most; one more is dropped, counted by its shard, and comes again.
const CLAIMS_MAX: usize = 4096;

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(port: u16, owner: u16, peer: u64, kind: ClaimKind) -> Claim {
        Claim {
            address: SocketAddr::from(([192, 0, 2, 1], port)),
            owner: ShardId(owner),
            peer: PeerKey(peer),
            kind,
        }
    }

    #[test]
    fn only_what_changes_the_program_counts_as_a_change() {
        let mut table = Table::default();
        let zero = Instant::now();
        let cases = [
            (claim(1, 0, 1, ClaimKind::Taken), true),
            (claim(1, 0, 1, ClaimKind::Kept), false),
            (claim(2, 1, 2, ClaimKind::Kept), true),
            (claim(1, 1, 3, ClaimKind::Taken), true),
            (claim(1, 0, 1, ClaimKind::GivenUp), false),
            (claim(1, 1, 3, ClaimKind::GivenUp), true),
            (claim(1, 1, 3, ClaimKind::GivenUp), false),
        ];
        for (claim, expected) in cases {
            assert_eq!(table.on_claim(zero, &claim), expected, "{claim:?}");
        }
        assert_eq!(
            table
                .addresses()
                .map(|(_, index)| index)
                .collect::<Vec<_>>(),
            [1]
        );
        assert!(!table.sweep(zero));
        assert!(table.sweep(zero + CLAIM_LIFETIME));
        assert_eq!(table.addresses().count(), 0);
    }

    #[test]
    fn the_table_is_bounded() {
        let mut table = Table::default();
        for port in 0..5000 {
            table.on_claim(Instant::now(), &claim(port, 0, 1, ClaimKind::Taken));
        }
        assert_eq!(table.entries.len(), ADDRESSES_MAX);
    }
}
