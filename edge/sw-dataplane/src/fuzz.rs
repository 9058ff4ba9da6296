//! Entry points for fuzzing: every parser of the data plane that sees bytes from outside.

use crate::packet::coalesce::Coalescer;
use crate::packet::split::Split;
use crate::packet::vnet::Vnet;
use crate::packet::{Addresses, padded_len};
use sw_os::tun::{Offload, VNET_HEADER_LEN};

/// One read from a TUN: the virtio header, the split into segments, and their way back through the coalescer.
pub fn tun_packet(bytes: &[u8]) {
    let Some((header, packet)) = bytes.split_first_chunk::<VNET_HEADER_LEN>() else { return };
    let Some(addresses) = Addresses::parse(packet) else { return };
    let packet = &packet[..addresses.len];
    let Some(split) = Split::new(Vnet::parse(header), packet, &addresses) else { return };
    let mut coalescer = Coalescer::new(Offload::Superpackets { udp: true });
    let (mut buffer, mut ranges) = (Vec::new(), Vec::new());
    for index in 0..split.count().min(256) {
        let len = split.len(index);
        assert!(split.padded_len(index, 1420) >= padded_len(len, 1420));
        let at = buffer.len();
        buffer.resize(at + split.padded_len(index, 1420), 0);
        split.write(index, &mut buffer[at..]);
        ranges.push(at..at + len);
    }
    for range in ranges {
        let candidate = coalescer.candidate(&buffer, range);
        if !coalescer.try_join(&mut buffer, &candidate) {
            coalescer.flush(&mut buffer, &mut |_| ());
            coalescer.start(&buffer, candidate);
        }
    }
    coalescer.flush(&mut buffer, &mut |_| ());
}

/// One datagram from the network, up to the point where a key is needed.
pub fn datagram(bytes: &[u8]) {
    let _class = crate::demux::classify(bytes);
    let _message = sw_wg::Message::parse(bytes);
    let _addresses = Addresses::parse(bytes);
}
