//! Descriptions to text.

use std::fmt;

use rtc_sdp::description::common::{Address, Attribute, ConnectionInformation};
use rtc_sdp::description::media::{MediaDescription, MediaName, RangedPort};
use rtc_sdp::description::session::{Origin, SessionDescription, TimeDescription, Timing};

use crate::base::ids::PayloadType;
use crate::wire::codec::{Codec, CodecMapping};
use crate::wire::sdp::description::{CodecLine, Description, Media, Msid, RTP_PROTO, Section};
use crate::wire::sdp::simulcast::Simulcast;

impl fmt::Display for Description {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut session = SessionDescription {
            origin: Origin {
                username: "-".to_owned(),
                session_id: self.session_id,
                session_version: self.session_version,
                network_type: "IN".to_owned(),
                address_type: "IP4".to_owned(),
                unicast_address: "127.0.0.1".to_owned(),
            },
            session_name: "-".to_owned(),
            time_descriptions: vec![TimeDescription {
                timing: Timing {
                    start_time: 0,
                    stop_time: 0,
                },
                repeat_times: Vec::new(),
            }],
            ..SessionDescription::default()
        };
        if let Some(mids) = &self.bundle {
            let mut group = "BUNDLE".to_owned();
            for mid in mids {
                group.push(' ');
                group.push_str(mid.as_str());
            }
            session = session.with_value_attribute("group".to_owned(), group);
        }
        if self.ice_lite {
            session = session.with_property_attribute("ice-lite".to_owned());
        }
        session = session
            .with_value_attribute("ice-options".to_owned(), "trickle".to_owned())
            .with_property_attribute("extmap-allow-mixed".to_owned())
            .with_value_attribute("msid-semantic".to_owned(), " WMS *".to_owned());
        for section in &self.sections {
            session = session.with_media(print_section(section));
        }
        fmt::Display::fmt(&session, f)
    }
}

fn print_section(section: &Section) -> MediaDescription {
    let (media, proto, formats): (String, &str, Vec<String>) = match &section.media {
        Media::Rtp(kind) => (
            kind.as_str().to_owned(),
            RTP_PROTO,
            section
                .payload_types
                .iter()
                .map(ToString::to_string)
                .collect(),
        ),
        Media::Other {
            media,
            proto,
            formats,
        } => (media.clone(), proto.as_str(), formats.clone()),
    };
    let formats = if formats.is_empty() {
        vec!["0".to_owned()] // One must stand there (RFC 8866 §5.14), whatever it means.
    } else {
        formats
    };
    let mut printed = MediaDescription {
        media_name: MediaName {
            media,
            port: RangedPort {
                value: if section.rejected { 0 } else { 9 },
                range: None,
            },
            protos: proto.split('/').map(str::to_owned).collect(),
            formats,
        },
        connection_information: Some(ConnectionInformation {
            network_type: "IN".to_owned(),
            address_type: "IP4".to_owned(),
            address: Some(Address {
                address: "0.0.0.0".to_owned(),
                ttl: None,
                range: None,
            }),
        }),
        ..MediaDescription::default()
    };
    let mut printer = Printer(&mut printed);
    printer.transport(section);
    if let Media::Rtp(_) = section.media {
        printer.rtp(section);
    }
    printed
}

/// Appends attributes to a section.
struct Printer<'a>(&'a mut MediaDescription);

