//! All shards on one port: everybody is served, wherever the kernel puts their datagrams.

use std::net::{SocketAddr, UdpSocket};
use std::time::{Duration, Instant};

use shardcast::base::ids::ShardId;
use shardcast::base::ufrag::mark_of;
use shardcast::io::steer_program::compile;
use shardcast::io::udp::UdpSocket as UdpGroup;
use shardcast::server::Server;

use crate::live::{Live, drive};
use crate::socket::get;
use crate::support::flavor::Flavor;
use crate::support::transport::Credentials;
use crate::{LONG, server_with};

fn single_port_server() -> Server {
    server_with(&["--shards=3", "--single-port"])
}

/// A number of `/metrics`, all shards together.
fn metric(server: SocketAddr, name: &str) -> u64 {
    let text = get(server, "/metrics");
    let values: Vec<u64> = text
        .lines()
        .filter_map(|line| line.strip_prefix("shardcast_")?.strip_prefix(name))
        .filter(|rest| rest.starts_with(['{', ' ']))
        .map(|rest| rest.rsplit(' ').next().expect("a value"))
        .map(|value| value.parse().expect("a number"))
        .collect();
    assert!(!values.is_empty(), "no {name} in {text}");
    values.iter().sum()
}

/// Whether the kernel lets a program choose among the sockets of a port (Linux 4.5).
fn can_steer() -> bool {
    let group = UdpGroup::bind_group([127, 0, 0, 1].into(), 0, 2).expect("a UDP port is free");
    let group = group[0].port_group().expect("a descriptor");
    group.attach(&compile([])).is_ok()
}

/// Two peers in each of `count` rooms, which the coordinator spreads over the shards.
fn pairs(server: SocketAddr, count: usize) -> Vec<Live> {
    let zero = Instant::now();
    let mut live = Vec::new();
    for room in 0..count {
        for who in ["ann", "bob"] {
            let id = format!("{who}{room}");
            let flavor = match room % 2 {
                0 => Flavor::Chromium,
                _ => Flavor::Firefox,
            };
            live.push(Live::join(
                server,
                &format!("room{room}"),
                &id,
                flavor,
                zero,
            ));
        }
    }
    live
}

fn drive_all(live: &mut [Live], what: &str, done: impl Fn(&[&mut Live]) -> bool) {
    let mut all: Vec<&mut Live> = live.iter_mut().collect();
    drive(&mut all, LONG, what, done);
}

fn run_for(live: &mut [Live], duration: Duration) {
    let end = Instant::now() + duration;
    drive_all(live, "time passes", |_| Instant::now() >= end);
}

/// Everybody receives both tracks of the other, whole and in order, `count` packets more of each.
fn check_flow(live: &mut [Live], count: usize) {
    let before: Vec<usize> = live
        .iter()
        .map(|live| live.packets().first().copied().unwrap_or(0))
        .collect();
    drive_all(live, "media flows for all", |live| {
        live.iter().zip(&before).all(|(live, before)| {
            let packets = live.packets();
            packets.len() == 2 && packets[0] > before + count
        })
    });
    for live in live {
        live.check();
        let errors = &live.client.errors;
        assert!(errors.is_empty(), "{}: {errors:?}", live.client.id());
    }
}

#[test]
fn rooms_on_three_shards_share_one_port_and_steady_traffic_is_steered() {
    let server = single_port_server();
    let http = server.http_addr();
    let ports: Vec<u16> = server.udp_addrs().iter().map(SocketAddr::port).collect();
    assert_eq!(ports, [ports[0]; 3]);
    let mut live = pairs(http, 6);
    check_flow(&mut live, 30);

    // The counters are copied once a second, and claims gathered for a quarter.
    run_for(&mut live, Duration::from_millis(1500));
    assert!(metric(http, "strays_handed_over_total") > 0);
    assert_eq!(metric(http, "strays_dropped_full_total"), 0);
    assert_eq!(metric(http, "stray_unknown_shard_total"), 0);
    assert_eq!(metric(http, "stray_claims_refused_total"), 0);
    if can_steer() {
        assert_eq!(metric(http, "steered_addresses"), 12);
        let handed_over = metric(http, "strays_handed_over_total");
        let received = metric(http, "rtp_received_total");
        run_for(&mut live, Duration::from_millis(2200));
        assert!(metric(http, "rtp_received_total") > received + 500);
        assert_eq!(metric(http, "strays_handed_over_total"), handed_over);
    }
    check_flow(&mut live, 30);
    assert!(metric(http, "shard_turn_seconds_count") > 100);
    server.shutdown();
}

#[test]
fn a_source_that_changes_its_address_is_followed() {
    let server = single_port_server();
    let mut live = pairs(server.http_addr(), 2);
    check_flow(&mut live, 10);
    for _ in 0..4 {
        for live in &mut live {
            // Another port, which the kernel gives to any of the shards.
            let udp = UdpSocket::bind("127.0.0.1:0").expect("a UDP port is free");
            udp.set_nonblocking(true).expect("a UDP option");
            live.udp = udp;
            live.client.transport.check_now(Instant::now());
        }
        check_flow(&mut live, 10);
    }
    server.shutdown();
}

#[test]
fn forged_ufrags_take_nothing_and_cost_nobody_anything() {
    let server = single_port_server();
    let http = server.http_addr();
    let mut live = pairs(http, 3);
    check_flow(&mut live, 10);
    let target = live[0].client.transport.selected.expect("connected");
    let stranger = UdpSocket::bind("127.0.0.1:0").expect("a UDP port is free");
    let forged = |shard: u16| Credentials {
        ufrag: format!("{}AAAAAAAAAAAA", mark_of(ShardId(shard))),
        pwd: "0123456789012345678901".to_owned(),
    };
    for shard in 0..64 {
        let check = live[0].client.transport.request("x", &forged(shard), true);
        for socket in [&stranger, &live[0].udp, &live[1].udp] {
            socket.send_to(&check, target).expect("loopback takes it");
        }
    }
    // Everybody's valid credentials, from the addresses of everybody else.
    for thief in &live {
        let remote = thief.client.transport.remote.clone().expect("described");
        let check = thief.client.transport.request("x", &remote, true);
        for victim in live.iter().filter(|v| v.client.id() != thief.client.id()) {
            victim
                .udp
                .send_to(&check, target)
                .expect("loopback takes it");
        }
    }
    run_for(&mut live, Duration::from_millis(1500));
    assert!(metric(http, "stray_unknown_shard_total") > 0);
    assert_eq!(metric(http, "shard_restarts_total"), 0);
    assert!(metric(http, "stun_address_taken_total") > 0);
    check_flow(&mut live, 30);
    server.shutdown();
}
