//! Whole rooms through a shard in memory: meetings in which everybody sends pictures and sound to everybody, and
//! rooms that only talk. CPU time per forwarded packet.

use std::hint::black_box;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::BytesMut;
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use shardcast::control::{SubscriptionConfig, TrackConfig};
use shardcast::wire::codec::Codec;
use support::{Rtp, World, codec, subscription, track};

#[path = "../tests/support/shard_world.rs"]
mod support;

const VIDEO_LEN: usize = 1100;
const AUDIO_LEN: usize = 100;
/// Packets of a frame, as 1 Mbit/s at 30 frames a second has them.
const FRAME_PACKETS: usize = 4;

fn rooms(c: &mut Criterion) {
    let mut group = c.benchmark_group("rooms");
    for (name, peers, speakers, has_video) in [
        ("meeting_6", 6, 6, true),
        ("meeting_25", 25, 25, true),
        ("meeting_50", 50, 50, true),
        ("audio_10", 10, 10, false),
        ("audio_50", 50, 50, false),
        ("audio_3_to_500", 503, 3, false),
    ] {
        let mut room = Meeting::new(peers, speakers, has_video);
        let packets = match has_video {
            // Three packets of sound come between two frames, about.
            true => 2 * (FRAME_PACKETS + 3),
            false => 2,
        };
        group.throughput(Throughput::Elements((packets * (peers - 1)) as u64));
        group.bench_function(name, |b| {
            b.iter_custom(|iterations| (0..iterations).map(|_| room.round()).sum::<Duration>());
        });
        let forwarded = room.world.count("rtp_forwarded");
        assert!(room.turns == 0 || forwarded > 0, "packets were forwarded");
    }
    group.finish();
}

/// A room, in which `speakers` send.
struct Meeting {
    world: World,
    speakers: usize,
    has_video: bool,
    turns: usize,
    /// The last numbers of sound and pictures of each speaker.
    seqs: Vec<[u16; 2]>,
}

impl Meeting {
    fn new(peers: usize, speakers: usize, has_video: bool) -> Self {
        let mut world = World::new();
        for _ in 0..peers {
            world.join("room");
        }
        let tracks: Vec<Vec<TrackConfig>> = (0..speakers)
            .map(|at| {
                let audio = track(&world, at, 0, &[codec(111, Codec::Opus)]);
                let video = track(&world, at, 1, &[codec(96, Codec::Vp8)]);
                std::iter::once(audio)
                    .chain(has_video.then_some(video))
                    .collect()
            })
            .collect();
        for at in 0..peers {
            let others = (0..speakers).filter(|other| *other != at);
            let sources = others.flat_map(|other| &tracks[other]);
            let wanted: Vec<SubscriptionConfig> = (0..)
                .zip(sources)
                .map(|(number, source)| {
                    let codecs = [codec(111, Codec::Opus), codec(96, Codec::Vp8)];
                    let index = source.key.index as usize;
                    subscription(number, source, &codecs[index..=index])
                })
                .collect();
            let own = tracks.get(at).map_or(&[][..], Vec::as_slice);
            world.configure(at, own, &wanted);
        }
        Self {
            world,
            speakers,
            has_video,
            turns: 0,
            seqs: vec![[0; 2]; speakers],
        }
    }

    /// The CPU time of two speakers' packets: what comes together is one batch.
    fn round(&mut self) -> Duration {
        self.turn() + self.turn()
    }

    fn turn(&mut self) -> Duration {
        let at = self.turns % self.speakers;
        self.turns += 1;
        let mut batches = vec![vec![self.packet(at, 0, AUDIO_LEN)]];
        if self.has_video {
            let frame = (0..FRAME_PACKETS)
                .map(|_| self.packet(at, 1, VIDEO_LEN))
                .collect();
            batches.extend([
                frame,
                vec![self.packet(at, 0, AUDIO_LEN)],
                vec![self.packet(at, 0, AUDIO_LEN)],
            ]);
        }
        let World { shard, now, .. } = &mut self.world;
        let start = cpu_time();
        for batch in batches {
            shard.handle_batch(*now, batch);
            while let Some(outbox) = shard.poll_outbox(*now) {
                black_box(outbox.len());
                outbox.clear();
            }
        }
        cpu_time() - start
    }

    fn packet(&mut self, at: usize, index: u32, len: usize) -> (SocketAddr, BytesMut) {
        let seq = &mut self.seqs[at][index as usize];
        *seq = seq.wrapping_add(1);
        let client = &mut self.world.clients[at];
        let packet = Rtp {
            ssrc: 1000 * client.key.0 as u32 + index,
            seq: *seq,
            timestamp: u32::from(*seq),
            payload_type: if index == 0 { 111 } else { 96 },
            extensions: &[(4, if index == 0 { b"0" } else { b"1" })],
            payload: &[0x5a; VIDEO_LEN][..len],
        };
        (client.address, client.seal_rtp(&packet.bytes()))
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

criterion_group!(benches, rooms);
criterion_main!(benches);
