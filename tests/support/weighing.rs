//! An allocator that says what each thread holds. A test that has this module uses it.
//!
//! Counted is what glibc's allocator takes for each allocation, its own header included, so that many small allocations
//! do not look cheaper than they are.

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

struct Weighing;

thread_local! {
    static LIVE: Cell<i64> = const { Cell::new(0) };
}

/// Bytes that this thread has allocated and nobody has freed.
pub fn live_bytes() -> i64 {
    LIVE.with(Cell::get)
}

/// What an allocation of `size` bytes takes of glibc's heap: a header of 8 bytes, multiples of 16, at least 32.
fn chunk(size: usize) -> i64 {
    (size + 8).next_multiple_of(16).max(32) as i64
}

fn weigh(bytes: i64) {
    // The allocator is also called while a thread ends, when there is nothing left to count with.
    let _ = LIVE.try_with(|live| live.set(live.get() + bytes));
}

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Weighing {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        weigh(chunk(layout.size()));
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        weigh(-chunk(layout.size()));
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        weigh(chunk(size) - chunk(layout.size()));
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Weighing = Weighing;
