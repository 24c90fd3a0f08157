//! Forwarding allocates per packet at most, never per subscription.

#[path = "support/shard_world.rs"]
mod support;

use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::BytesMut;
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track};

struct Counting;

static ALLOCATIONS: AtomicU64 = AtomicU64::new(0);

// SAFETY: passes everything on to the system's allocator and only counts.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: the caller keeps the contract of `GlobalAlloc`, which is `System`'s.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, ptr: *mut u8, layout: Layout) {
        // SAFETY: `ptr` came from `System` with this layout.
        unsafe { System.dealloc(ptr, layout) }
    }

    unsafe fn realloc(&self, ptr: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        ALLOCATIONS.fetch_add(1, Ordering::Relaxed);
        // SAFETY: as above.
        unsafe { System.realloc(ptr, layout, size) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

const PACKETS: u16 = 500;

/// Allocations of the shard while `PACKETS` packets go to each of `subscribers`, in steady state.
fn allocations(subscribers: usize) -> u64 {
    let mut world = World::new();
    let publisher = world.join("room");
    let track = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
    world.configure(publisher, std::slice::from_ref(&track), &[]);
    for _ in 0..subscribers {
        let at = world.join("room");
        let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
        world.configure(at, &[], &[wanted]);
    }
    let payload = [0x5a; 1100];
    let mut sealed: Vec<BytesMut> = (0..2 * PACKETS)
        .map(|seq| {
            let packet = Rtp {
                ssrc: 1000,
                seq,
                timestamp: 0,
                payload_type: 96,
                extensions: &[(4, b"0")],
                payload: &payload,
            };
            world.clients[publisher].seal_rtp(&packet.bytes())
        })
        .collect();
    let (now, from) = (world.now, world.clients[publisher].address);
    let mut forward = |packets: std::vec::Drain<'_, BytesMut>| {
        for packet in packets {
            world.shard.handle_datagram(now, from, packet);
            assert!(world.shard.outbox().len() >= subscribers);
            world.shard.outbox().clear();
        }
    };
    forward(sealed.drain(..usize::from(PACKETS)));
    let before = ALLOCATIONS.load(Ordering::Relaxed);
    forward(sealed.drain(..));
    ALLOCATIONS.load(Ordering::Relaxed) - before
}

#[test]
fn fifty_subscriptions_allocate_no_more_than_one() {
    let one = allocations(1);
    let fifty = allocations(50);
    assert!(
        fifty <= one,
        "{PACKETS} packets to 50 made {fifty} allocations, to 1 {one}"
    );
    assert!(one <= 2 * u64::from(PACKETS), "{one} for {PACKETS} packets");
}
