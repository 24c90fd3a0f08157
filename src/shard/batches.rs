//! The batches of one receive, one for each room that has packets in it.

use crate::base::slab::Slot;
use crate::room::Room;
use crate::room::batch::Batch;

/// Batches in use and their memory for the next time.
#[derive(Debug, Default)]
pub struct Batches {
    live: Vec<(Slot<Room>, Batch)>,
    /// As many at most as a batch ever had rooms: [`PACKETS_MAX`].
    spare: Vec<Batch>,
    /// How many of `live` are done.
    done: usize,
}

impl Batches {
    /// The batch of a room.
    pub fn of(&mut self, room: Slot<Room>) -> &mut Batch {
        let at = match self.live.iter().position(|(of, _)| *of == room) {
            Some(at) => at,
            None => {
                let batch = self.spare.pop().unwrap_or_default();
                self.live.push((room, batch));
                self.live.len() - 1
            }
        };
        &mut self.live[at].1
    }

    /// The first batch that is not done, and its room.
    pub fn first(&mut self) -> Option<(Slot<Room>, &mut Batch)> {
        let (room, batch) = self.live.get_mut(self.done)?;
        Some((*room, batch))
    }

    /// The first batch is done.
    pub fn on_done(&mut self) {
        self.done += 1;
        if self.done >= self.live.len() {
            self.done = 0;
            self.spare
                .extend(self.live.drain(..).map(|(_, batch)| batch));
        }
    }

    /// Whether the sending of what waits has begun: nothing may be added then.
    pub fn is_begun(&self) -> bool {
        let first = self.live.get(self.done);
        self.done > 0 || first.is_some_and(|(_, batch)| batch.is_laid_out())
    }

    /// Whether as many packets wait as may.
    pub fn is_full(&self) -> bool {
        let packets = self.live.iter().map(|(_, batch)| batch.len());
        self.live.len() >= PACKETS_MAX || packets.sum::<usize>() >= PACKETS_MAX
    }
}

/// The most packets that wait to be fanned out together: what one receive brings.
pub const PACKETS_MAX: usize = 64;
