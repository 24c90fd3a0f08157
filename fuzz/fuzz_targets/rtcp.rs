//! RTCP: hostile bytes to messages. What is read again after being written must be the same.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardcast::wire::bandwidth::PACKETS_MAX;
use shardcast::wire::rtcp::{self, RtcpPacket};

fuzz_target!(|data: &[u8]| {
    let compound = rtcp::parse(data);
    assert!(compound.packets.len() <= rtcp::PACKETS_MAX * (rtcp::REPORT_BLOCKS_MAX + 1));
    for packet in compound.packets {
        let mut out = Vec::new();
        match &packet {
            RtcpPacket::Reports { sender, blocks } => {
                assert!(blocks.len() <= rtcp::REPORT_BLOCKS_MAX);
                rtcp::write_receiver_report(&mut out, *sender, blocks, "c");
            }
            RtcpPacket::SenderReport(report) => rtcp::write_sender_report(&mut out, report, "c"),
            RtcpPacket::Nack {
                sender,
                media,
                seqs,
            } => {
                assert!(seqs.len() <= rtcp::NACKED_MAX);
                rtcp::write_nack(&mut out, *sender, *media, seqs);
                continue;
            }
            RtcpPacket::TransportFeedback(feedback) => {
                assert!(feedback.arrivals.len() <= PACKETS_MAX);
                assert_eq!(feedback.write(&mut out), feedback.arrivals.len());
            }
            RtcpPacket::Remb(remb) => remb.write(&mut out),
            RtcpPacket::Fir { entries } => {
                assert!(entries.len() <= rtcp::FIR_MAX);
                continue;
            }
            _ => continue,
        }
        assert_eq!(rtcp::parse(&out).packets.first(), Some(&packet));
    }
});
