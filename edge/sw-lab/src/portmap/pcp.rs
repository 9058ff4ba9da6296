//! PCP (RFC 6887) and NAT-PMP (RFC 6886), the router's side.

use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use super::ports::{LIFE_MAX, Ports, Transport};

/// Result codes that both protocols share in meaning, PCP's number first (RFC 6887 §7.4, RFC 6886 §3.5).
const SUCCESS: u8 = 0;
const UNSUPPORTED_VERSION: u8 = 1;
const PCP_MALFORMED: u8 = 3;
const PCP_UNSUPPORTED_OPCODE: u8 = 4;
const PCP_UNSUPPORTED_PROTOCOL: u8 = 5;
const PCP_NO_RESOURCES: u8 = 8;
const PCP_ADDRESS_MISMATCH: u8 = 12;
const NAT_PMP_NO_RESOURCES: u8 = 4;
const NAT_PMP_UNSUPPORTED_OPCODE: u8 = 5;

/// Length of a PCP header, bytes.
const PCP_HEADER_LEN: usize = 24;

/// A router's answers.
#[derive(Debug)]
pub(super) struct Service {
    pub(super) outside: Ipv4Addr,
    pub(super) serves_pcp: bool,
    pub(super) serves_nat_pmp: bool,
    pub(super) start: Instant,
}

impl Service {
    /// Returns the answer to one datagram, or nothing when it is an answer itself or no request at all.
    pub(super) fn answer(
        &self,
        request: &[u8],
        client: Ipv4Addr,
        ports: &mut Ports,
        now: Instant,
    ) -> Option<Vec<u8>> {
        let (&version, &code) = (request.first()?, request.get(1)?);
        if code & 0x80 != 0 {
            return None;
        }
        let epoch = u32::try_from((now - self.start).as_secs()).unwrap_or(u32::MAX);
        match version {
            2 if self.serves_pcp => Some(self.answer_pcp(request, client, ports, now, epoch)),
            0 if self.serves_nat_pmp => self.answer_nat_pmp(request, client, ports, now, epoch),
            // RFC 6887 §9: a server answers another version in its own format, NAT-PMP's being understood by both.
            _ if self.serves_pcp && version != 0 => Some(pcp_header(code, UNSUPPORTED_VERSION, 0, epoch)),
            _ => Some(nat_pmp_header(code, UNSUPPORTED_VERSION, epoch)),
        }
    }

    fn answer_pcp(
        &self,
        request: &[u8],
        client: Ipv4Addr,
        ports: &mut Ports,
        now: Instant,
        epoch: u32,
    ) -> Vec<u8> {
        let code = request.get(1).copied().unwrap_or_default();
        let refuse = |result| {
            let mut answer = pcp_header(code, result, 30, epoch);
            answer.extend_from_slice(request.get(PCP_HEADER_LEN..).unwrap_or_default());
            answer
        };
        if code == 0 {
            return pcp_header(code, SUCCESS, 0, epoch);
        }
        if code != 1 {
            return refuse(PCP_UNSUPPORTED_OPCODE);
        }
        let Some(map) = PcpMap::parse(request) else { return refuse(PCP_MALFORMED) };
        if map.client != client.to_ipv6_mapped().octets() {
            return refuse(PCP_ADDRESS_MISMATCH);
        }
        let Some(transport) = Transport::from_number(map.protocol) else {
            return refuse(PCP_UNSUPPORTED_PROTOCOL);
        };
        let life = Duration::from_secs(map.life_s.into()).min(LIFE_MAX);
        let port = if life.is_zero() {
            ports.close(transport, (client, map.inside_port));
            map.wish
        } else {
            match ports.open(transport, (client, map.inside_port), map.wish, now + life) {
                Some(port) => port,
                None => return refuse(PCP_NO_RESOURCES),
            }
        };
        let mut answer = pcp_header(code, SUCCESS, seconds(life), epoch);
        answer.extend_from_slice(&map.nonce);
        answer.extend_from_slice(&[map.protocol, 0, 0, 0]);
        answer.extend_from_slice(&map.inside_port.to_be_bytes());
        answer.extend_from_slice(&port.to_be_bytes());
        answer.extend_from_slice(&self.outside.to_ipv6_mapped().octets());
        answer
    }

    fn answer_nat_pmp(
        &self,
        request: &[u8],
        client: Ipv4Addr,
        ports: &mut Ports,
        now: Instant,
        epoch: u32,
    ) -> Option<Vec<u8>> {
        let code = *request.get(1)?;
        let transport = match code {
            0 => {
                let mut answer = nat_pmp_header(code, SUCCESS, epoch);
                answer.extend_from_slice(&self.outside.octets());
                return Some(answer);
            }
            1 => Transport::Udp,
            2 => Transport::Tcp,
            _ => return Some(nat_pmp_header(code, NAT_PMP_UNSUPPORTED_OPCODE, epoch)),
        };
        let inside_port = u16::from_be_bytes(request.get(4..6)?.try_into().ok()?);
        let wish = u16::from_be_bytes(request.get(6..8)?.try_into().ok()?);
        let life_s = u32::from_be_bytes(request.get(8..12)?.try_into().ok()?);
        let life = Duration::from_secs(life_s.into()).min(LIFE_MAX);
        let port = if life.is_zero() {
            ports.close(transport, (client, inside_port));
            0
        } else {
            match ports.open(transport, (client, inside_port), wish, now + life) {
                Some(port) => port,
                None => return Some(nat_pmp_header(code, NAT_PMP_NO_RESOURCES, epoch)),
            }
        };
        let mut answer = nat_pmp_header(code, SUCCESS, epoch);
        answer.extend_from_slice(&inside_port.to_be_bytes());
        answer.extend_from_slice(&port.to_be_bytes());
        answer.extend_from_slice(&seconds(life).to_be_bytes());
        Some(answer)
    }
}

