//! Runs whole scenarios and makes failing ones short.

use std::fmt;

use sw_path::PathConfig;

use crate::defect::Defect;
use crate::invariant::Violation;
use crate::scenario::{CONVERGENCE, Scenario};
use crate::trace::Trace;
use crate::world::World;

/// A scenario in which an invariant broke, made as short as it goes.
#[derive(Clone, Debug)]
pub struct Failure {
    /// Repeats it: `Scenario::random(seed)`.
    pub seed: u64,
    pub violation: Violation,
    pub shortest: Scenario,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "seed {}: {}", self.seed, self.violation)?;
        write!(f, "shortest scenario: {:#?}", self.shortest)
    }
}

/// Runs a scenario to its rest, checks it, lets it fall silent and checks
/// again.
pub fn run_scenario(scenario: &Scenario, defect: Option<Defect>) -> (Vec<Violation>, Trace) {
    let mut world = World::with(scenario, PathConfig::default(), defect);
    world.run_until(scenario.rest_after);
    if world.violations().is_empty() {
        world.check_at_rest();
    }
    if world.violations().is_empty() {
        world.check_idle();
    }
    (world.violations().to_vec(), world.trace())
}

/// Runs the random scenario of a seed.
///
/// # Errors
/// The first violation, with the shortest scenario that shows one of its kind.
pub fn check(seed: u64) -> Result<Trace, Box<Failure>> {
    check_with(seed, None)
}

/// The same with a planted defect.
///
/// # Errors
/// As [`check`].
pub fn check_with(seed: u64, defect: Option<Defect>) -> Result<Trace, Box<Failure>> {
    let scenario = Scenario::random(seed);
    let (violations, trace) = run_scenario(&scenario, defect);
    match violations.first() {
        None => Ok(trace),
        Some(violation) => {
            let shortest = shrink(&scenario, violation, defect);
            Err(Box::new(Failure { seed, violation: violation.clone(), shortest }))
        }
    }
}

/// Takes away what is not needed for a violation of the same kind.
pub fn shrink(scenario: &Scenario, violation: &Violation, defect: Option<Defect>) -> Scenario {
    let kind = std::mem::discriminant(violation);
    let still_fails = |candidate: &Scenario| {
        run_scenario(candidate, defect).0.first().is_some_and(|v| std::mem::discriminant(v) == kind)
    };
    let mut best = scenario.clone();
    let mut progress = true;
    while progress {
        progress = false;
        for candidate in smaller(&best) {
            if still_fails(&candidate) {
                best = candidate;
                progress = true;
                break;
            }
        }
    }
    best
}

/// All scenarios that are one step simpler.
fn smaller(scenario: &Scenario) -> Vec<Scenario> {
    let mut all = Vec::new();
    let mut add = |mut candidate: Scenario| {
        candidate.rest_after = candidate.last_event() + CONVERGENCE;
        all.push(candidate);
    };
    for n in 0..scenario.faults.len() {
        let mut candidate = scenario.clone();
        candidate.faults.remove(n);
        add(candidate);
    }
    for n in 0..scenario.talks.len() {
        let mut candidate = scenario.clone();
        candidate.talks.remove(n);
        add(candidate);
    }
    // The last machine goes if nothing speaks of it.
    if scenario.hosts.len() > 2 {
        let last = scenario.hosts.len() - 1;
        let mut candidate = scenario.clone();
        candidate.hosts.pop();
        candidate.talks.retain(|t| t.from != last && t.to != last);
        candidate.faults.retain(|(_, fault)| !fault.names(last));
        add(candidate);
    }
    for n in 0..scenario.hosts.len() {
        let plain = crate::link::LinkSpec::default();
        if scenario.hosts.get(n).is_some_and(|h| h.link != plain) {
            let mut candidate = scenario.clone();
            if let Some(host) = candidate.hosts.get_mut(n) {
                host.link = plain;
            }
            add(candidate);
        }
    }
    if scenario.regions.len() > 1 {
        let mut candidate = scenario.clone();
        candidate.regions.pop();
        add(candidate);
    }
    all
}
