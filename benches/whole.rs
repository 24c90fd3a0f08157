//! The whole server, as a process of its own under `shardcast load`, beside the bare relay loop under the same traffic at
//! the same pace: CPU for each forwarded packet, everything included that a running call costs (wake-ups, reports,
//! signaling, the receivers' delivery). And once more with transport-cc, as browsers have it: what media quality costs.
//!
//! One publisher, 1 Mbit/s of video at 30 frames a second and audio. The three take turns on an otherwise idle machine;
//! medians of all rounds are printed, of the ratios, too: a machine with noisy neighbours is half as fast for some seconds,
//! and what is compared is therefore what was measured one after the other. `cargo bench --bench whole -- 50` takes only
//! 50 viewers.
//!
//! What forwards has one core for itself, and who publishes and receives another, as they are other machines elsewhere: where
//! the scheduler may choose, receivers that wake up on the forwarding core interrupt it, in the middle of its sends, hundreds
//! of times a second, and more or less often from run to run.

use std::net::{SocketAddr, TcpListener, TcpStream, UdpSocket as StdSocket};
use std::os::fd::AsRawFd as _;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use bare::{Bare, cpu_ns, on_core, published, thread_ns};
use clap::Parser as _;
use mio::{Events, Interest, Poll, Token};
use shardcast::io::udp::{RecvBatch, UdpSocket};
use shardcast::load::{Options, Report, run};

#[path = "support/bare.rs"]
mod bare;

/// A frame of 1 Mbit/s at 30 frames a second, as the load tester makes them.
const FRAME_PACKETS: u32 = 4;
const FRAME_PERIOD: Duration = Duration::from_micros(33_333);
const VIDEO_PAYLOAD: usize = 1042;
const AUDIO_PERIOD: Duration = Duration::from_millis(20);
const AUDIO_PAYLOAD: usize = 100;

fn main() {
    // `cargo test --benches` runs this too; it only has to run then.
    let is_test = !std::env::args().any(|arg| arg == "--bench");
    let asked: Vec<usize> = std::env::args()
        .filter_map(|arg| arg.parse().ok())
        .collect();
    let (rounds, seconds, sizes) = match (is_test, &asked[..]) {
        (true, _) => (1, 1, &[5][..]),
        (false, []) => (7, 5, &[50, 200][..]),
        (false, asked) => (7, 5, asked),
    };
    println!(
        "us of CPU per forwarded packet (medians of {rounds} rounds of {seconds} s); latency to the viewers' sockets in us"
    );
    println!(
        "viewers   bare  server  ratio   p50    p99   with transport-cc  to without   p50    p99"
    );
    for &viewers in sizes {
        let mut all: [Vec<f64>; 9] = Default::default();
        for _ in 0..rounds {
            // What both others are compared with comes between them.
            let (numbered, _) = server_cost(viewers, seconds, &["--transport-cc"]);
            let (plain, reading_ns) = server_cost(viewers, seconds, &[]);
            let bare = bare_cost(viewers, Duration::from_secs(seconds), reading_ns);
            let ratios = [plain[0] / bare, numbered[0] / plain[0]];
            let figures = [bare].into_iter().chain(plain).chain(numbered);
            let figures = figures.chain(ratios);
            for (all, figure) in all.iter_mut().zip(figures) {
                all.push(figure);
            }
        }
        let [
            bare,
            plain,
            p50,
            p99,
            numbered,
            np50,
            np99,
            to_bare,
            to_plain,
        ] = all.map(|mut all| {
            all.sort_by(f64::total_cmp);
            all[all.len() / 2]
        });
        println!(
            "{viewers:7} {bare:6.2} {plain:7.2} {to_bare:6.2} {p50:5.0} {p99:6.0} {numbered:19.2} {to_plain:11.2} {np50:5.0} {np99:6.0}",
        );
    }
}

/// CPU in us for each packet that clients received, and the latency's p50 and p99, of a fresh server; and what the load
/// tester took for each packet, in ns.
fn server_cost(viewers: usize, seconds: u64, extra: &[&str]) -> ([f64; 3], f64) {
    let server = ServerProcess::start();
    on_core(1);
    let url = format!("ws://{}", server.http);
    let (viewers, pid) = (viewers.to_string(), server.child.id().to_string());
    let duration = format!("{seconds}s");
    let mut args = vec!["load", &url, "--audio", "--subscribers", &viewers];
    args.extend([
        "--duration",
        &duration,
        "--warm-up",
        "3s",
        "--server-pid",
        &pid,
    ]);
    args.extend(extra);
    let options = Options::try_parse_from(args).expect("valid options");
    let report: Report = run(&options, &AtomicBool::new(false), &mut Vec::new()).expect("a run");
    assert!(report.verdict.pass, "{report}");
    let cpu = report.server.and_then(|server| server.cpu_us_per_packet);
    let latency = report.latency_us;
    let figures = [cpu.expect("packets came"), latency.p50, latency.p99];
    let reading_us = report.load.cpu_us_per_packet;
    (figures, reading_us.expect("packets came") * 1e3)
}

struct ServerProcess {
    child: Child,
    http: SocketAddr,
}

