//! The running server: starts its threads, names its addresses, and joins the threads again.

use std::fmt;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::base::ids::ShardId;
use crate::config::Config;
use crate::coordinator::placement::Policy;
use crate::io::acceptor::{Acceptor, AcceptorHandle};
use crate::io::file_limit;
use crate::io::interfaces;
use crate::io::registry::Registry;
use crate::io::relay::RelayLinks;
use crate::io::shard_thread::ShardHandle;
use crate::io::signaling_thread::{Backend, Limits};
use crate::io::udp::UdpSocket;
use crate::signaling::message::IceServer;
use crate::signaling::session::SessionConfig;
use crate::transport::{DtlsIdentity, TransportError};

/// A server that runs until [`Server::shutdown`].
#[derive(Debug)]
pub struct Server {
    http: SocketAddr,
    udp: Vec<SocketAddr>,
    registry: Arc<Registry>,
    acceptor: AcceptorHandle,
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
                "cannot bind UDP {address}: {error} (choose other ports with --udp-port; there is one per shard)"
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

        let mut shards = Vec::new();
        let mut shard_threads = Vec::new();
        let links = RelayLinks::mesh(config.shards);
        for ((index, socket), links) in sockets.into_iter().enumerate().zip(links) {
            let bound = socket.local_addr();
            let addresses = interfaces::candidates(&config.announce, bound.ip())
                .map_err(StartError::Interfaces)?
                .into_iter()
                .map(|ip| SocketAddr::new(ip, bound.port()))
                .collect();
            let (handle, thread) = ShardHandle::start(
                ShardId(index as u16),
                socket,
                addresses,
                Arc::clone(&identity),
                links,
            )
            .map_err(StartError::Thread)?;
            shards.push(handle);
            shard_threads.push(thread);
        }
        let candidates: Vec<_> = shards.iter().flat_map(|s| s.addresses().to_vec()).collect();
        let registry = Arc::new(Registry::new(
            shards,
            config.max_rooms,
            config.max_peers_per_room,
            Policy {
                spill_peers: config.spill_peers,
                spill_load_percent: config.spill_load,
            },
        ));
        let session = Arc::new(SessionConfig {
            fingerprint: identity.fingerprint().clone(),
            ice_servers: ice_servers(config),
        });
        let backend: Arc<dyn Backend> = Arc::clone(&registry) as _;
        let limits = Limits {
            connections_max: config.max_connections,
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

/// One socket per shard, on consecutive ports, or on any free ports for port 0.
fn bind_shards(config: &Config) -> Result<Vec<UdpSocket>, StartError> {
    (0..config.shards)
        .map(|index| {
            let port = config.udp_port_of(ShardId(index));
            UdpSocket::bind(config.udp_bind, port)
                .map_err(|e| StartError::Udp(SocketAddr::new(config.udp_bind, port), e))
        })
        .collect()
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
