//! What is negotiated for media quality: simulcast, retransmission, feedback on congestion, codec order.

use serde_json::{Value, json};

use crate::base::ids::{MediaKind, PayloadType, Ssrc};
use crate::control::{SubscriptionConfig, TrackConfig};
use crate::signaling::harness::Room;
use crate::signaling::negotiation::codecs::TRANSPORT_WIDE;
use crate::wire::codec::{Codec, CodecMapping};
use crate::wire::extension::Extension;
use crate::wire::sdp::{Description, Direction, Media, Section, Setup, Simulcast};

const CHROMIUM: &str = include_str!("../../fuzz/seeds/sdp/chromium-simulcast.sdp");
const FIREFOX: &str = include_str!("../../fuzz/seeds/sdp/firefox-simulcast.sdp");
const GROUP: &str = include_str!("../../fuzz/seeds/sdp/chromium-ssrc-group.sdp");
const SENDRECV: &str = include_str!("../../fuzz/seeds/sdp/chromium-sendrecv.sdp");

/// A member of a room that says what a test wants it to say.
struct Speaker {
    room: Room,
    member: usize,
}

impl Speaker {
    /// Joins a room and offers this.
    fn new(offer: &str) -> Self {
        Self::join(Room::new(), offer)
    }

    fn join(mut room: Room, offer: &str) -> Self {
        let member = room.join("ada");
        room.members[member].by_hand = true;
        let mut this = Self { room, member };
        this.say("offer", offer);
        this
    }

    fn say(&mut self, kind: &str, sdp: &str) {
        let data = json!({kind: {"type": kind, "sdp": sdp}});
        self.room.say(self.member, kind, data);
        assert_eq!(self.room.members[self.member].errors(), [""; 0]);
    }

    /// The server's last description of a kind.
    fn heard(&self, kind: &str) -> Description {
        let mut frames = self.room.members[self.member].frames.iter().rev();
        let frame = frames.find(|f| f["event"] == kind).expect("it came");
        let data: Value = serde_json::from_str(frame["data"].as_str().unwrap()).unwrap();
        Description::parse(data["sdp"].as_str().unwrap()).unwrap()
    }

    fn track(&self, index: usize) -> &TrackConfig {
        &self.room.members[self.member].tracks[index]
    }

    fn subscription(&self, kind: MediaKind) -> &SubscriptionConfig {
        let subscriptions = &self.room.members[self.member].subscriptions;
        subscriptions.iter().find(|s| s.kind == kind).unwrap()
    }
}

fn received(section: &Section) -> Vec<String> {
    let streams = section.simulcast.recv.iter();
    streams.map(|stream| stream.rid.to_string()).collect()
}

fn rids(track: &TrackConfig) -> Vec<String> {
    let encodings = track.encodings.iter();
    encodings
        .map(|e| e.rid.map_or_else(|| "-".to_owned(), |rid| rid.to_string()))
        .collect()
}

/// An answer to what the server offers: the sections of `own`, and `recvonly` for others.
fn answer(offered: &Description, own: &str) -> String {
    let mut own = Description::parse(own).unwrap();
    for (index, section) in offered.sections.iter().enumerate() {
        if let Some(known) = own.sections.get_mut(index) {
            known.direction = Direction::SendOnly;
            known.setup = Some(Setup::Active);
            continue;
        }
        let mut added = Section {
            direction: Direction::RecvOnly,
            msid: None,
            ssrcs: Vec::new(),
            rtx_ssrcs: Vec::new(),
            simulcast: Simulcast::default(),
            setup: Some(Setup::Active),
            fingerprints: own.sections[0].fingerprints.clone(),
            ..section.clone()
        };
        added.ice.clone_from(&own.sections[0].ice);
        own.sections.push(added);
    }
    own.bundle = Some(own.sections.iter().map(|s| s.mid).collect());
    own.to_string()
}

#[test]
fn simulcast_is_taken_and_stays_in_the_servers_own_offers() {
    for offer in [CHROMIUM, FIREFOX] {
        let mut ada = Speaker::new(offer);
        let described = ada.heard("answer");
        assert_eq!(received(&described.sections[1]), ["q", "h", "f"]);
        assert!(described.sections[1].simulcast.send.is_empty());
        for extension in [Extension::RtpStreamId, Extension::RepairedRtpStreamId] {
            assert!(described.sections[1].extensions.id(extension).is_some());
            assert!(described.sections[0].extensions.id(extension).is_none());
        }
        assert_eq!(rids(ada.track(1)), ["q", "h", "f"]);
        assert_eq!(rids(ada.track(0)), ["-"], "sound has one encoding");

        ada.room.publisher("bob");
        let offered = ada.heard("offer");
        assert_eq!(received(&offered.sections[1]), ["q", "h", "f"]);
        assert!(offered.sections[1].direction.receives());
        for added in &offered.sections[2..] {
            assert!(added.simulcast.is_empty());
            assert!(added.extensions.id(Extension::RtpStreamId).is_none());
        }
        ada.say("answer", &answer(&offered, offer));
        assert_eq!(rids(ada.track(1)), ["q", "h", "f"]);
    }
}

