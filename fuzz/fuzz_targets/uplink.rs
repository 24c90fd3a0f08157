//! Any packets at any times: the estimate of what a publisher may send stays within its bounds, is told no more often than
//! is said, and its deadlines end when nothing comes. 16 bytes are a packet.
#![no_main]

use std::time::{Duration, Instant};

use libfuzzer_sys::fuzz_target;
use shardcast::base::ids::{RtpTime, SeqNo16, Ssrc};
use shardcast::media::congestion::receive_side::{Arrived, ReceiveSide};

fuzz_target!(|input: &[u8]| {
    let zero = Instant::now();
    let mut now = zero;
    let mut side = ReceiveSide::default();
    for packet in input.chunks_exact(16) {
        let &[
            how,
            wait,
            ssrc,
            seq_high,
            seq_low,
            ts0,
            ts1,
            ts2,
            ts3,
            s0,
            s1,
            s2,
            len_high,
            len_low,
            rtt,
            _,
        ] = packet
        else {
            return;
        };
        // Mostly milliseconds, sometimes minutes.
        let unit_us = if how & 0x10 == 0 { 500 } else { 1_000_000 };
        now += Duration::from_micros(u64::from(wait) * unit_us);
        let arrived = Arrived {
            ssrc: Ssrc(u32::from(ssrc)),
            seq: SeqNo16(u16::from_be_bytes([seq_high, seq_low])),
            picture: (how & 1 != 0).then(|| RtpTime(u32::from_be_bytes([ts0, ts1, ts2, ts3]))),
            send_time: (how & 2 != 0).then_some([s0, s1, s2]),
            bytes: usize::from(u16::from_be_bytes([len_high, len_low])),
        };
        side.on_packet(now, &arrived);
        assert!(side.poll_timeout().is_some());
        let rtt = (how & 4 != 0).then(|| Duration::from_millis(u64::from(rtt)));
        if let Some(told) = side.handle_timeout(now, rtt) {
            assert!((50_000..=50_000_000).contains(&told.0), "{told:?}");
            assert_eq!(side.handle_timeout(now, rtt), None);
        }
        assert!(side.streams().count() <= 16);
        assert!((0.0..=1.0).contains(&side.loss()));
    }
    if let Some(at) = side.poll_timeout() {
        side.handle_timeout(at, None);
        assert_eq!(side.poll_timeout(), None);
    }
});
