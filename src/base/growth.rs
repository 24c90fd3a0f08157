//! Lists that grow by a little, and queues that do not stay as long as they once were. `Vec` doubles, so that up to half
//! of it is empty, and keeps what it has: too much where there is one list for each peer of a room, or one entry for
//! each pair of them.

use std::collections::VecDeque;

/// Adds an entry; a full list grows by an eighth.
pub fn push<T>(list: &mut Vec<T>, entry: T) {
    make_room(list);
    list.push(entry);
}

/// Adds an entry at a place; a full list grows by an eighth.
///
/// # Panics
/// If the place is beyond the end.
pub fn insert<T>(list: &mut Vec<T>, at: usize, entry: T) {
    make_room(list);
    list.insert(at, entry);
}

/// Takes the first entry of a queue that is drained after every input; one that was long gives its memory back then.
pub fn pop<T>(queue: &mut VecDeque<T>) -> Option<T> {
    let first = queue.pop_front();
    if queue.is_empty() && queue.capacity() > KEPT_MAX {
        *queue = VecDeque::new();
    }
    first
}

fn make_room<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 8).max(STEP_MIN));
    }
}

/// The least by which a list grows.
const STEP_MIN: usize = 4;
/// The most entries for which an empty queue keeps room.
const KEPT_MAX: usize = 16;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn little_is_empty_and_growing_stays_rare() {
        let (mut list, mut grown) = (Vec::new(), 0);
        for number in 0..10_000_u64 {
            let before = list.capacity();
            push(&mut list, number);
            grown += usize::from(list.capacity() != before);
            assert!(list.capacity() <= list.len() + (list.len() / 8).max(STEP_MIN));
        }
        assert!(grown < 80, "{grown}");
        insert(&mut list, 3, 7);
        assert_eq!((list[2], list[3], list[4]), (2, 7, 3));
    }

    #[test]
    fn a_queue_that_was_long_gives_its_memory_back() {
        for (entries, keeps) in [(4, true), (1000, false)] {
            let mut queue: VecDeque<u64> = (0..entries).collect();
            let taken: Vec<u64> = std::iter::from_fn(|| pop(&mut queue)).collect();
            assert_eq!(taken, (0..entries).collect::<Vec<_>>());
            assert_eq!(queue.capacity() > 0, keeps);
        }
    }
}
