//! The client: frames and datagrams in, frames and datagrams out, everything checked on the way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rand::rngs::StdRng;
use rand::{RngExt, SeedableRng};
use rtc_rtcp::goodbye::Goodbye;
use rtc_rtcp::packet::Packet;
use rtc_rtcp::payload_feedbacks::full_intra_request::FullIntraRequest;
use rtc_rtcp::payload_feedbacks::picture_loss_indication::PictureLossIndication;
use rtc_rtcp::receiver_report::ReceiverReport;
use rtc_rtcp::reception_report::ReceptionReport;
use rtc_rtcp::sender_report::SenderReport;
use rtc_rtcp::source_description::SourceDescription;
use rtc_rtcp::transport_feedbacks::transport_layer_nack::TransportLayerNack;
use serde_json::{Value, json};

use crate::support::flavor::Flavor;
use crate::support::media::{
    Again, LEVEL_URI, MID_URI, Rate, Received, RtpView, Sender, TRANSPORT_CC_URI, tag,
};
use crate::support::negotiation::{LocalTrack, LocalTransport, Negotiation, RemoteTransport};
use crate::support::transport::{ClientTransport, Credentials, Incoming, Setup};
use crate::support::twcc::Recorder;

const TICK: Duration = Duration::from_millis(20);
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// libwebrtc's default at such rates.
const FEEDBACK_INTERVAL: Duration = Duration::from_millis(100);

/// Who offers first, and how the client talks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Style {
    /// Offers when `joined` has come.
    Modern,
    /// The predecessor's client: offers at once, answers without ids, ignores unknown events.
    Legacy,
    /// Publishes nothing and says `"offerer": "server"`.
    Viewer,
    /// Neither offers nor says so.
    Silent,
}

/// What to make a client of.
#[derive(Debug, Clone)]
pub struct ClientOptions {
    pub room: String,
    pub id: String,
    pub flavor: Flavor,
    pub style: Style,
    pub rate: Rate,
    pub seed: u64,
    /// The same for all clients of a test: the zero of the shared wall clock.
    pub zero: Instant,
}

pub struct Client {
    pub options: ClientOptions,
    rng: StdRng,
    pub transport: ClientTransport,
    pub negotiation: Negotiation,
    pub senders: BTreeMap<String, Sender>,
    /// Tracks ever received, by SSRC.
    pub received: BTreeMap<u32, Received>,
    frames: VecDeque<String>,
    pub joined: Option<Value>,
    pub errors: Vec<Value>,
    pub events: Vec<(String, Value)>,
    /// Peers that are in the room by what was told.
    pub roster: BTreeSet<String>,
    /// Tracks of others by what was told: peer and track id.
    pub published: BTreeSet<(String, String)>,
    remote_described: bool,
    next_tick: Option<Instant>,
    next_report: Option<Instant>,
    /// When packets came, where that is said.
    arrivals: Recorder,
    next_feedback: Option<Instant>,
    pub connected_at: Option<Instant>,
    pub dtls_closed: bool,
    pub answers_nack: bool,
    pub sends_nack: bool,
    /// How long it waits before it asks for a packet again, where that is not the usual time.
    pub nack_again: Option<Duration>,
    /// Every SSRC that a description ever named, of retransmissions too.
    described: BTreeSet<u32>,
    /// Packets that belong to no described section.
    pub strays: u64,
    pub faults: Vec<String>,
    next_track: u32,
}

impl Client {
    pub fn new(options: ClientOptions) -> Self {
        let mut rng = StdRng::seed_from_u64(options.seed);
        let credentials = new_credentials(&mut rng);
        let negotiation = Negotiation::new(options.flavor, &format!("cname-{}", options.id));
        Self {
            transport: ClientTransport::new(credentials, options.flavor.profiles()),
            negotiation,
            rng,
            senders: BTreeMap::new(),
            received: BTreeMap::new(),
            frames: VecDeque::new(),
            joined: None,
            errors: Vec::new(),
            events: Vec::new(),
            roster: BTreeSet::new(),
            published: BTreeSet::new(),
            remote_described: false,
            next_tick: None,
            next_report: None,
            arrivals: Recorder::new(options.zero),
            next_feedback: None,
            connected_at: None,
            dtls_closed: false,
            answers_nack: true,
            sends_nack: true,
            nack_again: None,
            described: BTreeSet::new(),
            strays: 0,
            faults: Vec::new(),
            next_track: 0,
            options,
        }
    }

