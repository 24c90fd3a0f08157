//! Classic BPF programs that choose one of a port's sockets by a datagram's source address.
//!
//! Such a program has neither memory nor maps, so the addresses are in its code: a binary search. It sees the
//! packet from the network header on. An address is told by a 32-bit key, which two addresses may share:
//! then a datagram reaches a socket that is not its own and is handed over like any stray. Nothing but speed
//! depends on the program.

use std::net::{IpAddr, SocketAddr};

/// One instruction, as linux/filter.h has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many instructions to skip if a condition holds.
    pub jt: u8,
    /// How many to skip otherwise.
    pub jf: u8,
    /// A constant or an offset.
    pub k: u32,
}

/// The most addresses in one program: with up to 3.5 instructions for each it stays below the kernel's
/// 4096.
pub const ADDRESSES_MAX: usize = 1024;

/// A program that returns the index given for each address, and for any other an index that no socket has:
/// then the kernel chooses by its hash. Addresses beyond [`ADDRESSES_MAX`] are left out, and those
/// whose keys coincide but whose indices differ.
#[must_use]
pub fn compile(addresses: impl IntoIterator<Item = (SocketAddr, u16)>) -> Vec<Instruction> {
    let mut keys: Vec<(u32, u16)> = addresses
        .into_iter()
        .take(ADDRESSES_MAX)
        .map(|(address, index)| (key_of(address), index))
        .collect();
    keys.sort_unstable();
    keys.dedup();
    let ambiguous: Vec<u32> = keys
        .windows(2)
        .filter(|pair| pair[0].0 == pair[1].0)
        .map(|pair| pair[0].0)
        .collect();
    keys.retain(|(key, _)| ambiguous.binary_search(key).is_err());
    let mut program = head();
    program.append(&mut search(&keys));
    program
}

/// What the program computes of a packet in its accumulator.
fn key_of(address: SocketAddr) -> u32 {
    let port = u32::from(address.port());
    match address.ip().to_canonical() {
        IpAddr::V4(ip) => port.wrapping_mul(MIX).wrapping_add(u32::from(ip)),
        IpAddr::V6(ip) => {
            let words = u128::from(ip);
            [96, 64, 32, 0].iter().fold(port, |key, shift| {
                key.wrapping_mul(MIX).wrapping_add((words >> shift) as u32)
            })
        }
    }
}

/// Loads the key, or returns where the packet is of a kind it does not know.
fn head() -> Vec<Instruction> {
    let plain = |code, k| Instruction {
        code,
        jt: 0,
        jf: 0,
        k,
    };
    let jump = |k, jt, jf| Instruction {
        code: JEQ,
        jt,
        jf,
        k,
    };
    // IPv6 with UDP at once behind the fixed header (RFC 8200 §3).
    let mut v6 = vec![
        plain(LD_BYTE, NET + 6),
        jump(PROTOCOL_UDP, 1, 0),
        plain(RET, NO_SOCKET),
        plain(LD_HALF, NET + 40),
    ];
    for offset in [8, 12, 16, 20] {
        v6.extend([
            plain(MUL, MIX),
            plain(TAX, 0),
            plain(LD_WORD, NET + offset),
            plain(ADD_X, 0),
        ]);
    }
    // IPv4, whose header has options and so a length (RFC 791 §3.1).
    let v4 = [
        plain(LDX_HEADER_LEN, NET),
        plain(LD_HALF_AT_X, NET),
        plain(MUL, MIX),
        plain(TAX, 0),
        plain(LD_WORD, NET + 12),
        plain(ADD_X, 0),
        plain(JA, v6.len() as u32),
    ];
    let mut head = vec![
        plain(LD_BYTE, NET),
        plain(AND, 0xf0),
        jump(0x40, 2, 0),
        jump(0x60, 1 + v4.len() as u8, 0),
        plain(RET, NO_SOCKET),
    ];
    head.extend(v4);
    head.append(&mut v6);
    head
}

/// Finds the accumulator among sorted keys.
fn search(keys: &[(u32, u16)]) -> Vec<Instruction> {
    if keys.len() <= LEAF_MAX {
        let mut leaf = Vec::new();
        for (key, index) in keys {
            leaf.push(Instruction {
                code: JEQ,
                jt: 0,
                jf: 1,
                k: *key,
            });
            leaf.push(ret(u32::from(*index)));
        }
        leaf.push(ret(NO_SOCKET));
        return leaf;
    }
    let (low, high) = keys.split_at(keys.len() / 2);
    let mut below = search(low);
    let k = high[0].0;
    // A condition skips 255 instructions at most, an unconditional jump any number.
    let mut node = match u8::try_from(below.len()) {
        Ok(jt) => vec![Instruction {
            code: JGE,
            jt,
            jf: 0,
            k,
        }],
        Err(_) => vec![
            Instruction {
                code: JGE,
                jt: 0,
                jf: 1,
                k,
            },
            Instruction {
                code: JA,
                jt: 0,
                jf: 0,
                k: below.len() as u32,
            },
        ],
    };
    node.append(&mut below);
    node.append(&mut search(high));
    node
}

fn ret(k: u32) -> Instruction {
    Instruction {
        code: RET,
        jt: 0,
        jf: 0,
        k,
    }
}

