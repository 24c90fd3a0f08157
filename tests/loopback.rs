//! The real server over UDP and WebSocket on loopback, with clients that are not ours (`rtc`'s and
//! `webrtc`'s peer connections) and one that is (`support`), which can also misbehave.

#[path = "loopback/async_client.rs"]
mod async_client;
#[path = "loopback/layers.rs"]
mod layers;
#[path = "loopback/live.rs"]
mod live;
#[path = "loopback/peer_connection.rs"]
mod peer_connection;
#[path = "loopback/single_port.rs"]
mod single_port;
#[path = "loopback/socket.rs"]
mod socket;
#[path = "support/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::json;
use shardcast::config::Config;
use shardcast::server::Server;
use tungstenite::Message;

use crate::async_client::Seen;
use crate::live::{Live, drive};
use crate::peer_connection::RtcClient;
use crate::socket::{Arrival, Socket};
use crate::support::flavor::Flavor;

const LONG: Duration = Duration::from_secs(20);

/// A server of two shards on free ports of 127.0.0.1.
fn server() -> Server {
    server_with(&["--shards=2"])
}

/// A server on free ports of 127.0.0.1.
fn server_with(options: &[&str]) -> Server {
    let arguments = [
        "shardcast",
        "--http",
        "127.0.0.1:0",
        "--udp-bind",
        "127.0.0.1",
        "--udp-port",
        "0",
        "--announce",
        "127.0.0.1",
    ];
    let config = Config::load(
        arguments.iter().chain(options).map(Into::into),
        |_| None,
        |_| Err(std::io::ErrorKind::NotFound.into()),
        2,
    );
    Server::start(&config.expect("a valid configuration")).expect("the server starts")
}

#[test]
fn a_room_over_two_shards_hears_itself() {
    for options in [
        &["--shards=2", "--spill-peers", "1"][..],
        &["--shards=2", "--spill-peers", "2"],
        &["--shards=2", "--spill-peers", "1", "--single-port"],
    ] {
        let server = server_with(options);
        let zero = Instant::now();
        let ids = ["ann", "bob", "cid", "dee"];
        let mut peers = ids.map(|id| {
            let mut live = Live::join(server.http_addr(), "wide", id, Flavor::Chromium, zero);
            drive(&mut [&mut live], LONG, "the server answers", |live| {
                live[0].client.joined.is_some()
            });
            live
        });
        let mut all: Vec<&mut Live> = peers.iter_mut().collect();
        drive(&mut all, LONG, "everybody hears everybody", |live| {
            live.iter().all(|live| {
                let packets = live.packets();
                packets.len() == 6 && packets[0] >= 50
            })
        });
        for live in &peers {
            live.check();
        }
        let relays = |shard: u16| {
            let name = format!("shardcast_relay_packets_sent_total{{shard=\"{shard}\"}} ");
            let metrics = socket::get(server.http_addr(), "/metrics");
            let line = metrics.lines().find_map(|line| line.strip_prefix(&name));
            line.expect("it is counted").parse::<u64>() != Ok(0)
        };
        // Counters are copied for the page once a second.
        let mut all: Vec<&mut Live> = peers.iter_mut().collect();
        drive(&mut all, LONG, "both shards relay", |_| {
            relays(0) && relays(1)
        });
        server.shutdown();
    }
}

/// Checks that `counters` came in order and without holes.
fn assert_gapless(who: &str, counters: &[u64]) {
    for pair in counters.windows(2) {
        assert_eq!(pair[1], pair[0] + 1, "{who}: {counters:?}");
    }
}

