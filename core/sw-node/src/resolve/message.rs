//! The parts of DNS messages (RFC 1035) that MagicDNS needs: one question in, one answer out.

use std::net::IpAddr;

pub(super) const TYPE_A: u16 = 1;
pub(super) const TYPE_NS: u16 = 2;
pub(super) const TYPE_SOA: u16 = 6;
pub(super) const TYPE_PTR: u16 = 12;
pub(super) const TYPE_HINFO: u16 = 13;
pub(super) const TYPE_AAAA: u16 = 28;
const TYPE_OPT: u16 = 41;
pub(super) const TYPE_AXFR: u16 = 252;
pub(super) const TYPE_ANY: u16 = 255;
const CLASS_IN: u16 = 1;

const HEADER_BYTES: usize = 12;
const NAME_BYTES_MAX: usize = 255;
/// Size of a UDP answer when the asker names none (RFC 1035 §4.2.1).
pub(super) const UDP_BYTES_DEFAULT: u16 = 512;
/// Life of positive answers (node-services.md §2.3).
const TTL_SECONDS: u32 = 5;
/// Life of negative answers, and every number of their SOA.
const NEGATIVE_TTL_SECONDS: u32 = 10;

/// Response codes used here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Rcode {
    NoError = 0,
    FormErr = 1,
    ServFail = 2,
    NxDomain = 3,
    NotImp = 4,
}

/// A query that was understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Question<'a> {
    id: u16,
    recursion_desired: bool,
    /// In lower case, labels joined by dots, without a final dot; empty for the root.
    pub(super) name: String,
    pub(super) kind: u16,
    /// How much the asker takes over UDP.
    pub(super) udp_bytes_max: u16,
    /// The question as it came, to be echoed.
    echoed: &'a [u8],
}

/// What stands in an answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Record {
    Address(IpAddr),
    Pointer(String),
}

/// Parses a query. `None` for anything that is not one question of class IN.
pub(super) fn parse(message: &[u8]) -> Option<Question<'_>> {
    let header = message.first_chunk::<HEADER_BYTES>()?;
    let word = |at: usize| u16::from_be_bytes([header[at], header[at + 1]]);
    let (flags, questions) = (word(2), word(4));
    let (is_response, opcode) = (flags & 0x8000 != 0, (flags >> 11) & 0xf);
    if is_response || opcode != 0 || questions != 1 {
        return None;
    }
    let (name, after_name) = parse_name(message, HEADER_BYTES)?;
    let end = after_name + 4;
    let &[k0, k1, c0, c1] = message.get(after_name..end)?.first_chunk::<4>()?;
    let class = u16::from_be_bytes([c0, c1]);
    if class != CLASS_IN && class != 255 {
        return None;
    }
    Some(Question {
        id: word(0),
        recursion_desired: flags & 0x0100 != 0,
        name,
        kind: u16::from_be_bytes([k0, k1]),
        udp_bytes_max: edns_size(message, end, word(6), word(8), word(10)).unwrap_or(UDP_BYTES_DEFAULT),
        echoed: message.get(HEADER_BYTES..end)?,
    })
}

/// Reads an uncompressed name; returns it and the offset behind it.
fn parse_name(message: &[u8], mut at: usize) -> Option<(String, usize)> {
    let start = at;
    let mut name = String::new();
    loop {
        let length = usize::from(*message.get(at)?);
        at += 1;
        if length == 0 {
            return Some((name, at));
        }
        if length > 63 || at + length - start > NAME_BYTES_MAX {
            return None; // a pointer has no place in a question
        }
        if !name.is_empty() {
            name.push('.');
        }
        for byte in message.get(at..at + length)? {
            // Bytes that are no letters of host names match no name of ours.
            name.push(char::from(byte.to_ascii_lowercase()));
        }
        at += length;
    }
}

/// Finds the OPT record among the records after the question (RFC 6891).
fn edns_size(message: &[u8], mut at: usize, answers: u16, authorities: u16, additional: u16) -> Option<u16> {
    let records = u32::from(answers) + u32::from(authorities) + u32::from(additional);
    for _ in 0..records {
        at = skip_name(message, at)?;
        let fixed = message.get(at..at + 10)?;
        let (kind, class) =
            (u16::from_be_bytes([fixed[0], fixed[1]]), u16::from_be_bytes([fixed[2], fixed[3]]));
        if kind == TYPE_OPT {
            return Some(class.max(UDP_BYTES_DEFAULT));
        }
        at += 10 + usize::from(u16::from_be_bytes([fixed[8], fixed[9]]));
    }
    None
}

fn skip_name(message: &[u8], mut at: usize) -> Option<usize> {
    loop {
        match usize::from(*message.get(at)?) {
            0 => return Some(at + 1),
            pointer if pointer & 0xc0 == 0xc0 => return Some(at + 2),
            length => at += 1 + length,
        }
    }
}

