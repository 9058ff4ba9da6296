//! STUN binding requests and answers (stun-netcheck.md §1–§3).
//!
//! The client side writes one fixed form of request and reads answers leniently. The server side answers that form
//! alone, so that it is no reflector: its answer is not larger than the request for IPv4.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Length of a request.
pub const REQUEST_LEN: usize = 40;

/// Length of the longest answer, that to an IPv6 client.
pub const RESPONSE_LEN_MAX: usize = 44;

const HEADER_LEN: usize = 20;
const COOKIE: [u8; 4] = [0x21, 0x12, 0xa4, 0x42];
const SOFTWARE: u16 = 0x8022;
const SOFTWARE_NAME: &[u8; 8] = b"tailnode";
const FINGERPRINT: u16 = 0x8028;
const FINGERPRINT_XOR: u32 = 0x5354_554e;
const MAPPED_ADDRESS: u16 = 0x0001;
const XOR_MAPPED_ADDRESS: u16 = 0x0020;
/// Where some servers put it (stun-netcheck.md §3).
const XOR_MAPPED_ADDRESS_MISPLACED: u16 = 0x8020;

/// Transaction id of one request; must be unpredictable.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct TxId(pub [u8; 12]);

/// Which STUN message a datagram is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A binding request, for a server.
    Request,
    /// A binding answer, for a client.
    Response,
}

/// Why a datagram is not the STUN message asked for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum StunError {
    /// No STUN header or another message type.
    #[error("not such a STUN message")]
    NotStun,
    /// An attribute or the stated length ends outside the datagram.
    #[error("malformed STUN attributes")]
    Malformed,
    /// The request does not name the software that may ask.
    #[error("STUN request of other software")]
    Software,
    /// The request's last attribute is not the right fingerprint.
    #[error("STUN request without the right fingerprint")]
    Fingerprint,
    /// The answer holds no address.
    #[error("STUN answer without an address")]
    NoAddress,
}

/// Tells whether `datagram`, come in at a shared socket, is STUN (path-selection.md §2).
#[must_use]
pub fn kind(datagram: &[u8]) -> Option<Kind> {
    let header = datagram.first_chunk::<HEADER_LEN>()?;
    if header[4..8] != COOKIE || header[1] != 1 {
        return None;
    }
    match header[0] {
        0 => Some(Kind::Request),
        1 => Some(Kind::Response),
        _ => None,
    }
}

/// The request with this transaction id.
#[must_use]
pub fn request(tx: TxId) -> [u8; REQUEST_LEN] {
    let mut out = [0u8; REQUEST_LEN];
    out[1] = 1;
    out[3] = (REQUEST_LEN - HEADER_LEN) as u8;
    out[4..8].copy_from_slice(&COOKIE);
    out[8..20].copy_from_slice(&tx.0);
    out[20..22].copy_from_slice(&SOFTWARE.to_be_bytes());
    out[23] = SOFTWARE_NAME.len() as u8;
    out[24..32].copy_from_slice(SOFTWARE_NAME);
    out[32..34].copy_from_slice(&FINGERPRINT.to_be_bytes());
    out[35] = 4;
    let fingerprint = fingerprint(&out[..32]);
    out[36..40].copy_from_slice(&fingerprint.to_be_bytes());
    out
}

/// Checks a request as strictly as the official server does and gives its transaction id.
///
/// # Errors
/// Anything but the exact form of stun-netcheck.md §2: drop it without an answer.
pub fn parse_request(datagram: &[u8]) -> Result<TxId, StunError> {
    if kind(datagram) != Some(Kind::Request) {
        return Err(StunError::NotStun);
    }
    let (tx, body) = split_header(datagram)?;
    // The stated length must be that of the datagram: the fingerprint covers everything before it.
    if HEADER_LEN + body.len() != datagram.len() {
        return Err(StunError::Malformed);
    }
    let mut software_fits = false;
    let mut last = None;
    for attribute in Attributes(body) {
        let (kind, value) = attribute?;
        software_fits |= kind == SOFTWARE && value == SOFTWARE_NAME;
        last = Some((kind, value));
    }
    if !software_fits {
        return Err(StunError::Software);
    }
    let covered =
        datagram.len().checked_sub(8).and_then(|end| datagram.get(..end)).ok_or(StunError::Malformed)?;
    match last {
        Some((FINGERPRINT, value)) if value == fingerprint(covered).to_be_bytes() => Ok(tx),
        _ => Err(StunError::Fingerprint),
    }
}

/// An answer, ready to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Response {
    bytes: [u8; RESPONSE_LEN_MAX],
    len: usize,
}

