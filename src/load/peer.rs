//! One client: joins a room, connects, publishes or watches, and keeps count of what comes. Frames,
//! datagrams and the time in; frames and datagrams out.

use std::collections::VecDeque;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use serde_json::{Value, json};

use crate::base::ids::{MediaKind, SeqNo16, Ssrc};
use crate::base::time::{Interval, earliest};
use crate::control::DtlsRole;
use crate::load::check::Checks;
use crate::load::datagrams::Datagrams;
use crate::load::feedback::Feedback;
use crate::load::histogram::Histogram;
use crate::load::media::{Content, Stream, StreamPlan, head_len};
use crate::load::negotiation::{Negotiation, NegotiationError, OwnTrack, Remote};
use crate::load::reception::{Arrival, Reception};
use crate::load::sampler::Sampler;
use crate::load::stamp::Stamp;
use crate::load::tally::{Harvest, JoinTimes, Received, Tally};
use crate::transport::dtls::{Dtls, DtlsEvent};
use crate::transport::identity::DtlsIdentity;
use crate::transport::srtp::{Opener, Sealer};
use crate::wire::rtcp::{self, NtpTime, RtcpPacket};
use crate::wire::rtp::{PacketKind, RtpHeader};
use crate::wire::sdp::IceLines;

/// What one client is to do.
#[derive(Debug, Clone)]
pub struct PeerPlan {
    /// Its number in this run, from 0.
    pub number: u32,
    /// The numbers of the clients of its room.
    pub room_numbers: std::ops::Range<u32>,
    /// Its id.
    pub id: String,
    /// Its room.
    pub room: String,
    /// What it publishes, each with the contents of its streams; empty for a viewer.
    pub tracks: Vec<(OwnTrack, Vec<Content>)>,
    /// How many tracks the others of its room publish.
    pub expected_tracks: usize,
    /// Whether publishers send nothing.
    pub is_idle: bool,
    /// Whether packets are numbered and reported both ways.
    pub has_transport_cc: bool,
    /// For its random choices.
    pub seed: u64,
}

/// What a client works with while it takes an input; shared by all of one worker.
pub struct Context<'a> {
    /// When the run began.
    pub zero: Instant,
    /// The wall clock then.
    pub zero_ntp: NtpTime,
    /// Packets sent before this are not measured.
    pub steady_from: Option<Instant>,
    /// Whether publishers are to send.
    pub is_sending: bool,
    /// Takes what is to be sent.
    pub out: &'a mut Datagrams,
    /// Takes counts.
    pub tally: &'a mut Tally,
    /// Takes latencies until packets arrive at their sockets.
    pub latency: &'a mut Histogram,
    /// Takes latencies until packets are read.
    pub read_latency: &'a mut Histogram,
    /// Latencies until arrival since the progress line took them.
    pub recent: &'a mut Histogram,
    /// Chooses the packets to open.
    pub sampler: &'a mut Sampler,
}

/// Why a client failed, in words.
pub type Failure = String;

/// One client.
pub struct Peer {
    plan: PeerPlan,
    negotiation: Negotiation,
    local_ufrag: String,
    /// The server's address is chosen among its candidates by this one, that of signaling.
    server: IpAddr,
    remote: Option<Remote>,
    address: Option<SocketAddr>,
    checks: Option<Checks>,
    dtls: Option<Dtls>,
    srtp: Option<(Opener, Sealer)>,
    streams: Vec<Stream>,
    /// Sorted by SSRC.
    receptions: Vec<Reception>,
    /// Which SSRC's packets come again, or are followed by padding, on which other.
    repairs: Vec<(Ssrc, Ssrc)>,
    feedback: Feedback,
    next_number: SeqNo16,
    frames: VecDeque<String>,
    reports: Interval,
    nack_at: Option<Instant>,
    joining_since: Instant,
    times: JoinTimes,
    is_ready: bool,
    is_refused: bool,
    failure: Option<Failure>,
}