/// Writes the reply to `question`. `negative_zone` adds that zone's SOA as authority; `serial` is its number.
pub(super) fn reply(
    question: &Question<'_>,
    rcode: Rcode,
    records: &[Record],
    negative_zone: Option<&str>,
    serial: u32,
) -> Vec<u8> {
    let authority = u16::from(negative_zone.is_some());
    let mut out = Vec::with_capacity(128);
    let recursion = if question.recursion_desired { 0x0180 } else { 0 }; // RD as asked, RA the same
    let flags = 0x8400 | recursion | rcode as u16; // QR and AA
    let counts = [1, u16::try_from(records.len()).expect("a few records"), authority, 0];
    for word in [question.id, flags].into_iter().chain(counts) {
        out.extend_from_slice(&word.to_be_bytes());
    }
    out.extend_from_slice(question.echoed);
    for record in records {
        out.extend_from_slice(&[0xc0, 0x0c]); // the name of the question
        match record {
            Record::Address(IpAddr::V4(address)) => {
                write_data(&mut out, TYPE_A, TTL_SECONDS, &address.octets());
            }
            Record::Address(IpAddr::V6(address)) => {
                write_data(&mut out, TYPE_AAAA, TTL_SECONDS, &address.octets());
            }
            Record::Pointer(name) => write_data(&mut out, TYPE_PTR, TTL_SECONDS, &wire_name(name)),
        }
    }
    if let Some(zone) = negative_zone {
        let name = wire_name(zone);
        out.extend_from_slice(&name);
        let mut soa = [name.as_slice(), name.as_slice()].concat();
        soa.extend_from_slice(&serial.to_be_bytes());
        for _refresh_retry_expire_minimum in 0..4 {
            soa.extend_from_slice(&NEGATIVE_TTL_SECONDS.to_be_bytes());
        }
        write_data(&mut out, TYPE_SOA, NEGATIVE_TTL_SECONDS, &soa);
    }
    out
}

/// Writes an error reply to bytes that were no proper question; `None` if there is not even a header.
pub(super) fn reply_without_question(message: &[u8], rcode: Rcode) -> Option<Vec<u8>> {
    let header = message.first_chunk::<HEADER_BYTES>()?;
    if header[2] & 0x80 != 0 {
        return None; // never answer an answer
    }
    let mut out = vec![0; HEADER_BYTES];
    out[..2].copy_from_slice(&header[..2]);
    out[2] = 0x80 | (header[2] & 0x79);
    out[3] = rcode as u8;
    Some(out)
}

fn write_data(out: &mut Vec<u8>, kind: u16, ttl: u32, data: &[u8]) {
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out.extend_from_slice(&ttl.to_be_bytes());
    out.extend_from_slice(&u16::try_from(data.len()).expect("names and addresses are short").to_be_bytes());
    out.extend_from_slice(data);
}

fn wire_name(name: &str) -> Vec<u8> {
    let mut out = Vec::with_capacity(name.len() + 2);
    for label in name.split('.').filter(|label| !label.is_empty()) {
        let label = &label.as_bytes()[..label.len().min(63)];
        out.push(u8::try_from(label.len()).expect("at most 63"));
        out.extend_from_slice(label);
    }
    out.push(0);
    out
}

/// Builds a query, for tests and for the daemon's own questions.
pub(super) fn query(id: u16, name: &str, kind: u16) -> Vec<u8> {
    let mut out = Vec::new();
    for word in [id, 0x0100, 1, 0, 0, 0] {
        out.extend_from_slice(&u16::to_be_bytes(word));
    }
    out.extend_from_slice(&wire_name(name));
    out.extend_from_slice(&kind.to_be_bytes());
    out.extend_from_slice(&CLASS_IN.to_be_bytes());
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_query_is_parsed_in_lower_case() {
        let bytes = query(7, "Birch.Home.Internal", TYPE_A);
        let question = parse(&bytes).expect("a question");
        assert_eq!((question.name.as_str(), question.kind), ("birch.home.internal", TYPE_A));
        assert_eq!(question.udp_bytes_max, 512);
    }

    #[test]
    fn any_bytes_are_parsed_without_panic() {
        arbtest::arbtest(|u| {
            let bytes: Vec<u8> = u.arbitrary()?;
            if let Some(question) = parse(&bytes) {
                let answer = reply(&question, Rcode::NxDomain, &[], Some("home.internal"), 1);
                assert!(parse(&answer).is_none(), "a reply is no question");
            }
            let _ignored = reply_without_question(&bytes, Rcode::FormErr);
            Ok(())
        });
    }
}
