//! One peer's transport: ICE-lite, DTLS and SRTP; datagrams on one side, plain RTP and RTCP on the
//! other.
//!
//! Before a valid check has come from an address, nothing but STUN from it is looked at. Before DTLS
//! has ended with the certificate that the peer's description names, no media is taken or sent.
//! Knows nothing of tracks, rooms or other peers, and leaves it to its owner to tell peers apart.

pub(crate) mod association;
pub(crate) mod cipher;
pub(crate) mod client_hello;
pub(crate) mod dtls;
pub mod ice;
pub mod identity;
pub mod keys;
pub mod outbox;
pub(crate) mod record;
pub(crate) mod replay;
pub mod srtp;

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use bytes::BytesMut;

use crate::base::time::earliest;
use crate::control::{DtlsRole, Fingerprint, IceCredentials, TransportEvent};
use crate::transport::dtls::{Dtls, DtlsEvent};
use crate::transport::ice::IceLite;
use crate::transport::outbox::Outbox;
use crate::transport::srtp::Opener;
use crate::wire::rtp::RtpHeader;
use crate::wire::stun::BindingRequest;

pub use crate::transport::association::DtlsDrop;
pub use crate::transport::ice::{StunOutcome, StunRefusal};
pub use crate::transport::identity::{DtlsIdentity, TransportError};
pub use crate::transport::srtp::{OpenError, RtpSealer, Sealer};

/// The transport of one peer.
pub struct Transport {
    ice: IceLite,
    dtls: Dtls,
    /// Exists while DTLS is up and the peer's certificate is the right one.
    srtp: Option<Srtp>,
    /// At most [`EVENTS_MAX`].
    events: VecDeque<TransportEvent>,
}

struct Srtp {
    opener: Opener,
    sealer: Sealer,
}

impl Transport {
    /// A transport that waits for checks with these credentials. Its clocks start with the first
    /// one: that a peer never sends one, its session notices.
    #[must_use]
    pub fn new(_now: Instant, identity: Arc<DtlsIdentity>, ice: IceCredentials) -> Self {
        Self {
            ice: IceLite::new(ice),
            dtls: Dtls::new(identity),
            srtp: None,
            events: VecDeque::new(),
        }
    }

    /// Takes new credentials for an ICE restart (RFC 8445 §9). The former ones are valid until a
    /// check with the new ones has come; new ones that were replaced before that are forgotten, so
    /// compare [`Transport::ufrags`] before and after. Media goes on meanwhile.
    pub fn restart_ice(&mut self, ice: IceCredentials) {
        self.ice.restart(ice);
    }

    /// The user fragments that checks may carry: the current one, and the former one while it is
    /// valid.
    pub fn ufrags(&self) -> impl Iterator<Item = &Arc<str>> {
        self.ice.ufrags()
    }

    /// Takes what the peer's description says of its DTLS side. A handshake that has ended before is
    /// judged now. `role` is the server's part. Fingerprints that no longer match a running
    /// association end it.
    pub fn set_remote_dtls(
        &mut self,
        now: Instant,
        fingerprints: Vec<Fingerprint>,
        role: DtlsRole,
        out: &mut Outbox,
    ) {
        self.dtls.set_remote(now, fingerprints, role);
        self.settle(now, out);
    }

    /// Answers a check, and learns from it where the peer is.
    pub fn handle_stun(
        &mut self,
        now: Instant,
        from: SocketAddr,
        request: &BindingRequest,
        out: &mut Outbox,
    ) -> StunOutcome {
        let outcome = self.ice.handle_check(now, from, request, out);
        self.settle(now, out);
        outcome
    }

    /// Whether a valid check has come from this address: before that, only STUN from it is looked
    /// at.
    #[must_use]
    pub fn is_validated(&self, from: SocketAddr) -> bool {
        self.ice.is_validated(from)
    }

    /// Takes a datagram of DTLS records.
    ///
    /// # Errors
    /// [`DtlsDrop`] says why it was dropped. That the association failed is not an error but an
    /// event.
    pub fn handle_dtls(
        &mut self,
        now: Instant,
        from: SocketAddr,
        datagram: &[u8],
        out: &mut Outbox,
    ) -> Result<(), DtlsDrop> {
        if !self.ice.is_validated(from) {
            return Err(DtlsDrop::NotValidated);
        }
        let result = self.dtls.handle_datagram(now, datagram);
        self.settle(now, out);
        result
    }

