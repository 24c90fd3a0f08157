//! The running server: starts its threads, names its addresses, and joins the threads again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::Sender;

use crate::base::ids::ShardId;
use crate::config::Config;
use crate::control::RoomOptions;
use crate::coordinator::placement::Policy;
use crate::io::acceptor::{Acceptor, AcceptorHandle};
use crate::io::crossing::{Crossing, crossings};
use crate::io::file_limit;
use crate::io::interfaces;
use crate::io::registry::Registry;
use crate::io::relay::RelayLinks;
use crate::io::scheduling::Scheduling;
use crate::io::shard_thread::{ShardHandle, ShardSeat, shard_poll};
use crate::io::shard_waker::ShardWaker;
use crate::io::signaling_thread::{Backend, Limits};
use crate::io::steering::Steering;
use crate::io::udp::{BufferSizes, UdpSocket};
use crate::shard::strays::Claim;
use crate::signaling::outbound::IceServer;
use crate::signaling::session::SessionConfig;
use crate::transport::{DtlsIdentity, TransportError};

/// A server that runs until [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    udp: Vec<SocketAddr>,
    registry: Arc<Registry>,
    acceptor: AcceptorHandle,
    /// The shards' threads, and behind them the one that steers, which ends with them.
    shard_threads: Vec<JoinHandle<()>>,
}

/// Why a server could not start.
#[derive(Debug)]
pub enum StartError {
    /// The HTTP address cannot be listened on.
    Http(SocketAddr, io::Error),
    /// A UDP port cannot be had.
    Udp(SocketAddr, io::Error),
    /// The network interfaces cannot be listed.
    Interfaces(io::Error),
    /// A thread cannot be started.
    Thread(io::Error),
    /// The DTLS certificate cannot be made.
    Identity(TransportError),
}

impl fmt::Display for StartError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http(address, error) => write!(
                f,
                "cannot listen for HTTP on {address}: {error} (choose another with --http)"
            ),
            Self::Udp(address, error) => write!(
                f,
                "cannot bind UDP {address}: {error} (choose other ports with --udp-port; there is one per shard, unless --single-port is given)"
            ),
            Self::Interfaces(error) => write!(
                f,
                "cannot list the network interfaces: {error} (name the addresses with --announce)"
            ),
            Self::Thread(error) => write!(f, "cannot start a thread: {error}"),
            Self::Identity(error) => write!(f, "cannot make the DTLS certificate: {error}"),
        }
    }
}

impl std::error::Error for StartError {}

impl Server {
    /// Binds every socket, starts every thread and logs one line with the addresses.
    ///
    /// # Errors
    /// [`StartError`]; nothing is left running then.
    pub fn start(config: &Config) -> Result<Self, StartError> {
        raise_file_limit(config);
        let identity = Arc::new(DtlsIdentity::generate().map_err(StartError::Identity)?);
        let acceptor = Acceptor::bind(config.http).map_err(|e| StartError::Http(config.http, e))?;
        let http = acceptor.local_addr();
        let sockets = bind_shards(config)?;
        let udp: Vec<SocketAddr> = sockets.iter().map(UdpSocket::local_addr).collect();

        report_buffers(&sockets);
        let steering = start_steering(config, &sockets)?;
        let claims = steering.as_ref().map(|steering| &steering.claims);
        let seats = seats(config, sockets, claims)?;

        let mut shards = Vec::new();
        let mut shard_threads = Vec::new();
        for seat in seats {
            let (handle, thread) =
                ShardHandle::start(seat, Arc::clone(&identity)).map_err(StartError::Thread)?;
            shards.push(handle);
            shard_threads.push(thread);
        }
        // Only the shards keep senders of claims: the thread ends with them.
        let steered = steering.map(
            |Steering {
                 steered, thread, ..
             }| {
                shard_threads.push(thread);
                steered
            },
        );
        let mut candidates: Vec<_> = shards.iter().flat_map(|s| s.addresses().to_vec()).collect();
        if config.single_port {
            candidates.truncate(shards[0].addresses().len());
        }
        let policy = Policy {
            spill_peers: config.spill_peers,
            spill_load_percent: config.spill_load,
        };
        let registry = Registry::new(shards, config.max_rooms, config.max_peers_per_room, policy);
        let registry = Arc::new(registry.with_steered(steered));
        let session = Arc::new(SessionConfig {
            fingerprint: identity.fingerprint().clone(),
            ice_servers: ice_servers(config),
        });
        let backend: Arc<dyn Backend> = Arc::clone(&registry) as _;
        let limits = Limits {
            connections_max: config.max_connections,
            connections_per_source_max: config.max_connections_per_ip,
            ..Limits::default()
        };
        let acceptor = acceptor
            .start(backend, session, limits)
            .map_err(StartError::Thread)?;
        tracing::info!(
            "listening http={http} udp={} candidates={} shards={} (open http://localhost:{}/)",
            list(&udp),
            list(&candidates),
            udp.len(),
            http.port()
        );
        Ok(Self {
            http,
            udp,
            registry,
            acceptor,
            shard_threads,
        })
    }

    /// Where HTTP and WebSocket are served.
    #[must_use]
    pub fn http_addr(&self) -> SocketAddr {
        self.http
    }

    /// Each shard's UDP socket.
    #[must_use]
    pub fn udp_addrs(&self) -> &[SocketAddr] {
        &self.udp
    }

