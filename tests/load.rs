//! The load tester against the real server, both in this process, on loopback; and the bad network in between.

use std::io::{BufRead as _, BufReader, Write as _};
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::AtomicBool;
use std::time::{Duration, Instant};

use clap::Parser as _;
use serde_json::{Value, json};
use shardcast::config::Config;
use shardcast::load::{LoadError, Options, Report, run};
use shardcast::server::Server;

/// A server on free ports of 127.0.0.1.
fn server() -> Server {
    let arguments = "shardcast --http 127.0.0.1:0 --udp-bind 127.0.0.1 --udp-port 0 --announce 127.0.0.1 --shards 2";
    let config = Config::load(
        arguments.split(' ').map(Into::into),
        |_| None,
        |_| Err(std::io::ErrorKind::NotFound.into()),
        2,
    );
    Server::start(&config.expect("a valid configuration")).expect("the server starts")
}

/// Loads a server of its own; returns the report and what was written on the way.
fn load(args: &str) -> (Result<Report, LoadError>, String) {
    let server = server();
    let target = format!("ws://{}", server.http_addr());
    let args = ["load", &target].into_iter().chain(args.split(' '));
    let options = Options::try_parse_from(args).expect("valid options");
    let mut progress = Vec::new();
    let report = run(&options, &AtomicBool::new(false), &mut progress);
    server.shutdown();
    (report, String::from_utf8(progress).expect("UTF-8"))
}

/// Both programs share the cores with all other tests, so that no time is asserted here.
#[test]
fn media_gets_through_to_everybody() {
    let (report, progress) = load(
        "--rooms 2 --publishers 1 --subscribers 5 --audio --video-bitrate 300k --duration 2500ms \
         --ramp 1s --verify full --threads 2 --max-loss 0.5%",
    );
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    assert_eq!(
        (report.joins.clients, report.joins.ready),
        (12, 12),
        "{report}"
    );
    assert!(report.joins.failures.is_empty(), "{report}");
    let packets = &report.packets;
    assert_eq!(packets.silent_tracks, 0, "{report}");
    assert_eq!(
        (packets.not_opened, packets.wrong_payload),
        (0, 0),
        "{report}"
    );
    // Each of ten viewers hears some 50 packets a second and sees 30 frames.
    assert!(packets.received > 10 * 2 * (50 + 30), "{report}");
    assert_eq!(
        packets.received + packets.lost,
        packets.expected,
        "{report}"
    );
    assert_eq!(packets.opened, packets.received, "{report}");
    assert_eq!(packets.duplicates, 0, "{report}");
    assert!(
        report.latency_us.count > 0 && report.latency_us.p99 > 0.0,
        "{report}"
    );
    assert!(progress.contains("ready 12/12"), "{progress}");

    let json: serde_json::Value = serde_json::from_str(&report.to_json()).expect("JSON");
    assert_eq!(json["joins"]["ready"], 12);
    assert_eq!(json["verdict"]["pass"], true);
}

#[test]
fn publishers_of_a_room_receive_each_other() {
    let (report, progress) =
        load("--publishers 4 --subscribers 0 --audio --video-bitrate 0 --duration 1s --ramp 0s");
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    // Three times fifty packets for each of four.
    assert!(report.packets.received > 4 * 3 * 50 / 2, "{report}");
}

#[test]
fn an_impaired_link_loses_and_recovers() {
    let (report, progress) = load(
        "--subscribers 3 --video-bitrate 500k --duration 2s --ramp 0s --loss 5% --delay 10ms --verify full",
    );
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    let packets = &report.packets;
    assert!(
        packets.impaired_up > 0 && packets.impaired_down > 0,
        "{report}"
    );
    assert!(packets.nacked > 0 && packets.reordered > 0, "{report}");
    assert!(report.latency_us.p50 >= 20_000.0, "{report}");
}

/// Numbered, reported and repaired as with a browser: the server gets feedback from everybody and gives it to the publisher.
#[test]
fn clients_with_transport_cc_are_estimated_and_repaired() {
    let (report, progress) = load(
        "--subscribers 3 --audio --video-bitrate 500k --duration 3s --ramp 0s --loss 3% --delay 10ms \
         --verify full --transport-cc",
    );
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    let packets = &report.packets;
    assert!(packets.nacked > 0 && packets.repaired > 0, "{report}");
    assert!(packets.rtx >= packets.repaired, "{report}");
    assert_eq!(packets.unknown_ssrc, 0, "{report}");
    assert!(
        report.read_latency_us.p50 >= report.latency_us.p50,
        "{report}"
    );
}

#[test]
fn idle_clients_connect_and_send_nothing() {
    let (report, progress) = load("--subscribers 3 --audio --idle --duration 500ms --ramp 0s");
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    assert_eq!(
        (report.joins.ready, report.packets.sent),
        (4, 0),
        "{report}"
    );
}

#[test]
fn the_server_takes_simulcast() {
    let options = "--subscribers 2 --video-bitrate 900k --simulcast --duration 1s --ramp 0s";
    let (report, progress) = load(options);
    let report = report.expect("a run");
    assert!(report.verdict.pass, "{report}\n{progress}");
    assert_eq!(report.packets.silent_tracks, 0, "{report}");
}