impl Printer<'_> {
    fn flag(&mut self, key: &str) {
        self.0.attributes.push(Attribute {
            key: key.to_owned(),
            value: None,
        });
    }

    fn value(&mut self, key: &str, value: impl fmt::Display) {
        self.0.attributes.push(Attribute {
            key: key.to_owned(),
            value: Some(value.to_string()),
        });
    }

    fn transport(&mut self, section: &Section) {
        if let Some(ice) = &section.ice {
            self.value("ice-ufrag", &ice.ufrag);
            self.value("ice-pwd", &ice.pwd);
        }
        for fingerprint in &section.fingerprints {
            let digest: Vec<String> = fingerprint
                .digest
                .iter()
                .map(|byte| format!("{byte:02X}"))
                .collect();
            self.value(
                "fingerprint",
                format_args!("{} {}", fingerprint.algorithm, digest.join(":")),
            );
        }
        if let Some(setup) = section.setup {
            self.value("setup", setup.as_str());
        }
        self.value("mid", section.mid);
    }

    fn rtp(&mut self, section: &Section) {
        for (extension, id) in section.extensions.iter() {
            self.value("extmap", format_args!("{id} {}", extension.uri()));
        }
        self.flag(section.direction.as_str());
        if let Some(msid) = &section.msid {
            match &msid.track {
                Some(track) => self.value("msid", format_args!("{} {track}", msid.stream)),
                None => self.value("msid", &msid.stream),
            }
        }
        if section.rtcp_mux {
            self.flag("rtcp-mux");
        }
        if section.rtcp_rsize {
            self.flag("rtcp-rsize");
        }
        if section.rtcp_xr_rtt {
            self.value("rtcp-xr", "rcvr-rtt=all");
        }
        let opus = section
            .codecs
            .iter()
            .find(|line| line.mapping.codec == Codec::Opus)
            .map(|line| line.mapping.payload_type);
        for line in &section.codecs {
            self.codec(line, opus);
        }
        self.simulcast(&section.simulcast);
        self.sources(section);
    }

    fn simulcast(&mut self, simulcast: &Simulcast) {
        for (direction, streams) in [("send", &simulcast.send), ("recv", &simulcast.recv)] {
            for stream in streams {
                self.value("rid", format_args!("{} {direction}", stream.rid));
            }
        }
        if !simulcast.is_empty() {
            self.value("simulcast", simulcast);
        }
    }

    fn codec(&mut self, line: &CodecLine, opus: Option<PayloadType>) {
        let CodecMapping {
            payload_type,
            codec,
            rtx,
            nack,
            transport_cc,
            remb,
        } = line.mapping;
        self.value("rtpmap", format_args!("{payload_type} {}", codec.rtpmap()));
        for (allowed, what) in [
            (remb, "goog-remb"),
            (transport_cc, "transport-cc"),
            (nack, "nack"),
            (line.pli, "nack pli"),
            (line.fir, "ccm fir"),
            (line.rrtr, "rrtr"),
        ] {
            if allowed {
                self.value("rtcp-fb", format_args!("{payload_type} {what}"));
            }
        }
        let fmtp = codec.fmtp(opus);
        if !fmtp.is_empty() {
            self.value("fmtp", format_args!("{payload_type} {fmtp}"));
        }
        if let Some(rtx) = rtx {
            self.value("rtpmap", format_args!("{rtx} rtx/{}", codec.clock_rate()));
            self.value("fmtp", format_args!("{rtx} apt={payload_type}"));
        }
    }

    /// SSRCs with CNAME and, for clients older than RFC 8830, `msid` once more.
    fn sources(&mut self, section: &Section) {
        if !section.simulcast_ssrcs.is_empty() {
            let mut group = "SIM".to_owned();
            for ssrc in &section.simulcast_ssrcs {
                group.push_str(&format!(" {ssrc}"));
            }
            self.value("ssrc-group", group);
        }
        for (primary, repair) in &section.rtx_ssrcs {
            self.value("ssrc-group", format_args!("FID {primary} {repair}"));
        }
        let repairs = section.rtx_ssrcs.iter().map(|(_, repair)| repair);
        for ssrc in section.ssrcs.iter().chain(repairs) {
            if let Some(cname) = &section.cname {
                self.value("ssrc", format_args!("{ssrc} cname:{cname}"));
            }
            if let Some(Msid {
                stream,
                track: Some(track),
            }) = &section.msid
            {
                self.value("ssrc", format_args!("{ssrc} msid:{stream} {track}"));
            }
        }
    }
}
