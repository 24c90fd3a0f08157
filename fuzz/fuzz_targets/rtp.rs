//! Any packet: its header is read or refused, and reads the same after it was written again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardcast::wire::rtp::{EXTENSIONS_MAX, OutgoingHeader, PacketKind, RtpHeader, write_header};

fuzz_target!(|packet: &[u8]| {
    let kind = PacketKind::of(packet);
    let Some(header) = RtpHeader::parse(packet) else {
        return;
    };
    assert!(matches!(kind, PacketKind::Rtp | PacketKind::Rtcp));
    assert!(header.header_len <= packet.len());
    if let Some(payload) = header.payload(packet) {
        assert!(header.header_len + payload.len() <= packet.len());
        assert!(header.padding || header.header_len + payload.len() == packet.len());
    }

    let fields = OutgoingHeader {
        payload_type: header.payload_type,
        marker: header.marker,
        seq: header.seq,
        timestamp: header.timestamp,
        ssrc: header.ssrc,
        padding: header.padding,
    };
    let mut out = b"before".to_vec();
    let len = write_header(&mut out, &fields, header.extensions(packet));
    let written = &out[6..];
    assert_eq!(written.len(), len);
    let again = RtpHeader::parse(written).expect("what was written is a header");
    assert_eq!(again.header_len, len);
    assert_eq!(again.csrc_count, 0);
    assert_eq!(
        (again.payload_type, again.marker, again.padding),
        (header.payload_type, header.marker, header.padding)
    );
    assert_eq!(
        (again.seq, again.timestamp, again.ssrc),
        (header.seq, header.timestamp, header.ssrc)
    );
    let read = header.extensions(packet).take(EXTENSIONS_MAX);
    assert!(again.extensions(written).eq(read));

    // The same header over another packet is nonsense, but harmless.
    for end in 0..packet.len().min(64) {
        let _ = header.payload(&packet[..end]);
        let _ = header.extensions(&packet[..end]).count();
    }
});
