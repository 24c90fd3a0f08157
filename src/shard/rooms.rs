//! The rooms of a shard, by place and by name.

use std::collections::HashMap;

use crate::base::ids::{RoomId, ShardId};
use crate::base::slab::{Slab, Slot};
use crate::control::RoomOptions;
use crate::room::Room;

/// Every room that a shard holds, or holds a part of.
pub struct Rooms {
    shard: ShardId,
    options: RoomOptions,
    slab: Slab<Room>,
    by_id: HashMap<RoomId, Slot<Room>>,
}

impl Rooms {
    /// No rooms, on that shard.
    #[must_use]
    pub fn new(shard: ShardId) -> Self {
        Self {
            shard,
            options: RoomOptions::default(),
            slab: Slab::new(),
            by_id: HashMap::new(),
        }
    }

    /// What holds for rooms that come into being from now on.
    pub fn set_options(&mut self, options: RoomOptions) {
        self.options = options;
    }

    /// The place of the room of that name, if there is one.
    #[must_use]
    pub fn find(&self, id: &RoomId) -> Option<Slot<Room>> {
        self.by_id.get(id).copied()
    }

    /// Where the room of that name is; it comes into being if need be.
    pub fn find_or_start(&mut self, id: &RoomId) -> Slot<Room> {
        if let Some(slot) = self.by_id.get(id) {
            return *slot;
        }
        let mut room = Room::new(id.clone(), self.shard);
        room.set_options(self.options);
        let slot = self.slab.insert(room);
        self.by_id.insert(id.clone(), slot);
        slot
    }

    /// The room, if it is still there.
    #[inline]
    #[must_use]
    pub fn get(&self, slot: Slot<Room>) -> Option<&Room> {
        self.slab.get(slot)
    }

    /// The room, if it is still there.
    #[inline]
    #[must_use]
    pub fn get_mut(&mut self, slot: Slot<Room>) -> Option<&mut Room> {
        self.slab.get_mut(slot)
    }

    /// Every room's place.
    #[must_use]
    pub fn slots(&self) -> Vec<Slot<Room>> {
        self.by_id.values().copied().collect()
    }

    /// Forgets a room that nobody needs any more.
    pub fn remove_if_empty(&mut self, slot: Slot<Room>) {
        if let Some(room) = self.slab.get(slot)
            && room.is_empty()
        {
            self.by_id.remove(room.id());
            self.slab.remove(slot);
        }
    }

    /// How many there are.
    #[must_use]
    pub fn len(&self) -> usize {
        self.slab.len()
    }
}
