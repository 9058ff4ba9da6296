//! Whole worlds: they repeat exactly, nothing breaks in them, and what would
//! be broken is noticed.

use std::time::Duration;

use sw_sim::{
    BoxSpec, Cores, Defect, Fault, Filtering, Scenario, Violation, World, check, check_with, run_scenario,
};

/// Seeds in which something once was broken.
const FOUND: [u64; 21] =
    [2, 4, 21, 36, 49, 75, 96, 121, 174, 233, 340, 358, 493, 573, 706, 894, 929, 1798, 8583, 816, 8152];

#[test]
fn scenarios_that_once_failed_are_in_order() {
    for seed in FOUND {
        if let Err(failure) = check(seed) {
            panic!("{failure}");
        }
    }
}

#[test]
fn random_scenarios_are_in_order() {
    for seed in 100_000..100_040 {
        if let Err(failure) = check(seed) {
            panic!("{failure}");
        }
    }
}

#[test]
fn equal_seeds_give_equal_traces() {
    let scenario = Scenario::random(7);
    let (first, second) = (run_scenario(&scenario, None).1, run_scenario(&scenario, None).1);
    assert_eq!(first, second);
    let other = Scenario { seed: 8, ..scenario };
    assert_ne!(run_scenario(&other, None).1, first);
    let paths = Scenario::crowd(30, Duration::from_secs(300), 1);
    let real = Scenario { cores: Cores::Real, ..Scenario::crowd(15, Duration::from_secs(200), 1) };
    let hash = |scenario: &Scenario| {
        let mut world = World::new(scenario);
        world.run_until(scenario.rest_after);
        assert_eq!(world.violations(), []);
        world.trace().hash()
    };
    assert_eq!(hash(&paths), hash(&paths));
    assert_eq!(hash(&real), hash(&real));
}

/// Finds a seed whose world shows the defect, and returns what was noticed.
fn noticed(defect: Defect) -> (Violation, usize) {
    for seed in 0..60 {
        if let Err(failure) = check_with(seed, Some(defect)) {
            let size =
                failure.shortest.faults.len() + failure.shortest.talks.len() + failure.shortest.hosts.len();
            return (failure.violation, size);
        }
    }
    panic!("nothing noticed {defect:?}");
}

#[test]
fn every_invariant_notices_a_planted_defect_and_makes_it_short() {
    type Expected = fn(&Violation) -> bool;
    let cases: [(Defect, Expected); 12] = [
        (Defect::CutsMessages, |v| matches!(v, Violation::Unreadable { .. })),
        (Defect::LosesRecord, |v| matches!(v, Violation::StoreContradictsItself)),
        (Defect::HoardsConnections, |v| matches!(v, Violation::Swollen { .. })),
        (Defect::HoardsFrames, |v| matches!(v, Violation::Swollen { .. })),
        (Defect::WakesAlways, |v| matches!(v, Violation::WakeStorm { .. })),
        (Defect::KeepsRevoked, |v| {
            matches!(v, Violation::ForbiddenTalk { .. } | Violation::WrongNetmap { .. })
        }),
        (Defect::LosesDelta, |v| !matches!(v, Violation::WakeStorm { .. })),
        (Defect::DropsPongs, |v| matches!(v, Violation::NotDirect { .. })),
        (Defect::LosesFrames, |v| matches!(v, Violation::Mute { .. })),
        (Defect::ClaimsDirect, |v| matches!(v, Violation::NotPossible { .. })),
        (Defect::HoardsCandidates, |v| matches!(v, Violation::Unbounded { .. })),
        (Defect::NeverIdle, |v| matches!(v, Violation::Restless { .. })),
    ];
    for (defect, expected) in cases {
        let (violation, size) = noticed(defect);
        assert!(expected(&violation), "{defect:?} was noticed as {violation}");
        assert!(size <= 6, "{defect:?} needs {size} parts");
    }
}

/// Data that a revoked peer still sends is noticed while it flows.
#[test]
fn data_after_a_revocation_is_noticed() {
    let mut scenario = Scenario::new(5);
    for _ in 0..2 {
        let segment = scenario.add_box(BoxSpec::EASY);
        scenario.add_host(segment);
    }
    for (defect, caught) in [(None, false), (Some(Defect::KeepsRevoked), true)] {
        let mut world = World::with(&scenario, sw_path::PathConfig::default(), defect);
        world.run_for(Duration::from_secs(3));
        let talk = world.add_talk(0, 1, Duration::from_secs(20), Duration::from_millis(100));
        world.run_for(Duration::from_secs(5));
        assert_eq!(world.heard(talk, Duration::from_secs(1)).0, 10);
        world.inject(Fault::Revoke { a: 0, b: 1 });
        world.run_for(Duration::from_secs(10));
        let noticed = world.violations().iter().any(|v| matches!(v, Violation::ForbiddenTalk { .. }));
        assert_eq!(noticed, caught);
    }
}

