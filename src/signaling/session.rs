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
pub use crate::signaling::closing::CloseReason;
use crate::signaling::closing::{transport_error, transport_message};
use crate::signaling::message::{
    self, ErrorCode, FRAME_BYTES_MAX, Inbound, InboundEvent, Join, Refusal,
};
use crate::signaling::negotiation::{Action, Negotiation, NegotiationConfig};
use crate::signaling::notices::{Notice, Notices};
use crate::signaling::outbound::{IceServer, Outbound};
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

fn frame_cost(bytes: usize) -> u32 {
    1 + u32::try_from(bytes / FRAME_COST_BYTES).unwrap_or(u32::MAX - 1)
}

#[cfg(test)]
mod sequence_tests;
#[cfg(test)]
mod tests;
