//! Any datagram: a check is read or refused, and what is read can be answered.
#![no_main]

use std::net::SocketAddr;

use libfuzzer_sys::fuzz_target;
use shardcast::wire::rtp::PacketKind;
use shardcast::wire::stun::{
    BindingRequest, MESSAGE_BYTES_MAX, peek_local_ufrag, write_binding_success, write_error,
};

/// What the seeds were made with.
const PWD: &str = "0123456789abcdefghijkl";

fuzz_target!(|datagram: &[u8]| {
    // What shards of one port look at before anybody parses it.
    let _ = peek_local_ufrag(datagram);
    let Ok(request) = BindingRequest::parse(datagram) else {
        return;
    };
    assert!(datagram.len() <= MESSAGE_BYTES_MAX);
    assert_eq!(PacketKind::of(datagram), PacketKind::Stun);
    assert_eq!(request.transaction_id(), datagram[8..20]);
    assert!(!request.local_ufrag().is_empty());
    if request.verify(PWD) {
        assert!(request.has_integrity());
        assert!(!request.verify("another password of 22"));
    }

    let v4 = SocketAddr::from(([192, 0, 2, 1], 4000));
    let v6 = SocketAddr::from(([0x2001, 0xdb8, 0, 0, 0, 0, 0, 1], 4000));
    let mut out = Vec::new();
    write_binding_success(&mut out, &request, v4, PWD);
    write_binding_success(&mut out, &request, v6, PWD);
    write_error(&mut out, &request, 420, "Unknown Attribute", Some(PWD));
    write_error(&mut out, &request, 401, "Unauthenticated", None);

    // Four whole messages, each with our transaction id, none of them a request.
    let mut rest = &out[..];
    for _ in 0..4 {
        let len = 20 + usize::from(u16::from_be_bytes([rest[2], rest[3]]));
        let (message, tail) = rest.split_at(len);
        assert_eq!(PacketKind::of(message), PacketKind::Stun);
        assert_eq!(message[8..20], request.transaction_id());
        assert!(BindingRequest::parse(message).is_err());
        rest = tail;
    }
    assert!(rest.is_empty());
});
