//! One signaling connection: what its client says, what the room does, and what follows, as a state
//! machine. It knows no socket, no lock and no shard; whoever holds it drains its outputs after every
//! input, and answers [`Output::Join`] and [`Output::PullChanges`] from the coordinator.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::SeedableRng;
use rand::rngs::StdRng;

use crate::base::growth::pop;
use crate::base::ids::PeerKey;
use crate::base::time::{Interval, earliest};
use crate::control::{
    ActiveSpeakers, Changes, Command, Event, Fingerprint, JoinRefused, JoinRequest, Joined,
    Revision, TrackInfo, TransportEvent, TransportFailure,
};
use crate::signaling::bucket::Bucket;
use crate::signaling::message::{
    self, ErrorCode, FRAME_BYTES_MAX, IceServer, Inbound, InboundEvent, Join, Outbound, Refusal,
};
use crate::signaling::negotiation::{Action, Negotiation, NegotiationConfig};
use crate::signaling::notices::{Notice, Notices};
use crate::signaling::roster::{KnownRoster, News};
use crate::signaling::wishes::{Subscribe, Wishes};

/// How often the socket is pinged.
pub const PING_INTERVAL: Duration = Duration::from_secs(15);
/// How long a socket may be silent.
pub const ACTIVITY_TIMEOUT: Duration = Duration::from_secs(30);
/// How long a socket may stay without a room.
pub const JOIN_TIMEOUT: Duration = Duration::from_secs(60);
/// Frames taken at once, and how long one more takes: a client trickles some 20 candidates. An
/// answer to an offer of the server is not counted: the server sets the pace of those.
pub const FRAMES_BURST: u32 = 100;
/// See [`FRAMES_BURST`].
pub const FRAME_INTERVAL: Duration = Duration::from_millis(20);
/// Every so many bytes a frame counts as one more.
pub const FRAME_COST_BYTES: usize = 8 * 1024;
/// Errors forgiven at once, and how long one more takes. Unknown events are not counted: a client may
/// speak a later protocol.
pub const ERRORS_BURST: u32 = 100;
/// See [`ERRORS_BURST`].
pub const ERROR_INTERVAL: Duration = Duration::from_secs(1);

/// What all sessions of a server share.
#[derive(Debug, Clone)]
pub struct SessionConfig {
    /// Of the server's DTLS certificate.
    pub fingerprint: Fingerprint,
    /// Told to clients in `joined`.
    pub ice_servers: Arc<[IceServer]>,
}

/// What is to be done, in this order.
#[derive(Debug)]
pub enum Output {
    /// A text frame for the client.
    Send(String),
    /// A WebSocket ping.
    Ping,
    /// Ask the coordinator; [`Session::handle_joined`] takes the answer.
    Join(JoinRequest),
    /// Ask the coordinator what happened since; [`Session::handle_changes`] takes the answer.
    PullChanges(Revision),
    /// Tell the coordinator all tracks this peer publishes now.
    SetTracks(Vec<Arc<TrackInfo>>),
    /// Tell the coordinator that this stay (its [`PeerKey`], not the peer's id) is over. Also comes
    /// after [`Event::Replaced`], when the coordinator has nothing left to do.
    Leave,
    /// For the shard that [`Joined`] named.
    Shard(Command),
    /// Flush, close the socket, and forget the session.
    Close(CloseReason),
}

/// Why the server closes a connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CloseReason {
    /// Silent too long, or without a room too long.
    Timeout,
    /// Another connection took over the peer's id.
    Replaced,
    /// The server is stopping.
    ShuttingDown,
    /// A frame above the limit.
    TooLarge,
    /// Frames too fast.
    RateLimited,
    /// Too many errors.
    TooManyErrors,
    /// The client does not read.
    SlowConsumer,
    /// The peer's transport cannot be used.
    TransportFailed(TransportFailure),
}

impl CloseReason {
    /// The WebSocket close code (RFC 6455 §7.4; 4000 and above are this protocol's own).
    #[must_use]
    pub fn code(self) -> u16 {
        match self {
            Self::ShuttingDown => 1001,
            Self::RateLimited | Self::TooManyErrors => 1008,
            Self::TooLarge => 1009,
            Self::Replaced => 4001,
            Self::Timeout => 4002,
            Self::TransportFailed(_) => 4003,
            Self::SlowConsumer => 4004,
        }
    }

    /// The reason as text: the code of the `error` that was sent before.
    #[must_use]
    pub fn reason(self) -> &'static str {
        self.error().as_str()
    }

    fn error(self) -> ErrorCode {
        match self {
            Self::Timeout => ErrorCode::Timeout,
            Self::Replaced => ErrorCode::Replaced,
            Self::ShuttingDown => ErrorCode::ShuttingDown,
            Self::TooLarge => ErrorCode::TooLarge,
            Self::RateLimited => ErrorCode::RateLimited,
            Self::TooManyErrors => ErrorCode::TooManyErrors,
            Self::SlowConsumer => ErrorCode::SlowConsumer,
            Self::TransportFailed(failure) => transport_error(failure),
        }
    }

    fn message(self) -> &'static str {
        match self {
            Self::Timeout => "the connection was silent, or without a room, for too long",
            Self::Replaced => "another connection joined with the same id",
            Self::ShuttingDown => "the server is stopping",
            Self::TooLarge => "the frame is larger than 256 KiB",
            Self::RateLimited => "too many frames",
            Self::TooManyErrors => "too many errors",
            Self::SlowConsumer => "the client reads too slowly",
            Self::TransportFailed(failure) => transport_message(failure),
        }
    }
}

fn frame_cost(bytes: usize) -> u32 {
    1 + u32::try_from(bytes / FRAME_COST_BYTES).unwrap_or(u32::MAX - 1)
}

fn transport_error(failure: TransportFailure) -> ErrorCode {
    match failure {
        TransportFailure::FingerprintMismatch => ErrorCode::FingerprintMismatch,
        TransportFailure::DtlsHandshake => ErrorCode::DtlsFailed,
        TransportFailure::DtlsClosed => ErrorCode::DtlsClosed,
    }
}

fn transport_message(failure: TransportFailure) -> &'static str {
    match failure {
        TransportFailure::FingerprintMismatch => {
            "the DTLS certificate has none of the fingerprints of the description"
        }
        TransportFailure::DtlsHandshake => "the DTLS handshake failed",
        TransportFailure::DtlsClosed => "the peer connection was closed",
    }
}

