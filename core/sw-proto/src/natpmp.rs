//! NAT-PMP messages (RFC 6886; stun-netcheck.md §8.3). Gateways answer on UDP [`PORT`].

use std::net::Ipv4Addr;

use crate::portmap::Transport;

/// Where gateways listen, for NAT-PMP and PCP alike.
pub const PORT: u16 = 5351;

/// The request for the gateway's outside address.
pub const EXTERNAL_REQUEST: [u8; 2] = [0, 0];

/// What a gateway says to a request.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Its outside address; `None` while it has none.
    External {
        /// Seconds since the gateway forgot its mappings.
        epoch_secs: u32,
        /// The address.
        ip: Option<Ipv4Addr>,
    },
    /// A mapping was made (or, with lifetime 0, deleted).
    Mapped {
        /// Seconds since the gateway forgot its mappings.
        epoch_secs: u32,
        /// TCP or UDP.
        transport: Transport,
        /// Our port.
        internal_port: u16,
        /// The gateway's port.
        external_port: u16,
        /// How long the mapping lives.
        lifetime_secs: u32,
    },
    /// A refusal: result codes of RFC 6886 §3.5, 1..=5.
    Refused {
        /// The code.
        code: u16,
    },
}

/// The bytes are no NAT-PMP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a NAT-PMP answer")]
pub struct NotNatPmp;

/// The request for a mapping; lifetime 0 deletes it, external port 0 leaves the choice to the gateway.
#[must_use]
pub fn map_request(
    transport: Transport,
    internal_port: u16,
    external_port: u16,
    lifetime_secs: u32,
) -> [u8; 12] {
    let [i0, i1] = internal_port.to_be_bytes();
    let [e0, e1] = external_port.to_be_bytes();
    let [l0, l1, l2, l3] = lifetime_secs.to_be_bytes();
    [0, opcode(transport), 0, 0, i0, i1, e0, e1, l0, l1, l2, l3]
}

impl Response {
    /// Reads an answer.
    ///
    /// # Errors
    /// Another version or operation, or cut off.
    pub fn parse(datagram: &[u8]) -> Result<Self, NotNatPmp> {
        let (&[version, op, r0, r1, e0, e1, e2, e3], rest) = datagram.split_first_chunk().ok_or(NotNatPmp)?;
        if version != 0 || op & 0x80 == 0 {
            return Err(NotNatPmp);
        }
        let code = u16::from_be_bytes([r0, r1]);
        if code != 0 {
            return Ok(Self::Refused { code });
        }
        let epoch_secs = u32::from_be_bytes([e0, e1, e2, e3]);
        let transport = match op & 0x7f {
            0 => {
                let ip = Ipv4Addr::from(*rest.first_chunk::<4>().ok_or(NotNatPmp)?);
                return Ok(Self::External { epoch_secs, ip: (!ip.is_unspecified()).then_some(ip) });
            }
            1 => Transport::Udp,
            2 => Transport::Tcp,
            _ => return Err(NotNatPmp),
        };
        let &[i0, i1, x0, x1, l0, l1, l2, l3] = rest.first_chunk::<8>().ok_or(NotNatPmp)?;
        Ok(Self::Mapped {
            epoch_secs,
            transport,
            internal_port: u16::from_be_bytes([i0, i1]),
            external_port: u16::from_be_bytes([x0, x1]),
            lifetime_secs: u32::from_be_bytes([l0, l1, l2, l3]),
        })
    }
}

const fn opcode(transport: Transport) -> u8 {
    match transport {
        Transport::Udp => 1,
        Transport::Tcp => 2,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_are_told_apart_from_noise() {
        assert_eq!(Response::parse(&[0, 0x81, 0, 2, 0, 0, 0, 1]), Ok(Response::Refused { code: 2 }));
        assert_eq!(Response::parse(&[2, 0x81, 0, 0, 0, 0, 0, 1]), Err(NotNatPmp));
        assert_eq!(Response::parse(&[0, 1, 0, 0, 0, 0, 0, 1]), Err(NotNatPmp));
        assert_eq!(Response::parse(&[0, 0x81, 0, 0, 0, 0, 0, 1, 0, 1]), Err(NotNatPmp));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let mut bytes: Vec<u8> = u.arbitrary()?;
            let _ = Response::parse(&bytes);
            if bytes.len() > 2 {
                bytes[0] = 0;
                bytes[1] = 0x80 | bytes[1] & 3;
                let _ = Response::parse(&bytes);
            }
            Ok(())
        });
    }
}