#[test]
fn what_a_browser_stopped_sending_it_may_send_again() {
    let mut ada = Speaker::new(CHROMIUM);
    let (before, video) = CHROMIUM.split_at(CHROMIUM.find("m=video").unwrap());
    // Chromium goes on naming its streams; others need not.
    let streams = "a=rid:q send\r\na=rid:h send\r\na=rid:f send\r\na=simulcast:send q;h;f\r\n";
    for streams in ["", streams] {
        let video = video.split("a=rid:").next().unwrap();
        let video = video.replace("a=sendonly", "a=inactive");
        ada.say("offer", &format!("{before}{video}{streams}"));
        assert_eq!(ada.room.members[ada.member].tracks.len(), 1);
        let answered = ada.heard("answer");
        assert_eq!(received(&answered.sections[1]), ["q", "h", "f"]);
    }
    ada.room.publisher("bob");
    let offered = ada.heard("offer");
    assert_eq!(received(&offered.sections[1]), ["q", "h", "f"]);
    ada.say("answer", &answer(&offered, CHROMIUM));
    assert_eq!(rids(ada.track(1)), ["q", "h", "f"]);
}

#[test]
fn what_is_paused_stays_paused() {
    // Chromium would begin to send an encoding that its page has switched off.
    let ada = Speaker::new(&CHROMIUM.replace("send q;h;f", "send ~q;h;f"));
    let paused: Vec<bool> = ada.heard("answer").sections[1]
        .simulcast
        .recv
        .iter()
        .map(|stream| stream.paused)
        .collect();
    assert_eq!(paused, [true, false, false]);
    assert_eq!(rids(ada.track(1)), ["q", "h", "f"]);
}

#[test]
fn four_streams_are_taken_at_most() {
    let many = CHROMIUM
        .replace(
            "a=rid:f send\r\n",
            "a=rid:f send\r\na=rid:x send\r\na=rid:y send\r\n",
        )
        .replace("send q;h;f", "send q;h;f;x;y");
    let ada = Speaker::new(&many);
    assert_eq!(
        received(&ada.heard("answer").sections[1]),
        ["q", "h", "f", "x"]
    );
    assert_eq!(rids(ada.track(1)), ["q", "h", "f", "x"]);
}

#[test]
fn malformed_simulcast_leaves_one_stream() {
    for line in [
        "send q;;f",
        "send q;q",
        "sned q;h",
        "send",
        "send q;é",
        "send x;y;z",
    ] {
        let ada = Speaker::new(&CHROMIUM.replace("send q;h;f", line));
        let described = ada.heard("answer");
        assert!(described.sections[1].simulcast.is_empty(), "{line}");
        assert_eq!(rids(ada.track(1)), ["-"], "{line}");
        let rid = described.sections[1].extensions.id(Extension::RtpStreamId);
        assert!(rid.is_none(), "{line}");
    }
}

#[test]
fn a_group_of_ssrcs_becomes_encodings() {
    let ada = Speaker::new(GROUP);
    assert!(ada.heard("answer").sections[1].simulcast.is_empty());
    let ssrcs: Vec<_> = ada
        .track(1)
        .encodings
        .iter()
        .map(|e| (e.ssrc, e.rtx_ssrc))
        .collect();
    let pair = |n: u32| (Some(Ssrc(n)), Some(Ssrc(n + 10)));
    assert_eq!(ssrcs, [pair(1001), pair(1002), pair(1003)]);
}