/// Keys compared one after the other; fewer jumps in the program than with one.
const LEAF_MAX: usize = 3;
/// Spreads ports over the whole key: 2^32 divided by the golden ratio, odd.
const MIX: u32 = 0x9e37_79b1;
/// No group has as many sockets.
const NO_SOCKET: u32 = u32::MAX;
const PROTOCOL_UDP: u32 = 17;

/// linux/filter.h: offsets from here on count from the network header.
const NET: u32 = 0_u32.wrapping_sub(0x10_0000);

/// linux/bpf_common.h: class, size or operation, mode or source.
const LD_WORD: u16 = 0x20;
const LD_HALF: u16 = 0x28;
const LD_BYTE: u16 = 0x30;
const LD_HALF_AT_X: u16 = 0x48;
/// X = 4 × (byte & 15).
const LDX_HEADER_LEN: u16 = 0xb1;
const ADD_X: u16 = 0x0c;
const MUL: u16 = 0x24;
const AND: u16 = 0x54;
const JA: u16 = 0x05;
const JEQ: u16 = 0x15;
const JGE: u16 = 0x35;
const RET: u16 = 0x06;
const TAX: u16 = 0x07;

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    /// What the kernel does with a program. Every jump leads forward, so it ends.
    fn run(program: &[Instruction], packet: &[u8]) -> u32 {
        let byte = |at: u32| u32::from(packet[at.wrapping_sub(NET) as usize]);
        let half = |at: u32| byte(at) << 8 | byte(at + 1);
        let (mut a, mut x, mut at) = (0_u32, 0_u32, 0);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            at += 1;
            let mut skip = |condition: bool| at += usize::from(if condition { jt } else { jf });
            match code {
                LD_BYTE => a = byte(k),
                LD_HALF => a = half(k),
                LD_HALF_AT_X => a = half(k.wrapping_add(x)),
                LD_WORD => a = half(k) << 16 | half(k + 2),
                LDX_HEADER_LEN => x = 4 * (byte(k) & 15),
                ADD_X => a = a.wrapping_add(x),
                MUL => a = a.wrapping_mul(k),
                AND => a &= k,
                TAX => x = a,
                JEQ => skip(a == k),
                JGE => skip(a >= k),
                JA => at += k as usize,
                RET => return k,
                other => panic!("no such instruction: {other:#x}"),
            }
        }
    }

    fn packet(from: SocketAddr, options: usize) -> Vec<u8> {
        let mut packet = Vec::new();
        match from.ip() {
            IpAddr::V4(ip) => {
                packet.resize(20 + options, 0);
                packet[0] = 0x45 + (options / 4) as u8;
                packet[12..16].copy_from_slice(&ip.octets());
            }
            IpAddr::V6(ip) => {
                packet.resize(40, 0);
                (packet[0], packet[6]) = (0x60, 17);
                packet[8..24].copy_from_slice(&ip.octets());
            }
        }
        packet.extend(from.port().to_be_bytes());
        packet.extend([0; 6]);
        packet
    }

    fn address(n: u32) -> SocketAddr {
        let port = (n.wrapping_mul(7919) % 64_000 + 1024) as u16;
        match n % 3 {
            0 => (Ipv6Addr::from(0x2001_0db8_u128 << 96 | u128::from(n)), port).into(),
            1 => (Ipv4Addr::from(0xc000_0200 + n), port).into(),
            // One source behind NAT with many ports.
            _ => (Ipv4Addr::new(203, 0, 113, 7), (n + 1024) as u16).into(),
        }
    }

    #[test]
    fn every_address_finds_its_socket_and_strangers_none() {
        for count in [0, 1, 2, 3, 4, 7, 50, 300, 1024] {
            let table: Vec<_> = (0..count).map(|n| (address(n), (n % 64) as u16)).collect();
            let program = compile(table.iter().copied());
            assert!(program.len() <= 4096, "{}", program.len());
            assert_eq!(program.last().unwrap().code, RET);
            let missed = table.iter().filter(|(address, index)| {
                let found = run(&program, &packet(*address, 0));
                assert!(found == u32::from(*index) || found == NO_SOCKET);
                found == NO_SOCKET
            });
            assert!(missed.count() <= 2, "keys coincide too often");
            let strangers =
                (5000..6000).filter(|n| run(&program, &packet(address(*n), 0)) != NO_SOCKET);
            assert!(strangers.count() <= 2, "keys coincide too often");
        }
    }

    #[test]
    fn options_are_stepped_over_and_other_packets_left_alone() {
        let from = address(1);
        let program = compile([(from, 5), (address(3), 6)]);
        assert_eq!(run(&program, &packet(from, 24)), 5);
        let mut with_extension = packet(address(3), 0);
        assert_eq!(run(&program, &with_extension), 6);
        with_extension[6] = 0;
        assert_eq!(run(&program, &with_extension), NO_SOCKET);
        assert_eq!(run(&program, &[0x50; 60]), NO_SOCKET);
    }

    #[test]
    fn a_key_of_two_sockets_is_left_out_and_the_table_bounded() {
        let twice = [(address(1), 1), (address(1), 2), (address(4), 3)];
        let program = compile(twice);
        assert_eq!(run(&program, &packet(address(1), 0)), NO_SOCKET);
        assert_eq!(run(&program, &packet(address(4), 0)), 3);
        let many = compile((0..60_000).map(|n| (address(n), 0)));
        assert!(many.len() <= 4096, "{}", many.len());
    }
}
