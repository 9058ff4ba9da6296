//! The NATs of the Internet as nftables rules (`nat-traversal-beyond.md` §5).
//!
//! Two things make a Linux box behave like the routers people own. Unsolicited packets from outside are dropped:
//! a packet that the box accepts for itself would leave a tracking entry, and that forces a later flow from inside to
//! another port. And the outside port is computed from the inside address and port alone, since plain masquerading
//! may give one socket two ports.

use std::fmt::Write as _;
use std::net::Ipv4Addr;

use serde::{Deserialize, Serialize};

/// What a router does to UDP from the inside: how it maps ports and whom it lets in through a mapping.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Nat {
    /// One outside port per inside socket; only the address and port written to may answer. The usual home router.
    #[default]
    Easy,
    /// As `Easy`, but any port of an address written to may answer.
    EasyAf,
    /// As `Easy`, but anybody may answer.
    FullCone,
    /// A random outside port for every destination; only that destination may answer.
    Hard,
    /// One public address for one machine, all ports in both directions.
    OneToOne,
}

/// Names of interfaces and the outside address of a router, as its rules need them.
#[derive(Clone, Debug)]
pub(crate) struct NatBox {
    pub(crate) nat: Nat,
    pub(crate) outside: Ipv4Addr,
    /// First machine inside: the one that a one-to-one NAT serves.
    pub(crate) inside: Ipv4Addr,
    pub(crate) udp_blocked: bool,
    pub(crate) hairpin: bool,
    /// TCP port of the UPnP responder, opened towards the inside with the other port mapping protocols.
    pub(crate) upnp_port: u16,
}

impl NatBox {
    /// Returns the nft script of the router; its interfaces are `wan0` and `lan0`.
    pub(crate) fn rules(&self) -> String {
        let mut rules = String::from("table inet swl_filter {\n");
        rules.push_str(&self.input_chain());
        rules.push_str(&self.forward_chain());
        rules.push_str("}\ntable ip swl_nat {\n");
        rules.push_str(&self.nat_chains());
        rules.push_str("}\n");
        rules
    }

    fn input_chain(&self) -> String {
        format!(
            " chain input {{ type filter hook input priority filter; policy drop;\n  \
             iifname \"lo\" accept\n  ct state established,related accept\n  \
             meta l4proto ipv6-icmp accept\n  ip protocol icmp accept\n  \
             iifname \"lan0\" udp dport {{ 1900, 5351 }} accept\n  iifname \"lan0\" tcp dport {} accept\n }}\n",
            self.upnp_port
        )
    }

    fn forward_chain(&self) -> String {
        let mut chain =
            String::from(" chain forward { type filter hook forward priority filter; policy drop;\n");
        if self.udp_blocked {
            chain.push_str("  meta l4proto udp drop\n");
        }
        chain.push_str("  ct state established,related accept\n  ct status dnat accept\n");
        chain.push_str("  iifname \"lan0\" oifname \"wan0\" accept\n");
        if self.nat == Nat::OneToOne {
            chain.push_str("  iifname \"wan0\" oifname \"lan0\" ip version 4 accept\n");
        }
        chain.push_str("  meta l4proto ipv6-icmp accept\n }\n");
        chain
    }