#[test]
fn two_rtc_peer_connections_receive_each_other() {
    let server = server();
    let mut peers = [
        RtcClient::join(server.http_addr(), "duo", "ann"),
        RtcClient::join(server.http_addr(), "duo", "bob"),
    ];
    let end = Instant::now() + LONG;
    let enough = |peer: &RtcClient, from: &str| {
        ["audio", "video"].iter().all(|kind| {
            let counters = peer.received.get(&(from.to_owned(), kind));
            counters.is_some_and(|c| c.len() >= 100)
        })
    };
    while Instant::now() < end && !(enough(&peers[0], "bob") && enough(&peers[1], "ann")) {
        for peer in &mut peers {
            peer.pump();
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    for (peer, from) in [(&peers[0], "bob"), (&peers[1], "ann")] {
        assert!(peer.faults.is_empty(), "{}: {:?}", peer.id, peer.faults);
        assert!(peer.connected, "{} is connected", peer.id);
        assert!(enough(peer, from), "{}: {:?}", peer.id, peer.received);
        for ((_, kind), counters) in &peer.received {
            assert_gapless(&format!("{} {kind}", peer.id), counters);
        }
    }
    server.shutdown();
}

#[test]
fn the_async_webrtc_crate_is_a_client_too() {
    let server = server();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime");
    let seen = Arc::new(Mutex::new(Seen::default()));
    let client = async_client::run(
        server.http_addr(),
        "mixed".to_owned(),
        "ann".to_owned(),
        Arc::clone(&seen),
    );
    let task = runtime.spawn(client);
    let mut bob = RtcClient::join(server.http_addr(), "mixed", "bob");
    let end = Instant::now() + LONG;
    let enough = |received: &std::collections::BTreeMap<(String, &'static str), Vec<u64>>| {
        received.len() == 2 && received.values().all(|counters| counters.len() >= 100)
    };
    while Instant::now() < end {
        bob.pump();
        let ann_has = enough(&seen.lock().expect("not poisoned").received);
        if ann_has && enough(&bob.received) || task.is_finished() {
            break;
        }
        std::thread::sleep(Duration::from_millis(1));
    }
    assert!(!task.is_finished(), "the client's task has panicked");
    task.abort();
    runtime.shutdown_timeout(Duration::from_secs(2));
    let seen = seen.lock().expect("not poisoned");
    assert!(seen.faults.is_empty(), "{:?}", seen.faults);
    assert!(bob.faults.is_empty(), "{:?}", bob.faults);
    assert!(enough(&seen.received), "ann: {:?}", seen.received);
    assert!(enough(&bob.received), "bob: {:?}", bob.received);
    server.shutdown();
}

/// Two well-behaved peers whose media flows; what else happens must not touch it.
struct Bystanders {
    ann: Live,
    bob: Live,
}

impl Bystanders {
    fn start(server: SocketAddr, room: &str) -> Self {
        let zero = Instant::now();
        let ann = Live::join(server, room, "ann", Flavor::Chromium, zero);
        let bob = Live::join(server, room, "bob", Flavor::Firefox, zero);
        let mut pair = Self { ann, bob };
        pair.drive("the bystanders hear each other", |ann, bob| {
            let flows = |live: &Live| live.packets().len() == 2 && live.packets()[0] > 20;
            flows(ann) && flows(bob)
        });
        pair
    }

    fn drive(&mut self, what: &str, done: impl Fn(&Live, &Live) -> bool) {
        drive(&mut [&mut self.ann, &mut self.bob], LONG, what, |live| {
            done(live[0], live[1])
        });
    }

    fn run_for(&mut self, duration: Duration) {
        let end = Instant::now() + duration;
        self.drive("time passes", |_, _| Instant::now() >= end);
    }

    /// Media still flows both ways, whole and in order.
    fn check(&mut self) {
        let least = |live: &Live, from: &str| {
            let packets = live.packets_of(from);
            assert_eq!(packets.len(), 2, "{} receives {from}", live.client.id());
            packets[0]
        };
        let before = (least(&self.ann, "bob"), least(&self.bob, "ann"));
        self.drive("the bystanders' media goes on", |ann, bob| {
            least(ann, "bob") > before.0 + 40 && least(bob, "ann") > before.1 + 40
        });
        assert!(!self.ann.closed && !self.bob.closed);
        self.ann.check();
        self.bob.check();
        for live in [&self.ann, &self.bob] {
            let errors = &live.client.errors;
            assert!(errors.is_empty(), "{}: {errors:?}", live.client.id());
        }
    }
}

#[test]
fn malformed_frames_cost_only_their_sender() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let deep = format!(
        "{{\"event\":\"x\",\"data\":{}{}}}",
        "[".repeat(64),
        "]".repeat(64)
    );
    let frames: [(String, &str); 8] = [
        ("not json".to_owned(), "bad-json"),
        ("[1, 2]".to_owned(), "bad-json"),
        ("{\"data\": {}}".to_owned(), "bad-json"),
        (deep, "too-deep"),
        (
            json!({"event": "dance", "data": {}}).to_string(),
            "unknown-event",
        ),
        (
            json!({"event": "offer", "data": {"offer": {"type": "offer", "sdp": "v=0"}}})
                .to_string(),
            "not-joined",
        ),
        (
            json!({"event": "joinRoom", "data": {"self_id": "", "room_id": "steady"}}).to_string(),
            "bad-id",
        ),
        (
            json!({"event": "joinRoom", "data": {"self_id": "a\nb", "room_id": "steady"}})
                .to_string(),
            "bad-id",
        ),
    ];
    let mut socket = Socket::connect(server.http_addr(), "/ws");
    for (frame, code) in frames {
        socket.send_text(frame.clone());
        let error = socket.wait_for("error", LONG);
        assert_eq!(error["code"], code, "{frame}: {error}");
        pair.run_for(Duration::from_millis(5));
    }
    // An unknown event was no reason to disconnect: the same socket can still join.
    socket.send("joinRoom", json!({"self_id": "eve", "room_id": "steady"}));
    let joined = socket.wait_for("joined", LONG);
    assert_eq!(joined["peers"].as_array().expect("peers").len(), 2);
    pair.check();
    server.shutdown();
}

#[test]
fn malformed_descriptions_cost_only_their_sender() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let offer = |sdp: &str| json!({"offer": {"type": "offer", "sdp": sdp}});
    let section = "m=audio 9 UDP/TLS/RTP/SAVPF 111\r\na=mid:0\r\na=rtpmap:111 opus/48000/2\r\n";
    let many = format!(
        "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\n{}",
        section.repeat(2000)
    );
    let cases = [
        offer(""),
        offer("v=0"),
        offer("\u{0}\u{ffff}"),
        offer(&"a=b\r\n".repeat(10_000)),
        offer(&many),
        offer(
            "v=0\r\no=- 1 1 IN IP4 0.0.0.0\r\ns=-\r\nt=0 0\r\nm=audio 9 UDP/TLS/RTP/SAVPF 999\r\n",
        ),
        json!({"offer": {"type": "answer", "sdp": "v=0\r\n"}}),
        json!({"offer": 7}),
        json!({}),
    ];
    for (index, data) in cases.into_iter().enumerate() {
        let mut socket = Socket::connect(server.http_addr(), "/ws");
        socket.send(
            "joinRoom",
            json!({"self_id": format!("eve{index}"), "room_id": "steady"}),
        );
        socket.wait_for("joined", LONG);
        socket.send("offer", data.clone());
        let error = socket.wait_for("error", LONG);
        let code = error["code"].as_str().expect("a code");
        let fits = matches!(code, "bad-description" | "bad-data" | "unsupported");
        assert!(fits, "case {index}: {error}");
        pair.run_for(Duration::from_millis(20));
    }
    pair.run_for(Duration::from_millis(200));
    pair.check();
    server.shutdown();
}