impl Peer {
    /// A client that has not said anything yet.
    #[must_use]
    pub fn new(now: Instant, plan: PeerPlan, identity: &Arc<DtlsIdentity>, server: IpAddr) -> Self {
        // Unique in the run is enough: the server tells clients apart by its own fragments.
        let local_ufrag = format!("load{:04}", plan.number);
        let ice = IceLines {
            ufrag: local_ufrag.clone(),
            pwd: format!("{:0>24x}", plan.seed),
        };
        let tracks = plan.tracks.iter().map(|(track, _)| track.clone()).collect();
        let fingerprint = identity.fingerprint();
        let negotiation = Negotiation::new(
            ice,
            fingerprint,
            plan.id.clone(),
            tracks,
            plan.has_transport_cc,
        );
        Self {
            negotiation,
            local_ufrag,
            server,
            remote: None,
            address: None,
            checks: None,
            dtls: Some(Dtls::new(Arc::clone(identity))),
            srtp: None,
            streams: Vec::new(),
            receptions: Vec::new(),
            repairs: Vec::new(),
            feedback: Feedback::default(),
            next_number: SeqNo16(0),
            frames: VecDeque::new(),
            reports: Interval::new(now, REPORT_INTERVAL),
            nack_at: None,
            joining_since: now,
            times: JoinTimes::default(),
            is_ready: false,
            is_refused: false,
            failure: None,
            plan,
        }
    }

    /// What it is to do.
    #[must_use]
    pub fn plan(&self) -> &PeerPlan {
        &self.plan
    }

    /// Where its datagrams go, once that is known.
    #[must_use]
    pub fn address(&self) -> Option<SocketAddr> {
        self.address
    }

    /// Why it failed, if it did.
    #[must_use]
    pub fn failure(&self) -> Option<&Failure> {
        self.failure.as_ref()
    }

