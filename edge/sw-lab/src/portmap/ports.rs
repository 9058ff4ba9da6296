//! The open ports of a router, and the nft table that makes them real.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::net::Ipv4Addr;
use std::time::{Duration, Instant};

use crate::namespace::{argv, run_program};

/// First port that is given out when the wished one is taken.
const FIRST_FREE_PORT: u16 = 20_000;

/// Longest life of a mapping.
pub(super) const LIFE_MAX: Duration = Duration::from_secs(7200);

/// The transport whose port is mapped.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Transport {
    Tcp,
    Udp,
}

impl Transport {
    /// Reads an IANA protocol number.
    pub(super) fn from_number(number: u8) -> Option<Self> {
        match number {
            6 => Some(Self::Tcp),
            17 => Some(Self::Udp),
            _ => None,
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
        }
    }
}

/// One open port.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Mapping {
    pub(super) inside: (Ipv4Addr, u16),
    pub(super) until: Instant,
}

/// All open ports; every change is loaded into the kernel at once.
#[derive(Debug)]
pub(super) struct Ports {
    open: BTreeMap<(Transport, u16), Mapping>,
    load: fn(&str),
}

impl Ports {
    pub(super) fn new() -> Self {
        Self { open: BTreeMap::new(), load: load_into_kernel }
    }

    #[cfg(test)]
    pub(super) fn without_kernel() -> Self {
        Self { open: BTreeMap::new(), load: |_| {} }
    }

    /// Opens a port for `inside`, the `wish` if it is free; a second request for the same inside port renews the first.
    pub(super) fn open(
        &mut self,
        transport: Transport,
        inside: (Ipv4Addr, u16),
        wish: u16,
        until: Instant,
    ) -> Option<u16> {
        let known =
            self.open.iter().find(|((t, _), m)| *t == transport && m.inside == inside).map(|((_, p), _)| *p);
        let is_free = |port: &u16| *port != 0 && !self.open.contains_key(&(transport, *port));
        let port =
            known.or_else(|| [wish, inside.1].into_iter().chain(FIRST_FREE_PORT..=u16::MAX).find(is_free))?;
        self.open.insert((transport, port), Mapping { inside, until });
        self.apply();
        Some(port)
    }

    /// Returns who holds a port.
    pub(super) fn get(&self, transport: Transport, port: u16) -> Option<Mapping> {
        self.open.get(&(transport, port)).copied()
    }

    /// Closes the port of `inside`; tells whether one was open.
    pub(super) fn close(&mut self, transport: Transport, inside: (Ipv4Addr, u16)) -> bool {
        let before = self.open.len();
        self.open.retain(|(t, _), m| *t != transport || m.inside != inside);
        self.apply();
        self.open.len() != before
    }

    /// Closes what has run out.
    pub(super) fn expire(&mut self, now: Instant) {
        let before = self.open.len();
        self.open.retain(|_, m| m.until > now);
        if self.open.len() != before {
            self.apply();
        }
    }

    fn apply(&self) {
        (self.load)(&self.script());
    }

    /// WHY the whole table every time: the router's rules may be reloaded behind our back.
    fn script(&self) -> String {
        let mut script = String::from(
            "table ip swl_ports\ndelete table ip swl_ports\ntable ip swl_ports {\n chain prerouting {\n  ",
        );
        script.push_str("type nat hook prerouting priority dstnat - 10;\n");
        for ((transport, port), mapping) in &self.open {
            let (word, (address, inside)) = (transport.word(), mapping.inside);
            let _ = writeln!(script, "  iifname \"wan0\" {word} dport {port} dnat to {address}:{inside}");
        }
        script.push_str(" }\n}\n");
        script
    }
}

/// Loads the table; a refusal is printed to the service's log.
#[expect(clippy::print_stderr, reason = "the log of a service of the lab")]
fn load_into_kernel(script: &str) {
    if let Err(e) = argv("nft").and_then(|mut nft| run_program(nft.args(["-f", "-"]), script)) {
        eprintln!("{e}");
    }
}
