//! Session descriptions (RFC 8866, RFC 8829) as the sections an offer/answer policy needs.
//!
//! `rtc-sdp` cuts the text into lines and puts it together again; this module gives the attributes
//! their meaning, in one type for both directions, and bounds what a hostile description may cost.
//! It knows nothing of tracks, subscriptions or who offers.

mod description;
mod parse;
mod print;
mod simulcast;

pub use description::{
    CodecLine, Description, Direction, FingerprintLine, IceLines, Media, Msid, SdpError, Section,
    Setup,
};
pub use parse::{
    EXTMAPS_MAX, FEEDBACK_LINES_MAX, FINGERPRINTS_MAX, FORMAT_LINES_MAX, FORMATS_ECHOED_MAX,
    LINE_BYTES_MAX, LINES_MAX, SECTIONS_PARSED_MAX, SSRCS_MAX,
};
pub use simulcast::{RIDS_MAX, RidStream, STREAMS_MAX, Simulcast};

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::base::ids::{MediaKind, Mid, PayloadType, Ssrc};
    use crate::wire::codec::Codec;
    use crate::wire::codec::H264Profile;
    use crate::wire::extension::{Extension, ExtensionId};

    const CHROMIUM: &str = include_str!("../../../fuzz/seeds/sdp/chromium-sendrecv.sdp");
    const FIREFOX: &str = include_str!("../../../fuzz/seeds/sdp/firefox-sendrecv.sdp");
    const PION: &str = include_str!("../../../fuzz/seeds/sdp/pion-sendrecv.sdp");
    const GSTREAMER: &str = include_str!("../../../fuzz/seeds/sdp/gstreamer-sendonly.sdp");

    fn pt(number: u8) -> PayloadType {
        PayloadType(number)
    }

    #[test]
    fn reads_chromium() {
        let description = Description::parse(CHROMIUM).unwrap();
        assert_eq!(description.sections.len(), 3);
        assert_eq!(description.bundle.as_ref().unwrap().len(), 3);
        let [audio, video, data] = &description.sections[..] else {
            panic!("three sections");
        };
        assert_eq!(audio.media, Media::Rtp(MediaKind::Audio));
        assert_eq!(audio.mid, Mid::new("0").unwrap());
        assert_eq!(audio.direction, Direction::SendRecv);
        assert_eq!(audio.setup, Some(Setup::ActPass));
        assert_eq!(audio.ice.as_ref().unwrap().ufrag, "OIkc");
        assert_eq!(audio.fingerprints[0].algorithm, "sha-256");
        assert_eq!(audio.fingerprints[0].digest.len(), 32);
        assert_eq!(audio.ssrcs, [Ssrc(2_713_097_960)]);
        assert_eq!(audio.cname.as_deref(), Some("bIEdxMk1Mz3XSpkj"));
        assert!(audio.rtcp_mux && audio.rtcp_rsize && !audio.rejected);
        assert_eq!(audio.codecs.len(), 2);
        assert_eq!(audio.payload_types.len(), 8);

        let codec = |n: u8| {
            video
                .codecs
                .iter()
                .find(|l| l.mapping.payload_type == pt(n))
                .unwrap()
        };
        assert_eq!(codec(96).mapping.codec, Codec::Vp8);
        assert_eq!(codec(96).mapping.rtx, Some(pt(97)));
        assert!(codec(96).mapping.nack && codec(96).pli && codec(96).fir);
        let h264 = Codec::H264 {
            profile: H264Profile::Main,
            packetization_mode: 0,
        };
        assert_eq!(
            (codec(39).mapping.codec, codec(39).mapping.rtx),
            (h264, Some(pt(40)))
        );
        assert_eq!(video.rtx_ssrcs, [(Ssrc(953_087_170), Ssrc(1_469_031_326))]);
        assert_eq!(video.ssrcs, [Ssrc(953_087_170)]);
        assert_eq!(video.extensions.id(Extension::Mid), ExtensionId::new(4));
        assert_eq!(video.extension_ids.len(), 11);
        assert_eq!(
            video.msid.as_ref().unwrap().track.as_deref(),
            Some("602a4a00-6552-441d-9c51-588f5d423be5")
        );
        let Media::Other { media, proto, .. } = &data.media else {
            panic!("a data channel section");
        };
        assert_eq!(
            (media.as_str(), proto.as_str()),
            ("application", "UDP/DTLS/SCTP")
        );
    }

    #[test]
    fn reads_session_level_lines_and_other_orders() {
        let firefox = Description::parse(FIREFOX).unwrap();
        let video = &firefox.sections[1];
        assert_eq!(video.fingerprints.len(), 1, "from the session level");
        assert_eq!(
            video.codecs[0].mapping.rtx,
            Some(pt(124)),
            "fmtp before rtpmap"
        );
        assert_eq!(video.ssrcs, [Ssrc(3_712_708_728)]);
        assert_eq!(
            video.msid.as_ref().unwrap().stream,
            "{c60cc4ca-1d1c-4a81-b316-7985c5388ad0}"
        );
        assert_eq!(
            video.extensions.id(Extension::PlayoutDelay),
            ExtensionId::new(6)
        );

        let pion = Description::parse(PION).unwrap();
        assert_eq!(pion.sections[1].codecs.len(), 3);

        let gstreamer = Description::parse(GSTREAMER).unwrap();
        let audio = &gstreamer.sections[1];
        assert_eq!(audio.mid, Mid::new("audio1").unwrap());
        assert_eq!(audio.codecs[0].mapping.codec, Codec::Opus);
        let video = &gstreamer.sections[0];
        assert_eq!(video.direction, Direction::SendOnly);
        assert!(!video.codecs[0].fir && video.codecs[0].pli);
    }

    #[test]
    fn writes_what_it_reads() {
        for text in [CHROMIUM, FIREFOX, PION, GSTREAMER] {
            let mut first = Description::parse(text).unwrap();
            for section in &mut first.sections {
                // Only what is known is written.
                let known = section.codecs.iter();
                section.payload_types = known
                    .flat_map(|l| [Some(l.mapping.payload_type), l.mapping.rtx])
                    .flatten()
                    .collect();
                section.extension_ids = section.extensions.iter().map(|(_, id)| id).collect();
                if matches!(section.media, Media::Other { .. }) {
                    section.direction = Direction::SendRecv;
                }
            }
            let second = Description::parse(&first.to_string()).unwrap();
            assert_eq!(first, second);
        }
    }

    #[test]
    fn a_section_without_a_usable_format_can_be_written() {
        let text = GSTREAMER.replace("SAVPF 98", "SAVPF 98q");
        let description = Description::parse(&text).unwrap();
        assert!(description.sections[1].payload_types.is_empty());
        assert!(Description::parse(&description.to_string()).is_ok());
    }

    #[test]
    fn port_zero_refuses_unless_bundled() {
        let at_zero = GSTREAMER.replace("m=audio 9", "m=audio 0");
        let description = Description::parse(&at_zero).unwrap();
        assert!(!description.sections[1].rejected, "bundle-only");
        let refused = at_zero.replace("a=bundle-only\r\n", "");
        assert!(Description::parse(&refused).unwrap().sections[1].rejected);
    }

    #[test]
    fn refuses_what_it_cannot_tell_apart_or_afford() {
        let long = format!("{CHROMIUM}a=x:{}\r\n", "y".repeat(LINE_BYTES_MAX));
        let many = format!("{CHROMIUM}{}", "a=x\r\n".repeat(LINES_MAX));
        let wide = format!(
            "v=0\r\no=- 1 1 IN IP4 0\r\ns=-\r\nt=0 0\r\n{}",
            (0..300)
                .map(|n| format!("m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:{n}\r\n"))
                .collect::<String>()
        );
        let cases = [
            ("", SdpError::Syntax),
            ("hello", SdpError::Syntax),
            (
                &CHROMIUM.replace("m=audio 9", "m=audio 99999"),
                SdpError::Syntax,
            ),
            (
                &CHROMIUM.replace("a=mid:1", "a=mid:0"),
                SdpError::DuplicateMid,
            ),
            (
                &CHROMIUM.replace("a=mid:1", "a=mid:12345678901234567"),
                SdpError::Mid,
            ),
            (&CHROMIUM.replace("a=mid:1\r\n", ""), SdpError::Mid),
            (&long, SdpError::TooLarge),
            (&many, SdpError::TooLarge),
            (&wide, SdpError::TooManySections),
        ];
        for (text, expected) in cases {
            assert_eq!(Description::parse(text), Err(expected), "{:.40}", text);
        }
    }

    #[test]
    fn hostile_lines_cost_no_more_than_their_bytes() {
        // Each of these would be quadratic if lines were searched without a bound.
        for line in [
            "a=rtpmap:111 VP8/90000\r\n",
            "a=rtcp-fb:* nack\r\n",
            "a=extmap:1 urn:x\r\n",
            "a=ssrc-group:FID 1 2\r\n",
            "a=ssrc:1 cname:x\r\n",
            "a=fingerprint:sha-256 00\r\n",
        ] {
            let lines = line.repeat(200 * 1024 / line.len());
            let text = CHROMIUM.replace("a=mid:1\r\n", &format!("a=mid:1\r\n{lines}"));
            let description = Description::parse(&text).unwrap();
            let video = &description.sections[1];
            assert!(video.ssrcs.len() <= SSRCS_MAX && video.rtx_ssrcs.len() <= SSRCS_MAX);
            assert!(video.fingerprints.len() <= FINGERPRINTS_MAX);
            assert!(video.extension_ids.len() <= EXTMAPS_MAX);
        }
    }

    proptest! {
        #[test]
        fn never_panics_on_text(text in "\\PC{0,400}") {
            let _ = Description::parse(&text);
        }

        #[test]
        fn never_panics_on_changed_descriptions(
            seed in 0..4usize,
            cuts in proptest::collection::vec((0..6000usize, 0..40usize, "[ -~\r\n]{0,12}"), 1..6),
        ) {
            let mut text = [CHROMIUM, FIREFOX, PION, GSTREAMER][seed].to_owned();
            for (at, len, with) in cuts {
                let at = at.min(text.len());
                let end = (at + len).min(text.len());
                text.replace_range(at..end, &with);
            }
            if let Ok(description) = Description::parse(&text) {
                // What was understood can be said again.
                prop_assert!(Description::parse(&description.to_string()).is_ok());
            }
        }
    }
}
