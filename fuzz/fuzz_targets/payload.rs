//! Any payload, as each codec: it is read or refused; numbers are written where they were read. The first
//! byte chooses; for dependency descriptors the rest is a run of them, each behind its length, so that later ones
//! refer to the structures of earlier ones.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardcast::wire::payload::av1::Av1Aggregation;
use shardcast::wire::payload::dependency::{DependencyDescriptor, TemplateStructure};
use shardcast::wire::payload::h264::H264Payload;
use shardcast::wire::payload::vp8::Vp8Descriptor;
use shardcast::wire::payload::vp9::Vp9Descriptor;

fuzz_target!(|input: &[u8]| {
    let Some((codec, payload)) = input.split_first() else {
        return;
    };
    match codec % 5 {
        0 => vp8(payload),
        1 => vp9(payload),
        2 => {
            let _ = H264Payload::parse(payload);
        }
        3 => {
            let _ = Av1Aggregation::parse(payload);
        }
        _ => descriptors(payload),
    }
});

fn vp8(payload: &[u8]) {
    let Some(read) = Vp8Descriptor::parse(payload) else {
        return;
    };
    let mut copy = payload.to_vec();
    if let Some(id) = read.picture_id {
        id.write(&mut copy, !id.value);
    }
    if let Some(index) = read.tl0_pic_idx {
        index.write(&mut copy, !index.value);
    }
    let again = Vp8Descriptor::parse(&copy).expect("it was read before");
    assert_eq!(again.temporal, read.temporal);
    assert_eq!(again.size, read.size);
    if let (Some(id), Some(old)) = (again.picture_id, read.picture_id) {
        assert_eq!(id.value, !old.value & (u16::MAX >> (16 - id.bits())));
    }
}

fn vp9(payload: &[u8]) {
    let Some(read) = Vp9Descriptor::parse(payload) else {
        return;
    };
    let mut copy = payload.to_vec();
    if let Some(id) = read.picture_id {
        id.write(&mut copy, !id.value);
    }
    if let Some(index) = read.tl0_pic_idx {
        index.write(&mut copy, !index.value);
    }
    let again = Vp9Descriptor::parse(&copy).expect("it was read before");
    assert_eq!(again.layer, read.layer);
    assert_eq!(again.structure, read.structure);
    assert_eq!(again.references(), read.references());
}

fn descriptors(mut run: &[u8]) {
    let mut known: Option<TemplateStructure> = None;
    while let Some((len, rest)) = run.split_first() {
        let (bytes, rest) = rest.split_at(rest.len().min(usize::from(*len)));
        run = rest;
        let Some((read, new)) = DependencyDescriptor::parse(bytes, known.as_ref()) else {
            continue;
        };
        let mut written = [0; 300];
        let number = !read.frame_number;
        let len = read
            .write(bytes, number, Some(5), &mut written)
            .expect("a mask has four bytes at most");
        let (again, new_again) = DependencyDescriptor::parse(&written[..len], known.as_ref())
            .expect("what was written is a descriptor");
        assert_eq!(again.frame_number, number);
        assert_eq!(again.indications, read.indications);
        assert_eq!(again.differences(), read.differences());
        assert_eq!(new_again, new);
        known = new.or(known);
    }
}
