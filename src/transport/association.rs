//! One DTLS association, as `rtc-dtls` runs it, with its bounds and its retransmissions.
//!
//! `rtc-dtls` stops its retransmission timer at every handshake message that comes, even at one that
//! only repeats what it has answered already; a lost flight of ours, whose absence makes the peer
//! repeat its own, would then never be sent again. So repetitions are kept from it and answered here
//! (RFC 6347 §4.2.4), and the timer is kept here too. Knows neither addresses nor who the peer
//! should be.

use std::collections::VecDeque;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use rtc_dtls::config::HandshakeConfig;
use rtc_dtls::endpoint::{Endpoint, EndpointEvent};
use rtc_shared::TransportProtocol;
use rtc_shared::error::Error;

use crate::transport::identity::{FLIGHT_INTERVAL, PREFERENCE, protection_profile};
use crate::transport::keys::{EXPORTER_LABEL, MasterKeys};
use crate::transport::record::{self, HANDSHAKE, Weight};

/// Why a DTLS datagram was dropped.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum DtlsDrop {
    /// No valid check has come from its source.
    NotValidated,
    /// It is not DTLS 1.2, or something in it is broken.
    Malformed,
    /// It fits no state we are in: too late, too early, or a repeated part of a ClientHello.
    Unexpected,
    /// The peer has sent more handshake messages than any handshake has.
    TooMany,
    /// `rtc-dtls` refused it; the association goes on.
    Rejected,
}

/// What a datagram has brought about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Progress {
    /// Nothing to tell of.
    None,
    /// The handshake is over.
    Complete,
    /// Either side has ended the association.
    Ended,
}

/// What a handshake leaves.
pub(crate) struct Established {
    /// The peer's certificate (DER), whose key it has shown to hold.
    pub(crate) certificate: Vec<u8>,
    /// For SRTP.
    pub(crate) keys: MasterKeys,
}

pub(crate) struct Association {
    endpoint: Endpoint,
    transmits: VecDeque<BytesMut>,
    /// How many more handshake fragments and records are taken.
    budget: usize,
    /// `None` once the handshake is over.
    handshake: Option<Handshake>,
}

/// Where the handshake is, as far as retransmission goes.
#[derive(Default)]
struct Handshake {
    /// The last of the peer's plaintext messages that was received whole and in order.
    received: Option<u16>,
    /// How much of the next one was received.
    received_len: usize,
    /// What `received` was when our latest flight was sent: it answers all up to there.
    answered: Option<u16>,
    /// Our latest flight.
    flight: Vec<BytesMut>,
    /// How often it was repeated by the clock.
    repeats: u32,
    repeat_at: Option<Instant>,
    /// When it was last repeated because the peer asked for it.
    asked_at: Option<Instant>,
}

impl Association {
    /// As server: waits for a ClientHello.
    pub(crate) fn server(config: Arc<HandshakeConfig>) -> Self {
        Self::new(Endpoint::new(NOWHERE, TransportProtocol::UDP, Some(config)))
    }

    /// As client: sends a ClientHello. `None` where that fails.
    pub(crate) fn client(now: Instant, config: Arc<HandshakeConfig>) -> Option<Self> {
        let mut endpoint = Endpoint::new(NOWHERE, TransportProtocol::UDP, None);
        endpoint.connect(now, NOWHERE, config, None).ok()?;
        let mut association = Self::new(endpoint);
        association.collect(now, true);
        Some(association)
    }