/// One signaling connection.
#[derive(Debug)]
pub struct Session {
    config: Arc<SessionConfig>,
    rng: StdRng,
    state: State,
    last_activity: Instant,
    ping: Interval,
    frames: Bucket,
    errors: Bucket,
    outputs: VecDeque<Output>,
}

#[derive(Debug)]
enum State {
    /// In no room.
    Idle { since: Instant },
    /// The coordinator has been asked.
    Joining(Box<Join>),
    /// In a room.
    InRoom(Box<Stay>),
    /// Over.
    Closed,
}

/// One stay in a room.
#[derive(Debug)]
struct Stay {
    key: PeerKey,
    join: Join,
    roster: KnownRoster,
    pull: Pull,
    negotiation: Negotiation,
    wishes: Wishes,
    notices: Notices,
    /// What the client itself publishes.
    own: Vec<Arc<TrackInfo>>,
}

/// Whether the coordinator is being asked for changes: never twice at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Pull {
    None,
    Asked,
    /// And something has happened since.
    AskAgain,
}

impl Session {
    /// A connection that has just been opened. Credentials are made with `rng`: its seed must be as
    /// hard to guess as they have to be (RFC 8445 §5.3: 128 bits of randomness for a password).
    #[must_use]
    pub fn new(now: Instant, config: Arc<SessionConfig>, rng: StdRng) -> Self {
        Self {
            config,
            rng,
            state: State::Idle { since: now },
            last_activity: now,
            ping: Interval::new(now, PING_INTERVAL),
            frames: Bucket::new(now, FRAMES_BURST, FRAME_INTERVAL),
            errors: Bucket::new(now, ERRORS_BURST, ERROR_INTERVAL),
            outputs: VecDeque::new(),
        }
    }

    /// The next thing to do; drained after every input.
    pub fn poll_output(&mut self) -> Option<Output> {
        pop(&mut self.outputs)
    }

