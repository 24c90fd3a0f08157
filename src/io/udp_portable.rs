//! What `udp` does by `recvmmsg` and `sendmmsg`, one datagram a call, for systems that have neither.
//!
//! Also built for tests everywhere, so that it stays whole.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;

#[cfg(not(target_os = "linux"))]
use crate::io::steer_program::Instruction;
use crate::io::udp_batch::{
    BATCH_MAX, DATAGRAM_MAX, RecvBatch, SHORT_MAX, SendReport, Wire, transmit,
};
use crate::transport::outbox::Transmit;

/// Sends. Nothing has to be kept between calls.
#[derive(Debug)]
pub(in crate::io) struct Sender;

impl Sender {
    /// For any socket.
    pub fn new(_: &mio::net::UdpSocket) -> Self {
        Self
    }

    /// Never more than one datagram a message.
    pub fn can_segment(&self) -> bool {
        false
    }

    /// Sends `messages`, whose addresses are of the socket's family.
    pub fn send<'a>(
        &mut self,
        socket: &mio::net::UdpSocket,
        messages: impl Iterator<Item = Transmit<'a>>,
    ) -> SendReport {
        let mut report = SendReport::default();
        for (to, datagram) in messages.flat_map(Transmit::datagrams) {
            report += transmit(
                &[1],
                &mut Single {
                    socket,
                    to,
                    datagram,
                },
            );
        }
        report
    }
}

/// One datagram on its way.
struct Single<'a> {
    socket: &'a mio::net::UdpSocket,
    to: SocketAddr,
    datagram: &'a [u8],
}

impl Wire for Single<'_> {
    fn send(&mut self, _: usize) -> io::Result<usize> {
        self.socket.send_to(self.datagram, self.to).map(|_| 1)
    }

    fn split(&mut self, _: usize, _: &io::Error) -> SendReport {
        SendReport::default()
    }

    fn drop_from(&mut self, _: usize) -> SendReport {
        SendReport {
            dropped_full: 1,
            dropped_short: u64::from(self.datagram.len() <= SHORT_MAX),
            ..SendReport::default()
        }
    }
}

/// Receives. Nothing has to be kept between calls.
#[derive(Debug, Default)]
pub(in crate::io) struct RecvArrays;

impl RecvArrays {
    /// Up to [`BATCH_MAX`] calls. The last byte of a slot tells whether a datagram was cut off, so one of
    /// exactly [`DATAGRAM_MAX`] bytes counts as too long here.
    pub fn recv(
        &mut self,
        socket: &mio::net::UdpSocket,
        batch: &mut RecvBatch,
    ) -> io::Result<usize> {
        let mut received = 0;
        let mut longest = [0; DATAGRAM_MAX];
        while received < BATCH_MAX {
            match socket.recv_from(&mut longest) {
                Ok((DATAGRAM_MAX, _)) => batch.truncated += 1,
                Ok((len, from)) => batch.push(from, BytesMut::from(&longest[..len])),
                // What was received comes first; the error, if it stays, comes with the next call.
                Err(_) if received > 0 => return Ok(received),
                Err(error) => return Err(error),
            }
            received += 1;
        }
        Ok(received)
    }
}

/// Linux only.
#[cfg(not(target_os = "linux"))]
pub(in crate::io) fn set_gro(_: &mio::net::UdpSocket, _: bool) {}

/// Linux only.
#[cfg(not(target_os = "linux"))]
pub(in crate::io) fn tell_arrivals(_: &mio::net::UdpSocket) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Linux only.
#[cfg(not(target_os = "linux"))]
pub(in crate::io) fn force_buffers(_: &socket2::Socket, _: usize) -> bool {
    false
}

/// Linux only.
#[cfg(not(target_os = "linux"))]
pub(in crate::io) fn drops(_: &mio::net::UdpSocket) -> Option<u32> {
    None
}

/// Linux only.
#[cfg(not(target_os = "linux"))]
pub(in crate::io) fn attach(_: &mio::net::UdpSocket, _: &[Instruction]) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}
