//! `rtc`'s sans-I/O RTCPeerConnection as a client: an implementation of WebRTC that is not ours.

use std::collections::BTreeMap;
use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use bytes::{Bytes, BytesMut};
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::RTCConfigurationBuilder;
use rtc::peer_connection::configuration::media_engine::{
    MIME_TYPE_OPUS, MIME_TYPE_VP8, MediaEngine,
};
use rtc::peer_connection::event::{RTCPeerConnectionEvent, RTCTrackEvent};
use rtc::peer_connection::message::{RTCMessage, TaggedRTCMessage};
use rtc::peer_connection::sdp::RTCSessionDescription;
use rtc::peer_connection::state::RTCPeerConnectionState;
use rtc::peer_connection::transport::{
    CandidateConfig, CandidateHostConfig, RTCIceCandidate, RTCIceCandidateInit,
};
use rtc::peer_connection::{RTCPeerConnection, RTCPeerConnectionBuilder};
use rtc::rtp_transceiver::RTCRtpSenderId;
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use rtc::sansio::Protocol;
use rtc::shared::{TaggedBytesMut, TransportContext, TransportProtocol};
use serde_json::{Value, json};

use crate::socket::{Arrival, Socket};

/// A track to send.
struct Outgoing {
    sender: RTCRtpSenderId,
    name: String,
    video: bool,
    ssrc: u32,
    sent: u64,
    next_at: Instant,
}

pub struct RtcClient {
    pub id: String,
    pc: RTCPeerConnection,
    udp: UdpSocket,
    local: SocketAddr,
    pub socket: Socket,
    outgoing: Vec<Outgoing>,
    pub connected: bool,
    /// Publishing peer of each remote track.
    publishers: BTreeMap<String, String>,
    /// Counters that came, by publisher and kind.
    pub received: BTreeMap<(String, &'static str), Vec<u64>>,
    pub faults: Vec<String>,
    candidates: Vec<RTCIceCandidateInit>,
}

impl RtcClient {
    /// Connects, joins and offers one Opus and one VP8 track.
    pub fn join(server: SocketAddr, room: &str, id: &str) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP port is free");
        udp.set_nonblocking(true).expect("a UDP option");
        let local = udp.local_addr().expect("bound");
        let mut engine = MediaEngine::default();
        engine.register_default_codecs().expect("default codecs");
        let pc = RTCPeerConnectionBuilder::new()
            .with_configuration(RTCConfigurationBuilder::new().build())
            .with_media_engine(engine)
            .build(Instant::now())
            .expect("a peer connection can be made");
        let mut client = Self {
            id: id.to_owned(),
            pc,
            udp,
            local,
            socket: Socket::connect(server, "/"),
            outgoing: Vec::new(),
            connected: false,
            publishers: BTreeMap::new(),
            received: BTreeMap::new(),
            faults: Vec::new(),
            candidates: Vec::new(),
        };
        client.add_track(false);
        client.add_track(true);
        client.add_local_candidate();
        let ids = json!({ "self_id": id, "room_id": room });
        client.socket.send("joinRoom", ids);
        let offer = client.pc.create_offer(None).expect("an offer");
        client
            .pc
            .set_local_description(Instant::now(), offer.clone())
            .expect("the own offer");
        let offer = json!({ "type": "offer", "sdp": offer.sdp });
        client.socket.send(
            "offer",
            json!({ "self_id": id, "room_id": room, "offer": offer }),
        );
        client
    }

    fn add_track(&mut self, video: bool) {
        let (kind, mime, clock_rate, channels, name) = if video {
            (RtpCodecKind::Video, MIME_TYPE_VP8, 90_000, 0, "video")
        } else {
            (RtpCodecKind::Audio, MIME_TYPE_OPUS, 48_000, 2, "audio")
        };
        let ssrc = rand::random();
        let track = MediaStreamTrack::new(
            format!("stream-{}", self.id),
            format!("{name}-{}", self.id),
            name.to_owned(),
            kind,
            vec![RTCRtpEncodingParameters {
                rtp_coding_parameters: RTCRtpCodingParameters {
                    ssrc: Some(ssrc),
                    ..Default::default()
                },
                codec: RTCRtpCodec {
                    mime_type: mime.to_owned(),
                    clock_rate,
                    channels,
                    ..Default::default()
                },
                ..Default::default()
            }],
        );
        let sender = self.pc.add_track(track).expect("a track can be added");
        self.outgoing.push(Outgoing {
            sender,
            name: name.to_owned(),
            video,
            ssrc,
            sent: 0,
            next_at: Instant::now(),
        });
    }

    fn add_local_candidate(&mut self) {
        let candidate = CandidateHostConfig {
            base_config: CandidateConfig {
                network: "udp".to_owned(),
                address: self.local.ip().to_string(),
                port: self.local.port(),
                component: 1,
                ..Default::default()
            },
            ..Default::default()
        }
        .new_candidate_host()
        .expect("a candidate");
        let candidate = RTCIceCandidate::from(&candidate)
            .to_json()
            .expect("a candidate");
        self.pc.add_local_candidate(candidate).expect("a candidate");
    }