    /// Opens an RTP packet in place: `packet` is then header and plaintext payload. Whether it came
    /// from a validated address, its caller knows.
    ///
    /// # Errors
    /// [`OpenError`] says why not; the packet's bytes are then worthless.
    pub fn open_rtp(&mut self, packet: &mut BytesMut) -> Result<RtpHeader, OpenError> {
        let srtp = self.srtp.as_mut().ok_or(OpenError::NotReady)?;
        srtp.opener.open_rtp(packet)
    }

    /// Opens an RTCP compound packet in place.
    ///
    /// # Errors
    /// [`OpenError`] says why not; the packet's bytes are then worthless.
    pub fn open_rtcp(&mut self, packet: &mut BytesMut) -> Result<(), OpenError> {
        let srtp = self.srtp.as_mut().ok_or(OpenError::NotReady)?;
        srtp.opener.open_rtcp(packet)
    }

    /// Where media goes: the nominated address, or before any nomination the first validated one.
    /// `None` before DTLS is up with the right certificate, after it has failed, and while the peer
    /// does not consent.
    #[must_use]
    pub fn remote(&self) -> Option<SocketAddr> {
        self.srtp.as_ref()?;
        self.ice.path()
    }

    /// What seals media, and where it goes; `None` as for [`Transport::remote`].
    pub fn sealer(&mut self) -> Option<(SocketAddr, &mut Sealer)> {
        let path = self.ice.path()?;
        Some((path, &mut self.srtp.as_mut()?.sealer))
    }

    /// Where RTP goes and what seals it; `None` as for [`Transport::remote`].
    #[must_use]
    pub fn rtp_path(&self) -> Option<(SocketAddr, &RtpSealer)> {
        Some((self.ice.path()?, self.srtp.as_ref()?.sealer.rtp()))
    }

    /// Seals an RTCP compound packet and sends it; false where that is not possible now.
    pub fn seal_rtcp(&mut self, compound: &[u8], out: &mut Outbox) -> bool {
        match self.sealer() {
            Some((to, sealer)) => out.push_with(to, |arena| sealer.seal_rtcp(compound, arena)),
            None => false,
        }
    }

    /// The oldest event that was not polled yet.
    pub fn poll_event(&mut self) -> Option<TransportEvent> {
        self.events.pop_front()
    }

    /// When [`Transport::handle_timeout`] is due next.
    #[must_use]
    pub fn poll_timeout(&self) -> Option<Instant> {
        earliest(self.ice.poll_timeout(), self.dtls.poll_timeout())
    }

    /// Does what is due at `now`.
    pub fn handle_timeout(&mut self, now: Instant, out: &mut Outbox) {
        self.ice.handle_timeout(now);
        self.dtls.handle_timeout(now);
        self.settle(now, out);
    }

    /// Closes DTLS, with a close_notify if it is up, and forgets the keys. There is no event: whoever
    /// closes knows.
    pub fn close(&mut self, now: Instant, out: &mut Outbox) {
        self.dtls.close(now);
        self.srtp = None;
        self.settle(now, out);
    }

    /// Carries out what an input has brought about.
    fn settle(&mut self, now: Instant, out: &mut Outbox) {
        if self.ice.path().is_some() {
            self.dtls.on_path(now);
        }
        while let Some(datagram) = self.dtls.poll_transmit() {
            // Without a path it is lost, as any datagram may be.
            if let Some(to) = self.ice.path() {
                out.push(to, &datagram);
            }
        }
        while let Some(event) = self.dtls.poll_event() {
            let event = match event {
                DtlsEvent::Connected(keys) => {
                    self.srtp = Some(Srtp {
                        opener: Opener::new(keys.profile, &keys.remote),
                        sealer: Sealer::new(keys.profile, &keys.local),
                    });
                    TransportEvent::Connected {
                        profile: keys.profile,
                    }
                }
                DtlsEvent::Failed(failure) => {
                    self.srtp = None;
                    TransportEvent::Failed(failure)
                }
            };
            self.push_event(event);
        }
        if let Some(event) = self.ice.take_event() {
            self.push_event(event);
        }
    }

    fn push_event(&mut self, event: TransportEvent) {
        // Only an owner that does not poll gets here; the latest state is what counts then.
        if self.events.len() >= EVENTS_MAX {
            self.events.pop_front();
        }
        self.events.push_back(event);
    }
}

/// Far more than one input brings about.
const EVENTS_MAX: usize = 16;

#[cfg(test)]
mod tests;