#[test]
fn malformed_datagrams_cost_nobody_anything() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let target = pair.ann.client.transport.selected.expect("connected");
    let stranger = std::net::UdpSocket::bind("127.0.0.1:0").expect("a UDP port is free");
    let mut bytes = Vec::new();
    for round in 0..2000u32 {
        let first = (round % 256) as u8;
        let length = (round as usize * 7) % 1400;
        bytes.clear();
        bytes.push(first);
        bytes.extend((0..length).map(|at| (at as u32).wrapping_mul(2_654_435_761 ^ round) as u8));
        stranger.send_to(&bytes, target).expect("loopback takes it");
        // And from an address that the server trusts.
        if round % 4 == 0 {
            pair.bob
                .udp
                .send_to(&bytes, target)
                .expect("loopback takes it");
        }
        if round % 50 == 0 {
            pair.run_for(Duration::from_millis(5));
        }
    }
    pair.check();
    server.shutdown();
}

#[test]
fn a_second_join_replaces_the_first() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let zero = pair.ann.client.options.zero;
    let mut first = Live::join(server.http_addr(), "steady", "cat", Flavor::Odd, zero);
    drive(
        &mut [&mut first, &mut pair.ann, &mut pair.bob],
        LONG,
        "cat is heard",
        |live| {
            live.iter()
                .all(|l| l.packets().len() == 4 && l.packets()[0] > 5)
        },
    );
    let mut second = Live::join(server.http_addr(), "steady", "cat", Flavor::Chromium, zero);
    drive(
        &mut [&mut first, &mut second, &mut pair.ann, &mut pair.bob],
        LONG,
        "the first cat is told and closed, the second is heard",
        |live| {
            let told = live[0]
                .client
                .errors
                .iter()
                .any(|e| e["code"] == "replaced");
            told && live[0].closed
                && live[1..]
                    .iter()
                    .all(|l| l.packets().len() == 4 && l.packets()[0] > 5)
        },
    );
    second.check();
    pair.check();
    server.shutdown();
}