    fn new(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            transmits: VecDeque::new(),
            budget: FRAGMENTS_MAX,
            handshake: Some(Handshake::default()),
        }
    }

    pub(crate) fn read(&mut self, now: Instant, datagram: &[u8]) -> Result<Progress, DtlsDrop> {
        let weight = record::weigh(datagram).map_err(|_| DtlsDrop::Malformed)?;
        self.charge(weight)?;
        if let Some(handshake) = &mut self.handshake {
            if handshake.is_repetition(datagram) {
                if handshake.may_be_asked(now) {
                    self.transmits.extend(handshake.flight.iter().cloned());
                }
                return Ok(Progress::None);
            }
            handshake.on_received(datagram);
        }
        let result = self
            .endpoint
            .read(now, NOWHERE, None, BytesMut::from(datagram));
        let has_given_up = self.collect(now, true);
        let mut progress = Progress::None;
        match result {
            Ok(events) => {
                for event in events {
                    match event {
                        EndpointEvent::HandshakeComplete => {
                            self.handshake = None;
                            progress = Progress::Complete;
                        }
                        EndpointEvent::PeerClosed => return Ok(Progress::Ended),
                        // Data channels are not negotiated.
                        _ => {}
                    }
                }
            }
            Err(Error::ErrAlertFatalOrClose) => return Ok(Progress::Ended),
            // All others leave the association as it was, unless it has told the peer otherwise.
            Err(_) if !has_given_up => return Err(DtlsDrop::Rejected),
            Err(_) => {}
        }
        Ok(if has_given_up {
            Progress::Ended
        } else {
            progress
        })
    }

    /// Before the end of the handshake `rtc-dtls` keeps all that comes, afterwards only handshake
    /// messages.
    fn charge(&mut self, weight: Weight) -> Result<(), DtlsDrop> {
        let other = match self.handshake {
            Some(_) => weight.other,
            None => 0,
        };
        self.budget = self
            .budget
            .checked_sub(weight.handshake + other)
            .ok_or(DtlsDrop::TooMany)?;
        Ok(())
    }

    /// Collects what `rtc-dtls` wants to send; says whether a fatal alert in the clear was among it.
    fn collect(&mut self, now: Instant, is_new_flight: bool) -> bool {
        let sent: Vec<BytesMut> = std::iter::from_fn(|| self.endpoint.poll_transmit())
            .map(|transmit| transmit.message)
            .collect();
        let is_fatal = sent
            .iter()
            .any(|datagram| record::has_fatal_alert(datagram));
        self.transmits.extend(sent.iter().cloned());
        // An alert that answers another one is no flight.
        let flight: Vec<BytesMut> = sent.into_iter().filter(|d| has_handshake(d)).collect();
        if let Some(handshake) = &mut self.handshake
            && !flight.is_empty()
        {
            handshake.flight = flight;
            if is_new_flight {
                handshake.answered = handshake.received;
                handshake.repeats = 0;
                handshake.repeat_at = Some(now + FLIGHT_INTERVAL);
            }
        }
        // After the handshake alerts are encrypted.
        is_fatal && self.handshake.is_some()
    }

    /// The peer's certificate and the keys, once the handshake is over. `None` where the two sides
    /// have agreed to something else than we offered.
    pub(crate) fn established(&self) -> Option<Established> {
        let state = self.endpoint.get_connection_state(NOWHERE)?;
        let profile = PREFERENCE
            .into_iter()
            .find(|profile| protection_profile(*profile) == state.srtp_protection_profile())?;
        let exported = state
            .export_keying_material(EXPORTER_LABEL, &[], MasterKeys::exported_len(profile))
            .ok()?;
        Some(Established {
            certificate: state.peer_certificates.first()?.clone(),
            keys: MasterKeys::from_exported(profile, exported.as_ref(), state.is_client())?,
        })
    }

    /// Queues a close_notify.
    pub(crate) fn stop(&mut self, now: Instant) {
        self.endpoint.stop(now, NOWHERE);
        self.collect(now, false);
    }

    pub(crate) fn poll_transmit(&mut self) -> Option<BytesMut> {
        self.transmits.pop_front()
    }

    pub(crate) fn poll_timeout(&self) -> Option<Instant> {
        self.handshake.as_ref()?.repeat_at
    }

    /// Repeats our flight, if that is due.
    pub(crate) fn handle_timeout(&mut self, now: Instant) {
        let Some(handshake) = &mut self.handshake else {
            return;
        };
        if handshake.repeat_at.is_none_or(|at| now < at) {
            return;
        }
        handshake.repeats += 1;
        let interval = FLIGHT_INTERVAL * (1 << handshake.repeats.min(DOUBLINGS_MAX));
        handshake.repeat_at = Some(now + interval);
        // rtc-dtls gives the records new numbers, as it should: a peer that has received the flight
        // takes them for news, and repeats its own. It does so 7 times, which last longer than we
        // wait; if its timer has stopped, the same records again are still good for a peer that has
        // not received them.
        let before = self.transmits.len();
        let _ = self.endpoint.handle_timeout(NOWHERE, now);
        self.collect(now, false);
        if self.transmits.len() == before
            && let Some(handshake) = &self.handshake
        {
            self.transmits.extend(handshake.flight.iter().cloned());
        }
    }
}

impl Handshake {
    /// Whether a datagram holds nothing but plaintext messages that we have answered.
    fn is_repetition(&self, datagram: &[u8]) -> bool {
        let Some(answered) = self.answered else {
            return false;
        };
        record::records(datagram).flatten().all(|record| {
            record.content_type == HANDSHAKE
                && record.epoch == 0
                && record::fragments(record.body)
                    .flatten()
                    .all(|fragment| fragment.message_seq <= answered)
        })
    }

    fn on_received(&mut self, datagram: &[u8]) {
        let plaintext = record::records(datagram)
            .flatten()
            .filter(|record| record.content_type == HANDSHAKE && record.epoch == 0);
        for fragment in plaintext.flat_map(|record| record::fragments(record.body).flatten()) {
            // Only the next part of the next one counts: a forged number must not make all others
            // look old. What is not counted is only not recognized when it is repeated.
            let next = self
                .received
                .map_or(0, |received| received.saturating_add(1));
            if fragment.message_seq != next || fragment.offset > self.received_len {
                continue;
            }
            self.received_len = self.received_len.max(fragment.offset + fragment.data.len());
            if self.received_len >= fragment.message_len {
                self.received = Some(next);
                self.received_len = 0;
            }
        }
    }

    /// A peer's flight has several datagrams; one answer to all of them is enough.
    fn may_be_asked(&mut self, now: Instant) -> bool {
        if self
            .asked_at
            .is_some_and(|at| now < at + ASKED_INTERVAL_MIN)
        {
            return false;
        }
        self.asked_at = Some(now);
        true
    }
}

