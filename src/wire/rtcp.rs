//! RTCP: compound and reduced-size datagrams to bounded values, and back (RFC 3550 §6, RFC 4585,
//! RFC 5104, RFC 5506, RFC 3611 in part).
//!
//! `rtc-rtcp` reads and writes the single messages. This module walks the compound itself, so that
//! one message that is malformed, or of a kind nobody here needs, costs neither the others nor
//! memory. It knows nothing of who sent a message or what follows from it.

use bytes::Bytes;
use rtc_rtcp::goodbye::Goodbye;
use rtc_rtcp::header::{
    FORMAT_FIR, FORMAT_PLI, FORMAT_TLN, HEADER_LENGTH, PacketType, RTP_VERSION,
};
use rtc_rtcp::payload_feedbacks::full_intra_request::{FirEntry, FullIntraRequest};
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::{
    TransportLayerNack, nack_pairs_from_sequence_numbers,
};
use rtc_shared::marshal::{Marshal, MarshalSize, Unmarshal};

use crate::base::ids::{RtpTime, SeqNo16, Ssrc};
use crate::wire::bandwidth::{FORMAT_APPLICATION, FORMAT_TRANSPORT_CC, Remb, TransportFeedback};
pub use crate::wire::ntp::NtpTime;
use crate::wire::sdes::{self, SourceDescription, write_cname};
use crate::wire::xr::{self, ReferenceReply};

/// One message of a datagram.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RtcpPacket {
    /// What a sender says of its own stream (RFC 3550 §6.4.1). Its report blocks follow as
    /// [`RtcpPacket::Reports`].
    SenderReport(SenderReport),
    /// Report blocks of a sender or receiver report, at most [`REPORT_BLOCKS_MAX`].
    Reports {
        /// Who reports.
        sender: Ssrc,
        /// On what.
        blocks: Vec<ReportBlock>,
    },
    /// What a source says of itself; one for each source that says something of use.
    Description(SourceDescription),
    /// Sources that end (RFC 3550 §6.6), at most 31.
    Bye {
        /// Which.
        sources: Vec<Ssrc>,
    },
    /// Generic NACK (RFC 4585 §6.2.1).
    Nack {
        /// Who asks.
        sender: Ssrc,
        /// The stream that misses packets.
        media: Ssrc,
        /// Which, at most [`NACKED_MAX`]; those above are ignored.
        seqs: Vec<SeqNo16>,
    },
    /// Picture loss indication (RFC 4585 §6.3.1).
    Pli {
        /// The stream a keyframe is wanted of.
        media: Ssrc,
    },
    /// Full intra request (RFC 5104 §4.3.1).
    Fir {
        /// Each stream a keyframe is wanted of with the command's number, at most [`FIR_MAX`].
        entries: Vec<(Ssrc, u8)>,
    },
    /// When packets arrived, by their transport-wide numbers (draft-holmer-rmcat-transport-wide-cc-extensions-01).
    TransportFeedback(TransportFeedback),
    /// The receiver's own estimate (draft-alvestrand-rmcat-remb-03).
    Remb(Remb),
    /// The clock of somebody who wants to know the round trip (RFC 3611 §4.4).
    ReferenceTime {
        /// Who asks.
        sender: Ssrc,
        /// Its clock.
        ntp: NtpTime,
    },
    /// Answers to reference times, this end's among them perhaps; at most [`xr::REPLIES_MAX`].
    ReferenceReplies(Vec<ReferenceReply>),
    /// A message this server has no use for.
    Other,
}

/// The sender's part of a sender report (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SenderReport {
    /// The stream.
    pub ssrc: Ssrc,
    /// The sender's wall clock at the report.
    pub ntp: NtpTime,
    /// The same instant on the stream's clock.
    pub rtp_time: RtpTime,
    /// Packets sent so far; wraps.
    pub packets: u32,
    /// Payload octets sent so far; wraps.
    pub octets: u32,
}

/// How one stream is received (RFC 3550 §6.4.1).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ReportBlock {
    /// The stream.
    pub ssrc: Ssrc,
    /// Lost since the last report, in 1/256.
    pub fraction_lost: u8,
    /// Lost since the start; a 24-bit signed number, negative where duplicates came.
    pub total_lost: i32,
    /// The low 32 bits of the highest extended sequence number.
    pub highest_seq: u32,
    /// Interarrival jitter in ticks of the stream's clock.
    pub jitter_ticks: u32,
    /// [`NtpTime::middle`] of the last sender report, 0 for none.
    pub last_sr: u32,
    /// Since that report, in 1/65536 s.
    pub delay_since_last_sr: u32,
}