    pub fn id(&self) -> &str {
        &self.options.id
    }

    fn fault(&mut self, text: String) {
        if self.faults.len() < 20 {
            self.faults.push(format!("{}: {text}", self.options.id));
        }
    }

    // --- signaling -----------------------------------------------------------------------------

    /// Sends `joinRoom`, and the offer with it if that is the style.
    pub fn join(&mut self, now: Instant) {
        let mut data = json!({ "self_id": self.options.id, "room_id": self.options.room });
        match self.options.style {
            Style::Modern => data["name"] = json!(format!("name of {}", self.options.id)),
            Style::Viewer => data["offerer"] = json!("server"),
            Style::Legacy | Style::Silent => {}
        }
        self.send("joinRoom", data);
        if self.options.style == Style::Legacy {
            self.offer_if_needed(now);
        }
    }

    pub fn leave(&mut self) {
        let data = json!({ "self_id": self.options.id, "room_id": self.options.room });
        self.send("leaveRoom", data);
    }

    pub fn send(&mut self, event: &str, data: Value) {
        let frame = json!({ "event": event, "data": data });
        self.frames.push_back(frame.to_string());
    }

    pub fn send_frame(&mut self, frame: &str) {
        self.frames.push_back(frame.to_owned());
    }

    pub fn poll_frame(&mut self) -> Option<String> {
        self.frames.pop_front()
    }

    /// `addTrack`; returns the track's id.
    pub fn publish(&mut self, video: bool) -> String {
        let kind = if video { "video" } else { "audio" };
        let id = format!("{kind}-{}-{}", self.options.id, self.next_track);
        self.next_track += 1;
        let ssrc = self.rng.random();
        let rtx = (video && self.options.flavor.has_rtx()).then(|| self.rng.random());
        let cname = self.negotiation.cname.clone();
        let name = tag(&self.options.id, &id);
        let sender = Sender::new(name, video, (ssrc, rtx), &cname, self.options.zero);
        self.senders.insert(id.clone(), sender);
        let track = LocalTrack {
            id: id.clone(),
            stream: format!("stream-{}", self.options.id),
            ssrc,
            rtx_ssrc: rtx,
        };
        self.negotiation.add_track(video, track);
        id
    }

    /// `removeTrack`.
    pub fn unpublish(&mut self, id: &str) {
        assert!(self.negotiation.remove_track(id), "{id} is published");
        if let Some(sender) = self.senders.get_mut(id) {
            sender.pause();
        }
    }

    /// New ICE credentials in the next offer.
    pub fn restart_ice(&mut self) {
        self.transport.local = new_credentials(&mut self.rng);
        self.negotiation.needed = true;
    }

    /// Offers when something changed and nothing is in flight.
    pub fn offer_if_needed(&mut self, now: Instant) {
        if self.negotiation.transceivers.is_empty() {
            self.negotiation.needed = false;
        }
        if !self.negotiation.needed || self.negotiation.has_pending_offer() {
            return;
        }
        let fingerprint = self.transport.fingerprint();
        let ice = self.transport.local.clone();
        let local = LocalTransport {
            ice: &ice,
            fingerprint: &fingerprint,
        };
        let sdp = self.negotiation.create_offer(&local);
        let data = json!({
            "self_id": self.options.id,
            "room_id": self.options.room,
            "offer": { "type": "offer", "sdp": sdp },
        });
        self.send("offer", data);
        self.next_tick.get_or_insert(now);
    }

