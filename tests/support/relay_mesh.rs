//! The way between shards in memory: messages take a random while, media may be lost. What is not media keeps its
//! order and arrives; sound and pictures keep each their own.

use std::collections::{BTreeMap, HashMap};
use std::time::{Duration, Instant};

use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use shardcast::base::ids::ShardId;
use shardcast::control::relay::{RelayClass, RelayMessage};

/// Who sent it, what queue it takes, whom it is for.
type Way = (ShardId, u8, ShardId);

pub struct Mesh {
    under_way: BTreeMap<(Instant, u64), (Way, RelayMessage)>,
    latest: HashMap<Way, Instant>,
    /// Messages that crossed, or are under way.
    pub sent: u64,
    rng: StdRng,
    delay_max: Duration,
    /// The probability that a packet is pushed out of a full queue.
    pub media_loss: f64,
    pub lost: u64,
}

impl Mesh {
    pub fn new(seed: u64, delay_max: Duration) -> Self {
        Self {
            under_way: BTreeMap::new(),
            latest: HashMap::new(),
            sent: 0,
            rng: StdRng::seed_from_u64(seed),
            delay_max,
            media_loss: 0.0,
            lost: 0,
        }
    }

    pub fn push(&mut self, now: Instant, from: ShardId, to: ShardId, message: RelayMessage) {
        let queue = match message.class() {
            RelayClass::Control | RelayClass::Feedback => 0,
            RelayClass::Audio => 1,
            RelayClass::Video => 2,
        };
        if queue > 0 && self.rng.random_bool(self.media_loss) {
            self.lost += 1;
            return;
        }
        let way = (from, queue, to);
        let delay = self.delay_max.mul_f64(self.rng.random());
        let latest = self.latest.entry(way).or_insert(now);
        *latest = (*latest).max(now + delay);
        self.sent += 1;
        self.under_way.insert((*latest, self.sent), (way, message));
    }

    pub fn next_at(&self) -> Option<Instant> {
        let ((at, _), _) = self.under_way.first_key_value()?;
        Some(*at)
    }

    /// What has arrived, as (for whom, from whom, what).
    pub fn poll(&mut self, now: Instant) -> Option<(ShardId, ShardId, RelayMessage)> {
        if self.next_at()? > now {
            return None;
        }
        let (_, ((from, _, to), message)) = self.under_way.pop_first()?;
        Some((to, from, message))
    }
}
