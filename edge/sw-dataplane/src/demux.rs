//! What one datagram on the shared socket is (path-selection.md §2, architecture.md §10.3).

use sw_proto::geneve;
use sw_types::Vni;
use sw_wg::DataHeader;

const DISCO_MAGIC: [u8; 6] = [0x54, 0x53, 0xf0, 0x9f, 0x92, 0xac];
/// Magic and the sender's key.
const DISCO_LEN_MIN: usize = 38;
const STUN_LEN_MIN: usize = 20;
const STUN_COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const GENEVE_DISCO: [u8; 2] = [0x7a, 0x11];
const GENEVE_WIREGUARD: [u8; 2] = [0x7a, 0x12];
const GENEVE_CONTROL: u8 = 0x80;

/// The kinds of datagram, by their first bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Class {
    /// A WireGuard data message behind `prefix` bytes.
    Data {
        prefix: usize,
        header: DataHeader,
        vni: Option<Vni>,
    },
    /// Any other WireGuard message (or anything else of no kind) behind `prefix` bytes.
    Handshake {
        prefix: usize,
        vni: Option<Vni>,
    },
    Stun,
    Disco,
    /// Geneve with the control bit.
    Geneve,
    /// Too short to be anything.
    Runt,
}

/// Sorts a datagram. The order of the tests decides where kinds overlap.
#[inline]
pub(crate) fn classify(datagram: &[u8]) -> Class {
    // WHY first: nearly every datagram is this one, and no other kind has its first four bytes (a STUN request
    // and Geneve begin with 0, disco with 0x54; a STUN answer has 1 in byte 0 and 1).
    if let Some(header) = DataHeader::parse(datagram) {
        return Class::Data { prefix: 0, header, vni: None };
    }
    let Some((head, rest)) = datagram.split_first_chunk::<8>() else { return Class::Runt };
    let is_stun =
        datagram.len() >= STUN_LEN_MIN && head[0] & 0xc0 == 0 && head[4..] == STUN_COOKIE && head[1] == 1;
    if is_stun {
        return Class::Stun;
    }
    let is_geneve = head[0] & 0xc0 == 0 && head[1] & 0x3f == 0 && head[7] == 0;
    let protocol = [head[2], head[3]];
    if is_geneve && protocol == GENEVE_DISCO && rest.starts_with(&DISCO_MAGIC) {
        let is_control = head[1] & GENEVE_CONTROL != 0;
        return if is_control { Class::Geneve } else { Class::Disco };
    }
    if is_geneve && protocol == GENEVE_WIREGUARD {
        if head[1] & GENEVE_CONTROL != 0 {
            return Class::Geneve;
        }
        let vni = Some(Vni::from_bytes([head[4], head[5], head[6]]));
        let prefix = geneve::HEADER_LEN;
        return match DataHeader::parse(rest) {
            Some(header) => Class::Data { prefix, header, vni },
            None => Class::Handshake { prefix, vni },
        };
    }
    if head.starts_with(&DISCO_MAGIC) && datagram.len() >= DISCO_LEN_MIN {
        return Class::Disco;
    }
    Class::Handshake { prefix: 0, vni: None }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_is_told_apart() {
        let padded = |head: &[u8]| {
            let mut bytes = head.to_vec();
            bytes.resize(64, 0);
            bytes
        };
        let data = padded(&[4, 0, 0, 0, 9, 0, 0, 0, 7]);
        let header = DataHeader { receiver: 9, counter: 7 };
        assert_eq!(classify(&data), Class::Data { prefix: 0, header, vni: None });
        let wrapped = [&[0, 0, 0x7a, 0x12, 0, 0, 5, 0][..], &data].concat();
        let vni = Vni::new(5);
        assert_eq!(classify(&wrapped), Class::Data { prefix: 8, header, vni });
        assert_eq!(classify(&padded(&[1, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42])), Class::Stun);
        assert_eq!(classify(&padded(&[0, 1, 0, 0, 0x21, 0x12, 0xa4, 0x42])), Class::Stun);
        assert_eq!(classify(&padded(&DISCO_MAGIC)), Class::Disco);
        assert_eq!(
            classify(&[&DISCO_MAGIC[..], &[0; 31]].concat()),
            Class::Handshake { prefix: 0, vni: None }
        );
        let geneve_disco = [&[0, 0, 0x7a, 0x11, 0, 0, 1, 0][..], &DISCO_MAGIC].concat();
        assert_eq!(classify(&geneve_disco), Class::Disco);
        let control = [&[0, 0x80, 0x7a, 0x11, 0, 0, 1, 0][..], &DISCO_MAGIC].concat();
        assert_eq!(classify(&control), Class::Geneve);
        for kind in 1..=3 {
            assert_eq!(classify(&padded(&[kind, 0, 0, 0])), Class::Handshake { prefix: 0, vni: None });
        }
        assert_eq!(classify(&[7]), Class::Runt, "what some clients append to full GSO batches");
    }
}
