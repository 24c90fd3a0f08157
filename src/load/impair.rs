//! `shardcast impair`: a bad network between clients and a server that do not know of it.
//!
//! Forwards UDP through links of the shared model, as a NAT would: each door is a port that clients send to
//! instead of one of the server's, and each client behind a door has a port of its own towards the server. Doors
//! that name the same link share its two directions: one participant's several addresses, or several participants
//! behind one bottleneck. Commands are lines of JSON on standard input, answers lines on standard output; the
//! end of the input ends it.

use std::collections::HashMap;
use std::ffi::OsString;
use std::io::{self, BufRead as _, Write as _};
use std::net::SocketAddr;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};
use mio::net::UdpSocket;
use mio::{Events, Interest, Poll, Token, Waker};

use crate::load::impair_command::{Answer, Command, DirectionReport};
use crate::network::{Arrival, Link};

/// The command line's word for this program.
pub const SUBCOMMAND: &str = "impair";

const HELP: &str = "\
Puts a bad network between clients and a server, for tests. Takes a line of JSON for each command from standard
input and answers each with one; the end of the input ends it.

  {\"open\": {\"link\": \"bob\", \"to\": \"127.0.0.1:3478\"}}     a port that forwards to that one: {\"opened\": {\"address\": ...}}
  {\"set\": {\"link\": \"bob\", \"down\": {\"rate_bps\": 300000, \"delay_ms\": 50, \"loss\": 0.05}}}
                                       what holds from now on (or \"after_ms\"), in the directions named
  {\"drop\": {\"link\": \"bob\", \"direction\": \"down\", \"count\": 20}}    loses the next 20
  {\"stats\": {\"link\": \"bob\"}}               what each direction has done, and how long its queue is

Conditions: rate_bps, queue_ms or queue_bytes, delay_ms, jitter_ms, keeps_order, loss, bursts {enter, leave, loss},
reordering {chance, held_ms}, duplication. What is not named is perfect.

usage: shardcast impair [--seed N]";

/// Runs `shardcast impair`; `args` begins with what the program is called. Returns its exit code.
#[must_use]
pub fn main(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().skip(1).collect();
    let words: Vec<&str> = args.iter().filter_map(|arg| arg.to_str()).collect();
    let seed = match words.as_slice() {
        [] => 1,
        ["--seed", number] if number.parse::<u64>().is_ok() => number.parse().unwrap_or(1),
        ["-h" | "--help"] => {
            println!("{HELP}");
            return ExitCode::SUCCESS;
        }
        _ => {
            eprintln!("{HELP}");
            return ExitCode::from(EXIT_USAGE);
        }
    };
    match Impairer::new(seed).and_then(|mut impairer| impairer.run()) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("shardcast impair: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The process: its sockets, its links, and its orders.
struct Impairer {
    poll: Poll,
    /// Lives as long as the poll: closed with its thread, it would take the last wake-up with it.
    _waker: Arc<Waker>,
    orders: Receiver<String>,
    links: Vec<NamedLink>,
    doors: Vec<Door>,
    /// What each token of the poll is, from [`FIRST_SOCKET`] on.
    sockets: Vec<Socket>,
    seed: u64,
}

struct NamedLink {
    name: String,
    up: Link<Parcel>,
    down: Link<Parcel>,
}

/// A datagram, and the client (by its socket towards the server) whose it is.
#[derive(Clone)]
struct Parcel {
    client: usize,
    datagram: Vec<u8>,
}

struct Door {
    link: usize,
    to: SocketAddr,
    socket: UdpSocket,
    /// The socket towards the server of each client, by its address.
    clients: HashMap<SocketAddr, usize>,
}

enum Socket {
    Door(usize),
    Client {
        door: usize,
        address: SocketAddr,
        socket: UdpSocket,
    },
}

impl Impairer {
    fn new(seed: u64) -> io::Result<Self> {
        let poll = Poll::new()?;
        let waker = Arc::new(Waker::new(poll.registry(), WAKE)?);
        let (tx, orders) = bounded(ORDERS_MAX);
        let reader_waker = Arc::clone(&waker);
        std::thread::Builder::new()
            .name("orders".to_owned())
            .spawn(move || {
                read_orders(&tx, &reader_waker);
                // The last one woken for must find the channel closed.
                drop(tx);
                let _ = reader_waker.wake();
            })?;
        Ok(Self {
            poll,
            _waker: waker,
            orders,
            links: Vec::new(),
            doors: Vec::new(),
            sockets: Vec::new(),
            seed,
        })
    }

    fn run(&mut self) -> io::Result<()> {
        let mut events = Events::with_capacity(EVENTS_MAX);
        let mut buffer = vec![0; DATAGRAM_LEN_MAX];
        loop {
            let now = Instant::now();
            let links = self.links.iter();
            let next = links
                .flat_map(|link| [link.up.poll_timeout(), link.down.poll_timeout()])
                .flatten()
                .min();
            let wait = next.map(|at| at.saturating_duration_since(now));
            match self.poll.poll(&mut events, wait) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                result => result?,
            }
            for event in &events {
                match event.token() {
                    WAKE if self.take_orders()? => return Ok(()),
                    WAKE => {}
                    Token(token) => self.receive(token - FIRST_SOCKET, &mut buffer),
                }
            }
            self.deliver(Instant::now());
        }
    }

    /// Carries out what was asked for; says whether that was all.
    fn take_orders(&mut self) -> io::Result<bool> {
        let mut stdout = io::stdout();
        loop {
            let line = match self.orders.try_recv() {
                Ok(line) => line,
                Err(crossbeam_channel::TryRecvError::Empty) => return Ok(false),
                Err(crossbeam_channel::TryRecvError::Disconnected) => return Ok(true),
            };
            let answer = match serde_json::from_str(&line) {
                Ok(command) => self.carry_out(command),
                Err(error) => Answer::Error(error.to_string()),
            };
            let text = serde_json::to_string(&answer).map_err(io::Error::other)?;
            writeln!(stdout, "{text}")?;
            stdout.flush()?;
        }
    }

    fn carry_out(&mut self, command: Command) -> Answer {
        let now = Instant::now();
        if let Command::Open { link, to, bind } = command {
            return match self.open(now, link, to, bind) {
                Ok(address) => Answer::Opened { address },
                Err(error) => Answer::Error(error.to_string()),
            };
        }
        let name = command.link();
        let Some(link) = self.links.iter_mut().find(|link| link.name == name) else {
            return Answer::Error(format!("there is no link {name:?}"));
        };
        match command {
            Command::Open { .. } => {}
            Command::Set {
                up, down, after_ms, ..
            } => {
                let at = now + Duration::from_millis(after_ms);
                let sides = [(up, &mut link.up), (down, &mut link.down)];
                for (wish, side) in sides {
                    match wish {
                        Some(wish) if after_ms > 0 => side.schedule(at, wish.conditions()),
                        Some(wish) => side.set_conditions(now, wish.conditions()),
                        None => {}
                    }
                }
            }
            Command::Drop {
                direction, count, ..
            } => direction
                .of(&mut link.up, &mut link.down)
                .drop_next(now, count),
            Command::Stats { .. } => {
                return Answer::Stats {
                    up: DirectionReport::new(now, &link.up),
                    down: DirectionReport::new(now, &link.down),
                };
            }
        }
        Answer::Done {}
    }

    /// A new door: its port is what clients are told instead of the server's.
    fn open(
        &mut self,
        now: Instant,
        name: String,
        to: SocketAddr,
        bind: Option<SocketAddr>,
    ) -> io::Result<SocketAddr> {
        if self.doors.len() >= DOORS_MAX {
            return Err(io::Error::other("too many doors are open"));
        }
        let bind = bind.unwrap_or_else(|| SocketAddr::new(to.ip(), 0));
        let mut socket = UdpSocket::bind(bind)?;
        let address = socket.local_addr()?;
        self.register(&mut socket)?;
        let known = self.links.iter().position(|link| link.name == name);
        let link = known.unwrap_or_else(|| {
            let seed = self.seed.wrapping_add(2 * self.links.len() as u64);
            self.links.push(NamedLink {
                name,
                up: Link::new(now, Default::default(), seed),
                down: Link::new(now, Default::default(), seed + 1),
            });
            self.links.len() - 1
        });
        self.sockets.push(Socket::Door(self.doors.len()));
        self.doors.push(Door {
            link,
            to,
            socket,
            clients: HashMap::new(),
        });
        Ok(address)
    }

    fn register(&self, socket: &mut UdpSocket) -> io::Result<()> {
        let token = Token(FIRST_SOCKET + self.sockets.len());
        self.poll
            .registry()
            .register(socket, token, Interest::READABLE)
    }

    /// Takes all that has come to one socket.
    fn receive(&mut self, at: usize, buffer: &mut [u8]) {
        loop {
            let (door, received) = match &self.sockets[at] {
                Socket::Door(door) => (*door, self.doors[*door].socket.recv_from(buffer)),
                Socket::Client { door, socket, .. } => (*door, socket.recv_from(buffer)),
            };
            let now = Instant::now();
            let (len, from) = match received {
                Ok(received) => received,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                // An ICMP error of what was sent before; what comes next is still there.
                Err(_) => continue,
            };
            let is_up = matches!(self.sockets[at], Socket::Door(_));
            let client = if is_up {
                match self.client(door, from) {
                    Some(client) => client,
                    None => continue,
                }
            } else {
                at
            };
            let parcel = Parcel {
                client,
                datagram: buffer[..len].to_vec(),
            };
            let link = &mut self.links[self.doors[door].link];
            let side = if is_up { &mut link.up } else { &mut link.down };
            side.push(now, len, parcel);
        }
    }

    /// The socket towards the server of whoever sends from that address: as a NAT has it.
    fn client(&mut self, door: usize, address: SocketAddr) -> Option<usize> {
        if let Some(client) = self.doors[door].clients.get(&address) {
            return Some(*client);
        }
        if self.doors[door].clients.len() >= CLIENTS_MAX {
            return None;
        }
        let bind = SocketAddr::new(self.doors[door].socket.local_addr().ok()?.ip(), 0);
        let mut socket = UdpSocket::bind(bind).ok()?;
        self.register(&mut socket).ok()?;
        let client = self.sockets.len();
        self.sockets.push(Socket::Client {
            door,
            address,
            socket,
        });
        self.doors[door].clients.insert(address, client);
        Some(client)
    }

    /// Sends on what has arrived at the other end. What the system does not take is lost, as on any path.
    fn deliver(&mut self, now: Instant) {
        let (doors, sockets) = (&self.doors, &self.sockets);
        for link in &mut self.links {
            while let Some(Arrival { what, .. }) = link.up.pop(now) {
                if let Socket::Client { door, socket, .. } = &sockets[what.client] {
                    let _ = socket.send_to(&what.datagram, doors[*door].to);
                }
            }
            while let Some(Arrival { what, .. }) = link.down.pop(now) {
                if let Socket::Client { door, address, .. } = &sockets[what.client] {
                    let _ = doors[*door].socket.send_to(&what.datagram, *address);
                }
            }
        }
    }
}

fn read_orders(tx: &Sender<String>, waker: &Waker) {
    for line in io::stdin().lock().lines() {
        let Ok(line) = line else { break };
        if line.trim().is_empty() {
            continue;
        }
        if tx.send(line).is_err() || waker.wake().is_err() {
            return;
        }
    }
}

const WAKE: Token = Token(0);
const FIRST_SOCKET: usize = 1;
/// Orders that wait to be carried out; then the reader waits.
const ORDERS_MAX: usize = 64;
const EVENTS_MAX: usize = 256;
/// The most ports that clients can send to.
const DOORS_MAX: usize = 256;
/// The most addresses of clients behind one door; datagrams of further ones are dropped.
const CLIENTS_MAX: usize = 64;
const DATAGRAM_LEN_MAX: usize = 65_536;
/// Exit code for wrong usage (sysexits(3): EX_USAGE).
const EXIT_USAGE: u8 = 64;
