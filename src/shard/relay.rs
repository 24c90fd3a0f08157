//! Which room each want belongs to: those of this shard at others, and those of others here.

use std::collections::HashMap;
use std::time::Instant;

use crate::base::ids::{RoomId, ShardId, TrackKey, WantKey};
use crate::base::slab::Slot;
use crate::control::relay::{RelayMessage, Selection};
use crate::room::Room;
use crate::room::origin::Sink;
use crate::room::output::{Output, WantChange};
use crate::shard::rooms::Rooms;
use crate::shard::timers::Timers;

/// The wants of a shard. Empty while all its rooms live on it alone.
#[derive(Debug, Default)]
pub struct Relays {
    /// What this shard wants of others.
    own: HashMap<WantKey, Slot<Room>>,
    /// What others want of this shard.
    served: HashMap<Sink, (Slot<Room>, TrackKey)>,
    timers: Timers<WantKey>,
}

impl Relays {
    /// Takes what another shard says, but for packets.
    pub fn handle(
        &mut self,
        now: Instant,
        from: ShardId,
        message: RelayMessage,
        rooms: &mut Rooms,
        output: &mut Output,
    ) {
        match message {
            RelayMessage::Reset => self.reset(from, rooms, output),
            RelayMessage::Want {
                want,
                room,
                track,
                selection,
            } => {
                let sink = Sink { shard: from, want };
                self.serve(now, sink, &room, (track, selection), rooms, output);
            }
            RelayMessage::Unwant { want } => {
                match self.served.remove(&Sink { shard: from, want }) {
                    Some((slot, track)) => {
                        if let Some(room) = rooms.get_mut(slot) {
                            room.handle_unwant(now, Sink { shard: from, want }, track, output);
                        }
                        rooms.remove_if_empty(slot);
                    }
                    None => output.counters.relay_stale += 1,
                }
            }
            RelayMessage::Voices { room, voices } => {
                // Of a room that has ended here, or not begun.
                match rooms.find(&room).and_then(|slot| rooms.get_mut(slot)) {
                    Some(room) => room.handle_voices(now, from, &voices, output),
                    None => output.counters.relay_stale += 1,
                }
            }
            RelayMessage::Select { want, selection } => {
                let sink = Sink { shard: from, want };
                match self.served.get(&sink) {
                    Some((slot, track)) => {
                        if let Some(room) = rooms.get_mut(*slot) {
                            room.handle_select(now, sink, *track, selection, output);
                        }
                    }
                    None => output.counters.relay_stale += 1,
                }
            }
            RelayMessage::KeyframeWanted { want, encoding } => {
                match self.served.get(&Sink { shard: from, want }) {
                    Some((slot, track)) => {
                        if let Some(room) = rooms.get_mut(*slot) {
                            room.handle_keyframe_wanted(now, *track, encoding, output);
                        }
                    }
                    None => output.counters.relay_stale += 1,
                }
            }
            RelayMessage::Started { .. }
            | RelayMessage::Ended { .. }
            | RelayMessage::Refused { .. }
            | RelayMessage::Layers { .. }
            | RelayMessage::Flow { .. }
            | RelayMessage::Clock { .. } => self.handle_served(now, message, rooms, output),
            // Goes into its room's batch: see `Relays::room_of`.
            RelayMessage::Packet(_) => {}
        }
        self.settle(rooms, output);
    }

    /// Which room a want of this shard is of.
    #[must_use]
    pub fn room_of(&self, want: WantKey) -> Option<Slot<Room>> {
        self.own.get(&want).copied()
    }

    /// Does what is due for tracks of other shards, for at most `WANTS_PER_TURN` of them. Whose next deadline comes of that
    /// waits for the next turn.
    pub fn handle_timeout(&mut self, now: Instant, rooms: &mut Rooms, output: &mut Output) {
        for _ in 0..WANTS_PER_TURN {
            let Some(want) = self.timers.pop_due(now) else {
                break;
            };
            let room = self.own.get(&want).and_then(|slot| rooms.get_mut(*slot));
            if let Some(room) = room {
                room.handle_remote_timeout(now, want, output);
            }
        }
        self.settle(rooms, output);
    }

