//! Offer/answer with one peer (RFC 3264, RFC 8829): from what the client describes and what the room
//! has to the tracks and subscriptions that a shard carries. One peer, one transport, one bundle.
//!
//! # Who offers
//!
//! Either side, at any time. The server is the *impolite* peer of "perfect negotiation": while its
//! offer waits for an answer, a client's offer is ignored at no cost; browsers roll theirs back,
//! answer, and offer again. The server has at most one offer outstanding and folds further changes
//! into the next. An answer that cannot be used leaves the offer outstanding, so that a client that
//! errs does not draw offer after offer.
//!
//! A client that never answers (it failed inside, for signaling loses nothing) is not offered anything
//! more. Once [`ANSWER_TIMEOUT`] is over, its next *offer* counts as a rollback of the server's: what was
//! planned in it waits again, under new SSRCs, and the late answer, should it come, is refused.
//!
//! The first offer is the client's, unless it said that the server offers or [`FIRST_OFFER_TIMEOUT`] has
//! passed. After a first exchange the server's own offers wait for DTLS: GStreamer fails when a second
//! description comes earlier, and no media can flow before anyway. What happened until then comes in
//! *one* offer: Chromium leaves a video muted when its audio came in an earlier one.
//!
//! # Transport
//!
//! ICE-lite, `rtcp-mux`, DTLS passive unless the client insists on it; the role and the certificates of
//! the first exchange stay, since a change would need a new connection. An ICE restart comes with new
//! credentials of the offering side.

pub mod answer;
pub mod codecs;
pub mod encodings;
pub mod ice;
pub mod offer;
pub mod remote;
pub mod sections;
pub mod tracks;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rand::RngExt;
use rand::rngs::StdRng;

use crate::base::growth::pop;
use crate::base::ids::{PeerId, PeerKey, ShardId, TrackKey};
use crate::control::{Command, DtlsRole, Fingerprint, IceCredentials, TrackInfo};
use crate::signaling::message::{ErrorCode, Refusal};
use crate::signaling::negotiation::remote::Remote;
use crate::signaling::negotiation::sections::{Sections, Slot, TRACKS_MAX};
use crate::signaling::negotiation::tracks::RoomTracks;
use crate::wire::sdp::{self, Description, FingerprintLine, IceLines, Setup};

/// How long a client that may publish has to make the first offer.
pub const FIRST_OFFER_TIMEOUT: Duration = Duration::from_secs(1);
/// How long an offer of the server keeps a client's offers out.
pub const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);

/// What follows from an input, in the order in which it is to be done.
#[derive(Debug)]
pub enum Action {
    /// For the shard.
    Command(Command),
    /// Every track the peer publishes now.
    SetTracks(Vec<Arc<TrackInfo>>),
    /// An offer for the client.
    Offer(String),
    /// An answer for the client.
    Answer(String),
    /// A candidate of the description before it.
    Candidate {
        /// `candidate:…`
        line: String,
        /// The first section in use.
        mid: String,
        /// Its index.
        index: usize,
        /// Whose candidate it is.
        ufrag: String,
    },
    /// Something of a description was not taken, though the rest was.
    Refused(Refusal),
}

/// The negotiation of one stay in a room.
#[derive(Debug)]
pub struct Negotiation {
    peer: PeerKey,
    shard: ShardId,
    peer_id: PeerId,
    may_publish: bool,
    rng: StdRng,
    fingerprint: FingerprintLine,
    addresses: Arc<[SocketAddr]>,
    session_id: u64,
    session_version: u64,
    local: IceCredentials,
    /// Whether the client has been told the candidates of `local`.
    trickled: bool,
    remote: Option<(Remote, DtlsRole)>,
    connected: bool,
    restart: Restart,
    opening: Opening,
    exchange: Exchange,
    sections: Sections,
    tracks: RoomTracks,
    published: Vec<Arc<TrackInfo>>,
    actions: VecDeque<Action>,
}

/// Who may make the first offer.
#[derive(Debug, Clone, Copy)]
enum Opening {
    /// The client, and the server from then on.
    Client { until: Instant },
    /// The server.
    Server,
    /// It has been made.
    Done,
}

