//! Which of two working paths is better (path-selection.md §7).

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

/// What counts when two paths to the same peer are compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Quality {
    pub(crate) addr: SocketAddr,
    /// True when a peer relay forwards the packets.
    pub(crate) relayed: bool,
    pub(crate) rtt: Duration,
}

/// Returns whether `a` should replace `b`.
///
/// Direct beats relayed. Then points decide: up to 100 for the faster path,
/// a bonus for near networks and for IPv6, and 1 % of hysteresis.
pub(crate) fn better(a: &Quality, b: &Quality) -> bool {
    if a.relayed != b.relayed {
        return b.relayed;
    }
    let (a_points, b_points) = (points(a, b), points(b, a));
    if a_points <= 1 && b_points == 0 {
        return false;
    }
    a_points > b_points
}

fn points(of: &Quality, against: &Quality) -> u64 {
    let faster = if of.rtt < against.rtt {
        let (of_us, against_us) = (of.rtt.as_micros() as u64, against.rtt.as_micros() as u64);
        100 - (100 * of_us).checked_div(against_us).unwrap_or(100)
    } else {
        0
    };
    faster + nearness(of.addr.ip())
}

fn nearness(ip: IpAddr) -> u64 {
    match ip {
        IpAddr::V4(v4) if v4.is_loopback() => 50,
        IpAddr::V4(v4) if v4.is_link_local() => 30,
        IpAddr::V4(v4) if v4.is_private() => 20,
        IpAddr::V4(_) => 0,
        IpAddr::V6(v6) if v6.is_loopback() => 60,
        IpAddr::V6(v6) if v6.is_unicast_link_local() => 40,
        IpAddr::V6(v6) if v6.is_unique_local() => 30,
        IpAddr::V6(_) => 10,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(addr: &str, rtt_ms: u64) -> Quality {
        Quality { addr: addr.parse().unwrap(), relayed: false, rtt: Duration::from_millis(rtt_ms) }
    }

    /// The examples of path-selection.md §7.
    #[test]
    fn points_decide_as_the_official_client_does() {
        let cases = [
            ("1.1.1.1:1", 100, "2.2.2.2:1", 101, false),
            ("1.1.1.1:1", 100, "2.2.2.2:1", 103, true),
            ("192.168.0.1:1", 100, "2.2.2.2:1", 91, true),
            ("192.168.0.1:1", 100, "2.2.2.2:1", 30, false),
            ("[2001:db8::1]:1", 100, "2.2.2.2:1", 91, true),
            ("[2001:db8::1]:1", 100, "2.2.2.2:1", 30, false),
            ("10.0.0.1:1", 100, "[2001:db8::1]:1", 101, true),
            ("[fe80::1]:1", 101, "[fd00::1]:1", 100, true),
            ("[fe80::1]:1", 100, "[::1]:1", 100, false),
            ("1.1.1.1:1", 0, "2.2.2.2:1", 0, false),
        ];
        for (a, a_ms, b, b_ms, want) in cases {
            assert_eq!(better(&path(a, a_ms), &path(b, b_ms)), want, "{a} {a_ms} ms against {b} {b_ms} ms");
        }
    }

    #[test]
    fn direct_beats_a_faster_peer_relay() {
        let direct = path("1.1.1.1:1", 200);
        let relayed = Quality { relayed: true, ..path("2.2.2.2:1", 1) };
        assert!(better(&direct, &relayed) && !better(&relayed, &direct));
    }
}
