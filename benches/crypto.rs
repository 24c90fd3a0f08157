//! What the cryptography and the header of one RTP packet cost, for each SRTP profile:
//! `cargo bench --bench crypto`.

use std::hint::black_box;

use bytes::BytesMut;
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use ring::aead::{AES_128_GCM, Aad, LessSafeKey, Nonce, UnboundKey};
use shardcast::base::ids::{PayloadType, RtpTime, SeqNo16, Ssrc};
use shardcast::control::SrtpProfile;
use shardcast::transport::keys::{MasterKey, MasterKeys};
use shardcast::transport::srtp::{Opener, Sealer};
use shardcast::wire::extension::ExtensionId;
use shardcast::wire::rtp::{OutgoingHeader, RtpHeader, write_header};

const PROFILES: [(&str, SrtpProfile); 3] = [
    ("gcm_128", SrtpProfile::AeadAes128Gcm),
    ("gcm_256", SrtpProfile::AeadAes256Gcm),
    ("sha1_80", SrtpProfile::Aes128CmSha1_80),
];

/// A full video packet, as libwebrtc makes it.
const PAYLOAD_LEN: usize = 1100;
const TAG_LEN_MAX: usize = 16;

fn key(profile: SrtpProfile) -> MasterKey {
    let exported = vec![0x5a; MasterKeys::exported_len(profile)];
    MasterKeys::from_exported(profile, &exported, false)
        .expect("as long as the profile has it")
        .local
}

fn fields(seq: u16) -> OutgoingHeader {
    OutgoingHeader {
        payload_type: PayloadType(96),
        marker: false,
        seq: SeqNo16(seq),
        timestamp: RtpTime(90_000),
        ssrc: Ssrc(0x1234_5678),
        padding: false,
    }
}

fn mid() -> ExtensionId {
    ExtensionId::new(4).expect("4 is an id")
}

/// A plaintext packet, and how long its header is.
fn packet(seq: u16) -> (Vec<u8>, usize) {
    let mut packet = Vec::with_capacity(PAYLOAD_LEN + 64);
    let extensions = [(mid(), &b"0"[..])].into_iter();
    let header_len = write_header(&mut packet, &fields(seq), extensions);
    packet.resize(header_len + PAYLOAD_LEN, 0xa5);
    (packet, header_len)
}

fn seal(c: &mut Criterion) {
    let mut group = c.benchmark_group("seal");
    group.throughput(Throughput::Bytes(PAYLOAD_LEN as u64));
    let (plain, header_len) = packet(1);
    for (name, profile) in PROFILES {
        let sealer = Sealer::new(profile, &key(profile));
        let mut arena = plain.clone();
        arena.reserve(TAG_LEN_MAX);
        group.bench_function(name, |b| {
            b.iter(|| {
                // What was encrypted before is encrypted again: the work is the same.
                arena.truncate(plain.len());
                sealer.rtp().seal(black_box(&mut arena), 0, header_len, 0);
            });
        });
    }
    // What the above is to be measured by: nothing but ring.
    let aead = LessSafeKey::new(UnboundKey::new(&AES_128_GCM, &[7; 16]).expect("16 bytes"));
    let mut payload = vec![0xa5; PAYLOAD_LEN];
    group.bench_function("bare_ring_gcm_128", |b| {
        b.iter(|| {
            let nonce = Nonce::assume_unique_for_key([7; 12]);
            let aad = Aad::from(&plain[..header_len]);
            aead.seal_in_place_separate_tag(nonce, aad, black_box(&mut payload))
        });
    });
    group.finish();
}

fn open(c: &mut Criterion) {
    let mut group = c.benchmark_group("open");
    group.throughput(Throughput::Bytes(PAYLOAD_LEN as u64));
    for (name, profile) in PROFILES {
        let key = key(profile);
        let sealer = Sealer::new(profile, &key);
        let mut opener = Opener::new(profile, &key);
        let mut index = 0u32;
        // A packet opens only once, so each is sealed anew, outside of what is measured.
        group.bench_function(name, |b| {
            b.iter_batched(
                || {
                    let (mut packet, header_len) = packet(index as u16);
                    sealer.rtp().seal(&mut packet, 0, header_len, index >> 16);
                    index += 1;
                    BytesMut::from(&packet[..])
                },
                |mut packet| {
                    opener.open_rtp(&mut packet).expect("it is authentic");
                    packet
                },
                BatchSize::SmallInput,
            );
        });
    }
    group.finish();
}

fn header(c: &mut Criterion) {
    let mut group = c.benchmark_group("header");
    let (plain, _) = packet(1);
    group.bench_function("parse", |b| b.iter(|| RtpHeader::parse(black_box(&plain))));
    let header = RtpHeader::parse(&plain).expect("it was just written");
    let mut arena = Vec::with_capacity(2 * plain.len());
    group.bench_function("rewrite", |b| {
        b.iter(|| {
            arena.clear();
            let extensions = header.extensions(&plain).map(|(id, value)| {
                if id == mid() {
                    (id, &b"17"[..])
                } else {
                    (id, value)
                }
            });
            let len = write_header(&mut arena, black_box(&fields(7)), extensions);
            arena.extend_from_slice(&plain[header.header_len..]);
            black_box(&arena);
            len
        });
    });
    group.finish();
}

criterion_group!(benches, seal, open, header);
criterion_main!(benches);
