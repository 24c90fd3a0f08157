//! One video packet to 1, 10, 50 and 500 subscriptions through a whole shard, per copy, beside the bare
//! seal that no forwarding can do without.

use std::hint::black_box;
use std::time::{Duration, Instant};

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
    for subscriptions in [1_usize, 10, 50, 500] {
        let mut world = World::new();
        let publisher = world.join("room");
        let track = track(&world, publisher, 0, &[codec(96, Codec::Vp8)]);
        world.configure(publisher, std::slice::from_ref(&track), &[]);
        for _ in 0..subscriptions {
            let at = world.join("room");
            let wanted = subscription(0, &track, &[codec(120, Codec::Vp8)]);
            world.configure(at, &[], &[wanted]);
        }
        let from = world.clients[publisher].address;
        let payload = [0x5a; PAYLOAD_LEN];
        let mut seq = 0_u16;
        group.throughput(Throughput::Elements(subscriptions as u64));
        group.bench_function(BenchmarkId::from_parameter(subscriptions), |b| {
            b.iter_custom(|iterations| {
                let mut spent = Duration::ZERO;
                let mut left = iterations;
                while left > 0 {
                    // Sealed by the publisher outside of what is measured.
                    let batch = left.min(256);
                    left -= batch;
                    let packets: Vec<BytesMut> = (0..batch)
                        .map(|_| {
                            seq = seq.wrapping_add(1);
                            let packet = Rtp {
                                ssrc: 1000,
                                seq,
                                timestamp: u32::from(seq),
                                payload_type: 96,
                                extensions: &[(4, b"0")],
                                payload: &payload,
                            };
                            world.clients[publisher].seal_rtp(&packet.bytes())
                        })
                        .collect();
                    let start = Instant::now();
                    for packet in packets {
                        world.shard.handle_datagram(world.now, from, packet);
                        black_box(world.shard.outbox().len());
                        world.shard.outbox().clear();
                    }
                    spent += start.elapsed();
                }
                // In here, because a filter on the command line may leave this one out.
                let forwarded = world.count("rtp_forwarded");
                assert!(forwarded >= subscriptions as u64, "packets were forwarded");
                spent
            });
        });
    }
    group.finish();
}

criterion_group!(benches, bare_seal, fanout);
criterion_main!(benches);
