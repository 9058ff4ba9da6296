//! Splitting and joining are inverse, and neither trusts its input.

use super::*;
use crate::packet::split::Split;
use crate::packet::{Addresses, padded_len};
use arbitrary::Unstructured;
use sw_os::tun::VNET_HEADER_LEN;

const BEST: Offload = Offload::Superpackets { udp: true };

/// A superpacket as the kernel hands it over: its checksum field holds the pseudo header's sum.
fn superpacket(kind: Kind, is_v4: bool, payload: &[u8], segment: usize) -> (Vnet, Vec<u8>) {
    let transport = if is_v4 { 20 } else { 40 };
    let header_len = match kind {
        Kind::Tcp => 32,
        Kind::Udp => 8,
    };
    let total = transport + header_len + payload.len();
    let mut packet = vec![0; transport + header_len];
    if is_v4 {
        packet[0] = 0x45;
        write_u16(&mut packet, 2, total as u16);
        write_u16(&mut packet, 4, 7);
        packet[6] = 0x40;
        packet[8] = 64;
        packet[9] = kind.protocol();
        packet[12..20].copy_from_slice(&[10, 0, 0, 1, 10, 0, 0, 2]);
    } else {
        packet[0] = 0x60;
        write_u16(&mut packet, 4, (total - 40) as u16);
        packet[6] = kind.protocol();
        packet[7] = 64;
        packet[8] = 0xfd;
        packet[24] = 0xfd;
        packet[39] = 2;
    }
    write_u16(&mut packet, transport, 1000);
    write_u16(&mut packet, transport + 2, 2000);
    if kind == Kind::Tcp {
        packet[transport + 4..transport + 8].copy_from_slice(&0xffff_fff0u32.to_be_bytes());
        packet[transport + 12] = 8 << 4;
        packet[transport + 13] = TCP_ACK;
    }
    packet.extend_from_slice(payload);
    (Vnet::Segments { segment }, packet)
}

fn split_all(vnet: Vnet, packet: &[u8], mtu: usize) -> Vec<Vec<u8>> {
    let addresses = Addresses::parse(packet).unwrap();
    let split = Split::new(vnet, packet, &addresses).unwrap();
    (0..split.count())
        .map(|i| {
            let mut out = vec![0xaa; split.padded_len(i, mtu)];
            split.write(i, &mut out);
            assert!(out[split.len(i)..].iter().all(|b| *b == 0));
            out.truncate(split.len(i));
            out
        })
        .collect()
}