/// Whether an offer is outstanding.
#[derive(Debug)]
enum Exchange {
    Stable,
    Offered {
        at: Instant,
        /// To go back to, should the offer be rolled back.
        before: Vec<Slot>,
        /// The former credentials, if the offer restarts ICE.
        restarts: Option<IceCredentials>,
    },
}

/// An ICE restart that the server wants.
#[derive(Debug)]
enum Restart {
    None,
    Wanted,
    /// Wanted, with credentials that the shard has already, from an offer that was rolled back.
    Prepared(IceCredentials),
}

/// What a negotiation is made of.
#[derive(Debug)]
pub struct NegotiationConfig<'a> {
    /// The peer's key.
    pub peer: PeerKey,
    /// The peer's id.
    pub peer_id: PeerId,
    /// The peer's shard, which subscribers and its ufrags are to name.
    pub shard: ShardId,
    /// False for a client that only watches: the server offers first and does not offer to receive.
    pub may_publish: bool,
    /// Of the server's certificate.
    pub fingerprint: &'a Fingerprint,
    /// Where the peer's shard can be reached.
    pub addresses: Arc<[SocketAddr]>,
    /// Makes credentials and SSRCs.
    pub rng: StdRng,
}

impl Negotiation {
    /// Starts with nothing described; `tracks` is what the room has.
    #[must_use]
    pub fn new(now: Instant, config: NegotiationConfig<'_>, tracks: &[Arc<TrackInfo>]) -> Self {
        let mut rng = config.rng;
        let mut this = Self {
            peer: config.peer,
            shard: config.shard,
            peer_id: config.peer_id,
            may_publish: config.may_publish,
            fingerprint: remote::fingerprint_line(config.fingerprint),
            addresses: config.addresses,
            // RFC 8829 §5.2.1: 63 random bits.
            session_id: rng.random::<u64>() >> 1,
            session_version: 0,
            local: ice::credentials(config.shard, &mut rng),
            trickled: false,
            remote: None,
            connected: false,
            restart: Restart::None,
            opening: if config.may_publish {
                Opening::Client {
                    until: now + FIRST_OFFER_TIMEOUT,
                }
            } else {
                Opening::Server
            },
            exchange: Exchange::Stable,
            sections: Sections::new(config.peer, rng.random()),
            tracks: RoomTracks::default(),
            published: Vec::new(),
            actions: VecDeque::new(),
            rng,
        };
        this.add_tracks(tracks);
        this
    }

    /// Whether both sides know enough for ICE and DTLS to begin, and something to carry.
    #[must_use]
    pub fn has_transport(&self) -> bool {
        self.remote.is_some() && self.sections.live().next().is_some()
    }

    /// The credentials the peer's transport starts with.
    #[must_use]
    pub fn local_ice(&self) -> &IceCredentials {
        &self.local
    }

    /// The next thing to do; drained after every input.
    pub fn poll_action(&mut self) -> Option<Action> {
        pop(&mut self.actions)
    }