fn has_handshake(datagram: &[u8]) -> bool {
    record::records(datagram)
        .flatten()
        .any(|record| record.content_type == HANDSHAKE)
}

/// So that the interval is 32 s at most, more than a handshake may take.
const DOUBLINGS_MAX: u32 = 7;
/// As long as libwebrtc waits before it first repeats a flight.
const ASKED_INTERVAL_MIN: Duration = Duration::from_millis(50);
/// The most handshake fragments and records of one association. A handshake takes about 12, and 9
/// repetitions of each flight fit into its 30 s when the interval doubles from 50 ms on.
pub(crate) const FRAGMENTS_MAX: usize = 256;
/// The address of both ends of every association, as far as `rtc-dtls` knows (RFC 5737).
pub(crate) const NOWHERE: SocketAddr = SocketAddr::new(IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), 9);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::transport::dtls::tests::{CHROMIUM, Peer, SERVER};
    use crate::transport::identity::DtlsIdentity;
    use crate::transport::record::tests::record;

    /// A server that has sent its certificate, and a client that has not received it.
    fn half_way(now: Instant) -> (Association, Peer) {
        let identity = DtlsIdentity::generate().unwrap();
        let mut server = Association::server(identity.server(&CHROMIUM).unwrap());
        let mut client = Peer::client(now, &CHROMIUM, |c| c);
        for datagram in client.transmits() {
            server.read(now, &datagram).unwrap();
        }
        for datagram in sent(&mut server) {
            client.read(now, &datagram);
        }
        for datagram in client.transmits() {
            server.read(now, &datagram).unwrap();
        }
        (server, client)
    }

    fn sent(association: &mut Association) -> Vec<BytesMut> {
        std::iter::from_fn(|| association.poll_transmit()).collect()
    }

    /// As libwebrtc does it: the client repeats its hello before our timer would have run out.
    #[test]
    fn a_repeated_hello_gets_the_lost_flight_again() {
        let start = Instant::now();
        let (mut server, mut client) = half_way(start);
        let lost = sent(&mut server);
        assert!(!lost.is_empty());
        let mut now = start + FLIGHT_INTERVAL;
        client.endpoint.handle_timeout(SERVER, now).unwrap();
        let hello = client.transmits();
        server.read(now, &hello[0]).unwrap();
        assert_eq!(sent(&mut server), lost);
        server.read(now, &hello[0]).unwrap();
        assert_eq!(sent(&mut server).len(), 0, "not at once again");
        now += ASKED_INTERVAL_MIN;
        server.read(now, &hello[0]).unwrap();
        assert_eq!(sent(&mut server), lost);

        for datagram in lost {
            client.read(now, &datagram);
        }
        let mut progress = Progress::None;
        for datagram in client.transmits() {
            progress = server.read(now, &datagram).unwrap();
        }
        assert_eq!(progress, Progress::Complete);
        assert!(server.established().is_some());
        assert_eq!(server.poll_timeout(), None);
    }

    #[test]
    fn the_clock_repeats_the_flight_whatever_else_comes() {
        let start = Instant::now();
        let (mut server, _) = half_way(start);
        let lost = sent(&mut server);
        // A warning, which rtc-dtls answers with a warning, and part of some message, at which it
        // stops its timer.
        let warning = record(record::ALERT, 0, &[1, 100]);
        let part = record::tests::fragment(11, 2, 900, 0, b"part");
        for (seq, mut datagram) in [(90, warning), (91, record(HANDSHAKE, 0, &part))] {
            datagram[10] = seq;
            let _ = server.read(start, &datagram);
        }
        sent(&mut server);
        let due = server.poll_timeout().unwrap();
        assert_eq!(due, start + FLIGHT_INTERVAL);
        server.handle_timeout(due);
        assert_eq!(sent(&mut server), lost);
        assert_eq!(server.poll_timeout(), Some(due + 2 * FLIGHT_INTERVAL));
    }

    #[test]
    fn only_whole_messages_in_order_count_as_received() {
        let mut handshake = Handshake::default();
        let part = |seq, offset, data: &[u8]| {
            record(
                HANDSHAKE,
                0,
                &record::tests::fragment(1, seq, 6, offset, data),
            )
        };
        let cases = [
            (part(3, 0, b"forged"), None),
            (part(0, 3, b"def"), None),
            (part(0, 0, b"abc"), None),
            (part(0, 2, b"cdef"), Some(0)),
            (part(0, 0, b"abcdef"), Some(0)),
            (part(1, 0, b"abcdef"), Some(1)),
        ];
        for (datagram, received) in cases {
            handshake.on_received(&datagram);
            assert_eq!(handshake.received, received);
        }
        handshake.answered = Some(1);
        assert!(handshake.is_repetition(&part(1, 0, b"abc")));
        assert!(!handshake.is_repetition(&part(2, 0, b"abc")));
        let mixed = [part(1, 0, b"abc"), record(record::ALERT, 0, &[2, 40])].concat();
        assert!(!handshake.is_repetition(&mixed));
    }
}