    #[cfg(test)]
    pub fn schedule(&mut self, want: WantKey, at: Instant) {
        self.timers.schedule(want, Some(at));
    }

    /// When [`Relays::handle_timeout`] is next needed.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        self.timers.poll_timeout()
    }

    /// A room may have made and ended wants, which are its own.
    pub fn follow(&mut self, room: Slot<Room>, output: &mut Output) {
        for change in output.relay.changed.drain(..) {
            match change {
                WantChange::Made(want) => {
                    self.own.insert(want, room);
                }
                WantChange::Ended(want) => {
                    self.own.remove(&want);
                    self.timers.remove(want);
                }
            }
        }
    }

    /// Notes the deadlines that may have changed.
    pub fn settle(&mut self, rooms: &Rooms, output: &mut Output) {
        for want in output.relay.rescheduled.drain(..) {
            let room = self.own.get(&want).and_then(|slot| rooms.get(*slot));
            if let Some(room) = room {
                self.timers.schedule(want, room.poll_remote_timeout(want));
            }
        }
    }

    /// How many wants there are, of this shard and of others.
    #[must_use]
    pub fn len(&self) -> usize {
        self.own.len() + self.served.len()
    }

    /// What comes of a want of this shard.
    fn handle_served(
        &mut self,
        now: Instant,
        message: RelayMessage,
        rooms: &mut Rooms,
        output: &mut Output,
    ) {
        let want = match &message {
            RelayMessage::Started { want, .. }
            | RelayMessage::Ended { want }
            | RelayMessage::Refused { want }
            | RelayMessage::Layers { want, .. }
            | RelayMessage::Flow { want, .. }
            | RelayMessage::Clock { want, .. } => *want,
            _ => return,
        };
        let slot = self.own.get(&want).copied();
        let Some((slot, room)) = slot.and_then(|slot| Some((slot, rooms.get_mut(slot)?))) else {
            output.counters.relay_stale += 1;
            return;
        };
        match message {
            RelayMessage::Started { track, .. } => {
                room.handle_started(now, want, *track, output);
            }
            RelayMessage::Ended { .. } => room.handle_ended(want, output),
            RelayMessage::Layers { layers, .. } => room.handle_layers(now, want, &layers, output),
            RelayMessage::Flow { flowing, .. } => room.handle_flow(now, want, flowing, output),
            RelayMessage::Clock {
                encoding, clock, ..
            } => {
                room.handle_clock(now, want, encoding, clock, output);
            }
            _ => {
                room.handle_refused(want, output);
                self.follow(slot, output);
            }
        }
    }

    fn serve(
        &mut self,
        now: Instant,
        sink: Sink,
        id: &RoomId,
        (track, selection): (TrackKey, Selection),
        rooms: &mut Rooms,
        output: &mut Output,
    ) {
        let slot = rooms.find_or_start(id);
        let served = rooms
            .get_mut(slot)
            .is_some_and(|room| room.handle_want(now, sink, track, selection, output));
        if served {
            self.served.insert(sink, (slot, track));
        } else {
            output.counters.relay_want_refused += 1;
            let refused = RelayMessage::Refused { want: sink.want };
            output.relay.push(sink.shard, refused);
            rooms.remove_if_empty(slot);
        }
    }

    fn reset(&mut self, shard: ShardId, rooms: &mut Rooms, output: &mut Output) {
        self.served.retain(|sink, _| sink.shard != shard);
        for slot in rooms.slots() {
            if let Some(room) = rooms.get_mut(slot) {
                room.handle_reset(shard, output);
            }
            rooms.remove_if_empty(slot);
        }
    }
}

/// Tracks of other shards that one call of [`Relays::handle_timeout`] serves.
const WANTS_PER_TURN: usize = 64;
