//! Video packets to 1 to 2000 subscriptions through a whole shard, 1, 4 and 8 at a time, per copy, beside the
//! bare seal that no forwarding can do without.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track};

#[path = "../tests/support/shard_world.rs"]
mod support;

const PAYLOAD_LEN: usize = 1100;

/// What `ring` takes to protect one packet's payload in place.
fn bare_seal(c: &mut Criterion) {
    let key = UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("16 bytes");
    let key = LessSafeKey::new(key);
    let mut payload = [0x5a; PAYLOAD_LEN];
    let header = [0x80; 12];
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Elements(1));
    group.bench_function("ring_aes_128_gcm_1100", |b| {
        let mut count = 0_u64;
        b.iter(|| {
            count += 1;
            let mut nonce = [0; 12];
            nonce[4..].copy_from_slice(&count.to_be_bytes());
            let nonce = Nonce::assume_unique_for_key(nonce);
            let aad = Aad::from(&header);
            let tag = key.seal_in_place_separate_tag(nonce, aad, black_box(&mut payload));
            black_box(tag.expect("far below the limit"))
        });
    });
    group.finish();
}

fn fanout(c: &mut Criterion) {
    let mut group = c.benchmark_group("fanout");
    for subscriptions in [1_usize, 10, 50, 500, 2000] {
        let mut stage = Stage::new(subscriptions);
        for batch in [1_usize, 4, 8] {
            group.throughput(Throughput::Elements((subscriptions * batch) as u64));
            let id = BenchmarkId::new(subscriptions.to_string(), batch);
            group.bench_function(id, |b| {
                b.iter_custom(|iterations| {
                    (0..iterations)
                        .map(|_| stage.forward(batch))
                        .sum::<Duration>()
                });
            });
        }
        let forwarded = stage.world.count("rtp_forwarded");
        // A filter may have left these cases out.
        let was_run = stage.seq > 0;
        assert!(
            !was_run || forwarded >= subscriptions as u64,
            "packets were forwarded"
        );
    }
    group.finish();
}

/// One publisher of video, and subscribers.
struct Stage {
    world: World,
    publisher: usize,
    seq: u16,
}

impl Stage {
    fn new(subscriptions: usize) -> Self {
        let mut world = World::new();
        let publisher = world.join("room");
        let track = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        world.configure(publisher, std::slice::from_ref(&track), &[]);
        for _ in 0..subscriptions {
            let at = world.join("room");
            let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
            world.configure(at, &[], &[wanted]);
        }
        Self {
            world,
            publisher,
            seq: 0,
        }
    }

    /// How long the parts of one frame take from datagrams to datagrams, in CPU time: the machine may
    /// do other things. The publisher seals them outside of what is measured.
    fn forward(&mut self, batch: usize) -> Duration {
        let World { clients, .. } = &mut self.world;
        let client = &mut clients[self.publisher];
        let datagrams: Vec<(SocketAddr, BytesMut)> = (0..batch)
            .map(|part| {
                self.seq = self.seq.wrapping_add(1);
                let packet = Rtp {
                    ssrc: 1000,
                    seq: self.seq,
                    timestamp: u32::from(self.seq),
                    payload_type: 96,
                    extensions: &[(4, b"0")],
                    // As packetisers cut frames: of one length, but for a byte.
                    payload: &[0x5a; PAYLOAD_LEN][part % 2..],
                };
                (client.address, client.seal_rtp(&packet.bytes()))
            })
            .collect();
        let World { shard, now, .. } = &mut self.world;
        let start = cpu_time();
        shard.handle_batch(*now, datagrams);
        while let Some(outbox) = shard.poll_outbox(*now) {
            black_box(outbox.len());
            outbox.clear();
        }
        cpu_time() - start
    }
}

/// The CPU time of this thread.
fn cpu_time() -> Duration {
    let mut time = libc::timespec {
        tv_sec: 0,
        tv_nsec: 0,
    };
    // SAFETY: writes to the struct it is given.
    unsafe { libc::clock_gettime(libc::CLOCK_THREAD_CPUTIME_ID, &mut time) };
    Duration::new(time.tv_sec as u64, time.tv_nsec as u32)
}

criterion_group!(benches, bare_seal, fanout);
criterion_main!(benches);