    /// Takes one text frame of the server.
    pub fn handle_frame(&mut self, now: Instant, frame: &str) {
        let value: Value = serde_json::from_str(frame).expect("the server sends JSON");
        let event = value["event"].as_str().expect("an event").to_owned();
        let data = value["data"].clone();
        self.next_tick.get_or_insert(now);
        match event.as_str() {
            "offer" => self.handle_offer(now, &nested(&data, "offer")),
            "answer" => self.handle_answer(now, &nested(&data, "answer")),
            "candidate" => self.handle_candidate(now, &data),
            "joined" => self.handle_joined(now, &data),
            "error" => self.errors.push(data.clone()),
            "peer-joined" => {
                let id = text(&data["peer"]["id"], &data["peer_id"], &data["id"]);
                self.roster.insert(id);
            }
            "peer-left" => {
                let id = text(&data["peer_id"], &data["peer"]["id"], &data["id"]);
                self.roster.remove(&id);
            }
            "track-published" => {
                let track = track_name(&data);
                self.published.insert(track);
            }
            "track-unpublished" => {
                let track = track_name(&data);
                self.published.remove(&track);
            }
            _ => {}
        }
        self.events.push((event, data));
    }

    fn handle_joined(&mut self, now: Instant, data: &Value) {
        for peer in data["peers"].as_array().expect("peers") {
            let id = text(&peer["id"], &peer["peer_id"], &Value::Null);
            self.roster.insert(id);
        }
        for track in data["tracks"].as_array().expect("tracks") {
            self.published.insert(track_name(track));
        }
        self.joined = Some(data.clone());
        self.offer_if_needed(now);
    }

    fn handle_offer(&mut self, now: Instant, sdp: &str) {
        let fingerprint = self.transport.fingerprint();
        let ice = self.transport.local.clone();
        let local = LocalTransport {
            ice: &ice,
            fingerprint: &fingerprint,
        };
        let (remote, answer) = self.negotiation.handle_offer(sdp, &local);
        // As the predecessor's client does it: no ids.
        let mut data = json!({ "answer": { "type": "answer", "sdp": answer } });
        if self.options.style == Style::Modern {
            data["self_id"] = json!(self.options.id);
            data["room_id"] = json!(self.options.room);
        }
        self.send("answer", data);
        self.apply(now, remote);
        self.offer_if_needed(now);
    }

    fn handle_answer(&mut self, now: Instant, sdp: &str) {
        if !self.negotiation.has_pending_offer() {
            return self.fault("an answer to a withdrawn offer".to_owned());
        }
        let remote = self.negotiation.handle_answer(sdp);
        self.apply(now, remote);
        self.offer_if_needed(now);
    }

    fn handle_candidate(&mut self, now: Instant, data: &Value) {
        let init: Value = serde_json::from_str(data.as_str().expect("a JSON string"))
            .expect("a candidate is JSON in a string");
        if !self.remote_described {
            self.fault("a candidate before the description".to_owned());
        }
        let candidate = init["candidate"].as_str().expect("a candidate");
        if candidate.is_empty() {
            return;
        }
        if let Some(address) = crate::support::sdp::parse_candidate(candidate) {
            self.transport.add_candidate(now, address);
        }
    }

    fn apply(&mut self, now: Instant, remote: RemoteTransport) {
        self.remote_described = true;
        self.transport
            .set_remote(now, remote.ice, remote.fingerprint);
        for address in remote.candidates {
            self.transport.add_candidate(now, address);
        }
        let setup = match remote.setup.as_str() {
            "active" => Setup::Active,
            _ => Setup::Passive,
        };
        self.transport.start_dtls(now, setup);
        self.check_remote_tracks();
        self.apply_senders(now);
    }

    fn check_remote_tracks(&mut self) {
        for track in self.negotiation.remote_tracks() {
            let Some(ssrc) = track.ssrc else {
                self.fault(format!("{}/{} has no SSRC", track.peer, track.track));
                continue;
            };
            self.described
                .extend([ssrc].into_iter().chain(track.rtx_ssrc));
            let video = track.track.starts_with("video");
            let known = self
                .received
                .entry(ssrc)
                .or_insert_with(|| Received::new(&track.peer, &track.track, ssrc, video));
            if known.peer != track.peer || known.track != track.track {
                let text = format!("SSRC {ssrc} was another track's");
                self.fault(text);
            }
        }
    }

