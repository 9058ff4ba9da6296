//! The networks that the matrix pairs, each twice, and what the official client gets between them.

use crate::Software;
use crate::nat::Nat;
use crate::topology::{
    INTERNET, MachineSpec, PortMapping, RelayProcess, ServerSpec, SiteSpec, Topology, Udp,
};

/// A kind of network that machines sit in.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Kind {
    /// A public address.
    None,
    /// A public address with a firewall of the machine's own.
    Firewall,
    Easy,
    EasyAf,
    FullCone,
    Hard,
    /// A home's NAT behind a carrier's.
    Cgnat,
    /// No UDP at all.
    Blocked,
    /// Both machines of the pair in one network.
    SameLan,
    HardPcp,
    HardNatPmp,
    HardUpnp,
    /// IPv6 alone, behind a firewall that lets only answers in.
    V6Only,
    /// Hard NAT for IPv4, and IPv6 behind such a firewall.
    DualHard,
}

impl Kind {
    pub(super) const ALL: [Self; 14] = [
        Self::None,
        Self::Firewall,
        Self::Easy,
        Self::EasyAf,
        Self::FullCone,
        Self::Hard,
        Self::Cgnat,
        Self::Blocked,
        Self::SameLan,
        Self::HardPcp,
        Self::HardNatPmp,
        Self::HardUpnp,
        Self::V6Only,
        Self::DualHard,
    ];

    /// The kinds that are paired when nothing is said.
    pub(super) const PLAIN: [Self; 6] =
        [Self::None, Self::Firewall, Self::Easy, Self::EasyAf, Self::Hard, Self::Blocked];

    pub(super) fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Firewall => "firewall",
            Self::Easy => "easy",
            Self::EasyAf => "easy-af",
            Self::FullCone => "full-cone",
            Self::Hard => "hard",
            Self::Cgnat => "cgnat",
            Self::Blocked => "blocked",
            Self::SameLan => "same-lan",
            Self::HardPcp => "hard-pcp",
            Self::HardNatPmp => "hard-nat-pmp",
            Self::HardUpnp => "hard-upnp",
            Self::V6Only => "v6-only",
            Self::DualHard => "dual-hard",
        }
    }

    pub(super) fn parse(word: &str) -> Result<Self, String> {
        Self::ALL.into_iter().find(|k| k.word() == word).ok_or_else(|| {
            let known: Vec<_> = Self::ALL.iter().map(|k| k.word()).collect();
            format!("must be one of {}", known.join(", "))
        })
    }

    /// Returns the name of the machine on one side, `a` or `b`.
    pub(super) fn machine(self, side: char) -> String {
        format!("{}-{side}", self.word())
    }

    /// Returns the sites that one side needs, the machine's own last.
    fn sites(self, side: char) -> Vec<SiteSpec> {
        let name = format!("{}-net-{side}", self.word());
        let with = |nat| vec![SiteSpec::new(&name, nat)];
        let mapped = |protocol| {
            let mut site = SiteSpec::new(&name, Nat::Hard);
            site.port_mapping = vec![protocol];
            vec![site]
        };
        let dual = |nat| {
            let mut site = SiteSpec::new(&name, nat);
            site.ipv6 = true;
            vec![site]
        };
        match self {
            Self::None | Self::Firewall => Vec::new(),
            Self::Easy => with(Nat::Easy),
            Self::EasyAf => with(Nat::EasyAf),
            Self::FullCone => with(Nat::FullCone),
            Self::Hard => with(Nat::Hard),
            Self::Cgnat => {
                let carrier = format!("{}-isp-{side}", self.word());
                let mut home = SiteSpec::new(&name, Nat::Easy);
                home.upstream = Some(carrier.clone());
                vec![SiteSpec::new(&carrier, Nat::Easy), home]
            }
            Self::Blocked => {
                let mut site = SiteSpec::new(&name, Nat::Easy);
                site.udp = Udp::Blocked;
                vec![site]
            }
            Self::SameLan if side == 'b' => Vec::new(),
            Self::SameLan => with(Nat::Easy),
            Self::HardPcp => mapped(PortMapping::Pcp),
            Self::HardNatPmp => mapped(PortMapping::NatPmp),
            Self::HardUpnp => mapped(PortMapping::Upnp),
            Self::V6Only => dual(Nat::Easy),
            Self::DualHard => dual(Nat::Hard),
        }
    }

    /// Returns the rooms whose NATs belong to one side.
    pub(super) fn rooms(self, side: char) -> Vec<String> {
        self.sites(side).into_iter().map(|s| s.name).collect()
    }

    fn place(self, side: char) -> String {
        let side = if self == Self::SameLan { 'a' } else { side };
        self.sites(side).last().map_or_else(|| INTERNET.to_owned(), |s| s.name.clone())
    }

    fn has_v6(self) -> bool {
        matches!(self, Self::V6Only | Self::DualHard)
    }

    /// Tells whether the official client gets a direct path between the two (`nat-traversal-beyond.md` §1).
    pub(super) fn is_direct_officially(self, other: Self) -> bool {
        let (low, high) = if self <= other { (self, other) } else { (other, self) };
        let is_open = |k: Self| matches!(k, Self::HardPcp | Self::HardNatPmp | Self::HardUpnp | Self::None);
        let is_hard = |k: Self| matches!(k, Self::Hard | Self::DualHard);
        if low == Self::SameLan && high == Self::SameLan || low.has_v6() && high.has_v6() {
            return true;
        }
        if [low, high].iter().any(|k| matches!(k, Self::Blocked | Self::V6Only)) {
            return false;
        }
        if is_open(low) || is_open(high) {
            return true;
        }
        if is_hard(low) || is_hard(high) {
            // The one who is not hard must let any port of an address in, once it wrote to it; a machine's own
            // firewall wants the exact port, but the port there is not rewritten: the hard side's first packet
            // shows its port only to a peer that lets it in.
            let other = if is_hard(low) { high } else { low };
            return matches!(other, Self::EasyAf | Self::FullCone);
        }
        true
    }
}