    fn nat_chains(&self) -> String {
        let outside = self.outside;
        let mut text = String::new();
        let (mut pre, mut post) = (String::new(), String::new());
        // Hairpin: what goes to the outside address from the inside takes the same way as from outside.
        let from = if self.hairpin { String::new() } else { "iifname \"wan0\" ".to_owned() };
        match self.nat {
            Nat::Easy => {
                post.push_str(&snat_by_hash(outside, "udp"));
                post.push_str(&snat_by_hash(outside, "tcp"));
            }
            Nat::FullCone | Nat::EasyAf => {
                text.push_str(" map cone { type inet_service : ipv4_addr . inet_service; flags dynamic,timeout; timeout 2m; size 65535; }\n");
                text.push_str(" set asked { type inet_service . ipv4_addr; flags dynamic,timeout; timeout 2m; size 65535; }\n");
                let whom = if self.nat == Nat::EasyAf { "udp dport . ip saddr @asked " } else { "" };
                let _ = writeln!(
                    pre,
                    "  {from}ip daddr {outside} meta l4proto udp {whom}dnat ip addr . port to udp dport map @cone"
                );
                post.push_str(
                    "  oifname \"wan0\" meta l4proto udp update @cone { udp sport : ip saddr . udp sport }\n",
                );
                post.push_str("  oifname \"wan0\" meta l4proto udp update @asked { udp sport . ip daddr }\n");
                let _ = writeln!(post, "  oifname \"wan0\" snat to {outside}");
            }
            Nat::Hard => {
                let _ = writeln!(
                    post,
                    "  oifname \"wan0\" meta l4proto {{ udp, tcp }} snat to {outside}:1024-65535 fully-random"
                );
            }
            Nat::OneToOne => {
                let _ = writeln!(pre, "  {from}ip daddr {outside} dnat to {}", self.inside);
            }
        }
        let _ = writeln!(post, "  oifname \"wan0\" snat to {outside}");
        if self.hairpin {
            let _ = writeln!(post, "  iifname \"lan0\" oifname \"lan0\" ct status dnat masquerade");
        }
        let _ = write!(
            text,
            " chain prerouting {{ type nat hook prerouting priority dstnat;\n{pre} }}\n chain postrouting {{ type nat hook postrouting priority srcnat;\n{post} }}\n"
        );
        text
    }
}

/// The same outside port for all destinations, and not the inside one, as most routers do it.
fn snat_by_hash(outside: Ipv4Addr, protocol: &str) -> String {
    format!(
        "  oifname \"wan0\" meta l4proto {protocol} snat to {outside}:jhash ip saddr . {protocol} sport mod 55000 seed 0x5eed offset 10000\n"
    )
}

/// Returns the rules of a machine's own firewall: answers come in, nothing else, but for its tailnet device.
pub(crate) fn host_firewall_rules() -> String {
    "table inet swl_host {\n chain input { type filter hook input priority filter; policy drop;\n  \
     iifname != \"eth*\" accept\n  ct state established,related accept\n  \
     meta l4proto ipv6-icmp accept\n  ip protocol icmp accept\n }\n}\n"
        .to_owned()
}

/// Returns the rule that loses `loss_percent` of what arrives at `interface`; the table is named for the interface.
///
/// WHY at the receiving end: a packet dropped on its way out makes the sender's own call fail, which no network does.
pub(crate) fn loss_rules(interface: &str, loss_percent: f64) -> String {
    #[expect(
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "validated to be within 0 and 100"
    )]
    let of_10000 = (loss_percent * 100.0).round() as u32;
    format!(
        "table inet swl_loss_{interface} {{\n chain lose {{ type filter hook prerouting priority -400;\n  iifname \"{interface}\" numgen random mod 10000 < {of_10000} drop\n }}\n}}\n"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules_of(nat: Nat) -> String {
        NatBox {
            nat,
            outside: Ipv4Addr::new(203, 0, 113, 2),
            inside: Ipv4Addr::new(192, 168, 1, 2),
            udp_blocked: false,
            hairpin: false,
            upnp_port: 5000,
        }
        .rules()
    }

    #[test]
    fn every_router_drops_unsolicited_packets_from_outside() {
        for nat in [Nat::Easy, Nat::EasyAf, Nat::FullCone, Nat::Hard, Nat::OneToOne] {
            let rules = rules_of(nat);
            assert!(
                rules.contains("chain input { type filter hook input priority filter; policy drop;"),
                "{nat:?}"
            );
            assert!(
                rules.contains("chain forward { type filter hook forward priority filter; policy drop;"),
                "{nat:?}"
            );
        }
    }

    #[test]
    fn rules_of_a_hard_router() {
        insta::assert_snapshot!(rules_of(Nat::Hard));
    }

    #[test]
    fn rules_of_an_address_restricted_router() {
        insta::assert_snapshot!(rules_of(Nat::EasyAf));
    }
}
