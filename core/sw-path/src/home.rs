//! The home relay region, chosen with hysteresis (stun-netcheck.md §5).

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use sw_types::{Instant, RegionId};

/// Reports older than this no longer count (5 min + 5 s).
const HISTORY: Duration = Duration::from_secs(305);
/// Reports kept at most; at one per 20 s the history holds 16.
const HISTORY_MAX: usize = 64;
/// A smaller gain never moves home.
const GAIN_MIN: Duration = Duration::from_millis(10);
/// A frame from the home relay this recent proves it alive.
const HEARD: Duration = Duration::from_secs(8);
/// With no measurement at all, home stays this long after its last frame.
const HEARD_ALONE: Duration = Duration::from_secs(120);

/// What one netcheck learnt about the regions.
#[derive(Clone, Debug)]
pub(crate) struct Measured {
    pub(crate) started: Instant,
    pub(crate) latency: BTreeMap<RegionId, Duration>,
}

/// Remembers recent measurements and picks the region.
#[derive(Debug, Default)]
pub(crate) struct HomeChooser {
    history: VecDeque<Measured>,
    scores: BTreeMap<RegionId, f64>,
}

impl HomeChooser {
    /// Takes the region scores of the relay map; only those above 0 count.
    pub(crate) fn set_scores(&mut self, scores: BTreeMap<RegionId, f64>) {
        self.scores = scores;
        self.scores.retain(|_, score| score.is_finite() && *score > 0.0);
    }

    /// Forgets all measurements, for a new network.
    pub(crate) fn forget(&mut self) {
        self.history.clear();
    }

    /// Returns the region to call home after `report`, or `None` when nothing
    /// speaks for any. `heard` is when the last frame came from `previous`.
    pub(crate) fn choose(
        &mut self,
        report: Measured,
        previous: Option<RegionId>,
        heard: Option<Instant>,
        now: Instant,
    ) -> Option<RegionId> {
        let started = report.started;
        let present: Vec<RegionId> = report.latency.keys().copied().collect();
        let current = previous.and_then(|p| Some((p, *report.latency.get(&p)?)));
        self.history.push_back(report);
        while self.history.len() > HISTORY_MAX
            || self.history.front().is_some_and(|r| r.started + HISTORY < now)
        {
            self.history.pop_front();
        }

        let best = present
            .into_iter()
            .filter_map(|region| Some((self.best_of(region)?, region)))
            .min_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(&b.1)));
        let Some((best_s, new)) = best else {
            return previous.filter(|_| heard.is_some_and(|at| at + HEARD_ALONE > now));
        };
        let Some(home) = previous else { return Some(new) };
        if new == home {
            return Some(home);
        }
        let old_s = current.map_or(0.0, |(region, rtt)| rtt.as_secs_f64() * self.score(region));
        let alive = heard.is_some_and(|at| at > started || at + HEARD > now);
        let keep = (old_s != 0.0 || alive)
            && (old_s - best_s < GAIN_MIN.as_secs_f64() || best_s > old_s * 2.0 / 3.0);
        Some(if keep { home } else { new })
    }

    fn best_of(&self, region: RegionId) -> Option<f64> {
        let best = self.history.iter().filter_map(|r| r.latency.get(&region)).min()?;
        Some(best.as_secs_f64() * self.score(region))
    }

    fn score(&self, region: RegionId) -> f64 {
        self.scores.get(&region).copied().unwrap_or(1.0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const D1: RegionId = RegionId(1);
    const D2: RegionId = RegionId(2);
    const D3: RegionId = RegionId(3);

    /// Runs reports given as (seconds since the last, [(region, ms)]) and
    /// returns the last choice.
    fn run(
        scores: &[(RegionId, f64)],
        heard_at_s: &[u64],
        steps: &[(u64, &[(RegionId, u64)])],
    ) -> Option<RegionId> {
        let mut chooser = HomeChooser::default();
        chooser.set_scores(scores.iter().copied().collect());
        let (mut home, mut s) = (None, 1000);
        for (after, latency) in steps {
            s += after;
            let now = Instant::from_nanos(s * 1_000_000_000);
            let heard = heard_at_s.iter().map(|h| h + 1000).filter(|h| *h <= s).max();
            let latency = latency.iter().map(|(r, ms)| (*r, Duration::from_millis(*ms))).collect();
            home = chooser.choose(
                Measured { started: now, latency },
                home,
                heard.map(|h| Instant::from_nanos(h * 1_000_000_000)),
                now,
            );
        }
        home
    }

    /// The table of stun-netcheck.md §9.
    #[test]
    fn home_moves_only_for_a_clear_gain() {
        let a: (u64, &[_]) = (0, &[(D1, 2000), (D2, 3000)]);
        let b: (u64, &[_]) = (1, &[(D1, 4000), (D2, 3000)]);
        let c: (u64, &[_]) = (1, &[(D2, 3000)]);
        assert_eq!(run(&[], &[], &[a]), Some(D1));
        assert_eq!(run(&[], &[], &[a, b]), Some(D1));
        assert_eq!(run(&[], &[], &[a, b, c]), Some(D2));
        assert_eq!(run(&[], &[], &[a, b, c, b]), Some(D1));
        let same: (u64, &[_]) = (1, &[(D1, 1000), (D2, 2000)]);
        assert_eq!(run(&[], &[], &[same, same, same, same, (600, &[(D3, 3000)])]), Some(D3));
        assert_eq!(run(&[], &[], &[(0, &[(D1, 4000), (D2, 5000)]), b]), Some(D1));
        let ms: (u64, &[_]) = (0, &[(D1, 4), (D2, 5)]);
        assert_eq!(run(&[], &[], &[ms, (1, &[(D1, 4), (D2, 1)])]), Some(D1));
        let ms: (u64, &[_]) = (0, &[(D1, 34), (D2, 35)]);
        assert_eq!(run(&[], &[], &[ms, (1, &[(D1, 34), (D2, 23)])]), Some(D1));
        assert_eq!(
            run(&[], &[], &[(0, &[(D1, 4000), (D2, 5000)]), (1, &[(D1, 4000), (D2, 1000)])]),
            Some(D2)
        );
    }

    #[test]
    fn scores_weigh_the_latency() {
        let two_thirds = [(D1, 2.0 / 3.0)];
        assert_eq!(run(&two_thirds, &[], &[(0, &[(D1, 10_000), (D2, 8000)])]), Some(D1));
        assert_eq!(run(&two_thirds, &[], &[(0, &[(D1, 100_000), (D2, 10_000)])]), Some(D2));
        assert_eq!(run(&[(D1, 0.0), (D2, -1.0)], &[], &[(0, &[(D1, 4000), (D2, 5000)])]), Some(D1));
    }

    #[test]
    fn a_relay_that_still_speaks_stays_home() {
        let steps: [(u64, &[_]); 3] =
            [(0, &[(D1, 2000), (D2, 3000)]), (2, &[(D1, 4000), (D2, 3000)]), (2, &[(D2, 3000)])];
        assert_eq!(run(&[], &[3], &steps), Some(D1));
        let silent: [(u64, &[_]); 4] = [(0, &[(D1, 2000), (D2, 3000)]), (30, &[]), (2, &[]), (2, &[])];
        assert_eq!(run(&[], &[0], &silent), Some(D1));
        assert_eq!(run(&[], &[0], &[silent[0], (30, &[]), (120, &[])]), None);
    }
}