/// Returns the lab in which all `kinds` stand, each with a machine on side `a` and one on side `b`.
pub(super) fn topology(
    name: &str,
    kinds: &[Kind],
    software: [Software; 2],
    (server, relay): (Software, RelayProcess),
) -> Topology {
    let ipv6 = kinds.iter().any(|k| k.has_v6());
    let mut topology = Topology {
        name: name.to_owned(),
        server: Some(ServerSpec { relay, ipv6, ..ServerSpec::new("hub", server) }),
        ..Topology::default()
    };
    for kind in kinds {
        for (side, software) in ['a', 'b'].into_iter().zip(software) {
            topology.site.extend(kind.sites(side));
            let mut machine = MachineSpec::new(&kind.machine(side), &kind.place(side), software);
            machine.firewall = *kind == Kind::Firewall;
            machine.ipv4 = *kind != Kind::V6Only;
            machine.ipv6 = kind.has_v6();
            topology.machine.push(machine);
        }
    }
    topology
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_kind_stands_in_a_lab_that_can_be_built() {
        let topology = topology(
            "matrix",
            &Kind::ALL,
            [Software::Samewire; 2],
            (Software::Samewire, RelayProcess::BuiltIn),
        );
        assert_eq!(topology.validate(), Ok(()));
    }

    #[test]
    fn the_yardstick_is_the_table_of_the_document() {
        use Kind::{Blocked, Easy, EasyAf, Hard, None};
        let direct = [(None, Hard), (None, Easy), (Easy, Easy), (EasyAf, Hard), (EasyAf, EasyAf)];
        let relayed = [(Easy, Hard), (Hard, Hard), (None, Blocked), (Blocked, Blocked)];
        for (a, b) in direct {
            assert!(a.is_direct_officially(b) && b.is_direct_officially(a), "{a:?} {b:?}");
        }
        for (a, b) in relayed {
            assert!(!a.is_direct_officially(b) && !b.is_direct_officially(a), "{a:?} {b:?}");
        }
    }
}
