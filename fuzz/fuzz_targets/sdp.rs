//! Any text as a session description; what was understood can be written and read again.
#![no_main]

use libfuzzer_sys::fuzz_target;
use shardcast::wire::sdp::Description;

fuzz_target!(|text: &str| {
    if let Ok(description) = Description::parse(text) {
        let printed = description.to_string();
        assert!(Description::parse(&printed).is_ok(), "{printed}");
    }
});