#[test]
fn feedback_is_negotiated_where_the_client_knows_it() {
    let ada = Speaker::new(CHROMIUM);
    let described = ada.heard("answer");
    let (audio, video) = (&described.sections[0], &described.sections[1]);
    for section in [audio, video] {
        let number = section.extensions.id(Extension::TransportSequenceNumber);
        assert_eq!(number.is_some(), TRANSPORT_WIDE);
        assert!(section.extensions.id(Extension::AbsSendTime).is_some());
        assert!(section.rtcp_xr_rtt);
    }
    for line in &video.codecs {
        let mapping = line.mapping;
        assert_eq!(mapping.transport_cc, TRANSPORT_WIDE);
        assert!(mapping.remb && mapping.nack && line.pli && line.fir);
        assert!(mapping.rtx.is_some() && !line.rrtr);
    }
    for mapping in &ada.track(0).codecs {
        assert_eq!(mapping.transport_cc, TRANSPORT_WIDE, "RED too: it is Opus");
        assert!(!mapping.remb);
    }
    let red = audio.codecs.iter().find(|l| l.mapping.codec == Codec::Red);
    assert!(!red.unwrap().mapping.transport_cc, "as offered");

    let plain = CHROMIUM
        .replace(" transport-cc", " x")
        .replace(" goog-remb", " rrtr")
        .replace("a=rtcp-xr:rcvr-rtt=all", "a=x");
    let ada = Speaker::new(&plain);
    let described = ada.heard("answer");
    assert!(!described.sections[1].rtcp_xr_rtt);
    for line in &described.sections[1].codecs {
        assert!(line.rrtr && !line.mapping.transport_cc && !line.mapping.remb);
    }
    let without_number = CHROMIUM.replace("transport-wide-cc-extensions-01", "x");
    let ada = Speaker::new(&without_number);
    for mapping in ada.track(0).codecs.iter().chain(&ada.track(1).codecs) {
        assert!(
            !mapping.transport_cc,
            "feedback on packets without a number"
        );
    }
}

#[test]
fn packets_that_could_be_repeated_as_they_are_carry_no_transport_wide_number() {
    let receive = |offer: &str| {
        let mut room = Room::new();
        room.publisher("bob");
        Speaker::join(room, offer)
    };
    let ada = receive(SENDRECV);
    let (audio, video) = (
        ada.subscription(MediaKind::Audio),
        ada.subscription(MediaKind::Video),
    );
    let number = Extension::TransportSequenceNumber;
    for subscription in [audio, video] {
        let is_numbered = subscription.extensions.id(number).is_some();
        assert_eq!(is_numbered, TRANSPORT_WIDE);
    }
    let feedback = |m: &CodecMapping| (m.transport_cc, m.remb);
    assert!(
        video
            .codecs
            .iter()
            .all(|m| feedback(m) == (TRANSPORT_WIDE, true))
    );
    assert!(video.rtx_ssrc.is_some() && audio.rtx_ssrc.is_none());
    let section = &ada.heard("answer").sections[1];
    assert_eq!(section.rtx_ssrcs, [(video.ssrc, video.rtx_ssrc.unwrap())]);

    let ada = receive(&SENDRECV.replace(" rtx/90000", " other/90000"));
    let video = ada.subscription(MediaKind::Video);
    assert!(video.rtx_ssrc.is_none() && video.extensions.id(number).is_none());
    assert!(video.codecs.iter().all(|m| !m.transport_cc && m.remb));
    let audio = ada.subscription(MediaKind::Audio);
    let is_numbered = audio.extensions.id(number).is_some();
    assert_eq!(is_numbered, TRANSPORT_WIDE, "nobody asks for sound again");
    let is_told = |m: &CodecMapping| m.transport_cc == TRANSPORT_WIDE;
    assert!(audio.codecs.iter().all(is_told));
    assert!(ada.track(1).codecs.iter().all(is_told), "of what it sends");
}

#[test]
fn the_servers_offers_keep_the_clients_order() {
    let red_first = SENDRECV.replace("SAVPF 111 63 ", "SAVPF 63 111 ");
    let vp9_first = red_first.replace("SAVPF 96 97 ", "SAVPF 98 99 96 97 ");
    assert_ne!(vp9_first, red_first);
    let mut room = Room::new();
    for name in ["bob", "cyd"] {
        room.publisher(name);
    }
    let ada = Speaker::join(room, &vp9_first);
    let offered = ada.heard("offer");
    for section in offered.sections.iter().filter(|s| !s.rejected) {
        let numbers: Vec<_> = section
            .codecs
            .iter()
            .map(|l| l.mapping.payload_type)
            .collect();
        let first = match section.media {
            Media::Rtp(MediaKind::Audio) => [63, 111],
            _ => [98, 96],
        };
        assert_eq!(numbers[..2], first.map(PayloadType));
    }
    assert_eq!(offered.sections.len(), 5, "two of the server's own");
}