#[test]
fn a_slow_consumer_is_disconnected_and_nobody_else_notices() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let mut slow = Socket::connect(server.http_addr(), "/ws");
    slow.shrink_receive_buffer();
    slow.send("joinRoom", json!({"self_id": "slow", "room_id": "steady"}));
    slow.wait_for("joined", LONG);
    // It reads no more. Joins with large metadata tell it more than its socket's buffers hold.
    let metadata = "m".repeat(4000);
    // Long before its silence would count: a socket is dead after 30 s.
    let end = Instant::now() + Duration::from_secs(25);
    let mut joins = 0;
    let gone = |pair: &Bystanders| {
        let roster = &pair.ann.client.roster;
        joins_told(pair) > 50 && !roster.contains("slow")
    };
    let connect = || -> Vec<Socket> {
        (0..8)
            .map(|_| Socket::connect(server.http_addr(), "/ws"))
            .collect()
    };
    let mut churners = connect();
    while Instant::now() < end && !gone(&pair) {
        for churner in &mut churners {
            let id = format!("churn{joins}");
            let data = json!({"self_id": id, "room_id": "steady", "metadata": {"m": metadata}});
            churner.send("joinRoom", data);
            joins += 1;
        }
        for churner in &mut churners {
            churner.wait_for("joined", LONG);
            churner.send("leaveRoom", json!({}));
        }
        pair.run_for(Duration::from_millis(2));
        if joins % 160 == 0 {
            // The server limits how much one connection may send.
            churners = connect();
        }
    }
    assert!(
        gone(&pair),
        "the slow client is still there after {joins} joins"
    );
    pair.check();
    server.shutdown();
}

fn joins_told(pair: &Bystanders) -> usize {
    let events = &pair.ann.client.events;
    events
        .iter()
        .filter(|(name, _)| name == "peer-joined")
        .count()
}

#[test]
fn a_frame_has_a_largest_size() {
    let server = server();
    let mut pair = Bystanders::start(server.http_addr(), "steady");
    let frame = |bytes: usize| {
        let head = "{\"event\":\"dance\",\"data\":\"";
        format!("{head}{}\"}}", "x".repeat(bytes - head.len() - 2))
    };
    let mut socket = Socket::connect(server.http_addr(), "/ws");
    socket.send_text(frame(256 * 1024));
    assert_eq!(socket.wait_for("error", LONG)["code"], "unknown-event");
    socket.send_text(frame(256 * 1024 + 1));
    let frames = socket.wait_closed(LONG);
    let told = frames.iter().any(|f| f["data"]["code"] == "too-large");
    assert!(told, "{frames:?}");

    let mut socket = Socket::connect(server.http_addr(), "/ws");
    socket.send_message(Message::binary(vec![1, 2, 3]));
    assert_eq!(socket.wait_for("error", LONG)["code"], "not-text");
    pair.check();
    server.shutdown();
}

#[test]
fn http_is_served_beside_the_websocket() {
    let server = server();
    let get = |path: &str| socket::get(server.http_addr(), path);
    let page = get("/");
    assert!(page.starts_with("HTTP/1.1 200 "), "{page}");
    assert!(page.contains("<!doctype html>") || page.contains("<!DOCTYPE html>"));
    assert!(get("/no/such/thing").starts_with("HTTP/1.1 404 "));
    assert!(get("/../Cargo.toml").starts_with("HTTP/1.1 4"));
    server.shutdown();
}

#[test]
fn shutdown_tells_the_peers() {
    let server = server();
    let mut socket = Socket::connect(server.http_addr(), "/ws");
    socket.send("joinRoom", json!({"self_id": "ann", "room_id": "last"}));
    socket.wait_for("joined", LONG);
    let started = Instant::now();
    let address = server.http_addr();
    server.shutdown();
    assert!(started.elapsed() < Duration::from_secs(5));
    let frames = socket.wait_closed(LONG);
    let told = frames.iter().any(|f| f["data"]["code"] == "shutting-down");
    assert!(told, "{frames:?}");
    assert!(
        TcpStream::connect(address).is_err(),
        "nobody listens any more"
    );
}

#[test]
fn the_program_stops_cleanly_on_a_signal() {
    for signal in [Signal::TERM, Signal::INT] {
        let mut program = Command::new(env!("CARGO_BIN_EXE_shardcast"))
            .args(["--http", "127.0.0.1:0", "--udp-port", "0"])
            .args(["--announce", "127.0.0.1", "--log", "info"])
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("the program starts");
        let address = announced_address(&mut program);
        let mut socket = Socket::connect(address, "/ws");
        socket.send("joinRoom", json!({"self_id": "ann", "room_id": "last"}));
        socket.wait_for("joined", LONG);
        let sent = Instant::now();
        // Not by `kill`: the smallest Debian has no such program.
        kill_process(Pid::from_child(&program), signal).expect("it runs");
        let frames = socket.wait_closed(LONG);
        let told = frames.iter().any(|f| f["data"]["code"] == "shutting-down");
        assert!(told, "{signal:?}: {frames:?}");
        let status = program.wait().expect("the program ends");
        assert_eq!(status.code(), Some(0), "{signal:?}");
        assert!(sent.elapsed() < Duration::from_secs(5), "{signal:?}");
    }
}