    fn apply_senders(&mut self, now: Instant) {
        if self.connected_at.is_none() {
            return;
        }
        for transceiver in &self.negotiation.transceivers {
            let Some(local) = &transceiver.local else {
                continue;
            };
            let sender = self.senders.get_mut(&local.id).expect("a sender per track");
            match transceiver.send_format() {
                Some(format) => sender.resume(now, format),
                None => sender.pause(),
            }
        }
    }

    // --- media ---------------------------------------------------------------------------------

    pub fn handle_datagram(&mut self, now: Instant, from: SocketAddr, datagram: &[u8]) {
        for incoming in self.transport.handle_datagram(now, from, datagram) {
            match incoming {
                Incoming::Rtp(packet) => self.handle_rtp(now, &packet),
                Incoming::Rtcp(packet) => self.handle_rtcp(now, packet),
                Incoming::DtlsUp => {
                    self.connected_at = Some(now);
                    self.next_report = Some(now + REPORT_INTERVAL);
                    if self.options.flavor.gives_feedback() {
                        self.next_feedback = Some(now + FEEDBACK_INTERVAL);
                    }
                    self.apply_senders(now);
                }
                Incoming::DtlsClosed => self.dtls_closed = true,
            }
        }
    }

    fn handle_rtp(&mut self, now: Instant, packet: &BytesMut) {
        let Some(mut view) = RtpView::parse(packet) else {
            return self.fault("RTP that is none".to_owned());
        };
        let section = self.negotiation.transceivers.iter().find(|t| {
            t.remote.as_ref().is_some_and(|r| {
                !t.stopped && (r.ssrc == Some(view.ssrc) || r.rtx_ssrc == Some(view.ssrc))
            })
        });
        let Some(section) = section else {
            // The last packets of a track that a description has just ended may still come.
            if !self.described.contains(&view.ssrc) {
                self.strays += 1;
            }
            return;
        };
        let remote = section.remote.as_ref().expect("found by it");
        let mut faults = Vec::new();
        let Some(codec) = section
            .codecs
            .iter()
            .find(|c| c.payload_type == view.payload_type)
        else {
            let pt = view.payload_type;
            return self.fault(format!("payload type {pt} is not negotiated"));
        };
        for (id, value) in &view.extensions {
            match section.extensions.iter().find(|(i, _)| i == id) {
                None => faults.push(format!("extension {id} is not negotiated")),
                Some((_, uri)) if uri == MID_URI && *value != section.mid().as_bytes() => {
                    faults.push(format!("mid {value:?} on {}", section.mid()));
                }
                Some((_, uri)) if uri == LEVEL_URI && value.len() != 1 => {
                    faults.push("the audio level has one byte".to_owned());
                }
                Some((_, uri)) if uri == TRANSPORT_CC_URI => {
                    let number = u16::from_be_bytes([value[0], value[1]]);
                    self.arrivals.on_packet(now, number);
                }
                Some(_) => {}
            }
        }
        if codec.name() == "rtx" {
            // RFC 4588 §4: the original sequence number comes first.
            let apt = codec.apt().expect("an rtx line names its codec");
            if remote.rtx_ssrc == Some(view.ssrc) && view.payload.is_empty() {
                // Padding only, as libwebrtc probes too.
                return;
            }
            if remote.rtx_ssrc != Some(view.ssrc) || view.payload.len() < 2 {
                return self.fault("an RTX packet on a primary SSRC".to_owned());
            }
            view.sequence = u16::from_be_bytes([view.payload[0], view.payload[1]]);
            view.payload = &view.payload[2..];
            view.payload_type = apt;
            view.ssrc = remote.ssrc.expect("FID names both");
        }
        let is_retransmitted = codec.name() == "rtx";
        let opus = section.codecs.iter().find(|c| c.name() == "opus");
        let ssrc = view.ssrc;
        if let Some(received) = self.received.get_mut(&ssrc) {
            if codec.name() == "red" {
                let opus = opus.expect("RED stands beside Opus").payload_type;
                received.take_red(&mut view, opus);
            }
            match is_retransmitted {
                true => received.retransmitted += 1,
                false => received.originals += 1,
            }
            received.take(now, &view);
        }
        for text in faults {
            self.fault(text);
        }
    }