/// A MAP request (RFC 6887 §11.1).
struct PcpMap {
    life_s: u32,
    client: [u8; 16],
    nonce: [u8; 12],
    protocol: u8,
    inside_port: u16,
    wish: u16,
}

impl PcpMap {
    fn parse(request: &[u8]) -> Option<Self> {
        let (header, body) = request.split_at_checked(PCP_HEADER_LEN)?;
        // With the suggested outside address the body has 36 bytes.
        let body: &[u8; 36] = body.first_chunk()?;
        Some(Self {
            life_s: u32::from_be_bytes(header.get(4..8)?.try_into().ok()?),
            client: header.get(8..24)?.try_into().ok()?,
            nonce: body.get(..12)?.try_into().ok()?,
            protocol: *body.get(12)?,
            inside_port: u16::from_be_bytes(body.get(16..18)?.try_into().ok()?),
            wish: u16::from_be_bytes(body.get(18..20)?.try_into().ok()?),
        })
    }
}

fn pcp_header(code: u8, result: u8, life_s: u32, epoch: u32) -> Vec<u8> {
    let mut header = vec![2, code | 0x80, 0, result];
    header.extend_from_slice(&life_s.to_be_bytes());
    header.extend_from_slice(&epoch.to_be_bytes());
    header.extend_from_slice(&[0; 12]);
    header
}

fn nat_pmp_header(code: u8, result: u8, epoch: u32) -> Vec<u8> {
    let mut header = vec![0, code | 0x80, 0, result];
    header.extend_from_slice(&epoch.to_be_bytes());
    header
}

fn seconds(life: Duration) -> u32 {
    u32::try_from(life.as_secs()).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    const CLIENT: Ipv4Addr = Ipv4Addr::new(192, 168, 1, 10);

    fn service() -> Service {
        Service {
            outside: Ipv4Addr::new(203, 0, 113, 2),
            serves_pcp: true,
            serves_nat_pmp: true,
            start: Instant::now(),
        }
    }

    fn pcp_map(client: Ipv4Addr, life_s: u32, wish: u16) -> Vec<u8> {
        let mut request = vec![2, 1, 0, 0];
        request.extend_from_slice(&life_s.to_be_bytes());
        request.extend_from_slice(&client.to_ipv6_mapped().octets());
        request.extend_from_slice(&[7; 12]);
        request.extend_from_slice(&[17, 0, 0, 0]);
        request.extend_from_slice(&41641u16.to_be_bytes());
        request.extend_from_slice(&wish.to_be_bytes());
        request.extend_from_slice(&[0; 16]);
        request
    }

    #[test]
    fn pcp_opens_renews_and_closes_a_port() {
        let (service, mut ports) = (service(), Ports::without_kernel());
        let now = service.start;
        let answer =
            service.answer(&pcp_map(CLIENT, 7200, 5555), CLIENT, &mut ports, now).expect("an answer");
        assert_eq!(answer.get(..4), Some([2, 0x81, 0, SUCCESS].as_slice()));
        assert_eq!(answer.get(24..36), Some([7; 12].as_slice()));
        assert_eq!(answer.get(42..44), Some(5555u16.to_be_bytes().as_slice()));
        let again = service.answer(&pcp_map(CLIENT, 7200, 6666), CLIENT, &mut ports, now).expect("an answer");
        assert_eq!(again.get(42..44), Some(5555u16.to_be_bytes().as_slice()), "the first mapping is renewed");
        service.answer(&pcp_map(CLIENT, 0, 0), CLIENT, &mut ports, now).expect("an answer");
        assert_eq!(ports.get(Transport::Udp, 5555), None);
    }

    #[test]
    fn pcp_refuses_a_request_for_another_machine() {
        let (service, mut ports) = (service(), Ports::without_kernel());
        let other = Ipv4Addr::new(192, 168, 1, 11);
        let answer =
            service.answer(&pcp_map(other, 60, 0), CLIENT, &mut ports, service.start).expect("an answer");
        assert_eq!(answer.get(3), Some(&PCP_ADDRESS_MISMATCH));
    }

    #[test]
    fn nat_pmp_tells_the_address_and_opens_a_port() {
        let (service, mut ports) = (service(), Ports::without_kernel());
        let address = service.answer(&[0, 0], CLIENT, &mut ports, service.start).expect("an answer");
        assert_eq!(address, [0, 128, 0, 0, 0, 0, 0, 0, 203, 0, 113, 2]);
        let request = [0, 1, 0, 0, 0xa2, 0xa9, 0, 0, 0, 0, 0x1c, 0x20];
        let answer = service.answer(&request, CLIENT, &mut ports, service.start).expect("an answer");
        assert_eq!(answer, [0, 129, 0, 0, 0, 0, 0, 0, 0xa2, 0xa9, 0xa2, 0xa9, 0, 0, 0x1c, 0x20]);
    }

    #[test]
    fn a_router_without_pcp_says_so_in_nat_pmp() {
        let service = Service { serves_pcp: false, ..service() };
        let mut ports = Ports::without_kernel();
        let answer =
            service.answer(&pcp_map(CLIENT, 60, 0), CLIENT, &mut ports, service.start).expect("an answer");
        assert_eq!(answer.get(..4), Some([0, 0x81, 0, UNSUPPORTED_VERSION].as_slice()));
    }

    #[test]
    fn no_datagram_makes_the_service_panic() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            let service = service();
            service.answer(&bytes, CLIENT, &mut Ports::without_kernel(), service.start);
            Ok(())
        });
    }
}