impl ServerProcess {
    fn start() -> Self {
        let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let http = free.local_addr().expect("bound");
        drop(free);
        let args =
            "--shards 1 --udp-bind 127.0.0.1 --udp-port 0 --announce 127.0.0.1 --log warn --http";
        on_core(0);
        let child = Command::new(env!("CARGO_BIN_EXE_shardcast"))
            .args(args.split(' '))
            .arg(http.to_string())
            .stdin(Stdio::null())
            .spawn()
            .expect("the server starts");
        let deadline = Instant::now() + Duration::from_secs(10);
        while TcpStream::connect(http).is_err() {
            assert!(Instant::now() < deadline, "the server does not listen");
            std::thread::sleep(Duration::from_millis(10));
        }
        Self { child, http }
    }
}

impl Drop for ServerProcess {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// CPU of the bare loop for each packet, in us. Its packets are read by a thread that takes as long for each as the load
/// tester did: on the same cores, a reader that works longer costs the sender more (it is preempted by it, and finds its
/// caches emptied).
fn bare_cost(viewers: usize, duration: Duration, reading_ns: f64) -> f64 {
    let stop = Arc::new(AtomicBool::new(false));
    let received = Arc::new(AtomicU64::new(0));
    let viewers = Viewers::new(viewers);
    let mut bare = Bare::new(viewers.addresses());
    let to = bare.socket.local_addr().expect("bound");
    let reader = {
        let (stop, received) = (Arc::clone(&stop), Arc::clone(&received));
        std::thread::spawn(move || {
            on_core(1);
            viewers.read(&stop, &received, reading_ns);
        })
    };
    let publisher = {
        let stop = Arc::clone(&stop);
        std::thread::spawn(move || {
            on_core(1);
            publish(to, &stop);
        })
    };
    on_core(0);
    let until = Instant::now() + duration;
    let ns = cpu_ns(|| {
        while Instant::now() < until {
            wait_readable(&bare.socket);
            while bare.turn_any() > 0 {}
        }
    });
    std::thread::sleep(Duration::from_millis(50));
    stop.store(true, Ordering::Relaxed);
    publisher.join().expect("no panic");
    reader.join().expect("no panic");
    ns as f64 / 1e3 / received.load(Ordering::Relaxed) as f64
}

fn publish(to: SocketAddr, stop: &AtomicBool) {
    let mut socket = UdpSocket::bind([127, 0, 0, 1].into(), 0).expect("a free port");
    let (mut frame_at, mut audio_at) = (Instant::now(), Instant::now());
    let mut seq = 0;
    while !stop.load(Ordering::Relaxed) {
        let next = frame_at.min(audio_at);
        std::thread::sleep(next.saturating_duration_since(Instant::now()));
        let (count, len) = if frame_at <= audio_at {
            frame_at += FRAME_PERIOD;
            (FRAME_PACKETS, VIDEO_PAYLOAD)
        } else {
            audio_at += AUDIO_PERIOD;
            (1, AUDIO_PAYLOAD)
        };
        let packets: Vec<Vec<u8>> = (seq..seq + count).map(|n| published(n, len)).collect();
        seq += count;
        socket.send_batch(packets.iter().map(|packet| (to, &packet[..])));
    }
}

/// The viewers' sockets, read as the load tester reads its own.
struct Viewers {
    poll: Poll,
    sockets: Vec<UdpSocket>,
}

impl Viewers {
    fn new(count: usize) -> Self {
        let poll = Poll::new().expect("a poll");
        let socket = |at| {
            let mut socket = UdpSocket::bind([127, 0, 0, 1].into(), 0).expect("a free port");
            socket.disable_coalescing();
            socket.tell_arrivals().expect("Linux");
            let registry = poll.registry();
            let registered = registry.register(&mut socket, Token(at), Interest::READABLE);
            registered.expect("registered");
            socket
        };
        let sockets = (0..count).map(socket).collect();
        Self { poll, sockets }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().map(UdpSocket::local_addr).collect()
    }

    fn read(mut self, stop: &AtomicBool, received: &AtomicU64, reading_ns: f64) {
        let began = thread_ns();
        let mut events = Events::with_capacity(1024);
        let mut batch = RecvBatch::of(16);
        while !stop.load(Ordering::Relaxed) {
            let timeout = Some(Duration::from_millis(20));
            self.poll.poll(&mut events, timeout).expect("a poll");
            for event in &events {
                let socket = &mut self.sockets[event.token().0];
                while socket.recv_batch(&mut batch).expect("received") > 0 {
                    batch.take_arrivals();
                    received.fetch_add(batch.drain().len() as u64, Ordering::Relaxed);
                }
                let owed = received.load(Ordering::Relaxed) as f64 * reading_ns;
                while ((thread_ns() - began) as f64) < owed && !stop.load(Ordering::Relaxed) {
                    std::hint::spin_loop();
                }
            }
        }
    }
}

/// Returns when there is something to read, or after a while.
fn wait_readable(socket: &StdSocket) {
    let mut poll = libc::pollfd {
        fd: socket.as_raw_fd(),
        events: libc::POLLIN,
        revents: 0,
    };
    // SAFETY: one descriptor that lives as long as the call.
    unsafe { libc::poll(&raw mut poll, 1, 20) };
}