    fn handle_rtcp(&mut self, now: Instant, mut packet: BytesMut) {
        let Ok(packets) = rtc_rtcp::packet::unmarshal(&mut packet) else {
            return self.fault("RTCP that is none".to_owned());
        };
        for packet in packets {
            let any = packet.as_any();
            if let Some(report) = any.downcast_ref::<SenderReport>() {
                if let Some(received) = self.received.get_mut(&report.ssrc) {
                    received.last_report = Some((report.ntp_time, report.rtp_time));
                    received.last_report_at = Some(now);
                    received.reports += 1;
                }
            } else if let Some(description) = any.downcast_ref::<SourceDescription>() {
                for chunk in &description.chunks {
                    if let Some(received) = self.received.get_mut(&chunk.source) {
                        let text = chunk.items.first().map(|i| i.text.clone());
                        received.cname = text.map(|t| String::from_utf8_lossy(&t).into_owned());
                    }
                }
            } else if let Some(bye) = any.downcast_ref::<Goodbye>() {
                for source in &bye.sources {
                    if let Some(received) = self.received.get_mut(source) {
                        received.bye = true;
                    }
                }
            } else if let Some(nack) = any.downcast_ref::<TransportLayerNack>() {
                self.answer_nack(nack);
            } else if let Some(pli) = any.downcast_ref::<PictureLossIndication>() {
                self.request_keyframe(now, pli.media_ssrc);
            } else if let Some(fir) = any.downcast_ref::<FullIntraRequest>() {
                for entry in &fir.fir {
                    self.request_keyframe(now, entry.ssrc);
                }
            }
        }
    }

    fn request_keyframe(&mut self, now: Instant, ssrc: u32) {
        match self.senders.values_mut().find(|s| s.ssrc == ssrc) {
            Some(sender) => sender.request_keyframe(now),
            None => self.fault(format!("a keyframe request for {ssrc}")),
        }
    }

    fn answer_nack(&mut self, nack: &TransportLayerNack) {
        if !self.answers_nack {
            return;
        }
        let sender = self
            .senders
            .values_mut()
            .find(|s| s.ssrc == nack.media_ssrc);
        let Some(sender) = sender else {
            let ssrc = nack.media_ssrc;
            return self.fault(format!("a NACK for {ssrc}"));
        };
        let wanted = nack.nacks.iter().flat_map(|pair| pair.packet_list());
        let again: Vec<Again> = wanted.filter_map(|seq| sender.answer_nack(seq)).collect();
        for again in again {
            match again {
                Again::Rtx(packet) => drop(self.transport.send_rtp(&packet)),
                Again::Sealed(datagram) => self.transport.send_raw(datagram),
            }
        }
    }

    /// Asks for a keyframe of everything that comes, with PLI or FIR.
    pub fn ask_for_keyframes(&mut self, with_fir: bool) {
        let wanted: Vec<u32> = self
            .negotiation
            .remote_tracks()
            .into_iter()
            .filter(|t| t.track.starts_with("video"))
            .filter_map(|t| t.ssrc)
            .collect();
        for ssrc in wanted {
            let packet: Box<dyn Packet> = if with_fir {
                Box::new(FullIntraRequest {
                    sender_ssrc: 1,
                    media_ssrc: 0,
                    fir: vec![rtc_rtcp::payload_feedbacks::full_intra_request::FirEntry {
                        ssrc,
                        sequence_number: 7,
                    }],
                })
            } else {
                Box::new(PictureLossIndication {
                    sender_ssrc: 1,
                    media_ssrc: ssrc,
                })
            };
            self.send_rtcp(vec![packet]);
        }
    }

    fn send_rtcp(&mut self, packets: Vec<Box<dyn Packet>>) {
        let bytes = rtc_rtcp::packet::marshal(&packets).expect("a valid compound");
        self.transport.send_rtcp(&bytes);
    }