/// What a datagram held.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Compound {
    /// The messages in order, at most [`PACKETS_MAX`] and the report blocks beside them.
    pub packets: Vec<RtcpPacket>,
    /// How many messages were dropped as malformed, or (as one) what is above [`PACKETS_MAX`] or [`ENTRIES_MAX`].
    pub dropped: u32,
}

/// Reads a datagram of one or more messages, compound or reduced-size (RFC 5506).
#[must_use]
pub fn parse(datagram: &[u8]) -> Compound {
    let mut compound = Compound::default();
    let mut rest = datagram;
    let mut entries = 0;
    for _ in 0..PACKETS_MAX {
        if rest.is_empty() {
            return compound;
        }
        if entries >= ENTRIES_MAX {
            break;
        }
        let Some((message, after)) = split_message(rest) else {
            // Where the next message starts is not known: the rest is lost.
            compound.dropped += 1;
            return compound;
        };
        rest = after;
        let before = compound.packets.len();
        if parse_message(message, &mut compound.packets).is_none() {
            compound.dropped += 1;
        }
        entries += compound.packets[before..]
            .iter()
            .map(entries_of)
            .sum::<usize>();
    }
    compound.dropped += u32::from(!rest.is_empty());
    compound
}

/// How many packets a message tells of: a few bytes can name thousands.
fn entries_of(packet: &RtcpPacket) -> usize {
    match packet {
        RtcpPacket::Nack { seqs, .. } => NACKED_WEIGHT * seqs.len(),
        RtcpPacket::TransportFeedback(feedback) => feedback.arrivals.len(),
        _ => 0,
    }
}

/// Appends a sender report without blocks and the source's CNAME: a whole compound.
pub fn write_sender_report(out: &mut Vec<u8>, report: &SenderReport, cname: &str) {
    write(
        out,
        &rtc_rtcp::sender_report::SenderReport {
            ssrc: report.ssrc.0,
            ntp_time: report.ntp.0,
            rtp_time: report.rtp_time.0,
            packet_count: report.packets,
            octet_count: report.octets,
            ..Default::default()
        },
    );
    write_cname(out, report.ssrc, cname);
}

/// Appends a receiver report and the reporter's CNAME: a whole compound. Where `blocks` are more
/// than [`REPORT_BLOCKS_MAX`], further receiver reports follow the first (RFC 3550 §6.1).
pub fn write_receiver_report(out: &mut Vec<u8>, sender: Ssrc, blocks: &[ReportBlock], cname: &str) {
    let mut rest = blocks;
    loop {
        let (now, later) = rest.split_at(rest.len().min(REPORT_BLOCKS_MAX));
        write(
            out,
            &ReceiverReport {
                ssrc: sender.0,
                reports: now.iter().map(to_reception_report).collect(),
                ..Default::default()
            },
        );
        rest = later;
        if rest.is_empty() {
            break;
        }
    }
    write_cname(out, sender, cname);
}

/// Appends a picture loss indication (RFC 4585 §6.3.1).
pub fn write_pli(out: &mut Vec<u8>, sender: Ssrc, media: Ssrc) {
    write(
        out,
        &PictureLossIndication {
            sender_ssrc: sender.0,
            media_ssrc: media.0,
        },
    );
}

/// Appends a full intra request for one stream (RFC 5104 §4.3.1). `command` counts the requests to
/// that stream: a repetition of one request keeps its number.
pub fn write_fir(out: &mut Vec<u8>, sender: Ssrc, target: Ssrc, command: u8) {
    write(
        out,
        &FullIntraRequest {
            sender_ssrc: sender.0,
            // RFC 5104 §4.3.1.2: the media source is not used and set to 0.
            media_ssrc: 0,
            fir: vec![FirEntry {
                ssrc: target.0,
                sequence_number: command,
            }],
        },
    );
}

