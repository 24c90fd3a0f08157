//! What `udp` does by `recvmmsg` and `sendmmsg`, one datagram a call, for systems that have neither.
//!
//! Also built for tests everywhere, so that it stays whole.

use std::io;
use std::net::SocketAddr;

use crate::io::udp_batch::{BATCH_MAX, DATAGRAM_MAX, RecvBatch, SendReport, transmit};

/// Nothing has to be kept between calls.
#[derive(Debug, Default)]
pub(in crate::io) struct Arrays;

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

    /// Up to [`BATCH_MAX`] calls. The last byte of a slot tells whether a datagram was cut off, so one of
    /// exactly [`DATAGRAM_MAX`] bytes counts as too long here.
    pub fn recv(
        &mut self,
        socket: &mio::net::UdpSocket,
        batch: &mut RecvBatch,
    ) -> io::Result<usize> {
        let mut received = 0;
        while received < BATCH_MAX {
            let start = received * DATAGRAM_MAX;
            match socket.recv_from(&mut batch.scratch[start..start + DATAGRAM_MAX]) {
                Ok((DATAGRAM_MAX, _)) => batch.truncated += 1,
                Ok((len, from)) => batch.take(from, received, len),
                // What was received comes first; the error, if it stays, comes with the next call.
                Err(_) if received > 0 => return Ok(received),
                Err(error) => return Err(error),
            }
            received += 1;
        }
        Ok(received)
    }
}