    /// Whether the server does not do what every client would ask for.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.is_refused
    }

    /// Whether it has all that it is to have.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.is_ready
    }

    /// Whether DTLS is up.
    #[must_use]
    pub fn is_connected(&self) -> bool {
        self.srtp.is_some()
    }

    /// Joins: a publisher with an offer, a viewer waiting for one.
    pub fn join(&mut self, now: Instant) {
        self.joining_since = now;
        let mut data = json!({"self_id": self.plan.id, "room_id": self.plan.room});
        if self.plan.tracks.is_empty() {
            data["offerer"] = json!("server");
        }
        self.say("joinRoom", &data);
        self.offer();
    }

    /// Leaves.
    pub fn leave(&mut self) {
        self.say("leaveRoom", &json!({}));
    }

    fn offer(&mut self) {
        if let Some(sdp) = self.negotiation.create_offer() {
            self.say("offer", &json!({"offer": {"type": "offer", "sdp": sdp}}));
        }
    }

    fn say(&mut self, event: &str, data: &Value) {
        let frame = json!({"event": event, "data": data});
        self.frames.push_back(frame.to_string());
    }

    /// The next frame to send.
    pub fn poll_frame(&mut self) -> Option<String> {
        self.frames.pop_front()
    }

    /// The client is of no use any more.
    pub fn fail(&mut self, failure: Failure) {
        self.failure.get_or_insert(failure);
    }

    /// Takes a frame of the server's.
    pub fn handle_frame(&mut self, now: Instant, frame: &str, context: &mut Context<'_>) {
        let Ok(mut frame) = serde_json::from_str::<Value>(frame) else {
            return self.fail("a frame of the server's is not JSON".to_owned());
        };
        let data = frame["data"].take();
        // These three are JSON in a string, for the sake of old clients.
        let held = || {
            data.as_str()
                .and_then(|text| serde_json::from_str::<Value>(text).ok())
        };
        match frame["event"].as_str().unwrap_or_default() {
            "joined" => {
                context.tally.joined += 1;
                self.times.joined = Some(now.saturating_duration_since(self.joining_since));
            }
            "offer" => self.on_description(now, held(), true, context),
            "answer" => self.on_description(now, held(), false, context),
            "candidate" => {
                let line = held().and_then(|init| Some(init["candidate"].as_str()?.to_owned()));
                if let Some(address) = line.as_deref().and_then(candidate) {
                    self.on_candidate(now, address, context);
                }
            }
            "error" => {
                let code = data["code"].as_str().unwrap_or("unknown");
                self.fail(format!("the server said {code}"));
            }
            _ => {}
        }
    }

    fn on_description(
        &mut self,
        now: Instant,
        held: Option<Value>,
        is_offer: bool,
        context: &mut Context<'_>,
    ) {
        let sdp = held
            .as_ref()
            .and_then(|held| held["sdp"].as_str())
            .unwrap_or("");
        let result = if is_offer {
            self.negotiation.handle_offer(sdp).map(|(remote, answer)| {
                self.say(
                    "answer",
                    &json!({"answer": {"type": "answer", "sdp": answer}}),
                );
                remote
            })
        } else {
            self.negotiation.handle_answer(sdp)
        };
        match result {
            Ok(remote) => {
                if self.remote.is_none()
                    && let Some(dtls) = &mut self.dtls
                {
                    let fingerprints = remote.fingerprints.clone();
                    dtls.set_remote(now, fingerprints, DtlsRole::Client);
                }
                self.remote = Some(remote);
                self.begin_checks(now, context);
                self.follow_description();
                self.start_streams(now, context);
                self.offer();
            }
            Err(error) => {
                self.is_refused = error == NegotiationError::NoSimulcast;
                self.fail(error.to_string());
            }
        }
    }

    /// Begins to receive what is new and forgets what nobody has ever sent.
    fn follow_description(&mut self) {
        let incoming: Vec<_> = self.negotiation.incoming().collect();
        self.receptions.retain(|reception| {
            reception.received() > 0 || incoming.iter().any(|i| i.ssrc == reception.ssrc)
        });
        self.feedback.id = self.negotiation.number_id();
        let repairs = incoming.iter();
        let repairs = repairs.filter_map(|track| Some((track.rtx_ssrc?, track.ssrc)));
        self.repairs = repairs.collect();
        for track in incoming {
            if let Err(at) = self.find(track.ssrc)
                && self.receptions.len() < RECEPTIONS_MAX
            {
                let may_be_thinned = self.plan.has_transport_cc;
                let reception = Reception::new(track.ssrc, track.kind, may_be_thinned);
                self.receptions.insert(at, reception);
            }
        }
    }

    fn find(&self, ssrc: Ssrc) -> Result<usize, usize> {
        self.receptions.binary_search_by_key(&ssrc, |r| r.ssrc)
    }

    fn on_candidate(&mut self, now: Instant, address: SocketAddr, context: &mut Context<'_>) {
        // The address that signaling goes to; else one as near; else any of its family.
        let rank = |ip: IpAddr| {
            let is_near = ip.is_loopback() == self.server.is_loopback();
            (
                ip == self.server,
                ip.is_ipv4() == self.server.is_ipv4(),
                is_near,
            )
        };
        let is_better = self
            .address
            .is_none_or(|held| rank(address.ip()) > rank(held.ip()));
        let fits = address.is_ipv4() == self.server.is_ipv4()
            && address.ip().is_loopback() == self.server.is_loopback();
        if fits && is_better && self.checks.is_none() {
            self.address = Some(address);
        }
        self.begin_checks(now, context);
    }

    fn begin_checks(&mut self, now: Instant, context: &mut Context<'_>) {
        if let (Some(remote), Some(_), None) = (&self.remote, self.address, &self.checks) {
            let ice = remote.ice.clone();
            let mut checks = Checks::new(now, self.local_ufrag.clone(), ice);
            if let Some(check) = checks.handle_timeout(now) {
                context.out.push(&check);
            }
            self.checks = Some(checks);
        }
    }

    /// Takes a datagram of the server's, which came to the socket at `arrived`.
    pub fn handle_datagram(
        &mut self,
        now: Instant,
        arrived: Instant,
        datagram: BytesMut,
        context: &mut Context<'_>,
    ) {
        match PacketKind::of(&datagram) {
            PacketKind::Rtp => self.on_rtp(now, arrived, datagram, context),
            PacketKind::Rtcp => self.on_rtcp(now, datagram, context),
            PacketKind::Stun => {
                let Some(checks) = &mut self.checks else {
                    return;
                };
                if checks.handle_message(now, &datagram)
                    && let Some(dtls) = &mut self.dtls
                {
                    dtls.on_path(now);
                    self.drain_dtls(now, context);
                }
            }
            PacketKind::Dtls => {
                if let Some(dtls) = &mut self.dtls {
                    // What is refused is repeated; what is not, the handshake's timeout tells.
                    let _ = dtls.handle_datagram(now, &datagram);
                    self.drain_dtls(now, context);
                }
            }
            PacketKind::Other => {}
        }
    }

    fn drain_dtls(&mut self, now: Instant, context: &mut Context<'_>) {
        let Some(dtls) = &mut self.dtls else { return };
        while let Some(datagram) = dtls.poll_transmit() {
            context.out.push(&datagram);
        }
        while let Some(event) = dtls.poll_event() {
            match event {
                DtlsEvent::Connected(keys) => {
                    let opener = Opener::new(keys.profile, &keys.remote);
                    self.srtp = Some((opener, Sealer::new(keys.profile, &keys.local)));
                    self.times.connected = Some(now.saturating_duration_since(self.joining_since));
                    context.tally.connected += 1;
                }
                DtlsEvent::Failed(failure) => {
                    self.failure
                        .get_or_insert(format!("DTLS failed: {failure:?}"));
                }
            }
        }
        if self.srtp.is_some() {
            // The server's Finished is the last word of the handshake, so its state can go.
            self.dtls = None;
            self.start_streams(now, context);
            self.check_ready(context);
        }
    }

    fn start_streams(&mut self, now: Instant, context: &Context<'_>) {
        if self.srtp.is_none() || self.plan.is_idle || !self.streams.is_empty() {
            return;
        }
        let mut number = 0;
        for (track, contents) in &self.plan.tracks {
            let Some(formats) = self.negotiation.send_formats(track) else {
                self.streams.clear();
                return;
            };
            for ((ssrc, format), content) in formats.into_iter().zip(contents) {
                number += u8::from(content.kind() == MediaKind::Video);
                let plan = StreamPlan {
                    publisher: self.plan.number,
                    stream: number,
                    ssrc,
                    content: *content,
                };
                let seed = self.plan.seed ^ u64::from(ssrc.0);
                self.streams
                    .push(Stream::new(now, context.zero, plan, format, seed));
            }
        }
    }

    fn on_rtp(
        &mut self,
        now: Instant,
        arrived: Instant,
        mut packet: BytesMut,
        context: &mut Context<'_>,
    ) {
        let Some(header) = RtpHeader::parse(&packet) else {
            context.tally.not_opened += 1;
            return;
        };
        self.note_number(now, arrived, &header, &packet, context);
        if let Some((_, media)) = self.repairs.iter().find(|(rtx, _)| *rtx == header.ssrc) {
            return self.on_repair(now, *media, packet, context);
        }
        let (Ok(at), Some((opener, _))) = (self.find(header.ssrc), &mut self.srtp) else {
            context.tally.unknown_ssrc += 1;
            return;
        };
        let reception = &mut self.receptions[at];
        match reception.on_packet(now, header.seq) {
            Arrival::Next(gap) => {
                context.tally.missing += gap;
                if gap > 0 {
                    self.nack_at = earliest(self.nack_at, reception.poll_timeout());
                }
            }
            Arrival::Late => {
                context.tally.reordered += 1;
                context.tally.missing = context.tally.missing.saturating_sub(1);
            }
            Arrival::Duplicate => {
                context.tally.duplicates += 1;
                return;
            }
            Arrival::TooOld => {
                context.tally.too_old += 1;
                return;
            }
        }
        context.tally.rtp_received += 1;
        let is_first = reception.received() == 1;
        if is_first || context.sampler.take() {
            context.tally.opened += 1;
            let is_opened = opener.open_rtp(&mut packet).is_ok();
            let stamp = header
                .payload(&packet)
                .and_then(|payload| Stamp::read(payload.get(head_len(reception.kind)..)?))
                .filter(|stamp| self.plan.room_numbers.contains(&stamp.publisher));
            match stamp {
                _ if !is_opened => context.tally.not_opened += 1,
                Some(stamp) if reception.on_stamp(header.seq, &stamp) => {
                    let sent = context.zero + stamp.sent;
                    if context.steady_from.is_some_and(|from| sent >= from) {
                        let latency = arrived.saturating_duration_since(sent);
                        context.latency.record(latency);
                        context.recent.record(latency);
                        let read = now.saturating_duration_since(sent);
                        context.read_latency.record(read);
                    }
                }
                _ => context.tally.wrong_payload += 1,
            }
        }
        if is_first {
            let since = now.saturating_duration_since(self.joining_since);
            self.times.media.get_or_insert(since);
            self.check_ready(context);
        }
    }

    fn note_number(
        &mut self,
        now: Instant,
        arrived: Instant,
        header: &RtpHeader,
        packet: &[u8],
        context: &Context<'_>,
    ) {
        let Some(id) = self.feedback.id else {
            return;
        };
        let number = header.extensions(packet).find(|(other, _)| *other == id);
        if let Some((_, &[high, low])) = number {
            let number = SeqNo16(u16::from_be_bytes([high, low]));
            let since = arrived.saturating_duration_since(context.zero);
            self.feedback.on_packet(now, since, number);
        }
    }

    /// A packet of a retransmission stream (RFC 4588 §4): one that was lost, or padding.
    fn on_repair(
        &mut self,
        now: Instant,
        media: Ssrc,
        mut packet: BytesMut,
        context: &mut Context<'_>,
    ) {
        context.tally.rtx_arrived += 1;
        let (Ok(at), Some((opener, _))) = (self.find(media), &mut self.srtp) else {
            return;
        };
        let Ok(header) = opener.open_rtp(&mut packet) else {
            context.tally.not_opened += 1;
            return;
        };
        let payload = header.payload(&packet).unwrap_or_default();
        let Some((&[high, low], _)) = payload.split_first_chunk() else {
            return;
        };
        let seq = SeqNo16(u16::from_be_bytes([high, low]));
        if self.receptions[at].on_packet(now, seq) == Arrival::Late {
            context.tally.repaired += 1;
            context.tally.rtp_received += 1;
            context.tally.missing = context.tally.missing.saturating_sub(1);
        }
    }

    fn check_ready(&mut self, context: &mut Context<'_>) {
        let heard = self.receptions.iter().filter(|r| r.received() > 0).count();
        let has_media = self.plan.is_idle || heard >= self.plan.expected_tracks;
        if !self.is_ready && self.srtp.is_some() && has_media {
            self.is_ready = true;
            context.tally.ready += 1;
        }
    }

    fn on_rtcp(&mut self, now: Instant, mut datagram: BytesMut, context: &mut Context<'_>) {
        let Some((opener, _)) = &mut self.srtp else {
            return;
        };
        if opener.open_rtcp(&mut datagram).is_err() {
            context.tally.not_opened += 1;
            return;
        }
        for packet in rtcp::parse(&datagram).packets {
            let asked: Vec<Ssrc> = match packet {
                RtcpPacket::Pli { media } => vec![media],
                RtcpPacket::Fir { entries } => entries.into_iter().map(|(ssrc, _)| ssrc).collect(),
                _ => continue,
            };
            for stream in &mut self.streams {
                if asked.contains(&stream.plan().ssrc) {
                    context.tally.keyframe_requests += 1;
                    stream.request_keyframe(now);
                }
            }
        }
    }

    /// When [`Peer::handle_timeout`] is next due.
    #[must_use]
    pub fn poll_timeout(&self, is_sending: bool) -> Option<Instant> {
        if self.failure.is_some() {
            return None;
        }
        let mut next = self.checks.as_ref().map(Checks::poll_timeout);
        next = earliest(next, self.dtls.as_ref().and_then(Dtls::poll_timeout));
        if self.srtp.is_some() {
            next = earliest(next, Some(self.reports.deadline()));
            next = earliest(next, self.nack_at);
            next = earliest(next, self.feedback.poll_timeout());
        }
        if is_sending {
            let streams = self.streams.iter().map(Stream::poll_timeout);
            next = earliest(next, streams.min());
        }
        next
    }

    /// Lets time pass: media, checks, reports, and what must be repeated.
    pub fn handle_timeout(&mut self, now: Instant, context: &mut Context<'_>) {
        if self.failure.is_some() {
            return;
        }
        if context.is_sending
            && let Some((_, sealer)) = &mut self.srtp
        {
            for stream in &mut self.streams {
                let numbers = &mut self.next_number;
                context.tally.rtp_sent += stream.write_due(now, numbers, sealer, context.out);
            }
        }
        if let Some(checks) = &mut self.checks {
            if let Some(check) = checks.handle_timeout(now) {
                context.out.push(&check);
            }
            if checks.has_expired(now) {
                self.failure = Some("the server does not answer ICE checks".to_owned());
            }
        }
        if let Some(dtls) = &mut self.dtls {
            dtls.handle_timeout(now);
            self.drain_dtls(now, context);
        }
        if self.nack_at.is_some_and(|at| at <= now) {
            self.send_nacks(now, context);
        }
        self.send_feedback(now, context);
        if self.srtp.is_some() && self.reports.take_due(now) {
            self.send_reports(now, context);
        }
    }

    fn send_nacks(&mut self, now: Instant, context: &mut Context<'_>) {
        let mut compound = Vec::new();
        let mut next = None;
        for reception in &mut self.receptions {
            if reception.poll_timeout().is_none() {
                continue;
            }
            let wanted = reception.poll_nack(now);
            context.tally.nacked += wanted.len() as u64;
            if !wanted.is_empty() {
                rtcp::write_nack(&mut compound, RTCP_SSRC, reception.ssrc, &wanted);
            }
            next = earliest(next, reception.poll_timeout());
        }
        self.nack_at = next;
        self.send_rtcp(&compound, context.out);
    }

    fn send_feedback(&mut self, now: Instant, context: &mut Context<'_>) {
        let Some(media) = self.receptions.first().map(|reception| reception.ssrc) else {
            return;
        };
        let mut message = Vec::new();
        self.feedback.write_due(now, RTCP_SSRC, media, &mut message);
        self.send_rtcp(&message, context.out);
    }

    fn send_reports(&mut self, now: Instant, context: &mut Context<'_>) {
        let since = now.saturating_duration_since(context.zero);
        // 32.32 fixed point (RFC 3550 §4).
        let ntp =
            NtpTime(context.zero_ntp.0 + (since.as_nanos() << 32).div_euclid(1_000_000_000) as u64);
        let mut compound = Vec::new();
        if context.is_sending {
            for stream in self.streams.iter().filter(|s| s.sent() > 0) {
                let report = stream.report(now, ntp);
                rtcp::write_sender_report(&mut compound, &report, &self.plan.id);
            }
        }
        let blocks: Vec<_> = self
            .receptions
            .iter_mut()
            .filter_map(Reception::report)
            .collect();
        // As many as a datagram surely holds.
        for part in blocks.chunks(rtcp::REPORT_BLOCKS_MAX) {
            rtcp::write_receiver_report(&mut compound, RTCP_SSRC, part, &self.plan.id);
            self.send_rtcp(&compound, context.out);
            compound.clear();
        }
        self.send_rtcp(&compound, context.out);
    }

    fn send_rtcp(&mut self, compound: &[u8], out: &mut Datagrams) {
        if let Some((_, sealer)) = self.srtp.as_mut().filter(|_| !compound.is_empty()) {
            out.push_with(|arena| {
                sealer.seal_rtcp(compound, arena);
            });
        }
    }

    /// Adds what the client knows at the end; publishers had stopped at `sent_until`. Of one that failed only why, and what
    /// it had sent.
    pub fn harvest(&self, sent_until: Instant, into: &mut Harvest) {
        into.joins.push(self.times);
        for stream in &self.streams {
            let plan = stream.plan();
            into.sent
                .push(((plan.publisher, plan.stream), stream.sent()));
        }
        if let Some(failure) = &self.failure {
            *into.failures.entry(failure.clone()).or_default() += 1;
            return;
        }
        for reception in &self.receptions {
            if reception.received() == 0 {
                into.silent_tracks += u64::from(!self.plan.is_idle);
                continue;
            }
            into.stopped_tracks += u64::from(reception.has_stopped_before(sent_until));
            into.received.push(Received {
                origin: reception.origin(),
                received: reception.received(),
                expected_seen: reception.expected(),
                first_counter: reception.first_counter(),
            });
        }
    }
}

/// The address of a candidate line (RFC 8839 §5.1) for UDP.
fn candidate(line: &str) -> Option<SocketAddr> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let [_, _, transport, _, ip, port, ..] = words[..] else {
        return None;
    };
    if !transport.eq_ignore_ascii_case("udp") {
        return None;
    }
    Some(SocketAddr::new(ip.parse().ok()?, port.parse().ok()?))
}

/// As often as browsers report.
const REPORT_INTERVAL: Duration = Duration::from_secs(1);
/// What clients call themselves in RTCP; libwebrtc's receivers use 1, too.
const RTCP_SSRC: Ssrc = Ssrc(1);
/// More than a session can have sections; further ones are not received.
const RECEPTIONS_MAX: usize = 1024;
