//! The async `webrtc` crate as a client, on tokio.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use bytes::Bytes;
use rtc::media_stream::MediaStreamTrack;
use rtc::peer_connection::configuration::media_engine::{MIME_TYPE_OPUS, MIME_TYPE_VP8};
use rtc::rtp_transceiver::rtp_sender::{
    RTCRtpCodec, RTCRtpCodingParameters, RTCRtpEncodingParameters, RtpCodecKind,
};
use serde_json::{Value, json};
use webrtc::media_stream::track_local::TrackLocal;
use webrtc::media_stream::track_local::static_rtp::TrackLocalStaticRTP;
use webrtc::media_stream::track_remote::{TrackRemote, TrackRemoteEvent};
use webrtc::peer_connection::{
    MediaEngine, PeerConnection, PeerConnectionBuilder, PeerConnectionEventHandler,
    RTCConfigurationBuilder, RTCPeerConnectionState, RTCSessionDescription,
};

use crate::peer_connection::read_payload;
use crate::socket::{Arrival, Socket};

/// What the client saw, for the test to look at.
#[derive(Debug, Default)]
pub struct Seen {
    pub connected: bool,
    /// Counters that came, by publisher and kind.
    pub received: BTreeMap<(String, &'static str), Vec<u64>>,
    pub faults: Vec<String>,
}

struct Handler {
    id: String,
    seen: Arc<Mutex<Seen>>,
}

#[async_trait::async_trait]
impl PeerConnectionEventHandler for Handler {
    async fn on_connection_state_change(&self, state: RTCPeerConnectionState) {
        let connected = state == RTCPeerConnectionState::Connected;
        self.seen.lock().expect("not poisoned").connected = connected;
    }

    async fn on_track(&self, track: Arc<dyn TrackRemote>) {
        let (seen, id) = (Arc::clone(&self.seen), self.id.clone());
        tokio::spawn(async move {
            let publisher = track.stream_id().await;
            while let Some(event) = track.poll().await {
                let TrackRemoteEvent::OnRtpPacket(packet) = event else {
                    continue;
                };
                let mut seen = seen.lock().expect("not poisoned");
                match read_payload(&packet.payload) {
                    Some((from, kind, counter)) if from == publisher && from != id => {
                        seen.received.entry((from, kind)).or_default().push(counter);
                    }
                    other => seen
                        .faults
                        .push(format!("on {publisher}'s track: {other:?}")),
                }
            }
        });
    }
}

/// Joins, offers one Opus and one VP8 track, and keeps sending until the task is aborted.
pub async fn run(server: SocketAddr, room: String, id: String, seen: Arc<Mutex<Seen>>) {
    let mut engine = MediaEngine::default();
    engine.register_default_codecs().expect("default codecs");
    let pc = PeerConnectionBuilder::new()
        .with_configuration(RTCConfigurationBuilder::new().build())
        .with_media_engine(engine)
        .with_handler(Arc::new(Handler {
            id: id.clone(),
            seen: Arc::clone(&seen),
        }))
        .with_udp_addrs(vec!["127.0.0.1:0".to_owned()])
        .build()
        .await
        .expect("a peer connection can be made");
    let audio = Arc::new(TrackLocalStaticRTP::new(track(&id, false)));
    let video = Arc::new(TrackLocalStaticRTP::new(track(&id, true)));
    for track in [&audio, &video] {
        pc.add_track(Arc::clone(track) as Arc<dyn TrackLocal>)
            .await
            .expect("a track can be added");
    }
    let mut socket = Socket::connect(server, "/ws");
    socket.send("joinRoom", json!({ "self_id": id, "room_id": room }));
    let offer = pc.create_offer(None).await.expect("an offer");
    pc.set_local_description(offer.clone())
        .await
        .expect("the own offer");
    let offer = json!({ "type": "offer", "sdp": offer.sdp });
    socket.send(
        "offer",
        json!({ "self_id": id, "room_id": room, "offer": offer }),
    );

    let mut next_at = Instant::now();
    for sent in 0u64.. {
        while Instant::now() < next_at {
            while let Some(Arrival::Frame(text)) = socket.poll() {
                let frame: Value = serde_json::from_str(&text).expect("JSON");
                handle_frame(&pc, &mut socket, &frame, &seen).await;
            }
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        next_at += Duration::from_millis(20);
        if seen.lock().expect("not poisoned").connected {
            audio
                .write_rtp(packet(&id, false, sent, &audio).await)
                .await
                .ok();
            video
                .write_rtp(packet(&id, true, sent, &video).await)
                .await
                .ok();
        }
    }
}

async fn handle_frame(
    pc: &impl PeerConnection,
    socket: &mut Socket,
    frame: &Value,
    seen: &Mutex<Seen>,
) {
    let nested = || -> Value {
        let text = frame["data"].as_str().expect("a JSON string");
        serde_json::from_str(text).expect("that holds JSON")
    };
    let sdp = || nested()["sdp"].as_str().expect("sdp").to_owned();
    match frame["event"].as_str().expect("an event") {
        "answer" => {
            let answer = RTCSessionDescription::answer(sdp()).expect("a valid answer");
            pc.set_remote_description(answer)
                .await
                .expect("the answer fits");
        }
        "offer" => {
            let offer = RTCSessionDescription::offer(sdp()).expect("a valid offer");
            pc.set_remote_description(offer)
                .await
                .expect("the offer fits");
            let answer = pc.create_answer(None).await.expect("an answer");
            pc.set_local_description(answer.clone())
                .await
                .expect("the own answer");
            let answer = json!({ "type": "answer", "sdp": answer.sdp });
            socket.send("answer", json!({ "answer": answer }));
        }
        // The server sends candidates after the description they belong to.
        "candidate" => {
            let init = serde_json::from_value(nested()).expect("an RTCIceCandidateInit");
            pc.add_ice_candidate(init).await.expect("a valid candidate");
        }
        "error" => {
            let text = frame["data"].to_string();
            seen.lock().expect("not poisoned").faults.push(text);
        }
        _ => {}
    }
}

fn track(id: &str, video: bool) -> MediaStreamTrack {
    let (kind, mime, clock_rate, channels, name) = if video {
        (RtpCodecKind::Video, MIME_TYPE_VP8, 90_000, 0, "video")
    } else {
        (RtpCodecKind::Audio, MIME_TYPE_OPUS, 48_000, 2, "audio")
    };
    MediaStreamTrack::new(
        format!("stream-{id}"),
        format!("{name}-{id}"),
        name.to_owned(),
        kind,
        vec![RTCRtpEncodingParameters {
            rtp_coding_parameters: RTCRtpCodingParameters {
                ssrc: Some(rand::random()),
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
    )
}

async fn packet(
    id: &str,
    video: bool,
    sent: u64,
    track: &Arc<TrackLocalStaticRTP>,
) -> rtc::rtp::Packet {
    let track = track.track().await;
    let (name, size, ticks) = if video {
        ("video", 900, 1800)
    } else {
        ("audio", 80, 960)
    };
    let mut payload = if video { vec![0x10, 0] } else { Vec::new() };
    payload.extend_from_slice(format!("{id} {name} {sent} ").as_bytes());
    payload.resize(size, b'.');
    rtc::rtp::Packet {
        header: rtc::rtp::Header {
            version: 2,
            marker: video,
            payload_type: if video { 96 } else { 111 },
            sequence_number: sent as u16,
            timestamp: (sent as u32).wrapping_mul(ticks),
            ssrc: track.ssrcs().next().expect("one encoding"),
            ..Default::default()
        },
        payload: Bytes::from(payload),
    }
}