    /// Takes what has come and sends what is due.
    pub fn pump(&mut self) {
        while let Some(arrival) = self.socket.poll() {
            if let Arrival::Frame(text) = arrival {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                self.handle_frame(&frame);
            }
        }
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            let datagram = TaggedBytesMut {
                now: Instant::now(),
                transport: TransportContext {
                    local_addr: self.local,
                    peer_addr: from,
                    transport_protocol: TransportProtocol::UDP,
                    ecn: None,
                },
                message: BytesMut::from(&buffer[..length]),
            };
            if let Err(error) = self.pc.handle_read(datagram) {
                self.faults.push(format!("handle_read: {error}"));
            }
        }
        let now = Instant::now();
        if self.pc.poll_timeout().is_some_and(|at| at <= now) {
            self.pc.handle_timeout(now).expect("a timeout is no error");
        }
        self.send_media(now);
        self.drain();
    }

    fn drain(&mut self) {
        while let Some(event) = self.pc.poll_event() {
            match event {
                RTCPeerConnectionEvent::OnConnectionStateChangeEvent(state) => {
                    self.connected = state == RTCPeerConnectionState::Connected;
                }
                RTCPeerConnectionEvent::OnTrack(RTCTrackEvent::OnOpen(init)) => {
                    let publisher = init.stream_ids.first().cloned().unwrap_or_default();
                    self.publishers.insert(init.track_id.clone(), publisher);
                }
                _ => {}
            }
        }
        while let Some(TaggedRTCMessage { message, .. }) = self.pc.poll_read() {
            if let RTCMessage::RtpPacket(track, packet) = message {
                self.take(&track, &packet.payload);
            }
        }
        while let Some(datagram) = self.pc.poll_write() {
            self.udp
                .send_to(&datagram.message, datagram.transport.peer_addr)
                .ok();
        }
    }

    fn handle_frame(&mut self, frame: &Value) {
        let nested = || -> Value {
            let text = frame["data"].as_str().expect("a JSON string");
            serde_json::from_str(text).expect("that holds JSON")
        };
        let now = Instant::now();
        match frame["event"].as_str().expect("an event") {
            "answer" => {
                let sdp = nested()["sdp"].as_str().expect("sdp").to_owned();
                let answer = RTCSessionDescription::answer(sdp).expect("a valid answer");
                self.pc
                    .set_remote_description(now, answer)
                    .expect("the answer fits");
                self.flush_candidates();
            }
            "offer" => {
                let sdp = nested()["sdp"].as_str().expect("sdp").to_owned();
                let offer = RTCSessionDescription::offer(sdp).expect("a valid offer");
                self.pc
                    .set_remote_description(now, offer)
                    .expect("the offer fits");
                let answer = self.pc.create_answer(None).expect("an answer");
                self.pc
                    .set_local_description(now, answer.clone())
                    .expect("the own answer");
                let answer = json!({ "type": "answer", "sdp": answer.sdp });
                self.socket.send("answer", json!({ "answer": answer }));
                self.flush_candidates();
            }
            "candidate" => {
                let init = serde_json::from_value(nested()).expect("an RTCIceCandidateInit");
                self.candidates.push(init);
                self.flush_candidates();
            }
            "error" => self.faults.push(frame["data"].to_string()),
            _ => {}
        }
    }

    fn flush_candidates(&mut self) {
        if self.pc.remote_description().is_none() {
            return;
        }
        for candidate in std::mem::take(&mut self.candidates) {
            if !candidate.candidate.is_empty() {
                self.pc
                    .add_remote_candidate(candidate)
                    .expect("a valid candidate");
            }
        }
    }

    fn send_media(&mut self, now: Instant) {
        if !self.connected {
            return;
        }
        for track in &mut self.outgoing {
            if track.next_at > now {
                continue;
            }
            track.next_at = now + Duration::from_millis(20);
            let mut sender = self.pc.rtp_sender(track.sender).expect("added");
            let wanted = if track.video {
                MIME_TYPE_VP8
            } else {
                MIME_TYPE_OPUS
            };
            let codecs = &sender.get_parameters().rtp_parameters.codecs;
            let codec = codecs
                .iter()
                .find(|c| c.rtp_codec.mime_type.eq_ignore_ascii_case(wanted));
            let Some(payload_type) = codec.map(|c| c.payload_type) else {
                continue;
            };
            // A VP8 descriptor and the payload header of a keyframe in front, as a decoder wants.
            let mut payload = if track.video {
                vec![0x10, 0]
            } else {
                Vec::new()
            };
            payload.extend_from_slice(
                format!("{} {} {} ", self.id, track.name, track.sent).as_bytes(),
            );
            payload.resize(if track.video { 900 } else { 80 }, b'.');
            let ticks = if track.video { 1800 } else { 960 };
            let packet = rtc::rtp::Packet {
                header: rtc::rtp::Header {
                    version: 2,
                    marker: track.video,
                    payload_type,
                    sequence_number: track.sent as u16,
                    timestamp: (track.sent as u32).wrapping_mul(ticks),
                    ssrc: track.ssrc,
                    ..Default::default()
                },
                payload: Bytes::from(payload),
            };
            track.sent += 1;
            if let Err(error) = sender.write_rtp(now, packet) {
                self.faults.push(format!("write_rtp: {error}"));
            }
        }
    }

    /// Checks that the packet says what its track's publisher sends.
    fn take(&mut self, track: &str, payload: &[u8]) {
        let publisher = self.publishers.get(track).cloned().unwrap_or_default();
        match read_payload(payload) {
            Some((from, kind, counter)) if from == publisher && from != self.id => {
                self.received.entry((from, kind)).or_default().push(counter);
            }
            other => self
                .faults
                .push(format!("on {publisher}'s track {track}: {other:?}")),
        }
    }
}

/// Publisher, kind and counter that a payload names.
pub fn read_payload(payload: &[u8]) -> Option<(String, &'static str, u64)> {
    let body = match payload.first()? {
        0x10 => payload.get(2..)?,
        _ => payload,
    };
    let text = std::str::from_utf8(body).ok()?;
    let mut words = text.split(' ');
    let from = words.next()?.to_owned();
    let kind = match words.next()? {
        "audio" => "audio",
        "video" => "video",
        _ => return None,
    };
    let counter = words.next()?.parse().ok()?;
    Some((from, kind, counter))
}
