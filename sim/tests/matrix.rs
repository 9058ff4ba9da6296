//! The NAT matrix in virtual time: which pairs get a direct path, and when.

use std::time::Duration;

use sw_sim::{BoxSpec, Scenario, World};

/// One side of a pair.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Place {
    Open,
    Behind(BoxSpec),
    /// A home router behind the provider's NAT.
    Double(BoxSpec, BoxSpec),
}

/// Runs one try: `talker` sends first, both answer. Returns the time from the
/// first packet until the talker's path was direct.
fn time_to_direct(seed: u64, a: Place, b: Place, talker: usize) -> Option<Duration> {
    let mut scenario = Scenario::new(seed);
    for place in [a, b] {
        let segment = match place {
            Place::Open => 0,
            Place::Behind(spec) => scenario.add_box(spec),
            Place::Double(inner, outer) => {
                let outside = scenario.add_box(outer);
                scenario.add_box_on(inner, outside)
            }
        };
        scenario.add_host(segment);
    }
    let mut world = World::new(&scenario);
    world.run_for(Duration::from_secs(5));
    let start = world.elapsed();
    let lasts = Duration::from_secs(15);
    world.add_talk(talker, 1 - talker, lasts, Duration::from_millis(100));
    world.add_talk(1 - talker, talker, lasts, Duration::from_millis(100));
    for _ in 0..150 {
        world.run_for(Duration::from_millis(100));
        if world.is_direct(0, 1) && world.is_direct(1, 0) {
            return world.direct_after(talker, 1 - talker).map(|at| at.saturating_sub(start));
        }
    }
    assert_eq!(world.violations(), []);
    None
}

/// Direct tries of `n`, and the slowest.
fn tries(n: u64, a: Place, b: Place) -> (u64, Duration) {
    let times: Vec<Duration> =
        (0..n).filter_map(|seed| time_to_direct(1000 + seed, a, b, (seed % 2) as usize)).collect();
    (times.len() as u64, times.iter().max().copied().unwrap_or_default())
}

fn places() -> Vec<(&'static str, Place)> {
    vec![
        ("open", Place::Open),
        ("firewall", Place::Behind(BoxSpec::FIREWALL)),
        ("cone", Place::Behind(BoxSpec::FULL_CONE)),
        ("easy-AF", Place::Behind(BoxSpec::EASY_AF)),
        ("easy", Place::Behind(BoxSpec::EASY)),
        ("easy behind easy", Place::Double(BoxSpec::EASY, BoxSpec::EASY)),
        ("hard", Place::Behind(BoxSpec::HARD)),
        ("hard in order", Place::Behind(BoxSpec::HARD_SEQUENTIAL)),
        ("hard block", Place::Double(BoxSpec::EASY, BoxSpec::HARD_BLOCK)),
        ("no UDP", Place::Behind(BoxSpec::NO_UDP)),
    ]
}

#[test]
fn every_pair_of_nats_gets_the_path_that_it_can_have() {
    let places = places();
    let mut table = String::new();
    let mut wrong = Vec::new();
    for (i, (name_a, a)) in places.iter().enumerate() {
        for (name_b, b) in places.iter().skip(i) {
            let (direct, slowest) = tries(6, *a, *b);
            table.push_str(&format!("{name_a:>18} x {name_b:<18} {direct}/6 {slowest:?}\n"));
            let hard = |name: &str| name.starts_with("hard");
            let blocked = [*name_a, *name_b].contains(&"no UDP");
            let wanted = match (hard(name_a), hard(name_b)) {
                _ if blocked => direct == 0,
                (true, true) => true,
                (true, false) | (false, true) => direct >= 5,
                (false, false) => direct == 6 && slowest < Duration::from_millis(500),
            };
            if !wanted {
                wrong.push(format!("{name_a} x {name_b}: {direct}/6, {slowest:?}"));
            }
        }
    }
    println!("{table}");
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_hard_nat_meets_an_easy_one_in_95_of_100_tries_both_ways() {
    let (hard, easy) = (Place::Behind(BoxSpec::HARD), Place::Behind(BoxSpec::EASY));
    for (a, b) in [(hard, easy), (easy, hard)] {
        let (direct, slowest) = tries(50, a, b);
        println!("{direct} of 50, slowest {slowest:?}");
        assert!(direct >= 48, "{direct} of 50");
        assert!(slowest < Duration::from_secs(6), "{slowest:?}");
    }
}

#[test]
fn port_mapping_makes_a_hard_nat_reachable() {
    let mapped = Place::Behind(BoxSpec { port_mapping: true, ..BoxSpec::HARD });
    for other in [BoxSpec::EASY, BoxSpec::HARD] {
        let (direct, slowest) = tries(6, mapped, Place::Behind(other));
        assert_eq!(direct, 6);
        assert!(slowest < Duration::from_millis(500), "{slowest:?}");
    }
}