impl Response {
    /// The answer to `tx` that tells the client its address as seen; v4-mapped addresses are told as IPv4.
    #[must_use]
    pub fn new(tx: TxId, seen: SocketAddr) -> Self {
        let mut bytes = [0u8; RESPONSE_LEN_MAX];
        bytes[0] = 1;
        bytes[1] = 1;
        bytes[4..8].copy_from_slice(&COOKIE);
        bytes[8..20].copy_from_slice(&tx.0);
        bytes[20..22].copy_from_slice(&XOR_MAPPED_ADDRESS.to_be_bytes());
        bytes[26..28].copy_from_slice(&(seen.port() ^ 0x2112).to_be_bytes());
        let len = match seen.ip().to_canonical() {
            IpAddr::V4(ip) => {
                bytes[25] = 1;
                bytes[28..32].copy_from_slice(&xor(ip.octets(), tx));
                32
            }
            IpAddr::V6(ip) => {
                bytes[25] = 2;
                bytes[28..44].copy_from_slice(&xor(ip.octets(), tx));
                44
            }
        };
        bytes[3] = (len - HEADER_LEN) as u8;
        bytes[23] = (len - HEADER_LEN - 4) as u8;
        Self { bytes, len }
    }

    /// The datagram.
    #[must_use]
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.len).unwrap_or_default()
    }
}

/// Answers a datagram that came to a STUN server: the whole server.
///
/// # Errors
/// See [`parse_request`]; the datagram is dropped.
pub fn answer(datagram: &[u8], from: SocketAddr) -> Result<Response, StunError> {
    Ok(Response::new(parse_request(datagram)?, from))
}

/// Reads an answer: which request it belongs to and which address the server saw.
///
/// # Errors
/// When it is no answer, is malformed or holds no address.
pub fn parse_response(datagram: &[u8]) -> Result<(TxId, SocketAddr), StunError> {
    if kind(datagram) != Some(Kind::Response) {
        return Err(StunError::NotStun);
    }
    let (tx, body) = split_header(datagram)?;
    let mut plain = None;
    for attribute in Attributes(body) {
        match attribute? {
            (XOR_MAPPED_ADDRESS | XOR_MAPPED_ADDRESS_MISPLACED, value) => {
                let address = read_address(value, Some(tx)).ok_or(StunError::Malformed)?;
                return Ok((tx, address));
            }
            (MAPPED_ADDRESS, value) => plain = read_address(value, None),
            _ => {}
        }
    }
    plain.map(|address| (tx, address)).ok_or(StunError::NoAddress)
}

/// Transaction id and attributes; a tail beyond the stated length is left out.
fn split_header(datagram: &[u8]) -> Result<(TxId, &[u8]), StunError> {
    let (header, body) = datagram.split_first_chunk::<HEADER_LEN>().ok_or(StunError::NotStun)?;
    let len = usize::from(u16::from_be_bytes([header[2], header[3]]));
    let body = body.get(..len).ok_or(StunError::Malformed)?;
    let mut tx = [0u8; 12];
    tx.copy_from_slice(&header[8..20]);
    Ok((TxId(tx), body))
}

/// Walks attributes; each is padded to 4 bytes.
struct Attributes<'a>(&'a [u8]);

impl<'a> Iterator for Attributes<'a> {
    type Item = Result<(u16, &'a [u8]), StunError>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let item = self.split();
        if item.is_err() {
            self.0 = &[];
        }
        Some(item)
    }
}

impl<'a> Attributes<'a> {
    fn split(&mut self) -> Result<(u16, &'a [u8]), StunError> {
        let (&[k0, k1, l0, l1], rest) = self.0.split_first_chunk().ok_or(StunError::Malformed)?;
        let len = usize::from(u16::from_be_bytes([l0, l1]));
        let value = rest.get(..len).ok_or(StunError::Malformed)?;
        self.0 = rest.get(len.next_multiple_of(4)..).ok_or(StunError::Malformed)?;
        Ok((u16::from_be_bytes([k0, k1]), value))
    }
}

fn read_address(value: &[u8], xored: Option<TxId>) -> Option<SocketAddr> {
    let (&[_, family, p0, p1], ip) = value.split_first_chunk()?;
    let port = u16::from_be_bytes([p0, p1]) ^ if xored.is_some() { 0x2112 } else { 0 };
    let ip: IpAddr = match family {
        1 => Ipv4Addr::from(unmask(*ip.first_chunk::<4>()?, xored)).into(),
        2 => Ipv6Addr::from(unmask(*ip.first_chunk::<16>()?, xored)).into(),
        _ => return None,
    };
    Some(SocketAddr::new(ip.to_canonical(), port))
}