    pub fn handle_timeout(&mut self, now: Instant) {
        self.transport.handle_timeout(now);
        let rate = self.options.rate;
        let mut reports = Vec::new();
        for sender in self.senders.values_mut() {
            for packet in sender.poll_packets(now, rate) {
                if let Some(sealed) = self.transport.send_rtp(&packet) {
                    sender.remember(packet, sealed);
                }
            }
            reports.extend(sender.poll_report(now));
        }
        for report in reports {
            self.send_rtcp(report);
        }
        if self.next_tick.is_some_and(|at| at <= now) {
            self.next_tick = Some(now + TICK);
            self.offer_if_needed(now);
            if self.sends_nack {
                self.send_nacks(now);
            }
        }
        if self.next_report.is_some_and(|at| at <= now) {
            self.next_report = Some(now + REPORT_INTERVAL);
            self.send_receiver_report(now);
        }
        if self.next_feedback.is_some_and(|at| at <= now) {
            self.next_feedback = Some(now + FEEDBACK_INTERVAL);
            let media = self.received.keys().next().copied().unwrap_or(0);
            if let Some(feedback) = self.arrivals.poll(1, media) {
                self.transport.send_rtcp(&feedback);
            }
        }
    }

    fn send_nacks(&mut self, now: Instant) {
        let mut nacks: Vec<Box<dyn Packet>> = Vec::new();
        for track in self.negotiation.remote_tracks() {
            let mut received = track.ssrc.and_then(|ssrc| self.received.get_mut(&ssrc));
            if let (Some(received), Some(again)) = (received.as_deref_mut(), self.nack_again) {
                received.nack_again = again;
            }
            if let Some(nack) = received.filter(|r| r.video).and_then(|r| r.poll_nack(now)) {
                nacks.push(Box::new(nack));
            }
        }
        if !nacks.is_empty() {
            self.send_rtcp(nacks);
        }
    }

    fn send_receiver_report(&mut self, now: Instant) {
        let received = self.received.values_mut();
        let reports: Vec<ReceptionReport> = received
            .filter_map(|received| received.report(now))
            .take(31)
            .collect();
        let report = ReceiverReport {
            ssrc: 1,
            reports,
            ..ReceiverReport::default()
        };
        self.send_rtcp(vec![Box::new(report)]);
    }

    pub fn poll_timeout(&self) -> Option<Instant> {
        let senders = self.senders.values().filter_map(Sender::poll_timeout);
        senders
            .chain(self.transport.poll_timeout())
            .chain(self.next_tick)
            .chain(self.next_report)
            .chain(self.next_feedback)
            .min()
    }

    pub fn poll_transmit(&mut self) -> Option<(SocketAddr, Vec<u8>)> {
        self.transport.poll_transmit()
    }

    /// What comes now: peer and track ids.
    pub fn receiving(&self) -> BTreeSet<(String, String)> {
        let tracks = self.negotiation.remote_tracks().into_iter();
        tracks.map(|t| (t.peer, t.track)).collect()
    }

    /// The reception of a track that comes now.
    pub fn reception(&self, peer: &str, track: &str) -> Option<&Received> {
        let tracks = self.negotiation.remote_tracks();
        let found = tracks.iter().find(|t| t.peer == peer && t.track == track)?;
        self.received.get(&found.ssrc?)
    }
}

fn new_credentials(rng: &mut StdRng) -> Credentials {
    let mut chars = |count| {
        (0..count)
            .map(|_| char::from(b"abcdefghijklmnopqrstuvwxyz012345"[rng.random_range(0..32)]))
            .collect::<String>()
    };
    Credentials {
        ufrag: chars(4),
        pwd: chars(24),
    }
}

/// The SDP in a JSON string that holds `{type, sdp}`.
fn nested(data: &Value, kind: &str) -> String {
    let inner = data.as_str().expect("a description is a JSON string");
    let inner: Value = serde_json::from_str(inner).expect("that holds JSON");
    assert_eq!(inner["type"], kind);
    inner["sdp"].as_str().expect("sdp").to_owned()
}

fn text(first: &Value, second: &Value, third: &Value) -> String {
    let found = first.as_str().or(second.as_str()).or(third.as_str());
    found.expect("an id").to_owned()
}

fn track_name(data: &Value) -> (String, String) {
    let track = if data["track"].is_object() {
        &data["track"]
    } else {
        data
    };
    (
        text(&track["peer_id"], &track["peer"], &Value::Null),
        text(&track["track_id"], &track["id"], &Value::Null),
    )
}