/// Runs packets through a coalescer and returns each write with its virtio header.
fn join_all(packets: &[Vec<u8>], offload: Offload) -> Vec<Vec<u8>> {
    let mut buffer: Vec<u8> = packets.concat();
    let mut coalescer = Coalescer::new(offload);
    let mut writes = Vec::new();
    let mut write =
        |slices: &[IoSlice<'_>]| writes.push(slices.iter().flat_map(|s| s.iter().copied()).collect());
    let mut at = 0;
    for packet in packets {
        let candidate = coalescer.candidate(&buffer, at..at + packet.len());
        at += packet.len();
        if !coalescer.try_join(&mut buffer, &candidate) {
            coalescer.flush(&mut buffer, &mut write);
            coalescer.start(&buffer, candidate);
        }
    }
    coalescer.flush(&mut buffer, &mut write);
    writes
}

#[test]
fn what_is_split_joins_to_the_same_superpacket() {
    arbtest::arbtest(|u| {
        let kind = *u.choose(&[Kind::Tcp, Kind::Udp])?;
        let (is_v4, segment) = (u.arbitrary()?, u.int_in_range(1..=1400)?);
        let count: usize = u.int_in_range(2..=40)?;
        let last = u.int_in_range(1..=segment)?;
        let payload: Vec<u8> = (0..segment * (count - 1) + last).map(|i| (i * 7) as u8).collect();
        let (vnet, packet) = superpacket(kind, is_v4, &payload, segment);
        let parts = split_all(vnet, &packet, 1420);
        assert_eq!(parts.len(), count);
        for part in &parts {
            let shape = Shape::parse(part).unwrap();
            assert!(is_checksum_right(part, &shape));
            if is_v4 {
                assert_eq!(checksum::sum(0, &part[..20]), 0xffff);
            }
        }
        let joined = join_all(&parts, BEST);
        assert_eq!(joined.len(), 1);
        let header: [u8; VNET_HEADER_LEN] = *joined[0].first_chunk().unwrap();
        assert_eq!(Vnet::parse(&header), vnet);
        let again = split_all(Vnet::parse(&header), &joined[0][VNET_HEADER_LEN..], 1420);
        assert_eq!(again, parts);
        Ok(())
    });
}

#[test]
fn fin_and_push_stay_on_the_last_segment() {
    let (vnet, mut packet) = superpacket(Kind::Tcp, true, &[1; 3000], 1000);
    packet[20 + 13] |= TCP_PSH | 0x01 | 0x80;
    let flags: Vec<u8> = split_all(vnet, &packet, 1420).iter().map(|p| p[33]).collect();
    assert_eq!(flags, [0x90, 0x10, 0x19], "CWR stays on the first");
}

#[test]
fn a_partial_checksum_is_completed() {
    let (_, mut packet) = superpacket(Kind::Udp, true, &[3; 101], 101);
    let len = (packet.len() - 20) as u16;
    write_u16(&mut packet, 24, len);
    let pseudo = checksum::pseudo(&packet, 17, usize::from(len));
    write_u16(&mut packet, 26, pseudo);
    let parts = split_all(Vnet::Checksum { start: 20, offset: 6 }, &packet, 1420);
    let shape = Shape::parse(&parts[0]).unwrap();
    assert!(is_checksum_right(&parts[0], &shape));
}

#[test]
fn what_differs_is_not_joined() {
    let (vnet, packet) = superpacket(Kind::Tcp, true, &[5; 3000], 1000);
    let parts = split_all(vnet, &packet, 1420);
    let fix = |p: &mut Vec<u8>| {
        write_u16(p, 10, 0);
        let sum = checksum::finish(checksum::sum(0, &p[..20]));
        write_u16(p, 10, sum);
        write_u16(p, 36, 0);
        let pseudo = checksum::pseudo(p, 6, p.len() - 20);
        let sum = checksum::finish(checksum::sum(pseudo, &p[20..]));
        write_u16(p, 36, sum);
    };
    // Service class, lifetime, don't-fragment, source, port, sequence, acknowledgement, flags, window, option.
    for at in [1, 8, 6, 12, 20, 27, 28, 33, 35, 45] {
        let mut changed = parts.clone();
        changed[1][at] ^= if at == 33 { 0x02 } else { 0x40 };
        fix(&mut changed[1]);
        assert!(join_all(&changed, BEST).len() > 1, "byte {at}");
    }
    let mut corrupt = parts.clone();
    corrupt[1][60] ^= 1;
    assert_eq!(join_all(&corrupt, BEST).len(), 3, "a wrong checksum goes to the kernel as it is");
    assert_eq!(join_all(&parts, BEST).len(), 1);
    assert_eq!(join_all(&parts, Offload::None), parts, "bare packets without the header");
    let (vnet, packet) = superpacket(Kind::Udp, true, &[5; 3000], 1000);
    let parts = split_all(vnet, &packet, 1420);
    assert_eq!(join_all(&parts, Offload::Superpackets { udp: false }).len(), 3);
}

#[test]
fn arbitrary_bytes_never_panic() {
    arbtest::arbtest(|u: &mut Unstructured<'_>| {
        crate::fuzz::tun_packet(u.bytes(u.len())?);
        Ok(())
    });
    arbtest::arbtest(|u| {
        let (kind, is_v4) = (*u.choose(&[Kind::Tcp, Kind::Udp])?, u.arbitrary()?);
        let (_, packet) = superpacket(kind, is_v4, &[1; 300], 100);
        let mut bytes = vec![0; VNET_HEADER_LEN];
        u.fill_buffer(&mut bytes)?;
        bytes.extend(packet);
        for _ in 0..u.int_in_range(0..=8)? {
            let at = u.choose_index(bytes.len())?;
            bytes[at] = u.arbitrary()?;
        }
        crate::fuzz::tun_packet(&bytes);
        Ok(())
    });
}

#[test]
fn padding_never_passes_the_mtu() {
    assert_eq!(padded_len(1, 1420), 16);
    assert_eq!(padded_len(16, 1420), 16);
    assert_eq!(padded_len(1409, 1420), 1420);
    assert_eq!(padded_len(1420, 1420), 1420);
    assert_eq!(padded_len(1500, 1420), 1500, "larger than the MTU: as it is");
}
