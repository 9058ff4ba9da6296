//! PCP messages (RFC 6887; stun-netcheck.md §8.4). Gateways answer on the port of NAT-PMP.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::portmap::Transport;

/// Names one mapping; kept for its renewal and its deletion, as the RFC requires.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Nonce(pub [u8; 12]);

/// Why a gateway refuses.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// Result 2: PCP is there but switched off for us.
    NotAuthorized,
    /// Result 12: our address, as the gateway sees it, is another one.
    AddressMismatch,
    /// Any other result.
    Other(u8),
}

/// What a gateway says.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Response {
    /// Answer to an ANNOUNCE: PCP is there.
    Announced {
        /// Seconds since the gateway forgot its mappings.
        epoch_secs: u32,
    },
    /// A mapping was made (or, with lifetime 0, deleted).
    Mapped {
        /// Seconds since the gateway forgot its mappings.
        epoch_secs: u32,
        /// Which mapping.
        nonce: Nonce,
        /// TCP or UDP.
        transport: Transport,
        /// Our port.
        internal_port: u16,
        /// The gateway's address and port.
        external: SocketAddr,
        /// How long the mapping lives.
        lifetime_secs: u32,
    },
    /// A refusal.
    Refused {
        /// Why.
        reason: Refusal,
    },
}

/// The bytes are no PCP answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a PCP answer")]
pub struct NotPcp;

/// What a MAP request asks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapRequest {
    /// Our address towards the gateway.
    pub client: Ipv4Addr,
    /// Names the mapping.
    pub nonce: Nonce,
    /// TCP or UDP.
    pub transport: Transport,
    /// Our port.
    pub internal_port: u16,
    /// The port wished for; 0 for any.
    pub external_port: u16,
    /// The outside address wished for; unspecified for any.
    pub external_ip: Ipv4Addr,
    /// How long; 0 deletes the mapping.
    pub lifetime_secs: u32,
}

const VERSION: u8 = 2;
const OP_ANNOUNCE: u8 = 0;
const OP_MAP: u8 = 1;

/// The request that only asks whether PCP is there.
#[must_use]
pub fn announce(client: Ipv4Addr) -> [u8; 24] {
    let mut out = [0u8; 24];
    out[0] = VERSION;
    out[1] = OP_ANNOUNCE;
    out[8..24].copy_from_slice(&client.to_ipv6_mapped().octets());
    out
}

impl MapRequest {
    /// The bytes.
    #[must_use]
    pub fn encode(&self) -> [u8; 60] {
        let mut out = [0u8; 60];
        out[0] = VERSION;
        out[1] = OP_MAP;
        out[4..8].copy_from_slice(&self.lifetime_secs.to_be_bytes());
        out[8..24].copy_from_slice(&self.client.to_ipv6_mapped().octets());
        out[24..36].copy_from_slice(&self.nonce.0);
        out[36] = match self.transport {
            Transport::Udp => 17,
            Transport::Tcp => 6,
        };
        out[40..42].copy_from_slice(&self.internal_port.to_be_bytes());
        out[42..44].copy_from_slice(&self.external_port.to_be_bytes());
        out[44..60].copy_from_slice(&self.external_ip.to_ipv6_mapped().octets());
        out
    }
}

impl Response {
    /// Reads an answer.
    ///
    /// # Errors
    /// Another version or operation, or cut off.
    pub fn parse(datagram: &[u8]) -> Result<Self, NotPcp> {
        let (header, rest) = datagram.split_first_chunk::<24>().ok_or(NotPcp)?;
        if header[0] != VERSION || header[1] & 0x80 == 0 {
            return Err(NotPcp);
        }
        let reason = match header[3] {
            0 => None,
            2 => Some(Refusal::NotAuthorized),
            12 => Some(Refusal::AddressMismatch),
            code => Some(Refusal::Other(code)),
        };
        if let Some(reason) = reason {
            return Ok(Self::Refused { reason });
        }
        let word =
            |at: usize| u32::from_be_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
        let (lifetime_secs, epoch_secs) = (word(4), word(8));
        match header[1] & 0x7f {
            OP_ANNOUNCE => Ok(Self::Announced { epoch_secs }),
            OP_MAP => Self::parse_map(rest, lifetime_secs, epoch_secs),
            _ => Err(NotPcp),
        }
    }

    fn parse_map(body: &[u8], lifetime_secs: u32, epoch_secs: u32) -> Result<Self, NotPcp> {
        let (nonce, rest) = body.split_first_chunk::<12>().ok_or(NotPcp)?;
        let (&[protocol, _, _, _, i0, i1, x0, x1], rest) = rest.split_first_chunk().ok_or(NotPcp)?;
        let transport = match protocol {
            17 => Transport::Udp,
            6 => Transport::Tcp,
            _ => return Err(NotPcp),
        };
        let ip = IpAddr::from(Ipv6Addr::from(*rest.first_chunk::<16>().ok_or(NotPcp)?)).to_canonical();
        Ok(Self::Mapped {
            epoch_secs,
            nonce: Nonce(*nonce),
            transport,
            internal_port: u16::from_be_bytes([i0, i1]),
            external: SocketAddr::new(ip, u16::from_be_bytes([x0, x1])),
            lifetime_secs,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn refusals_say_why() {
        let mut answer = [0u8; 24];
        answer[0] = 2;
        answer[1] = 0x81;
        for (code, reason) in
            [(2, Refusal::NotAuthorized), (12, Refusal::AddressMismatch), (8, Refusal::Other(8))]
        {
            answer[3] = code;
            assert_eq!(Response::parse(&answer), Ok(Response::Refused { reason }));
        }
        answer[3] = 0;
        assert_eq!(Response::parse(&answer), Err(NotPcp), "a MAP answer without its body");
        assert_eq!(Response::parse(&answer[..23]), Err(NotPcp));
    }

    #[test]
    fn arbitrary_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let mut bytes: Vec<u8> = u.arbitrary()?;
            let _ = Response::parse(&bytes);
            if bytes.len() > 4 {
                bytes[..4].copy_from_slice(&[2, 0x81, 0, 0]);
                let _ = Response::parse(&bytes);
            }
            Ok(())
        });
    }
}
