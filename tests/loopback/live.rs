//! The test client of `support` over real sockets.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use crate::socket::{Arrival, Socket};
use crate::support::client::{Client, ClientOptions, Style};
use crate::support::flavor::Flavor;
use crate::support::media::Rate;

pub struct Live {
    pub client: Client,
    pub socket: Socket,
    pub udp: UdpSocket,
    pub closed: bool,
}

impl Live {
    /// Connects, publishes sound and pictures, and joins.
    pub fn join(server: SocketAddr, room: &str, id: &str, flavor: Flavor, zero: Instant) -> Self {
        let mut live = Self::connect(server, room, id, flavor, zero);
        live.client.publish(false);
        live.client.publish(true);
        live.client.join(Instant::now());
        live.pump();
        live
    }

    pub fn connect(
        server: SocketAddr,
        room: &str,
        id: &str,
        flavor: Flavor,
        zero: Instant,
    ) -> Self {
        let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP port is free");
        udp.set_nonblocking(true).expect("a UDP option");
        let client = Client::new(ClientOptions {
            room: room.to_owned(),
            id: id.to_owned(),
            flavor,
            style: Style::Modern,
            rate: Rate::FULL,
            seed: id.bytes().fold(7, |sum, b| sum * 31 + u64::from(b)),
            zero,
        });
        Self {
            client,
            socket: Socket::connect(server, "/ws"),
            udp,
            closed: false,
        }
    }

    /// Takes what has come and sends what is due.
    pub fn pump(&mut self) {
        while let Some(arrival) = self.socket.poll() {
            match arrival {
                Arrival::Frame(text) => self.client.handle_frame(Instant::now(), &text),
                Arrival::Closed(_) => self.closed = true,
            }
        }
        let mut buffer = [0; 2048];
        while let Ok((length, from)) = self.udp.recv_from(&mut buffer) {
            self.client
                .handle_datagram(Instant::now(), from, &buffer[..length]);
        }
        let now = Instant::now();
        if self.client.poll_timeout().is_some_and(|at| at <= now) {
            self.client.handle_timeout(now);
        }
        while let Some(frame) = self.client.poll_frame() {
            self.socket.send_text(frame);
        }
        while let Some((to, bytes)) = self.client.poll_transmit() {
            // A full socket buffer is loss like any other.
            self.udp.send_to(&bytes, to).ok();
        }
    }

    /// How many packets of each received track came, least first.
    pub fn packets(&self) -> Vec<usize> {
        self.packets_where(|_| true)
    }

    /// As [`Live::packets`], of one publisher's tracks.
    pub fn packets_of(&self, peer: &str) -> Vec<usize> {
        self.packets_where(|publisher| publisher == peer)
    }

    fn packets_where(&self, wanted: impl Fn(&str) -> bool) -> Vec<usize> {
        let mut counts: Vec<usize> = self
            .client
            .negotiation
            .remote_tracks()
            .iter()
            .filter(|t| wanted(&t.peer))
            .filter_map(|t| self.client.reception(&t.peer, &t.track))
            .map(|received| received.packets.len())
            .collect();
        counts.sort_unstable();
        counts
    }

    /// What is wrong with what came.
    pub fn check(&self) {
        let client = &self.client;
        let mut wrong = client.faults.clone();
        for received in client.received.values() {
            wrong.extend(received.inconsistencies());
        }
        assert!(wrong.is_empty(), "{}: {}", client.id(), wrong.join("\n"));
        assert_eq!(client.transport.srtp_failures, 0, "{}", client.id());
    }
}

/// Drives the clients until `done` says so; panics with `what` when that takes too long.
pub fn drive(
    clients: &mut [&mut Live],
    timeout: Duration,
    what: &str,
    mut done: impl FnMut(&[&mut Live]) -> bool,
) {
    let end = Instant::now() + timeout;
    while Instant::now() < end {
        for client in clients.iter_mut() {
            client.pump();
        }
        if done(clients) {
            return;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for live in clients.iter() {
        eprintln!(
            "{}: receives {:?} {:?}, errors {:?}, faults {:?}, up {}",
            live.client.id(),
            live.client.receiving(),
            live.packets(),
            live.client.errors,
            live.client.faults,
            live.client.transport.is_up(),
        );
    }
    panic!("timed out: {what}");
}
