//! What `explain` and `status` show of one peer.

use sw_types::Instant;

use super::{Choice, Peer};
use crate::api::{CandidateReport, Leg, NatKind, PeerReport, Verdict};
use crate::candidate::{Candidate, Fault};
use crate::timing::TRUST;

impl Peer {
    /// Describes every candidate with the reason it is or is not used.
    pub(crate) fn report(&self, own_nat: NatKind, now: Instant) -> PeerReport {
        PeerReport {
            peer: self.info.node,
            route: self.route,
            home: self.info.home,
            relay_rtt: self.relay_rtt.map(|(rtt, _)| rtt),
            peer_nat: None,
            own_nat,
            candidates: self.describe_all(now),
            fruitless: self.fruitless,
            sprays: 0,
        }
    }

    fn describe_all(&self, now: Instant) -> Vec<CandidateReport> {
        let untried = self.info.endpoints.iter().filter(|_| self.is_untouched);
        let untried = untried.map(|addr| self.describe(&Candidate::new(Leg::main(*addr)), now));
        self.candidates.iter().map(|c| self.describe(c, now)).chain(untried).collect()
    }

    fn describe(&self, candidate: &Candidate, now: Instant) -> CandidateReport {
        CandidateReport {
            via: candidate.leg.via(),
            verdict: self.verdict(candidate, now),
            rtt: candidate.rtt(),
            pings: candidate.pings,
            pongs: candidate.pongs,
            mtu: candidate.mtu,
        }
    }

    fn verdict(&self, candidate: &Candidate, now: Instant) -> Verdict {
        match self.choice {
            Choice::Direct { leg, .. } if leg == candidate.leg => return Verdict::InUse,
            Choice::Doubtful { leg, .. } if leg == candidate.leg => return Verdict::Doubtful,
            Choice::Relayed | Choice::Direct { .. } | Choice::Doubtful { .. } => {}
        }
        match (candidate.probation.map(|p| p.fault), candidate.last_pong) {
            (Some(Fault::Lossy { lost_percent }), _) => Verdict::Lossy { lost_percent },
            (Some(Fault::Slow), _) => Verdict::Slow,
            (None, Some(_)) if candidate.works(TRUST, now) => Verdict::Slower,
            // Quiet for long while a better one worked: nothing says that it is dead.
            (None, Some(_)) if candidate.missed == 0 => Verdict::Slower,
            (None, Some(_)) => Verdict::Lost,
            (None, None) if candidate.pings > 0 => Verdict::NoAnswer,
            (None, None) => Verdict::Untried,
        }
    }
}