/// Appends a generic NACK (RFC 4585 §6.2.1) for `seqs`, in their order; several where they are many.
pub fn write_nack(out: &mut Vec<u8>, sender: Ssrc, media: Ssrc, seqs: &[SeqNo16]) {
    for part in seqs.chunks(NACK_WRITE_MAX) {
        let numbers: Vec<u16> = part.iter().map(|seq| seq.0).collect();
        write(
            out,
            &TransportLayerNack {
                sender_ssrc: sender.0,
                media_ssrc: media.0,
                nacks: nack_pairs_from_sequence_numbers(&numbers),
            },
        );
    }
}

/// Appends a BYE (RFC 3550 §6.6) for `sources`. Must end its compound, as it may be padded.
pub fn write_bye(out: &mut Vec<u8>, source: Ssrc) {
    write(
        out,
        &Goodbye {
            sources: vec![source.0],
            reason: Bytes::new(),
        },
    );
}

/// The most messages of one datagram that are read. A compound of a browser has fewer than ten.
pub const PACKETS_MAX: usize = 64;
/// The most report blocks of one message (RFC 3550 §6.4.1: a five-bit count).
pub const REPORT_BLOCKS_MAX: usize = 31;
/// When the messages of a datagram have told of so many packets, no further one is read: as many as one message of
/// transport feedback may tell of, or as 1024 numbers in NACKs, each of which makes more work.
pub const ENTRIES_MAX: usize = 4096;
const NACKED_WEIGHT: usize = 4;
/// The most sequence numbers that one NACK is read for.
pub const NACKED_MAX: usize = 512;
/// The most streams that one FIR is read for.
pub const FIR_MAX: usize = 32;
/// The longest single message that is read, in bytes: far above what fits a UDP datagram that is not
/// fragmented, and below where `rtc-rtcp` multiplies a length in 16 bits.
const MESSAGE_BYTES_MAX: usize = 8 * 1024;
/// Sequence numbers per written NACK: `rtc-rtcp` refuses more than 253 pairs.
const NACK_WRITE_MAX: usize = 128;

/// Cuts the first message off, by its own length.
fn split_message(data: &[u8]) -> Option<(&[u8], &[u8])> {
    let header: &[u8; HEADER_LENGTH] = data.first_chunk()?;
    if header[0] >> 6 != RTP_VERSION {
        return None;
    }
    let words = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let length = HEADER_LENGTH + 4 * words;
    (length <= MESSAGE_BYTES_MAX)
        .then(|| data.split_at_checked(length))
        .flatten()
}

/// Reads one message, which is as long as its header says.
fn parse_message(message: &[u8], packets: &mut Vec<RtcpPacket>) -> Option<()> {
    match PacketType::from(message[1]) {
        PacketType::SenderReport => {
            let report = read::<rtc_rtcp::sender_report::SenderReport>(message)?;
            packets.push(RtcpPacket::SenderReport(SenderReport {
                ssrc: Ssrc(report.ssrc),
                ntp: NtpTime(report.ntp_time),
                rtp_time: RtpTime(report.rtp_time),
                packets: report.packet_count,
                octets: report.octet_count,
            }));
            push_blocks(packets, report.ssrc, &report.reports);
        }
        PacketType::ReceiverReport => {
            let report = read::<ReceiverReport>(message)?;
            push_blocks(packets, report.ssrc, &report.reports);
        }
        PacketType::SourceDescription => {
            let descriptions = sdes::parse(message)?.into_iter();
            packets.extend(descriptions.map(RtcpPacket::Description));
        }
        PacketType::Goodbye => {
            let goodbye = read::<Goodbye>(message)?;
            packets.push(RtcpPacket::Bye {
                sources: goodbye.sources.into_iter().map(Ssrc).collect(),
            });
        }
        PacketType::TransportSpecificFeedback | PacketType::PayloadSpecificFeedback => {
            packets.push(parse_feedback(message)?);
        }
        _ if message[1] == xr::EXTENDED_REPORT => {
            let report = xr::parse(message)?;
            let sender = report.sender;
            let time = report.reference_time;
            packets.extend(time.map(|ntp| RtcpPacket::ReferenceTime { sender, ntp }));
            packets.push(RtcpPacket::ReferenceReplies(report.replies));
        }
        _ => packets.push(RtcpPacket::Other),
    }
    Some(())
}