#[test]
fn a_missing_server_is_told() {
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let target = format!("ws://{}", free.local_addr().expect("it has an address"));
    drop(free);
    let options = Options::try_parse_from(["load", &target]).expect("valid options");
    let result = run(&options, &AtomicBool::new(false), &mut Vec::new());
    assert!(matches!(result, Err(LoadError::Connect(..))), "{result:?}");
}

/// `shardcast load` as a process: what it says, where, and with which exit code.
#[test]
fn the_verdict_is_the_exit_code() {
    let server = server();
    let target = format!("ws://{}", server.http_addr());
    let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port is free");
    let nobody = format!("ws://{}", free.local_addr().expect("it has an address"));
    drop(free);
    let path = std::env::temp_dir().join(format!("shardcast-load-{}.json", std::process::id()));
    let path = path.to_str().expect("UTF-8");
    let short = "--subscribers 2 --audio --video-bitrate 0 --duration 300ms --ramp 0s";
    // (where, options, exit code, what is on standard output, what on standard error)
    let cases = [
        (
            &target,
            format!("{short} --max-loss 100% --max-p99 10s --json {path}"),
            0,
            "PASS\n",
            "",
        ),
        (
            &target,
            format!("{short} --max-p99 1us"),
            1,
            "µs is above 1 µs",
            "",
        ),
        (
            &target,
            format!("{short} --idle --max-loss 1%"),
            1,
            "FAIL: no loss",
            "",
        ),
        (
            &target,
            format!("{short} --json -"),
            0,
            "\"pass\": true",
            "PASS\n",
        ),
        (
            &target,
            format!("{short} --json /no/such/directory/x"),
            2,
            "",
            "cannot write /no/such",
        ),
        (
            &target,
            "--duration 5".to_owned(),
            2,
            "",
            "such as 50ms or 30s",
        ),
        (&nobody, short.to_owned(), 2, "", "cannot connect"),
    ];
    for (target, options, code, out, err) in cases {
        let done = Command::new(env!("CARGO_BIN_EXE_shardcast"))
            .args(["load", target])
            .args(options.split(' '))
            .output()
            .expect("the program runs");
        let [said, told] =
            [done.stdout, done.stderr].map(|text| String::from_utf8(text).expect("UTF-8"));
        assert_eq!(done.status.code(), Some(code), "{options}: {said}{told}");
        assert!(said.contains(out), "{options}: {said}{told}");
        assert!(told.contains(err), "{options}: {said}{told}");
    }
    let json: Value = serde_json::from_str(&std::fs::read_to_string(path).expect("it was written"))
        .expect("JSON");
    assert_eq!(json["joins"]["ready"], 3);
    std::fs::remove_file(path).expect("it is there");
    server.shutdown();
}

/// `shardcast impair` as a process, and an echo behind it. A lower bound on time is all that is asserted of it.
#[test]
fn a_bad_network_can_be_put_in_between() {
    let mut child = Command::new(env!("CARGO_BIN_EXE_shardcast"))
        .arg("impair")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("the program starts");
    let mut orders = child.stdin.take().expect("a pipe");
    let mut answers = BufReader::new(child.stdout.take().expect("a pipe")).lines();
    let mut ask = |order: Value| -> Value {
        writeln!(orders, "{order}").expect("it reads");
        let answer = answers.next().expect("an answer").expect("text");
        serde_json::from_str(&answer).expect("JSON")
    };
    let echo = UdpSocket::bind("127.0.0.1:0").expect("a port");
    let to = echo.local_addr().expect("an address");
    let client = UdpSocket::bind("127.0.0.1:0").expect("a port");
    for socket in [&echo, &client] {
        let patience = Some(Duration::from_secs(10));
        socket.set_read_timeout(patience).expect("a timeout");
    }
    let answer = ask(json!({"open": {"link": "ann", "to": to}}));
    let door = answer["opened"]["address"].as_str().expect("an address");
    let mut buffer = [0; 100];
    let mut round = |text: &[u8]| {
        let start = Instant::now();
        client.send_to(text, door).expect("sent");
        let (len, from) = echo.recv_from(&mut buffer).expect("it gets there");
        assert_eq!(&buffer[..len], text);
        echo.send_to(text, from).expect("sent");
        let (len, from) = client.recv_from(&mut buffer).expect("it comes back");
        assert_eq!((&buffer[..len], from.to_string()), (text, door.to_owned()));
        start.elapsed()
    };
    round(b"perfect");
    let slow = json!({"delay_ms": 30});
    let answer = ask(json!({"set": {"link": "ann", "up": slow, "down": slow}}));
    assert_eq!(answer, json!({"done": {}}));
    assert!(round(b"slow") >= Duration::from_millis(60));
    ask(json!({"drop": {"link": "ann", "direction": "up", "count": 2}}));
    client.send_to(b"lost", door).expect("sent");
    client.send_to(b"lost", door).expect("sent");
    round(b"not lost");
    let stats = ask(json!({"stats": {"link": "ann"}}))["stats"].clone();
    assert_eq!(
        (&stats["up"]["lost"], &stats["up"]["arrived"]),
        (&json!(2), &json!(3))
    );
    assert_eq!(stats["down"]["arrived_bytes"], json!(7 + 4 + 8));
    assert!(ask(json!({"stats": {"link": "bob"}}))["error"].is_string());
    assert!(ask(json!({"stop": 1}))["error"].is_string());
    drop(orders);
    assert!(child.wait().expect("it ends").success());
}
