//! RTCP extended reports (RFC 3611): the two blocks by which who only receives learns the round trip.
//!
//! Other blocks (and rubbish between them) are stepped over. By hand, because `rtc-rtcp` keeps every block
//! of a message, whatever it is.

use crate::base::ids::Ssrc;
use crate::wire::ntp::NtpTime;

/// One answer to a reference time (RFC 3611 §4.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReferenceReply {
    /// Who sent the reference time.
    pub ssrc: Ssrc,
    /// [`NtpTime::middle`] of it, 0 for none.
    pub last_rr: u32,
    /// Since it came, in 1/65536 s.
    pub delay: u32,
}

/// The packet type of extended reports (RFC 3611 §2).
pub const EXTENDED_REPORT: u8 = 207;

/// One message, as far as it is of use here.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ExtendedReport {
    /// Who reports.
    pub sender: Ssrc,
    /// Its clock (RFC 3611 §4.4), if it sends that.
    pub reference_time: Option<NtpTime>,
    /// Its answers to others' reference times, at most [`REPLIES_MAX`].
    pub replies: Vec<ReferenceReply>,
}

/// Reads one message, header included. `None` if a block is cut short.
#[must_use]
pub fn parse(message: &[u8]) -> Option<ExtendedReport> {
    // Padding would be taken for blocks; nobody pads a report.
    if message.first()? & PADDING_BIT != 0 {
        return None;
    }
    let mut report = ExtendedReport {
        sender: Ssrc(word(message, 4)?),
        reference_time: None,
        replies: Vec::new(),
    };
    let mut rest = message.get(8..)?;
    while let Some((header, body)) = rest.split_first_chunk::<4>() {
        let len = 4 * usize::from(u16::from_be_bytes([header[2], header[3]]));
        let (block, after) = body.split_at_checked(len)?;
        rest = after;
        match header[0] {
            REFERENCE_TIME => {
                let ntp = u64::from_be_bytes(*block.first_chunk()?);
                report.reference_time = Some(NtpTime(ntp));
            }
            REFERENCE_REPLY => {
                let room = REPLIES_MAX - report.replies.len();
                let parts = block.chunks_exact(REPLY_LEN).take(room);
                report.replies.extend(parts.filter_map(read_reply));
            }
            _ => {}
        }
    }
    Some(report)
}

/// Appends this end's reference time (RFC 3611 §4.4).
pub fn write_reference_time(out: &mut Vec<u8>, sender: Ssrc, ntp: NtpTime) {
    write_header(out, sender, REFERENCE_TIME, 8);
    out.extend(ntp.0.to_be_bytes());
}

/// Appends answers to reference times (RFC 3611 §4.5), at most [`REPLIES_MAX`] of them.
pub fn write_reference_replies(out: &mut Vec<u8>, sender: Ssrc, replies: &[ReferenceReply]) {
    let replies = &replies[..replies.len().min(REPLIES_MAX)];
    write_header(out, sender, REFERENCE_REPLY, REPLY_LEN * replies.len());
    for reply in replies {
        out.extend(reply.ssrc.0.to_be_bytes());
        out.extend(reply.last_rr.to_be_bytes());
        out.extend(reply.delay.to_be_bytes());
    }
}

fn read_reply(part: &[u8]) -> Option<ReferenceReply> {
    Some(ReferenceReply {
        ssrc: Ssrc(word(part, 0)?),
        last_rr: word(part, 4)?,
        delay: word(part, 8)?,
    })
}

fn write_header(out: &mut Vec<u8>, sender: Ssrc, block: u8, len: usize) {
    let words = (len / 4) as u16;
    out.extend([VERSION_BITS, EXTENDED_REPORT]);
    out.extend((words + 2).to_be_bytes());
    out.extend(sender.0.to_be_bytes());
    out.extend([block, 0]);
    out.extend(words.to_be_bytes());
}

fn word(bytes: &[u8], at: usize) -> Option<u32> {
    let bytes = bytes.get(at..)?.first_chunk()?;
    Some(u32::from_be_bytes(*bytes))
}

/// The most answers of one message that are read or written: Chromium has one RTCP sender for each stream.
pub const REPLIES_MAX: usize = 64;
/// SSRC, reference time, delay.
const REPLY_LEN: usize = 12;
/// RFC 3611 §4.4.
const REFERENCE_TIME: u8 = 4;
/// RFC 3611 §4.5.
const REFERENCE_REPLY: u8 = 5;
const VERSION_BITS: u8 = 2 << 6;
const PADDING_BIT: u8 = 0x20;

#[cfg(test)]
mod tests {
    use super::*;

    const SENDER: Ssrc = Ssrc(9);

    fn reply(ssrc: u32) -> ReferenceReply {
        ReferenceReply {
            ssrc: Ssrc(ssrc),
            last_rr: 0x0102_0304,
            delay: 5,
        }
    }

    #[test]
    fn what_is_written_is_read_back() {
        let ntp = NtpTime(0x0102_0304_0506_0708);
        let (mut time, mut replies) = (Vec::new(), Vec::new());
        write_reference_time(&mut time, SENDER, ntp);
        write_reference_replies(&mut replies, SENDER, &[reply(1), reply(2)]);
        let report = |reference_time, replies| ExtendedReport {
            sender: SENDER,
            reference_time,
            replies,
        };
        assert_eq!(parse(&time), Some(report(Some(ntp), vec![])));
        assert_eq!(
            parse(&replies),
            Some(report(None, vec![reply(1), reply(2)]))
        );
    }

    #[test]
    fn unknown_blocks_are_stepped_over_and_broken_ones_end_the_message() {
        let read = |blocks: &[u8]| {
            let words = (blocks.len() / 4 + 1) as u16;
            let [high, low] = words.to_be_bytes();
            let header = [0x80, EXTENDED_REPORT, high, low, 0, 0, 0, 9];
            parse(&[&header[..], blocks].concat())
        };
        // A target bitrate block (42) of one word, as libwebrtc sends, before a reference time.
        let unknown = [42, 0, 0, 1, 1, 2, 3, 4];
        let known = [4, 0, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        let report = read(&[&unknown[..], &known].concat()).unwrap();
        assert_eq!(report.reference_time, Some(NtpTime(1 << 32 | 2)));
        assert!(read(&[]).is_some());
        for broken in [&[4, 0, 0, 9][..], &[4, 0, 0, 1, 0, 0, 0, 0]] {
            assert_eq!(read(broken), None, "{broken:?}");
        }
        let many = [&[5, 0, 0x01, 0x2c][..], &[1; 1200]].concat();
        assert_eq!(read(&many).unwrap().replies.len(), REPLIES_MAX);
        assert_eq!(parse(&[0x80, EXTENDED_REPORT, 0, 1]), None);
    }
}