/// Reads one feedback message (RFC 4585 §6.1).
fn parse_feedback(message: &[u8]) -> Option<RtcpPacket> {
    let padded = message[0] & 0x20 != 0;
    let format = message[0] & 0x1f;
    Some(match (PacketType::from(message[1]), format) {
        // Padding would be taken for further entries; nobody pads feedback.
        (_, FORMAT_TLN | FORMAT_FIR) if padded => return None,
        (PacketType::TransportSpecificFeedback, FORMAT_TLN) => {
            let nack = read::<TransportLayerNack>(message)?;
            let seqs = nack.nacks.into_iter().flatten();
            RtcpPacket::Nack {
                sender: Ssrc(nack.sender_ssrc),
                media: Ssrc(nack.media_ssrc),
                seqs: seqs.take(NACKED_MAX).map(SeqNo16).collect(),
            }
        }
        (PacketType::PayloadSpecificFeedback, FORMAT_PLI) => RtcpPacket::Pli {
            media: Ssrc(read::<PictureLossIndication>(message)?.media_ssrc),
        },
        (PacketType::PayloadSpecificFeedback, FORMAT_FIR) => {
            let entries = read::<FullIntraRequest>(message)?.fir;
            let entries = entries.iter().take(FIR_MAX);
            RtcpPacket::Fir {
                entries: entries
                    .map(|entry| (Ssrc(entry.ssrc), entry.sequence_number))
                    .collect(),
            }
        }
        (PacketType::TransportSpecificFeedback, FORMAT_TRANSPORT_CC) => {
            RtcpPacket::TransportFeedback(TransportFeedback::parse(message)?)
        }
        // Other applications' messages have the same format number.
        (PacketType::PayloadSpecificFeedback, FORMAT_APPLICATION) => {
            Remb::parse(message).map_or(RtcpPacket::Other, RtcpPacket::Remb)
        }
        _ => RtcpPacket::Other,
    })
}

fn read<T: Unmarshal>(message: &[u8]) -> Option<T> {
    let mut reader = message;
    T::unmarshal(&mut reader).ok()
}

fn write<T: Marshal + MarshalSize>(out: &mut Vec<u8>, message: &T) {
    let start = out.len();
    out.resize(start + message.marshal_size(), 0);
    let written = message.marshal_to(&mut out[start..]);
    debug_assert!(
        written.is_ok(),
        "the writers stay within the codec's limits"
    );
    if written.is_err() {
        out.truncate(start);
    }
}

fn push_blocks(packets: &mut Vec<RtcpPacket>, sender: u32, reports: &[ReceptionReport]) {
    if !reports.is_empty() {
        packets.push(RtcpPacket::Reports {
            sender: Ssrc(sender),
            blocks: reports.iter().map(to_report_block).collect(),
        });
    }
}

fn to_report_block(report: &ReceptionReport) -> ReportBlock {
    ReportBlock {
        ssrc: Ssrc(report.ssrc),
        fraction_lost: report.fraction_lost,
        // Sign-extends 24 bits.
        total_lost: ((report.total_lost << 8) as i32) >> 8,
        highest_seq: report.last_sequence_number,
        jitter_ticks: report.jitter,
        last_sr: report.last_sender_report,
        delay_since_last_sr: report.delay,
    }
}