/// Reads the line that the server logs when it is ready, from either stream, and finds its address.
fn announced_address(program: &mut std::process::Child) -> SocketAddr {
    let (tx, rx) = std::sync::mpsc::channel();
    let stdout = program.stdout.take().expect("piped");
    let stderr = program.stderr.take().expect("piped");
    let streams: [Box<dyn Read + Send>; 2] = [Box::new(stdout), Box::new(stderr)];
    for stream in streams {
        let tx = tx.clone();
        std::thread::spawn(move || {
            for line in BufReader::new(stream).lines().map_while(Result::ok) {
                // A log that goes into a pipe has no colours.
                let found = line.split(" http=127.0.0.1:").nth(1).and_then(|rest| {
                    let digits: String = rest.chars().take_while(char::is_ascii_digit).collect();
                    digits.parse::<u16>().ok()
                });
                if let Some(port) = found.filter(|port| *port != 0) {
                    tx.send(SocketAddr::from(([127, 0, 0, 1], port))).ok();
                }
            }
        });
    }
    rx.recv_timeout(LONG).expect("the server says where it is")
}

#[test]
fn a_socket_that_says_nothing_is_no_peer() {
    // A connection that never speaks HTTP holds nothing up.
    let server = server();
    let _idle: Vec<TcpStream> = (0..20)
        .map(|_| TcpStream::connect(server.http_addr()).expect("the server listens"))
        .collect();
    let mut socket = Socket::connect(server.http_addr(), "/ws");
    socket.send("joinRoom", json!({"self_id": "ann", "room_id": "r"}));
    socket.wait_for("joined", LONG);
    assert_eq!(socket.poll(), None::<Arrival>);
    server.shutdown();
}

/// The policy of a thread of a process by name, as proc_pid_stat(5) tells it in field 41.
#[cfg(target_os = "linux")]
fn policies(process: u32, name: &str) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{process}/task")).expect("it runs");
    let stats =
        tasks.filter_map(|task| std::fs::read_to_string(task.ok()?.path().join("stat")).ok());
    let of_thread = stats.filter_map(|stat| {
        let (before, after) = stat.rsplit_once(')')?;
        let is_it = before.rsplit_once('(')?.1 == name;
        is_it.then(|| after.split_whitespace().nth(41 - 3)?.parse().ok())?
    });
    of_thread.collect()
}

/// Shards, and nothing else, go before ordinary threads if that is asked for and the system allows it.
#[cfg(target_os = "linux")]
#[test]
fn shards_go_before_ordinary_threads() {
    const ORDINARY: u32 = 0;
    const ROUND_ROBIN: u32 = 2;
    let is_allowed = std::thread::spawn(shardcast::io::scheduling::before_ordinary_threads)
        .join()
        .expect("no panic")
        .is_ok();
    for is_asked in [false, true] {
        let mut command = Command::new(env!("CARGO_BIN_EXE_shardcast"));
        command.args(["--http=127.0.0.1:0", "--udp-bind=127.0.0.1", "--udp-port=0"]);
        command.args(["--announce=127.0.0.1", "--shards=1"]);
        command.args(is_asked.then_some("--real-time"));
        let mut child = command.stderr(Stdio::piped()).spawn().expect("it starts");
        let log = BufReader::new(child.stderr.take().expect("a pipe"));
        let is_up = |line: std::io::Result<String>| line.expect("text").contains("listening");
        assert!(log.lines().any(is_up), "it came up");
        let wanted = match is_asked && is_allowed {
            true => ROUND_ROBIN,
            false => ORDINARY,
        };
        let deadline = Instant::now() + LONG;
        while policies(child.id(), "shard-0") != [wanted] && Instant::now() < deadline {
            std::thread::sleep(Duration::from_millis(10));
        }
        let seen = ["shard-0", "acceptor", "shardcast"].map(|name| policies(child.id(), name));
        child.kill().expect("it runs");
        child.wait().expect("it has ended");
        assert_eq!(
            seen,
            [[wanted], [ORDINARY], [ORDINARY]],
            "asked: {is_asked}"
        );
    }
}
