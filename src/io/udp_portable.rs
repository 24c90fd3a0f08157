//! What `udp` does by `recvmmsg` and `sendmmsg`, one datagram a call, for systems that have neither.
//!
//! Also built for tests everywhere, so that it stays whole.

use std::io;
use std::net::SocketAddr;

use bytes::BytesMut;

#[cfg(not(target_os = "linux"))]
use crate::io::steer_program::Instruction;
use crate::io::udp_batch::{BATCH_MAX, DATAGRAM_MAX, RecvBatch, SendReport, transmit};

/// Nothing has to be kept between calls.
#[derive(Debug, Default)]
pub(in crate::io) struct Arrays;

/// As [`Arrays`].
#[derive(Debug, Default)]
pub(in crate::io) struct RecvArrays;

impl Arrays {
    /// Sends up to [`BATCH_MAX`] of `datagrams`, whose addresses are of the socket's family.
    pub fn send<'a>(
        &mut self,
        socket: &mio::net::UdpSocket,
        datagrams: &mut impl Iterator<Item = (SocketAddr, &'a [u8])>,
    ) -> SendReport {
        let mut report = SendReport::default();
        for (to, datagram) in datagrams.take(BATCH_MAX) {
            report += transmit(1, |_| socket.send_to(datagram, to).map(|_| 1));
        }
        report
    }
}

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
pub(in crate::io) fn set_gro(_: &mio::net::UdpSocket) {}

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