fn to_reception_report(block: &ReportBlock) -> ReceptionReport {
    let total_lost = block.total_lost.clamp(-0x80_0000, 0x7f_ffff);
    ReceptionReport {
        ssrc: block.ssrc.0,
        fraction_lost: block.fraction_lost,
        total_lost: total_lost as u32 & 0xff_ffff,
        last_sequence_number: block.highest_seq,
        jitter: block.jitter_ticks,
        last_sender_report: block.last_sr,
        delay: block.delay_since_last_sr,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const SENDER: Ssrc = Ssrc(0x1122_3344);
    const MEDIA: Ssrc = Ssrc(0x5566_7788);

    fn block(ssrc: u32) -> ReportBlock {
        ReportBlock {
            ssrc: Ssrc(ssrc),
            fraction_lost: 7,
            total_lost: -3,
            highest_seq: 0x0001_fffe,
            jitter_ticks: 99,
            last_sr: 0xaabb_ccdd,
            delay_since_last_sr: 65_536,
        }
    }

    fn sender_report() -> SenderReport {
        SenderReport {
            ssrc: MEDIA,
            ntp: NtpTime(0x0123_4567_89ab_cdef),
            rtp_time: RtpTime(0xdead_beef),
            packets: 5,
            octets: 6000,
        }
    }

    fn written(write: impl FnOnce(&mut Vec<u8>)) -> Vec<u8> {
        let mut out = Vec::new();
        write(&mut out);
        assert_eq!(out.len() % 4, 0, "RTCP counts in words");
        out
    }

    #[test]
    fn few_bytes_do_not_tell_of_many_packets() {
        // One run of 4096 packets that are missing, 24 bytes.
        let mut feedback = vec![0x8f, 205, 0, 5];
        feedback.extend([
            0, 0, 0, 1, 0, 0, 0, 2, 0, 7, 0x10, 0, 0, 0, 0, 0, 0x10, 0, 0, 0,
        ]);
        let entries = |datagram: &[u8]| {
            let compound = parse(datagram);
            let sum: usize = compound.packets.iter().map(entries_of).sum();
            (sum, compound.dropped)
        };
        assert_eq!(entries(&feedback), (4096, 0));
        assert_eq!(entries(&feedback.repeat(60)), (4096, 1));
        let mut nack = Vec::new();
        let numbers: Vec<_> = (0..500).map(SeqNo16).collect();
        write_nack(&mut nack, Ssrc(1), Ssrc(2), &numbers);
        assert_eq!(entries(&nack), (2000, 0));
        let (sum, dropped) = entries(&nack.repeat(20));
        assert!((4096..=4096 + 2048).contains(&sum) && dropped == 1, "{sum}");
    }

    #[test]
    fn what_is_written_is_read_back() {
        let cname = |source| {
            RtcpPacket::Description(SourceDescription {
                source,
                cname: Some(Bytes::from_static(b"room cname")),
                mid: None,
                rid: None,
            })
        };
        let cases: Vec<(Vec<u8>, Vec<RtcpPacket>)> = vec![
            (
                written(|out| write_sender_report(out, &sender_report(), "room cname")),
                vec![RtcpPacket::SenderReport(sender_report()), cname(MEDIA)],
            ),
            (
                written(|out| {
                    write_receiver_report(out, SENDER, &[block(1), block(2)], "room cname");
                    write_pli(out, SENDER, MEDIA);
                }),
                vec![
                    RtcpPacket::Reports {
                        sender: SENDER,
                        blocks: vec![block(1), block(2)],
                    },
                    cname(SENDER),
                    RtcpPacket::Pli { media: MEDIA },
                ],
            ),
            (
                written(|out| write_fir(out, SENDER, MEDIA, 9)),
                vec![RtcpPacket::Fir {
                    entries: vec![(MEDIA, 9)],
                }],
            ),
            (
                written(|out| write_bye(out, MEDIA)),
                vec![RtcpPacket::Bye {
                    sources: vec![MEDIA],
                }],
            ),
            (
                written(|out| {
                    write_nack(out, SENDER, MEDIA, &[65_535, 0, 1, 16, 40].map(SeqNo16));
                }),
                vec![RtcpPacket::Nack {
                    sender: SENDER,
                    media: MEDIA,
                    seqs: [65_535, 0, 1, 16, 40].map(SeqNo16).to_vec(),
                }],
            ),
        ];
        for (bytes, packets) in cases {
            assert_eq!(
                parse(&bytes),
                Compound {
                    packets,
                    dropped: 0
                }
            );
        }
    }

    #[test]
    fn more_blocks_than_fit_one_report_are_spread_over_several() {
        let blocks: Vec<_> = (0..40).map(block).collect();
        let bytes = written(|out| write_receiver_report(out, SENDER, &blocks, "c"));
        let counts: Vec<usize> = parse(&bytes)
            .packets
            .iter()
            .filter_map(|packet| match packet {
                RtcpPacket::Reports { blocks, .. } => Some(blocks.len()),
                _ => None,
            })
            .collect();
        assert_eq!(counts, [31, 9]);
    }

    #[test]
    fn one_bad_message_costs_only_itself() {
        // A PLI without its media SSRC, an APP, a whole PLI, and one cut short.
        let mut bytes = vec![0x81, 206, 0, 1, 0, 0, 0, 1];
        bytes.extend([0x80, 204, 0, 2, 0, 0, 0, 1, b'n', b'a', b'm', b'e']);
        write_pli(&mut bytes, SENDER, MEDIA);
        bytes.extend([0x81, 206, 0, 2, 0, 0, 0, 1]);
        assert_eq!(
            parse(&bytes),
            Compound {
                packets: vec![RtcpPacket::Other, RtcpPacket::Pli { media: MEDIA }],
                dropped: 2,
            }
        );
    }

    #[test]
    fn a_bye_names_several_sources_and_may_say_why() {
        // RFC 3550 §6.6: two sources, and a reason padded to a word.
        let mut bytes = vec![0x82, 203, 0, 4, 0, 0, 0, 1, 0, 0, 0, 2];
        bytes.extend(*b"\x07leaving");
        let bye = RtcpPacket::Bye {
            sources: vec![Ssrc(1), Ssrc(2)],
        };
        assert_eq!(parse(&bytes).packets, [bye]);
        // A count of zero is valid, but useless.
        let none = RtcpPacket::Bye { sources: vec![] };
        assert_eq!(parse(&[0x80, 203, 0, 0]).packets, [none]);
        // More sources than there are.
        let cut = [0x83, 203, 0, 2, 0, 0, 0, 1, 0, 0, 0, 2];
        assert_eq!((parse(&cut).packets.len(), parse(&cut).dropped), (0, 1));
    }

    #[test]
    fn reduced_size_datagrams_are_read() {
        // RFC 5506: neither a report nor a name comes first.
        let pli = || RtcpPacket::Pli { media: MEDIA };
        let lone = written(|out| write_pli(out, SENDER, MEDIA));
        assert_eq!(parse(&lone).packets, [pli()]);
        let several = written(|out| {
            write_nack(out, SENDER, MEDIA, &[SeqNo16(7)]);
            write_pli(out, SENDER, MEDIA);
            write_bye(out, SENDER);
        });
        let nack = RtcpPacket::Nack {
            sender: SENDER,
            media: MEDIA,
            seqs: vec![SeqNo16(7)],
        };
        let bye = RtcpPacket::Bye {
            sources: vec![SENDER],
        };
        assert_eq!(parse(&several).packets, [nack, pli(), bye]);
        assert_eq!(parse(&several).dropped, 0);
    }

    #[test]
    fn every_bound_holds() {
        let many = written(|out| (0..100).for_each(|_| write_pli(out, SENDER, MEDIA)));
        let compound = parse(&many);
        assert_eq!((compound.packets.len(), compound.dropped), (PACKETS_MAX, 1));

        // One NACK of 1000 pairs, all bits set.
        let mut nack = vec![0x81, 205];
        nack.extend(1002_u16.to_be_bytes());
        nack.extend([0; 8]);
        nack.extend([0xff; 4000]);
        match &parse(&nack).packets[..] {
            [RtcpPacket::Nack { seqs, .. }] => assert_eq!(seqs.len(), NACKED_MAX),
            other => panic!("{other:?}"),
        }
        // A length that no message has.
        let mut long = vec![0x81, 205, 0xff, 0xff];
        long.resize(4 + 4 * 0xffff, 0);
        assert_eq!(parse(&long).dropped, 1);
    }

    #[test]
    fn a_long_cname_is_cut_between_characters() {
        let cname = "é".repeat(200);
        let bytes = written(|out| write_receiver_report(out, SENDER, &[], &cname));
        match &parse(&bytes).packets[..] {
            [
                RtcpPacket::Description(SourceDescription {
                    cname: Some(cname), ..
                }),
            ] => assert_eq!(cname.len(), 254),
            other => panic!("{other:?}"),
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = parse(&bytes);
        }

        /// Headers that are right, so that the bytes behind them reach the codec.
        #[test]
        fn no_message_panics(
            messages in proptest::collection::vec(
                (0_u8..64, 200_u8..208, proptest::collection::vec(any::<[u8; 4]>(), 0..20), -1_i32..2),
                1..5,
            )
        ) {
            let mut bytes = Vec::new();
            for (first, kind, words, off) in messages {
                let length = (words.len() as i32 + off).max(0) as u16;
                bytes.extend([0x80 | first, kind]);
                bytes.extend(length.to_be_bytes());
                bytes.extend(words.as_flattened());
            }
            let compound = parse(&bytes);
            prop_assert!(compound.packets.len() <= PACKETS_MAX * (REPORT_BLOCKS_MAX + 1));
        }
    }
}