    /// Tells every client, closes every socket and joins every thread.
    pub fn shutdown(self) {
        self.registry.close();
        // Sessions take their peers out of the shards while they end, so they go first.
        let left_behind = self.acceptor.shutdown();
        if left_behind > 0 {
            tracing::warn!(left_behind, "connections did not end in time");
        }
        self.registry.stop_shards();
        for thread in self.shard_threads {
            if thread.join().is_err() {
                tracing::error!("a shard's thread had panicked");
            }
        }
        tracing::info!("stopped");
    }
}

fn raise_file_limit(config: &Config) {
    let wanted = config.max_connections as u64 * file_limit::FILES_PER_CONNECTION + FILES_OF_SERVER;
    match file_limit::raise(wanted) {
        Ok(limit) if limit < wanted => tracing::warn!(
            limit,
            wanted,
            "the limit on open files is too low for --max-connections; further connections will wait"
        ),
        Ok(_) => {}
        Err(error) => tracing::warn!(%error, "cannot raise the limit on open files"),
    }
}

/// Descriptors beside those of connections: standard streams, listener, and three per shard.
const FILES_OF_SERVER: u64 = 256;

/// One socket per shard: all on one port, or on consecutive ports, or on any free ports for port 0.
fn bind_shards(config: &Config) -> Result<Vec<UdpSocket>, StartError> {
    let bind = interfaces::bind_address(config.udp_bind, &config.announce)
        .map_err(StartError::Interfaces)?;
    let refused = |port: u16| move |error| StartError::Udp(SocketAddr::new(bind, port), error);
    if config.single_port {
        let count = usize::from(config.shards);
        return UdpSocket::bind_group(bind, config.udp_port, count)
            .map_err(refused(config.udp_port));
    }
    (0..config.shards)
        .map(|index| {
            let port = config.udp_port_of(ShardId(index));
            UdpSocket::bind(bind, port).map_err(refused(port))
        })
        .collect()
}

/// Says once how large the kernel made the sockets' buffers, and what to do if that is little.
fn report_buffers(sockets: &[UdpSocket]) {
    let Some(BufferSizes { receive, send }) = sockets.first().map(UdpSocket::buffer_sizes) else {
        return;
    };
    tracing::info!(receive, send, "UDP socket buffers in bytes");
    let wanted = BufferSizes::WANTED;
    for (is_little, sysctl, bytes) in [
        (
            receive < wanted.receive / 2,
            "net.core.rmem_max",
            wanted.receive,
        ),
        (send < wanted.send / 2, "net.core.wmem_max", wanted.send),
    ] {
        if is_little {
            tracing::warn!(
                "the kernel's limit on UDP buffers is low, so bursts of media may be lost; raise it: sysctl -w {sysctl}={bytes}"
            );
        }
    }
}

/// Steers where several shards share one port.
fn start_steering(config: &Config, sockets: &[UdpSocket]) -> Result<Option<Steering>, StartError> {
    match sockets.first() {
        Some(first) if config.single_port && sockets.len() > 1 => {
            let group = first.port_group().map_err(StartError::Thread)?;
            Steering::start(group).map(Some).map_err(StartError::Thread)
        }
        _ => Ok(None),
    }
}

/// What the shards' threads are given. Where they share a port, `claims` goes to who steers.
fn seats(
    config: &Config,
    sockets: Vec<UdpSocket>,
    claims: Option<&Sender<Claim>>,
) -> Result<Vec<ShardSeat>, StartError> {
    let polls = sockets.iter().map(|_| shard_poll());
    let polls: Vec<_> = polls
        .collect::<Result<_, _>>()
        .map_err(StartError::Thread)?;
    let wakers: Vec<ShardWaker> = polls.iter().map(|(_, waker)| waker.clone()).collect();
    let crossings: Vec<Option<Crossing>> = match claims {
        Some(claims) => crossings(&wakers, Some(claims))
            .into_iter()
            .map(Some)
            .collect(),
        None => wakers.iter().map(|_| None).collect(),
    };
    let links = RelayLinks::mesh(config.shards);
    let ends = links.into_iter().zip(crossings);
    let mut seats = Vec::new();
    for (index, ((socket, (poll, waker)), (links, crossing))) in
        sockets.into_iter().zip(polls).zip(ends).enumerate()
    {
        let bound = socket.local_addr();
        let addresses =
            interfaces::candidates(&config.announce, bound.ip()).map_err(StartError::Interfaces)?;
        let addresses = addresses.into_iter();
        seats.push(ShardSeat {
            id: ShardId(index as u16),
            socket,
            addresses: addresses
                .map(|ip| SocketAddr::new(ip, bound.port()))
                .collect(),
            poll,
            waker,
            links,
            crossing,
            scheduling: Scheduling {
                is_pinned: config.pin_cores,
                is_real_time: config.real_time,
            },
            batch_window: config.batch_window,
            rooms: RoomOptions {
                last_n: config.last_n,
                audio_streams_max: config.max_audio_streams,
            },
        });
    }
    Ok(seats)
}

fn ice_servers(config: &Config) -> Arc<[IceServer]> {
    let told = config.ice_servers.iter().map(|server| IceServer {
        urls: server.urls.clone(),
        username: server.username.clone(),
        credential: server.credential.clone(),
    });
    told.collect()
}

fn list(addresses: &[SocketAddr]) -> String {
    let texts: Vec<String> = addresses.iter().map(ToString::to_string).collect();
    texts.join(",")
}
