//! A peer: one transport, what it publishes and what it receives.

use std::net::SocketAddr;
use std::time::{Duration, Instant};

use crate::base::ids::{PeerKey, Ssrc};
use crate::control::layers::Preferences;
use crate::room::allotment::Division;
use crate::room::path::Path;
use crate::room::rtcp_budget::RtcpBudget;
use crate::room::sending::Congestion;
use crate::room::slots::{SubscriptionSlot, TrackSlot};
use crate::room::source::{SourceIds, SourceTable};
use crate::room::uplink::Uplink;
use crate::transport::Transport;

/// One connection in a room.
pub struct Peer {
    /// What it is called.
    pub key: PeerKey,
    /// How it is reached.
    pub transport: Transport,
    /// This server's own SSRC towards it, for reports and requests.
    pub rtcp_ssrc: Ssrc,
    /// Which encoding each of its SSRCs belongs to.
    pub sources: SourceTable,
    /// The ids it uses for the header extensions that say what an SSRC carries.
    pub source_ids: SourceIds,
    /// What it publishes.
    pub tracks: Vec<TrackSlot>,
    /// What it receives, sorted by SSRC: feedback names that.
    pub subscriptions: Vec<(Ssrc, SubscriptionSlot)>,
    /// What it wants of that.
    pub preferences: Preferences,
    /// Where the tables of its subscriptions' tracks say it is; `None` while nothing can be sent to it.
    pub routed: Option<SocketAddr>,
    /// What may be sent to it.
    pub congestion: Congestion,
    /// What it is told of what arrives.
    pub uplink: Uplink,
    /// Packets of it came that belonged to no track (yet): its media can be faster than its answer.
    pub had_unknown: bool,
    /// When its bandwidth is divided among what it receives.
    pub division: Division,
    /// When it is next measured what its tracks offer; `None` while nothing comes.
    pub measure_at: Option<Instant>,
    /// How the way to it is.
    pub path: Path,
    /// How much work its RTCP makes.
    pub rtcp_budget: RtcpBudget,
    /// It gets the pictures of some publishers only, or did.
    pub has_last_n: bool,
    /// Which change of who spoke when its pictures follow.
    pub order_version: u32,
    /// When it is next told how it is received; `None` while nothing comes.
    pub report_at: Option<Instant>,
}

impl Peer {
    /// A peer that publishes and receives nothing yet.
    pub fn new(key: PeerKey, transport: Transport, rtcp_ssrc: Ssrc) -> Self {
        Self {
            key,
            transport,
            rtcp_ssrc,
            sources: SourceTable::default(),
            source_ids: SourceIds::default(),
            tracks: Vec::new(),
            subscriptions: Vec::new(),
            preferences: Preferences::default(),
            routed: None,
            congestion: Congestion::default(),
            uplink: Uplink::default(),
            had_unknown: false,
            path: Path::default(),
            rtcp_budget: RtcpBudget::default(),
            has_last_n: false,
            order_version: 0,
            report_at: None,
            division: Division::default(),
            measure_at: None,
        }
    }

    /// The subscription that is sent to it under `ssrc`.
    pub fn subscription(&self, ssrc: Ssrc) -> Option<SubscriptionSlot> {
        let at = self
            .subscriptions
            .binary_search_by_key(&ssrc, |(ssrc, _)| *ssrc)
            .ok()?;
        Some(self.subscriptions[at].1)
    }
}

/// How often a publisher is told how it is received: what libwebrtc does for video.
pub const REPORT_INTERVAL: Duration = Duration::from_secs(1);
