//! Transport-wide feedback as a browser writes it (draft-holmer-rmcat-transport-wide-cc-extensions-01 §3.1), made
//! without the server's own codec.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

/// What has arrived since the last message.
pub struct Recorder {
    zero: Instant,
    /// By extended number.
    arrivals: BTreeMap<u64, Instant>,
    newest: Option<u64>,
    /// The number after the last one reported.
    next: Option<u64>,
    count: u8,
}

impl Recorder {
    pub fn new(zero: Instant) -> Self {
        Self {
            zero,
            arrivals: BTreeMap::new(),
            newest: None,
            next: None,
            count: 0,
        }
    }

    pub fn on_packet(&mut self, now: Instant, number: u16) {
        let newest = self.newest.unwrap_or((1 << 20) + u64::from(number));
        let ahead = number.wrapping_sub(newest as u16) as i16;
        let extended = newest.wrapping_add_signed(i64::from(ahead));
        self.newest = Some(newest.max(extended));
        self.arrivals.entry(extended).or_insert(now);
    }

    /// One message about everything since the last; as libwebrtc does, one that comes late is reported anew from there.
    pub fn poll(&mut self, sender: u32, media: u32) -> Option<Vec<u8>> {
        let (&first, &first_at) = self.arrivals.first_key_value()?;
        let (&last, _) = self.arrivals.last_key_value()?;
        // What is missing between the last message and this one is reported as missing.
        let base = self.next.map_or(first, |next| next.min(first));
        let since_zero = |at: Instant| at.saturating_duration_since(self.zero);
        let reference = since_zero(first_at).as_millis() as u64 / 64;
        let mut previous = self.zero + Duration::from_millis(reference * 64);
        let (mut symbols, mut deltas) = (Vec::new(), Vec::new());
        for number in base..=last {
            let Some(&at) = self.arrivals.get(&number) else {
                symbols.push(0u16);
                continue;
            };
            let ticks = ticks(at, previous);
            if let Ok(small) = u8::try_from(ticks) {
                symbols.push(1);
                deltas.push(small);
            } else {
                symbols.push(2);
                deltas.extend((ticks as i16).to_be_bytes());
            }
            // In whole ticks, so that rounding does not add up.
            previous = shift(previous, ticks);
        }
        self.arrivals.clear();
        self.next = Some(last + 1);
        let mut body = Vec::new();
        body.extend(sender.to_be_bytes());
        body.extend(media.to_be_bytes());
        body.extend((base as u16).to_be_bytes());
        body.extend((symbols.len() as u16).to_be_bytes());
        body.extend(&(reference as u32).to_be_bytes()[1..]);
        body.push(self.count);
        self.count = self.count.wrapping_add(1);
        for seven in symbols.chunks(7) {
            // A status vector of two-bit symbols.
            let mut chunk = 0xc000;
            for (at, symbol) in seven.iter().enumerate() {
                chunk |= symbol << (12 - 2 * at);
            }
            body.extend(chunk.to_be_bytes());
        }
        body.extend(deltas);
        let padding = body.len().next_multiple_of(4) - body.len();
        body.resize(body.len() + padding, 0);
        if let Some(last) = body.last_mut().filter(|_| padding > 0) {
            *last = padding as u8;
        }
        let words = (body.len() / 4) as u16;
        let first = 0x80 | if padding > 0 { 0x20 } else { 0 } | 15;
        let mut message = vec![first, 205];
        message.extend(words.to_be_bytes());
        message.extend(body);
        Some(message)
    }
}

const TICK_US: i128 = 250;

fn ticks(at: Instant, previous: Instant) -> i64 {
    let us = if at >= previous {
        (at - previous).as_micros() as i128
    } else {
        -((previous - at).as_micros() as i128)
    };
    (us.div_euclid(TICK_US)) as i64
}

fn shift(at: Instant, ticks: i64) -> Instant {
    let by = Duration::from_micros(ticks.unsigned_abs() * TICK_US as u64);
    if ticks >= 0 { at + by } else { at - by }
}