    /// When [`Session::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        let own = match &self.state {
            State::Closed => return None,
            State::Idle { since } => Some(*since + JOIN_TIMEOUT),
            State::Joining(_) => None,
            State::InRoom(stay) => {
                earliest(stay.negotiation.poll_timeout(), stay.notices.poll_timeout())
            }
        };
        let alive = self
            .ping
            .deadline()
            .min(self.last_activity + ACTIVITY_TIMEOUT);
        earliest(own, Some(alive))
    }

    /// Time has passed.
    pub fn handle_timeout(&mut self, now: Instant) {
        let idle_too_long = match &self.state {
            State::Closed => return,
            State::Idle { since } => now >= *since + JOIN_TIMEOUT,
            _ => false,
        };
        if idle_too_long || now >= self.last_activity + ACTIVITY_TIMEOUT {
            self.close(CloseReason::Timeout);
            return;
        }
        if self.ping.take_due(now) {
            self.outputs.push_back(Output::Ping);
        }
        if let State::InRoom(stay) = &mut self.state {
            stay.negotiation.handle_timeout(now);
        }
        self.drain_negotiation();
        self.tell_notices(now);
    }

    /// A ping or pong came over the socket: it lives. They count as frames, since each costs as much.
    pub fn handle_activity(&mut self, now: Instant) {
        self.admit(now, 0);
    }

    /// One text frame.
    pub fn handle_text(&mut self, now: Instant, text: &str) {
        if !self.admit(now, text.len()) {
            return;
        }
        if text.len() > FRAME_BYTES_MAX {
            self.close(CloseReason::TooLarge);
            return;
        }
        match message::parse(text) {
            Ok(inbound) => {
                let event = inbound.event.name();
                let answers = matches!(inbound.event, InboundEvent::Answer(_));
                match self.handle_inbound(now, inbound) {
                    Ok(()) if answers => self.frames.give_back(frame_cost(text.len())),
                    Ok(()) => {}
                    Err(refusal) => self.refuse(now, &refusal, Some(event)),
                }
            }
            Err(error) => self.refuse(now, &error.refusal, error.event.as_deref()),
        }
        self.drain_negotiation();
    }

    /// One binary frame: refused.
    pub fn handle_binary(&mut self, now: Instant) {
        if self.admit(now, 0) {
            let refusal = Refusal::new(ErrorCode::NotText, "only text frames are understood");
            self.refuse(now, &refusal, None);
        }
    }

    /// A frame above the limit, which was not read: the connection is closed.
    pub fn handle_oversized(&mut self, now: Instant) {
        self.on_activity(now);
        self.close(CloseReason::TooLarge);
    }

    /// The queue towards the client is full: the connection is closed.
    pub fn handle_slow_consumer(&mut self, now: Instant) {
        self.on_activity(now);
        self.close(CloseReason::SlowConsumer);
    }

    /// The coordinator's answer to [`Output::Join`].
    pub fn handle_joined(&mut self, now: Instant, result: Result<Joined, JoinRefused>) {
        let join = match std::mem::replace(&mut self.state, State::Idle { since: now }) {
            State::Joining(join) => *join,
            state => {
                // The connection ended meanwhile: give the place back.
                self.state = state;
                if result.is_ok() && matches!(self.state, State::Idle { .. } | State::Closed) {
                    self.outputs.push_back(Output::Leave);
                }
                return;
            }
        };
        match result {
            Ok(joined) => self.enter(now, join, joined),
            Err(JoinRefused::ShuttingDown) => self.close(CloseReason::ShuttingDown),
            Err(refused) => {
                let (code, why) = match refused {
                    JoinRefused::RoomFull => (ErrorCode::RoomFull, "the room is full"),
                    _ => (ErrorCode::TooManyRooms, "the server has no room left"),
                };
                self.refuse(now, &Refusal::new(code, why), Some("joinRoom"));
            }
        }
    }

    /// The coordinator's answer to [`Output::PullChanges`]; `None` if this stay is not in the room any
    /// more, which only happens when another connection took over its id.
    pub fn handle_changes(&mut self, now: Instant, changes: Option<Changes>) {
        let State::InRoom(stay) = &mut self.state else {
            return;
        };
        let Some(changes) = changes else {
            self.close(CloseReason::Replaced);
            return;
        };
        let ask_again = std::mem::replace(&mut stay.pull, Pull::None) == Pull::AskAgain;
        let news = stay.roster.apply(changes);
        let mut is_wished_for = false;
        for item in &news {
            match item {
                News::Published(track) => {
                    stay.negotiation.add_tracks(std::slice::from_ref(track));
                    is_wished_for |= stay.wishes.has(track);
                }
                News::Unpublished(track) => {
                    stay.negotiation.remove_tracks(&[track.key]);
                    stay.notices.forget(track.key);
                }
                News::PeerJoined(_) | News::PeerLeft(_) => {}
            }
        }
        // What is asked for again comes at once: it may belong into the same offer.
        if !ask_again {
            stay.negotiation.handle_timeout(now);
        }
        for item in &news {
            self.send(match item {
                News::PeerJoined(peer) => Outbound::PeerJoined(peer),
                News::PeerLeft(peer) => Outbound::PeerLeft(peer),
                News::Published(track) => Outbound::TrackPublished(track),
                News::Unpublished(track) => Outbound::TrackUnpublished(track),
            });
        }
        if ask_again {
            self.pull_changes();
        }
        if is_wished_for {
            self.send_preferences();
        }
        self.drain_negotiation();
    }

    /// Something happened to the room or to the peer's transport.
    pub fn handle_event(&mut self, now: Instant, event: Event) {
        match event {
            Event::Shutdown => self.close(CloseReason::ShuttingDown),
            // Of a former stay on the same connection otherwise.
            Event::Replaced(peer) if self.peer() == Some(peer) => {
                self.close(CloseReason::Replaced);
            }
            Event::Replaced(_) => {}
            Event::RoomChanged => self.pull_changes(),
            Event::Transport(peer, event) if self.peer() == Some(peer) => {
                self.handle_transport(now, event);
            }
            Event::Layer(peer, change) if self.peer() == Some(peer) => {
                self.take_notice(now, Notice::Layer(change));
            }
            Event::LayersWanted(peer, wanted) if self.peer() == Some(peer) => {
                self.take_notice(now, Notice::Wanted(wanted));
            }
            Event::Speakers(peer, speakers) if self.peer() == Some(peer) => {
                self.tell_speakers(&speakers);
            }
            Event::Transport(..)
            | Event::Layer(..)
            | Event::LayersWanted(..)
            | Event::Speakers(..) => {}
        }
        self.drain_negotiation();
    }

    /// The socket is gone: the peer leaves.
    pub fn handle_closed(&mut self, _now: Instant) {
        self.leave();
        self.state = State::Closed;
    }

    /// What this connection is called in the room it is in.
    fn peer(&self) -> Option<PeerKey> {
        match &self.state {
            State::InRoom(stay) => Some(stay.key),
            _ => None,
        }
    }

    fn handle_transport(&mut self, now: Instant, event: TransportEvent) {
        let State::InRoom(stay) = &mut self.state else {
            return;
        };
        match event {
            TransportEvent::Connected { .. } => stay.negotiation.handle_connected(now),
            TransportEvent::ConsentLost => stay.negotiation.handle_consent_lost(now),
            TransportEvent::ConsentRegained => stay.negotiation.handle_consent_regained(),
            // The client is done with this peer connection, not with the socket: it may be about
            // to say `leaveRoom`, and to join again.
            TransportEvent::Failed(failure @ TransportFailure::DtlsClosed) => {
                let refusal = Refusal::new(transport_error(failure), transport_message(failure));
                self.send_error(&refusal, None);
                self.leave();
                self.state = State::Idle { since: now };
            }
            TransportEvent::Failed(failure) => {
                self.close(CloseReason::TransportFailed(failure));
            }
        }
    }

    /// Who is not known (yet, or any more) is left out.
    fn tell_speakers(&mut self, told: &ActiveSpeakers) {
        let State::InRoom(stay) = &self.state else {
            return;
        };
        let id = |key: PeerKey| match key == stay.key {
            true => Some(&stay.join.info.id),
            false => stay.roster.peer_id(key),
        };
        let speakers = told.speakers.iter();
        let speakers: Vec<_> = speakers
            .filter_map(|speaker| Some((id(speaker.peer)?, speaker.level)))
            .collect();
        let frame = Outbound::ActiveSpeakers {
            dominant: told.dominant.and_then(id),
            speakers: &speakers,
        };
        self.outputs.push_back(Output::Send(frame.to_text()));
    }

    fn on_activity(&mut self, now: Instant) {
        self.last_activity = self.last_activity.max(now);
    }

    /// Counts a frame; false if it is not to be looked at.
    fn admit(&mut self, now: Instant, bytes: usize) -> bool {
        if matches!(self.state, State::Closed) {
            return false;
        }
        self.on_activity(now);
        if !self.frames.take(now, frame_cost(bytes)) {
            self.close(CloseReason::RateLimited);
            return false;
        }
        true
    }

    fn handle_inbound(&mut self, now: Instant, inbound: Inbound) -> Result<(), Refusal> {
        if let InboundEvent::Join(join) = inbound.event {
            return self.handle_join(join);
        }
        let State::InRoom(stay) = &mut self.state else {
            return Err(Refusal::new(ErrorCode::NotJoined, "join a room first"));
        };
        let differs = inbound.self_id.is_some_and(|id| id != stay.join.info.id)
            || inbound.room_id.is_some_and(|id| id != stay.join.room);
        if differs {
            return Err(Refusal::new(
                ErrorCode::IdentityMismatch,
                "self_id or room_id are not those of the join",
            ));
        }
        match inbound.event {
            InboundEvent::Offer(sdp) => stay.negotiation.handle_offer(now, &sdp),
            InboundEvent::Answer(sdp) => stay.negotiation.handle_answer(now, &sdp),
            InboundEvent::Subscribe(subscribe) => {
                self.handle_subscribe(subscribe);
                Ok(())
            }
            // An ICE-lite server answers checks and makes none: it needs no candidates.
            InboundEvent::Candidate | InboundEvent::Join(_) => Ok(()),
            InboundEvent::Leave => {
                self.leave();
                self.state = State::Idle { since: now };
                Ok(())
            }
        }
    }

    fn handle_join(&mut self, join: Box<Join>) -> Result<(), Refusal> {
        if !matches!(self.state, State::Idle { .. }) {
            return Err(Refusal::new(
                ErrorCode::AlreadyJoined,
                "leave the room first",
            ));
        }
        self.outputs.push_back(Output::Join(JoinRequest {
            room: join.room.clone(),
            info: join.info.clone(),
        }));
        self.state = State::Joining(join);
        Ok(())
    }

    fn handle_subscribe(&mut self, subscribe: Subscribe) {
        if let State::InRoom(stay) = &mut self.state {
            stay.wishes.take(subscribe);
            self.send_preferences();
        }
    }

    /// Tells the shard what the client wants of the tracks that are there.
    fn send_preferences(&mut self) {
        if let State::InRoom(stay) = &self.state {
            self.outputs.push_back(Output::Shard(Command::Prefer {
                peer: stay.key,
                preferences: stay.wishes.preferences(stay.roster.tracks()),
            }));
        }
    }

    fn take_notice(&mut self, now: Instant, notice: Notice) {
        if let State::InRoom(stay) = &mut self.state {
            stay.notices.push(notice);
        }
        self.tell_notices(now);
    }

    /// Tells what is due of layers; what is about a track that the client does not know (any more) is for nobody.
    fn tell_notices(&mut self, now: Instant) {
        let State::InRoom(stay) = &mut self.state else {
            return;
        };
        for notice in stay.notices.take_due(now) {
            let (tracks, key) = match &notice {
                Notice::Layer(change) => (stay.roster.tracks(), change.track),
                Notice::Wanted(wanted) => (&stay.own[..], wanted.track),
            };
            let Some(track) = tracks.iter().find(|track| track.key == key) else {
                continue;
            };
            let frame = match &notice {
                Notice::Layer(change) => Outbound::LayerChanged(track, change),
                Notice::Wanted(wanted) => Outbound::LayersWanted(track, wanted),
            };
            self.outputs.push_back(Output::Send(frame.to_text()));
        }
    }

    fn enter(&mut self, now: Instant, join: Join, joined: Joined) {
        let mut negotiation = Negotiation::new(
            now,
            NegotiationConfig {
                peer: joined.key,
                shard: joined.shard,
                peer_id: join.info.id.clone(),
                may_publish: !join.viewer,
                fingerprint: &self.config.fingerprint,
                addresses: joined.addresses,
                rng: StdRng::from_rng(&mut self.rng),
            },
            &joined.roster.tracks,
        );
        self.outputs.push_back(Output::Shard(Command::AddPeer {
            peer: joined.key,
            room: join.room.clone(),
            ice: negotiation.local_ice().clone(),
        }));
        let roster = KnownRoster::new(joined.roster);
        let ice_servers = Arc::clone(&self.config.ice_servers);
        self.send(Outbound::Joined {
            peer: &join.info.id,
            room: &join.room,
            peers: roster.peers(),
            tracks: roster.tracks(),
            ice_servers: &ice_servers,
        });
        negotiation.handle_timeout(now);
        self.state = State::InRoom(Box::new(Stay {
            key: joined.key,
            join,
            roster,
            pull: Pull::None,
            negotiation,
            wishes: Wishes::default(),
            notices: Notices::default(),
            own: Vec::new(),
        }));
        self.drain_negotiation();
    }

    fn pull_changes(&mut self) {
        let State::InRoom(stay) = &mut self.state else {
            return;
        };
        stay.pull = match stay.pull {
            Pull::None => {
                let revision = stay.roster.revision();
                self.outputs.push_back(Output::PullChanges(revision));
                Pull::Asked
            }
            Pull::Asked | Pull::AskAgain => Pull::AskAgain,
        };
    }

    /// Ends the stay in a room, if there is one. The caller sets the next state.
    fn leave(&mut self) {
        if let State::InRoom(stay) = &self.state {
            let peer = stay.key;
            self.outputs
                .push_back(Output::Shard(Command::RemovePeer { peer }));
            self.outputs.push_back(Output::Leave);
        }
    }

    fn close(&mut self, reason: CloseReason) {
        if matches!(self.state, State::Closed) {
            return;
        }
        self.send_error(&Refusal::new(reason.error(), reason.message()), None);
        self.leave();
        self.state = State::Closed;
        self.outputs.push_back(Output::Close(reason));
    }

    fn refuse(&mut self, now: Instant, refusal: &Refusal, event: Option<&str>) {
        self.send_error(refusal, event);
        if refusal.code != ErrorCode::UnknownEvent && !self.errors.take(now, 1) {
            self.close(CloseReason::TooManyErrors);
        }
    }

    fn send_error(&mut self, refusal: &Refusal, event: Option<&str>) {
        self.send(Outbound::Error { refusal, event });
    }

    fn send(&mut self, frame: Outbound<'_>) {
        self.outputs.push_back(Output::Send(frame.to_text()));
    }

    fn drain_negotiation(&mut self) {
        let State::InRoom(stay) = &mut self.state else {
            return;
        };
        while let Some(action) = stay.negotiation.poll_action() {
            let frame = match &action {
                Action::Offer(sdp) => Outbound::Offer(sdp),
                Action::Answer(sdp) => Outbound::Answer(sdp),
                Action::Candidate {
                    line,
                    mid,
                    index,
                    ufrag,
                } => Outbound::Candidate {
                    line,
                    mid,
                    index: *index,
                    ufrag,
                },
                Action::Refused(refusal) => Outbound::Error {
                    refusal,
                    event: None,
                },
                Action::Command(command) => {
                    self.outputs.push_back(Output::Shard(command.clone()));
                    continue;
                }
                Action::SetTracks(tracks) => {
                    stay.own.clone_from(tracks);
                    self.outputs.push_back(Output::SetTracks(tracks.clone()));
                    continue;
                }
            };
            self.outputs.push_back(Output::Send(frame.to_text()));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;
    use serde_json::{Value, json};

    use super::*;
    use crate::base::ids::{
        Bitrate, EncodingIndex, MediaKind, PeerId, ShardId, SubscriptionKey, TrackKey,
    };
    use crate::control::layers::{EncodingWanted, LayerChange, LayersWanted, Preferences};
    use crate::control::{Change, LayerReason, PeerInfo, Roster, Speaker, SrtpProfile};
    use crate::signaling::fake_client::{CHROMIUM, Client};
    use crate::signaling::harness::{Room, config};

    fn drain(session: &mut Session) -> Vec<Output> {
        std::iter::from_fn(|| session.poll_output()).collect()
    }

    fn errors(outputs: &[Output]) -> Vec<String> {
        let frames = outputs.iter().filter_map(|output| match output {
            Output::Send(text) => Some(serde_json::from_str::<Value>(text).unwrap()),
            _ => None,
        });
        frames
            .filter(|frame| frame["event"] == "error")
            .map(|frame| frame["data"]["code"].as_str().unwrap().to_owned())
            .collect()
    }

    fn joined(key: u64) -> Joined {
        Joined {
            key: PeerKey(key),
            shard: ShardId(0),
            addresses: Arc::from(["192.0.2.1:40000".parse().unwrap()]),
            roster: Roster::default(),
        }
    }

    const JOIN: &str = r#"{"event":"joinRoom","data":{"self_id":"a","room_id":"room"}}"#;

    fn in_room(now: Instant) -> Session {
        let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
        session.handle_text(now, JOIN);
        session.handle_joined(now, Ok(joined(1)));
        drain(&mut session);
        session
    }

    /// What the predecessor's client says, and nothing more.
    #[test]
    fn the_old_client_gets_along() {
        let mut room = Room::new();
        let other = room.publisher("other");
        let old = room.connect("old");
        room.text(
            old,
            r#"{"event":"joinRoom","data":{"self_id":"old","room_id":"room"}}"#,
        );
        let client = &mut room.members[old].client;
        client.add_track(MediaKind::Audio, "s", "mic");
        client.add_track(MediaKind::Video, "s", "cam");
        let sdp = client.offer();
        client.dirty = false;
        room.say(
            old,
            "offer",
            json!({"self_id": "old", "room_id": "room", "offer": {"type": "offer", "sdp": sdp}}),
        );
        for candidate in [
            json!({"candidate": "candidate:1 1 udp 2113937151 4f8a-b.local 54021 typ host generation 0 ufrag OIkc network-cost 999", "sdpMid": "0", "sdpMLineIndex": 0}),
            json!({"candidate": "", "sdpMid": null, "sdpMLineIndex": "0"}),
            Value::Null,
        ] {
            let data = json!({"self_id": "old", "room_id": "room", "candidate": candidate});
            room.say(old, "ice-candidate", data);
        }
        // Its data may come as a JSON string, as the server's own does.
        let held = json!({"candidate": {"candidate": ""}}).to_string();
        room.say(old, "ice-candidate", json!(held));
        room.publisher("late");
        assert_eq!(room.members[old].errors(), [""; 0]);
        assert_eq!(room.flows(old).len(), 4);
        assert!(room.flows(other).contains("old mic"));
        let described = |frame: &&Value| frame["event"] == "offer" || frame["event"] == "answer";
        for frame in room.members[old].frames.iter().filter(described) {
            assert!(frame["data"].is_string(), "{frame}");
        }
        room.text(
            old,
            r#"{"event":"leaveRoom","data":{"self_id":"old","room_id":"room"}}"#,
        );
        assert!(room.members[old].closed.is_none());
    }

    /// Each code comes for the reason its documentation gives.
    #[test]
    fn every_error_code_is_reachable() {
        let now = Instant::now();
        let mut seen = BTreeSet::new();
        codes_without_a_room(now, &mut seen);
        codes_of_frames(now, &mut seen);
        codes_of_transports(now, &mut seen);
        codes_of_other_inputs(now, &mut seen);
        let all = ErrorCode::ALL.iter().map(|code| code.to_string()).collect();
        assert_eq!(seen, all);
    }

    fn note(seen: &mut BTreeSet<String>, expected: &str, session: &mut Session) {
        let codes = errors(&drain(session));
        assert!(
            codes.iter().any(|code| code == expected),
            "{expected}: {codes:?}"
        );
        seen.extend(codes);
    }

    fn offer_frame(sdp: &str) -> String {
        json!({"event": "offer", "data": {"offer": {"type": "offer", "sdp": sdp}}}).to_string()
    }

    fn codes_without_a_room(now: Instant, seen: &mut BTreeSet<String>) {
        let deep = format!(r#"{{"event":"offer","data":{}"#, "[".repeat(40));
        let before = [
            ("bad-json", "{"),
            ("bad-json", "[]"),
            ("bad-json", r#"{"data":{}}"#),
            ("too-deep", &deep),
            ("unknown-event", r#"{"event":"sing"}"#),
            ("bad-data", r#"{"event":"joinRoom","data":7}"#),
            ("bad-id", r#"{"event":"joinRoom","data":{"self_id":"a"}}"#),
            (
                "bad-id",
                r#"{"event":"joinRoom","data":{"self_id":"a","room_id":"b\n"}}"#,
            ),
            ("not-joined", r#"{"event":"leaveRoom"}"#),
        ];
        for (code, text) in before {
            let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
            session.handle_text(now, text);
            note(seen, code, &mut session);
        }
        for (refused, code) in [
            (JoinRefused::RoomFull, "room-full"),
            (JoinRefused::TooManyRooms, "too-many-rooms"),
            (JoinRefused::ShuttingDown, "shutting-down"),
        ] {
            let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
            session.handle_text(now, JOIN);
            session.handle_joined(now, Err(refused));
            note(seen, code, &mut session);
        }
    }

    fn codes_of_frames(now: Instant, seen: &mut BTreeSet<String>) {
        let within = [
            ("already-joined", JOIN.to_owned()),
            (
                "identity-mismatch",
                r#"{"event":"offer","data":{"self_id":"b","offer":{"sdp":""}}}"#.to_owned(),
            ),
            ("bad-description", offer_frame("v=1")),
            (
                "bad-description",
                offer_frame(&CHROMIUM.replace("a=setup", "a=x")),
            ),
            (
                "bad-description",
                offer_frame(&CHROMIUM.replace("a=fingerprint:sha-256", "a=fingerprint:sha-1")),
            ),
            (
                "bad-description",
                offer_frame(&CHROMIUM.replace("a=ice-pwd", "a=x")),
            ),
            (
                "bad-description",
                offer_frame(&CHROMIUM.replace("a=ice-ufrag:OIkc", "a=ice-ufrag:O")),
            ),
            (
                "unexpected-answer",
                offer_frame(CHROMIUM).replace("offer", "answer"),
            ),
            (
                "bad-candidate",
                r#"{"event":"ice-candidate","data":{"candidate":"x"}}"#.to_owned(),
            ),
        ];
        for (code, text) in within {
            let mut session = in_room(now);
            session.handle_text(now, &text);
            note(seen, code, &mut session);
        }
    }

    fn codes_of_transports(now: Instant, seen: &mut BTreeSet<String>) {
        let mut session = in_room(now);
        session.handle_text(now, &offer_frame(CHROMIUM));
        let changed = CHROMIUM.replace("8A:D7", "8B:D7");
        session.handle_text(now, &offer_frame(&changed));
        note(seen, "unsupported", &mut session);
        session.handle_event(
            now,
            Event::Transport(
                PeerKey(1),
                TransportEvent::Failed(TransportFailure::DtlsClosed),
            ),
        );
        note(seen, "dtls-closed", &mut session);
        for (failure, code) in [
            (
                TransportFailure::FingerprintMismatch,
                "fingerprint-mismatch",
            ),
            (TransportFailure::DtlsHandshake, "dtls-failed"),
        ] {
            let mut session = in_room(now);
            session.handle_text(now, &offer_frame(CHROMIUM));
            session.handle_event(
                now,
                Event::Transport(PeerKey(1), TransportEvent::Failed(failure)),
            );
            note(seen, code, &mut session);
        }
    }

    fn codes_of_other_inputs(now: Instant, seen: &mut BTreeSet<String>) {
        type Input = fn(&mut Session, Instant);
        let inputs: [(&str, Input); 9] = [
            ("replaced", |s, now| {
                s.handle_event(now, Event::Replaced(PeerKey(1)))
            }),
            ("replaced", |s, now| s.handle_changes(now, None)),
            ("shutting-down", |s, now| {
                s.handle_event(now, Event::Shutdown)
            }),
            ("too-large", |s, now| s.handle_oversized(now)),
            ("not-text", |s, now| s.handle_binary(now)),
            ("slow-consumer", |s, now| s.handle_slow_consumer(now)),
            ("timeout", |s, now| s.handle_timeout(now + ACTIVITY_TIMEOUT)),
            ("rate-limited", |s, now| {
                (0..=FRAMES_BURST).for_each(|_| s.handle_text(now, r#"{"event":"sing"}"#));
            }),
            ("rate-limited", |s, now| {
                (0..=FRAMES_BURST).for_each(|_| s.handle_activity(now));
            }),
        ];
        for (code, input) in inputs {
            let mut session = in_room(now);
            input(&mut session, now);
            note(seen, code, &mut session);
        }
        let mut session = in_room(now);
        for n in 0..=ERRORS_BURST {
            session.handle_text(now + FRAME_INTERVAL * n / 4, "{");
        }
        note(seen, "too-many-errors", &mut session);
    }

    #[test]
    fn closing_tells_why_leaves_and_then_says_nothing_more() {
        let now = Instant::now();
        let mut session = in_room(now);
        session.handle_event(now, Event::Replaced(PeerKey(1)));
        let outputs = drain(&mut session);
        assert!(
            matches!(
                &outputs[..],
                [
                    Output::Send(_),
                    Output::Shard(Command::RemovePeer { peer: PeerKey(1) }),
                    Output::Leave,
                    Output::Close(CloseReason::Replaced)
                ]
            ),
            "{outputs:?}"
        );
        session.handle_text(now, JOIN);
        session.handle_event(now, Event::Shutdown);
        session.handle_closed(now);
        session.handle_timeout(now + JOIN_TIMEOUT);
        assert!(drain(&mut session).is_empty() && session.poll_timeout().is_none());
        assert_eq!(
            (CloseReason::Replaced.code(), CloseReason::Replaced.reason()),
            (4001, "replaced")
        );
    }

    #[test]
    fn a_socket_that_goes_while_joining_gives_its_place_back() {
        let now = Instant::now();
        let mut session = Session::new(now, config(), StdRng::seed_from_u64(1));
        session.handle_text(now, JOIN);
        session.handle_closed(now);
        drain(&mut session);
        session.handle_joined(now, Ok(joined(1)));
        assert!(matches!(drain(&mut session)[..], [Output::Leave]));
    }

    #[test]
    fn pings_and_deadlines() {
        let t0 = Instant::now();
        let second = Duration::from_secs(1);
        let mut session = Session::new(t0, config(), StdRng::seed_from_u64(1));
        assert_eq!(session.poll_timeout(), Some(t0 + 15 * second));
        session.handle_timeout(t0 + 15 * second);
        assert!(matches!(drain(&mut session)[..], [Output::Ping]));
        // A pong keeps it alive, but not without a room for ever.
        for n in 1..4 {
            session.handle_activity(t0 + n * 15 * second);
            session.handle_timeout(t0 + n * 15 * second);
        }
        drain(&mut session);
        session.handle_activity(t0 + 59 * second);
        assert_eq!(session.poll_timeout(), Some(t0 + 60 * second));
        session.handle_timeout(t0 + 60 * second);
        assert_eq!(errors(&drain(&mut session)), ["timeout"]);

        let mut session = in_room(t0);
        session.handle_timeout(t0 + 29 * second);
        assert!(errors(&drain(&mut session)).is_empty());
        session.handle_timeout(t0 + 30 * second);
        assert_eq!(errors(&drain(&mut session)), ["timeout"]);
    }

    #[test]
    fn unknown_events_never_disconnect_at_a_bearable_rate() {
        let t0 = Instant::now();
        let mut session = in_room(t0);
        for n in 0..1_000 {
            session.handle_text(t0 + FRAME_INTERVAL * n, r#"{"event":"sing"}"#);
        }
        let outputs = drain(&mut session);
        assert_eq!(errors(&outputs).len(), 1_000);
        assert!(!outputs.iter().any(|o| matches!(o, Output::Close(_))));
    }

    #[test]
    fn changes_are_asked_for_once_at_a_time() {
        let now = Instant::now();
        let mut session = in_room(now);
        let pulls = |session: &mut Session| {
            let outputs = drain(session);
            outputs
                .iter()
                .filter(|o| matches!(o, Output::PullChanges(_)))
                .count()
        };
        session.handle_event(now, Event::RoomChanged);
        session.handle_event(now, Event::RoomChanged);
        session.handle_event(now, Event::RoomChanged);
        assert_eq!(pulls(&mut session), 1);
        session.handle_changes(now, Some(Changes::Log(Revision(2), Vec::new())));
        assert_eq!(pulls(&mut session), 1, "asked again");
        session.handle_changes(now, Some(Changes::Log(Revision(3), Vec::new())));
        assert_eq!(pulls(&mut session), 0);
    }

    #[test]
    fn speakers_are_told_by_the_ids_that_the_client_knows() {
        let now = Instant::now();
        let mut session = in_room(now);
        let told = |session: &mut Session, stay, keys: &[u64]| {
            let speaker = |key: &u64| Speaker {
                peer: PeerKey(*key),
                level: 40,
            };
            let speakers = ActiveSpeakers {
                dominant: keys.first().map(|key| PeerKey(*key)),
                speakers: keys.iter().map(speaker).collect(),
            };
            session.handle_event(now, Event::Speakers(PeerKey(stay), Arc::new(speakers)));
            let outputs = drain(session);
            let mut frames = outputs.iter().map(|output| match output {
                Output::Send(text) => serde_json::from_str::<Value>(text).unwrap(),
                other => panic!("{other:?}"),
            });
            frames.next().map(|frame| {
                assert_eq!(frame["event"], "active-speakers");
                frame["data"].clone()
            })
        };
        assert_eq!(told(&mut session, 9, &[1]), None, "of a former stay");
        let own = json!({"dominant": "a", "speakers": [{"peer_id": "a", "level": 40}]});
        assert_eq!(
            told(&mut session, 1, &[1, 2]),
            Some(own),
            "2 is not known yet"
        );
        let info = PeerInfo {
            id: PeerId::new("b").unwrap(),
            name: None,
            metadata: None,
        };
        let joined = Change::PeerJoined(PeerKey(2), Arc::new(info));
        session.handle_event(now, Event::RoomChanged);
        session.handle_changes(now, Some(Changes::Log(Revision(2), vec![joined])));
        drain(&mut session);
        let both = json!({"dominant": "b", "speakers": [
            {"peer_id": "b", "level": 40},
            {"peer_id": "a", "level": 40},
        ]});
        assert_eq!(told(&mut session, 1, &[2, 1]), Some(both));
        let none = json!({"dominant": null, "speakers": []});
        assert_eq!(told(&mut session, 1, &[]), Some(none));
    }

    #[test]
    fn large_frames_count_for_more_but_asked_for_answers_for_nothing() {
        let now = Instant::now();
        let mut session = in_room(now);
        let padding = "x".repeat(200 * 1024);
        let text = format!(r#"{{"event":"sing","data":"{padding}"}}"#);
        for _ in 0..5 {
            session.handle_text(now, &text);
        }
        assert!(errors(&drain(&mut session)).contains(&"rate-limited".to_owned()));
        // 120 others publish at once, one after the other: 120 offers, 120 answers.
        let mut room = Room::new();
        let a = room.publisher("a");
        for n in 0..120 {
            let other = room.publisher(&format!("p{n}"));
            room.drop_socket(other);
        }
        assert!(room.members[a].count("offer") > 200);
        assert_eq!(room.members[a].closed, None);
    }

    #[derive(Debug, Clone)]
    enum Op {
        Text(String),
        Binary,
        Joined(bool),
        Changes(u8),
        Event(Event),
        Pass(u16),
        AnswerLast,
        Closed,
        Oversized,
    }

    fn op() -> impl Strategy<Value = Op> {
        let failure = |f| Event::Transport(PeerKey(1), TransportEvent::Failed(f));
        let profile = SrtpProfile::AeadAes128Gcm;
        prop_oneof![
            8 => prop::sample::select(frames()).prop_map(Op::Text),
            1 => "\\PC{0,60}".prop_map(Op::Text),
            1 => Just(Op::Binary),
            6 => any::<bool>().prop_map(Op::Joined),
            4 => (0u8..5).prop_map(Op::Changes),
            6 => prop::sample::select(vec![
                Event::RoomChanged,
                Event::Replaced(PeerKey(1)),
                Event::Layer(PeerKey(1), change(PeerKey(2), LayerReason::Best)),
                Event::Shutdown,
                Event::Transport(PeerKey(1), TransportEvent::Connected { profile }),
                Event::Transport(PeerKey(1), TransportEvent::ConsentLost),
                Event::Transport(PeerKey(1), TransportEvent::ConsentRegained),
                Event::Speakers(PeerKey(1), Arc::default()),
                failure(TransportFailure::DtlsClosed),
                failure(TransportFailure::DtlsHandshake),
            ]).prop_map(Op::Event),
            4 => (0u16..40_000).prop_map(Op::Pass),
            4 => Just(Op::AnswerLast),
            1 => Just(Op::Closed),
            1 => Just(Op::Oversized),
        ]
    }

    fn frames() -> Vec<String> {
        let offer =
            |sdp: &str| json!({"event": "offer", "data": {"offer": {"sdp": sdp}}}).to_string();
        let receiving = include_str!("../../fuzz/seeds/sdp/chromium-recvonly.sdp");
        vec![
            JOIN.to_owned(),
            JOIN.replace("\"a\"", "\"a\",\"offerer\":\"server\""),
            r#"{"event":"leaveRoom"}"#.to_owned(),
            r#"{"event":"ice-candidate","data":{"candidate":null}}"#.to_owned(),
            offer(CHROMIUM),
            offer(receiving),
            offer(&CHROMIUM.replace("m=video 9", "m=video 0")),
            offer(&CHROMIUM.replace("a=sendrecv", "a=inactive")),
            offer(&CHROMIUM.replace("OIkc", "OIkd")),
            offer(CHROMIUM).replace("offer", "answer"),
            subscribe("p2", json!({"width": 320, "priority": 70})),
        ]
    }

    fn subscribe(peer: &str, mut entry: Value) -> String {
        entry["peer_id"] = json!(peer);
        entry["track_id"] = json!("video");
        json!({"event": "subscribe", "data": {"subscriptions": [entry]}}).to_string()
    }

    fn change(peer: PeerKey, reason: LayerReason) -> LayerChange {
        LayerChange {
            subscription: SubscriptionKey(1),
            track: TrackKey { peer, index: 1 },
            layer: None,
            rid: None,
            reason,
            available: Some(Bitrate(180_000)),
            bitrate: Bitrate(0),
            next: Some(Bitrate(500_000)),
            size: None,
        }
    }

    fn preferences(outputs: &[Output]) -> Vec<Preferences> {
        let commands = outputs.iter().filter_map(|output| match output {
            Output::Shard(Command::Prefer { preferences, .. }) => Some(preferences.clone()),
            _ => None,
        });
        commands.collect()
    }

    /// The reasons of the layer changes that are told.
    fn told(outputs: &[Output]) -> Vec<String> {
        let frames = outputs.iter().filter_map(|output| match output {
            Output::Send(text) => Some(serde_json::from_str::<Value>(text).unwrap()),
            _ => None,
        });
        frames
            .filter(|frame| frame["event"] == "layer-changed")
            .map(|frame| frame["data"]["reason"].as_str().unwrap().to_owned())
            .collect()
    }

    #[test]
    fn wishes_reach_the_shard_when_their_track_is_there() {
        let now = Instant::now();
        let mut session = in_room(now);
        session.handle_text(now, &subscribe("p3", json!({"paused": true})));
        let sent = preferences(&drain(&mut session));
        assert_eq!(sent, [Preferences::default()], "the track is not there");
        // Others publish: the wish holds, and stays over what happens later.
        for peers in [1, 2, 3] {
            session.handle_changes(now, Some(Changes::Snapshot(roster(peers))));
            let sent = preferences(&drain(&mut session));
            assert_eq!(sent.len(), usize::from(peers == 2), "{peers}");
            for preferences in sent {
                let [(track, preference)] = preferences.tracks[..] else {
                    panic!("{preferences:?}");
                };
                assert_eq!((track.peer, track.index), (PeerKey(3), 1));
                assert!(preference.is_paused);
            }
        }
        session.handle_text(now, r#"{"event":"subscribe","data":{"last_n":2}}"#);
        let sent = preferences(&drain(&mut session));
        assert_eq!((sent[0].tracks.len(), sent[0].last_n), (1, Some(2)));
        session.handle_text(now, &subscribe("p3", json!({"priority": 101})));
        let outputs = drain(&mut session);
        assert_eq!(errors(&outputs), ["bad-data"]);
        assert!(preferences(&outputs).is_empty());
    }

    #[test]
    fn of_layers_the_client_is_told_the_latest_and_not_too_often() {
        let t0 = Instant::now();
        let mut session = in_room(t0);
        session.handle_changes(t0, Some(Changes::Snapshot(roster(1))));
        drain(&mut session);
        let layer = |peer, reason| Event::Layer(PeerKey(peer), change(PeerKey(2), reason));
        session.handle_event(t0, layer(1, LayerReason::Best));
        assert_eq!(told(&drain(&mut session)), ["best"]);
        for _ in 0..1_000 {
            session.handle_event(t0, layer(1, LayerReason::Best));
            session.handle_event(t0, layer(1, LayerReason::Bandwidth));
        }
        session.handle_event(t0, layer(7, LayerReason::Cpu));
        assert!(told(&drain(&mut session)).is_empty());
        let due = session.poll_timeout().unwrap();
        assert!(due <= t0 + Duration::from_millis(250));
        session.handle_timeout(due);
        assert_eq!(told(&drain(&mut session)), ["bandwidth"]);
        // What ended, or was never there, is not told.
        session.handle_event(due, layer(1, LayerReason::Paused));
        session.handle_changes(due, Some(Changes::Snapshot(roster(0))));
        let unknown = change(PeerKey(5), LayerReason::Best);
        session.handle_event(due, Event::Layer(PeerKey(1), unknown));
        session.handle_timeout(due + Duration::from_secs(1));
        assert!(told(&drain(&mut session)).is_empty());
    }

    #[test]
    fn a_publisher_is_told_which_encodings_are_wanted() {
        let mut room = Room::new();
        let a = room.publisher("a");
        let member = &room.members[a];
        let key = member.published.iter().find(|t| t.kind == MediaKind::Video);
        let (key, peer) = (key.unwrap().key, member.key.unwrap());
        let wanted = LayersWanted {
            track: key,
            encodings: vec![EncodingWanted {
                index: EncodingIndex(0),
                rid: None,
                is_wanted: false,
            }],
        };
        room.event(a, Event::LayersWanted(peer, wanted));
        let frame = room.members[a].frames.last().unwrap();
        assert_eq!(frame["event"], "layers-wanted");
        assert_eq!(frame["data"]["track_id"], "a-video");
        assert_eq!(frame["data"]["encodings"][0]["wanted"], false);
    }

    fn roster(n: u8) -> Roster {
        use crate::base::ids::{PeerId, TrackId};
        use crate::control::PeerInfo;
        let mut roster = Roster {
            revision: Revision(u64::from(n)),
            ..Roster::default()
        };
        for peer in 2..2 + u64::from(n) {
            let id = PeerId::new(&format!("p{peer}")).unwrap();
            let info = PeerInfo {
                id: id.clone(),
                name: None,
                metadata: None,
            };
            roster.peers.push((PeerKey(peer), Arc::new(info)));
            for (index, kind) in [(0, MediaKind::Audio), (1, MediaKind::Video)] {
                let track = TrackInfo {
                    key: TrackKey {
                        peer: PeerKey(peer),
                        index,
                    },
                    peer: id.clone(),
                    id: TrackId::new(kind.as_str()).unwrap(),
                    kind,
                    shard: ShardId(0),
                };
                roster.tracks.push(Arc::new(track));
            }
        }
        roster
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]

        /// Any inputs in any order: no panic, nothing after Close, no SSRC for two subscriptions.
        #[test]
        fn any_sequence_of_inputs_is_survived(ops in prop::collection::vec(op(), 1..60)) {
            let mut now = Instant::now();
            let mut session = Session::new(now, config(), StdRng::seed_from_u64(3));
            let (mut closed, mut last_offer) = (false, None::<String>);
            let mut client = Client::new(CHROMIUM);
            let mut ssrcs = std::collections::HashMap::new();
            for op in ops {
                match op {
                    Op::Text(text) => session.handle_text(now, &text),
                    Op::Binary => session.handle_binary(now),
                    Op::Joined(true) => {
                        let mut joined = joined(1);
                        joined.roster = roster(2);
                        session.handle_joined(now, Ok(joined));
                    }
                    Op::Joined(false) => session.handle_joined(now, Err(JoinRefused::RoomFull)),
                    Op::Changes(n) => {
                        session.handle_changes(now, Some(Changes::Snapshot(roster(n))));
                    }
                    Op::Event(event) => session.handle_event(now, event),
                    Op::Pass(ms) => {
                        now += Duration::from_millis(u64::from(ms));
                        session.handle_timeout(now);
                    }
                    Op::AnswerLast => if let Some(sdp) = last_offer.take() {
                        client.sections.clear();
                        let sdp = client.answer(&sdp);
                        let frame = json!({"event": "answer", "data": {"answer": {"sdp": sdp}}});
                        session.handle_text(now, &frame.to_string());
                    },
                    Op::Closed => session.handle_closed(now),
                    Op::Oversized => session.handle_oversized(now),
                }
                for output in drain(&mut session) {
                    // Only a join that was answered too late has anything to say after the end.
                    prop_assert!(!closed || matches!(output, Output::Leave), "{output:?}");
                    match output {
                        Output::Close(_) => closed = true,
                        Output::Send(text) => {
                            let frame: Value = serde_json::from_str(&text).unwrap();
                            if frame["event"] == "offer" {
                                let held = frame["data"].as_str().unwrap();
                                let held: Value = serde_json::from_str(held).unwrap();
                                last_offer = held["sdp"].as_str().map(str::to_owned);
                            }
                        }
                        Output::Shard(Command::AddPeer { .. }) => {
                            ssrcs.clear();
                            client = Client::new(CHROMIUM);
                        }
                        Output::Shard(Command::Configure { subscriptions, .. }) => {
                            for subscription in subscriptions {
                                for ssrc in [Some(subscription.ssrc), subscription.rtx_ssrc] {
                                    let Some(ssrc) = ssrc else { continue };
                                    let first = *ssrcs.entry(ssrc).or_insert(subscription.key);
                                    prop_assert_eq!(first, subscription.key);
                                }
                            }
                        }
                        _ => {}
                    }
                }
                prop_assert_eq!(
                    session.poll_timeout().is_none(),
                    matches!(session.state, State::Closed)
                );
            }
        }
    }
}