    /// When [`Negotiation::handle_timeout`] is due.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        match self.opening {
            Opening::Client { until } if offer::is_needed(&self.sections, &self.tracks) => {
                Some(until)
            }
            _ => None,
        }
    }

    /// Time has passed, or tracks were added or removed: offers if that is due.
    pub fn handle_timeout(&mut self, now: Instant) {
        self.offer_if_due(now);
    }

    /// Tracks were published by others. [`Negotiation::handle_timeout`] offers them.
    pub fn add_tracks(&mut self, tracks: &[Arc<TrackInfo>]) {
        for track in tracks {
            self.tracks.add(Arc::clone(track));
        }
    }

    /// Tracks of others ended. [`Negotiation::handle_timeout`] makes that known.
    pub fn remove_tracks(&mut self, tracks: &[TrackKey]) {
        for track in tracks {
            self.tracks.remove(*track);
        }
    }

    /// DTLS is up.
    pub fn handle_connected(&mut self, now: Instant) {
        self.connected = true;
        self.offer_if_due(now);
    }

    /// The client has not been heard for a while: the server restarts ICE, once.
    pub fn handle_consent_lost(&mut self, now: Instant) {
        if self.remote.is_some() && matches!(self.restart, Restart::None) {
            self.restart = Restart::Wanted;
        }
        self.offer_if_due(now);
    }

    /// The client is heard again: a restart that was not offered yet is not needed.
    pub fn handle_consent_regained(&mut self) {
        if matches!(self.restart, Restart::Wanted) {
            self.restart = Restart::None;
        }
    }

    /// The client offers.
    ///
    /// # Errors
    /// A refusal if the offer cannot be used; nothing has changed then.
    pub fn handle_offer(&mut self, now: Instant, sdp: &str) -> Result<(), Refusal> {
        if let Exchange::Offered { at, .. } = self.exchange {
            if now.saturating_duration_since(at) < ANSWER_TIMEOUT {
                return Ok(());
            }
            self.roll_back();
        }
        let description = parse(sdp)?;
        let remote = self.check_remote(&description)?;
        let too_many = answer::take_offer(&mut self.sections, &mut self.tracks, &description)?;
        self.opening = Opening::Done;
        self.take_remote(remote, true);
        self.configure();
        let answer = self.describe(
            Kind::Answer,
            answer::describe(&self.sections),
            description.bundle.is_some(),
        );
        self.actions.push_back(Action::Answer(answer));
        self.trickle();
        self.report(too_many);
        self.offer_if_due(now);
        Ok(())
    }

    /// The client answers.
    ///
    /// # Errors
    /// A refusal if no offer is outstanding or the answer does not fit it.
    pub fn handle_answer(&mut self, now: Instant, sdp: &str) -> Result<(), Refusal> {
        if matches!(self.exchange, Exchange::Stable) {
            return Err(Refusal::new(
                ErrorCode::UnexpectedAnswer,
                "no offer waits for an answer",
            ));
        }
        let description = parse(sdp)?;
        let remote = self.check_remote(&description)?;
        if remote.as_ref().is_some_and(|r| r.setup == Setup::ActPass) {
            return Err(Refusal::new(
                ErrorCode::BadDescription,
                "an answer must choose a=setup:active or passive",
            ));
        }
        let too_many = offer::take_answer(
            &mut self.sections,
            &mut self.tracks,
            &description,
            self.may_publish,
        )?;
        self.exchange = Exchange::Stable;
        self.take_remote(remote, false);
        self.configure();
        self.report(too_many);
        self.offer_if_due(now);
        Ok(())
    }

    fn offer_if_due(&mut self, now: Instant) {
        if !matches!(self.exchange, Exchange::Stable) {
            return;
        }
        let allowed = match self.opening {
            Opening::Client { until } => now >= until,
            Opening::Server => true,
            Opening::Done => self.connected || !self.has_transport(),
        };
        let restarts = !matches!(self.restart, Restart::None);
        if !allowed || !(restarts || offer::is_needed(&self.sections, &self.tracks)) {
            return;
        }
        let opening = std::mem::replace(&mut self.opening, Opening::Done);
        let before = self.sections.slots.clone();
        offer::plan(&mut self.sections, &self.tracks);
        if matches!(opening, Opening::Client { .. }) && self.may_publish {
            offer::invite(&mut self.sections);
        }
        let former = restarts.then(|| self.local.clone());
        self.restart_local_ice(false);
        self.exchange = Exchange::Offered {
            at: now,
            before,
            restarts: former,
        };
        let sections = offer::describe(&self.sections, self.may_publish);
        let offer = self.describe(Kind::Offer, sections, true);
        self.actions.push_back(Action::Offer(offer));
        self.trickle();
    }

    /// New local credentials where a restart is wanted (or `forced` by the client's).
    fn restart_local_ice(&mut self, forced: bool) {
        let (ice, is_new) = match std::mem::replace(&mut self.restart, Restart::None) {
            Restart::None if !forced => return,
            Restart::None | Restart::Wanted => (ice::credentials(self.shard, &mut self.rng), true),
            Restart::Prepared(ice) => (ice, false),
        };
        self.local = ice.clone();
        self.trickled = false;
        if is_new {
            let peer = self.peer;
            self.actions
                .push_back(Action::Command(Command::RestartIce { peer, ice }));
        }
    }

    /// Takes the outstanding offer back.
    fn roll_back(&mut self) {
        let Exchange::Offered {
            before, restarts, ..
        } = std::mem::replace(&mut self.exchange, Exchange::Stable)
        else {
            return;
        };
        self.sections.slots = before;
        if let Some(former) = restarts {
            // The shard takes both until a check with the new ones comes.
            self.restart = Restart::Prepared(std::mem::replace(&mut self.local, former));
        }
    }

    /// Reads the client's transport; its certificates must be those of the first description.
    fn check_remote(&self, description: &Description) -> Result<Option<Remote>, Refusal> {
        let remote = Remote::read(description)?;
        if let (Some((known, _)), Some(new)) = (&self.remote, &remote)
            && known.fingerprints != new.fingerprints
        {
            return Err(Refusal::new(
                ErrorCode::Unsupported,
                "the fingerprint changed: that needs a new connection (leave and join again)",
            ));
        }
        Ok(remote)
    }

    fn take_remote(&mut self, remote: Option<Remote>, is_offer: bool) {
        // Where every section is refused, nothing of the transport is agreed on.
        let Some(remote) = remote.filter(|_| self.sections.live().next().is_some()) else {
            return;
        };
        match &mut self.remote {
            None => {
                let role = remote.server_role();
                self.actions
                    .push_back(Action::Command(Command::SetRemoteDtls {
                        peer: self.peer,
                        fingerprints: remote.fingerprints.clone(),
                        role,
                    }));
                self.remote = Some((remote, role));
            }
            Some((known, _)) => {
                let restarts = is_offer && known.ice != remote.ice;
                known.ice = remote.ice;
                if restarts {
                    self.restart_local_ice(true);
                }
            }
        }
    }

    /// Tells shard and room what the exchange that was just completed amounts to.
    fn configure(&mut self) {
        self.actions.push_back(Action::Command(Command::Configure {
            peer: self.peer,
            tracks: self.sections.track_configs(),
            subscriptions: self.sections.subscription_configs(),
        }));
        let sections = &self.sections;
        let published = sections.track_infos(&self.peer_id, self.shard, &self.published);
        if published != self.published {
            self.published.clone_from(&published);
            self.actions.push_back(Action::SetTracks(published));
        }
    }

    fn report(&mut self, too_many: usize) {
        if too_many > 0 {
            self.actions.push_back(Action::Refused(Refusal::new(
                ErrorCode::Unsupported,
                format!("{too_many} tracks are not taken: a peer publishes at most {TRACKS_MAX}"),
            )));
        }
    }

    /// Completes sections with what they share and prints them.
    fn describe(&mut self, kind: Kind, mut sections: Vec<sdp::Section>, bundle: bool) -> String {
        let setup = match (kind, &self.remote) {
            (Kind::Offer, _) => Setup::ActPass,
            (Kind::Answer, Some((_, DtlsRole::Client))) => Setup::Active,
            (Kind::Answer, _) => Setup::Passive,
        };
        let mut bundled = Vec::new();
        for section in sections.iter_mut().filter(|section| !section.rejected) {
            bundled.push(section.mid);
            section.setup = Some(setup);
            section.fingerprints = vec![self.fingerprint.clone()];
            section.ice = Some(IceLines {
                ufrag: self.local.ufrag.to_string(),
                pwd: self.local.pwd.to_string(),
            });
        }
        self.session_version += 1;
        Description {
            session_id: self.session_id,
            session_version: self.session_version,
            ice_lite: true,
            bundle: bundle.then_some(bundled),
            sections,
        }
        .to_string()
    }

    /// The candidates, after the first description that carries their credentials.
    fn trickle(&mut self) {
        let first = self
            .sections
            .slots
            .iter()
            .enumerate()
            .find_map(|(index, slot)| slot.live().map(|section| (index, section.mid)));
        let Some((index, mid)) = first.filter(|_| !self.trickled) else {
            return;
        };
        self.trickled = true;
        for line in ice::candidate_lines(&self.addresses) {
            self.actions.push_back(Action::Candidate {
                line,
                mid: mid.to_string(),
                index,
                ufrag: self.local.ufrag.to_string(),
            });
        }
    }
}

/// Which description is being written.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Offer,
    Answer,
}

fn parse(sdp: &str) -> Result<Description, Refusal> {
    Description::parse(sdp)
        .map_err(|error| Refusal::new(ErrorCode::BadDescription, error.to_string()))
}