/// A NAT that lets everybody in by a mapping made for a relay, and gives each destination a port of its own: the
/// mapping that the path began with dies unused.
#[test]
fn a_path_follows_the_port_that_the_peer_sends_from() {
    let mut scenario = Scenario::new(11);
    let open = scenario.add_host(0);
    let nat = BoxSpec { filtering: Filtering::Endpoint, expiry: Duration::from_secs(60), ..BoxSpec::HARD };
    let segment = scenario.add_box(nat);
    let hidden = scenario.add_host(segment);
    let mut world = World::new(&scenario);
    world.run_for(Duration::from_secs(3));
    let lasts = Duration::from_secs(200);
    let talks = [(open, hidden), (hidden, open)]
        .map(|(from, to)| world.add_talk(from, to, lasts, Duration::from_millis(100)));
    world.run_for(lasts + Duration::from_secs(2));
    for talk in talks {
        let gap = world.longest_gap(talk).unwrap();
        assert!(gap < Duration::from_millis(500), "{gap:?}");
    }
    assert_eq!(world.violations(), []);
}

/// More comes over the relay than the last link carries: the relay drops, but the call that arranges a direct path gets
/// through, and what is said afterwards arrives.
#[test]
fn a_flood_over_the_relay_drowns_nothing_else() {
    let mut scenario = Scenario::new(12);
    let segments = [scenario.add_box(BoxSpec::EASY), scenario.add_box(BoxSpec::EASY)];
    let [a, b] = segments.map(|segment| scenario.add_host(segment));
    scenario.hosts[b].link.bandwidth_bps = Some(1_000_000);
    let mut world = World::new(&scenario);
    world.inject(Fault::Cut { a, b, loss: 1.0 });
    world.run_for(Duration::from_secs(3));
    world.add_talk(a, b, Duration::from_secs(20), Duration::from_micros(200));
    world.run_for(Duration::from_secs(10));
    assert!(world.figures().relay_dropped > 1000, "{:?}", world.figures());
    assert_eq!(world.direct_after(a, b), None);
    world.inject(Fault::Cut { a, b, loss: 0.0 });
    world.run_for(Duration::from_secs(10));
    assert!(world.direct_after(a, b).is_some());
    world.run_for(Duration::from_secs(10));
    let after = world.add_talk(a, b, Duration::from_secs(5), Duration::from_millis(50));
    world.run_for(Duration::from_secs(7));
    assert_eq!(world.heard(after, Duration::from_secs(8)), (100, 100));
    assert_eq!(world.violations(), []);
}

#[test]
fn a_conversation_outlives_black_holes_roaming_and_relay_death() {
    let mut scenario = Scenario::new(9);
    scenario.regions.push(Duration::from_millis(30));
    let segments: Vec<usize> = (0..3).map(|_| scenario.add_box(BoxSpec::EASY)).collect();
    let (a, b) = (scenario.add_host(segments[0]), scenario.add_host(segments[1]));
    let mut world = World::new(&scenario);
    world.run_for(Duration::from_secs(3));
    let talks = [(a, b), (b, a)]
        .map(|(from, to)| world.add_talk(from, to, Duration::from_secs(300), Duration::from_millis(50)));
    world.run_for(Duration::from_secs(20));
    assert!(world.is_direct(a, b) && world.is_direct(b, a));
    world.inject(Fault::Cut { a, b, loss: 1.0 });
    world.run_for(Duration::from_secs(20));
    assert!(!world.is_direct(a, b));
    world.inject(Fault::Cut { a, b, loss: 0.0 });
    world.run_for(Duration::from_secs(3));
    assert!(world.is_direct(a, b), "a healed path is taken again within 3 s");
    world.inject(Fault::Roam { host: a, segment: segments[2] });
    world.run_for(Duration::from_secs(20));
    assert!(world.is_direct(a, b));
    world.inject(Fault::RelayDies { region: 0 });
    world.run_for(Duration::from_secs(40));
    world.inject(Fault::Cut { a, b, loss: 1.0 });
    world.run_for(Duration::from_secs(20));
    for talk in talks {
        let (sent, arrived) = world.heard(talk, Duration::from_secs(10));
        // The last ones are on their way.
        assert!(arrived + 10 >= sent, "the other region carries it: {arrived} of {sent}");
        let gap = world.longest_gap(talk).unwrap();
        assert!(gap < Duration::from_secs(3), "{gap:?}");
    }
    assert_eq!(world.violations(), []);
}