fn unmask<const N: usize>(ip: [u8; N], xored: Option<TxId>) -> [u8; N] {
    xored.map_or(ip, |tx| xor(ip, tx))
}

fn xor<const N: usize>(mut ip: [u8; N], tx: TxId) -> [u8; N] {
    for (byte, mask) in ip.iter_mut().zip(COOKIE.iter().chain(&tx.0)) {
        *byte ^= mask;
    }
    ip
}

fn fingerprint(covered: &[u8]) -> u32 {
    crc32(covered) ^ FINGERPRINT_XOR
}

/// CRC-32 (IEEE), reflected, by a table of 16 entries: requests are 40 bytes.
fn crc32(bytes: &[u8]) -> u32 {
    const TABLE: [u32; 16] = table();
    let mut crc = !0u32;
    for byte in bytes {
        crc ^= u32::from(*byte);
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
        crc = (crc >> 4) ^ TABLE[(crc & 15) as usize];
    }
    !crc
}

const fn table() -> [u32; 16] {
    let mut table = [0u32; 16];
    let mut index = 0;
    while index < 16 {
        let mut value = index as u32;
        let mut bit = 0;
        while bit < 4 {
            value = if value & 1 == 1 { (value >> 1) ^ 0xedb8_8320 } else { value >> 1 };
            bit += 1;
        }
        table[index] = value;
        index += 1;
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    const TX: TxId = TxId([1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12]);

    #[test]
    fn crc_matches_its_check_value() {
        assert_eq!(crc32(b"123456789"), 0xcbf4_3926);
    }

    #[test]
    fn answers_of_other_servers_are_read() {
        // stun-netcheck.md §9
        let cases = [
            ("0101000c2112a4422360b11e3ec68ffa93e08007002000080001c7866957856f", "72.69.33.45:59028"),
            (
                "010100142112a442ebc2d36ef471217c4f3e308e8022000161000000002000080001ce665e12a443",
                "127.0.0.1:61300",
            ),
            (
                "010100182112a4424fd5d202dcb37d31fc773306002000140002cd3d2112a4424fd5d202dcb382ce2dc3fcc7",
                "209.180.207.193:60463",
            ),
        ];
        for (packet, address) in cases {
            let (_, got) = parse_response(&hex::decode(packet).unwrap()).unwrap();
            assert_eq!(got, address.parse().unwrap());
        }
        let covered = "010100242112a442ebc2d36ef471217c4f3e308e8022000a656e64706f696e7465720000002000080001ce665e12a44380280004b699bb02";
        assert_eq!(fingerprint(&hex::decode(covered).unwrap()[..48]), 0xb699_bb02);
    }

    #[test]
    fn only_the_exact_request_is_answered() {
        let good = request(TX);
        assert_eq!(parse_request(&good), Ok(TX));
        assert_eq!(kind(&good), Some(Kind::Request));
        for at in 0..good.len() {
            let mut bad = good;
            bad[at] ^= 0x10;
            assert!(parse_request(&bad).is_err(), "byte {at} changed");
        }
        assert!(parse_request(&good[..39]).is_err());
        assert!(parse_request(&[&good[..], &[0; 4]].concat()).is_err());
        assert_eq!(parse_response(&good), Err(StunError::NotStun));
    }

    #[test]
    fn an_answer_for_ipv4_is_not_larger_than_the_request() {
        assert!(Response::new(TX, "1.2.3.4:5".parse().unwrap()).as_bytes().len() <= REQUEST_LEN);
        let mapped: SocketAddr = "[::ffff:1.2.3.4]:5".parse().unwrap();
        assert_eq!(Response::new(TX, mapped), Response::new(TX, "1.2.3.4:5".parse().unwrap()));
    }

    #[test]
    fn answer_and_parse_are_inverse_and_arbitrary_bytes_never_panic() {
        arbtest::arbtest(|u| {
            let tx = TxId(u.arbitrary()?);
            let ip: IpAddr = if u.arbitrary()? {
                Ipv4Addr::from(u.arbitrary::<[u8; 4]>()?).into()
            } else {
                Ipv6Addr::from(u.arbitrary::<[u8; 16]>()?).to_canonical()
            };
            let seen = SocketAddr::new(ip, u.arbitrary()?);
            let response = answer(&request(tx), seen).unwrap();
            assert_eq!(parse_response(response.as_bytes()), Ok((tx, seen)));
            let mut bytes = u.arbitrary::<Vec<u8>>()?;
            let _ = (parse_request(&bytes), parse_response(&bytes));
            if bytes.len() > 8 {
                bytes[..2].copy_from_slice(&[1, 1]);
                bytes[4..8].copy_from_slice(&COOKIE);
                let _ = parse_response(&bytes);
            }
            Ok(())
        });
    }
}
