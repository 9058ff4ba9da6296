//! The network as a whole: its policy and its settings.

use std::sync::Arc;

use sw_types::Now;

use super::{Done, Refusal, audit, check_text};
use crate::record::{Change, PolicyVersion, Settings};
use crate::rules::Rules;
use crate::tailnet::Tailnet;

impl Tailnet {
    pub(super) fn set_policy(
        &mut self,
        actor: &str,
        text: Option<String>,
        expect: Option<u64>,
        now: Now,
    ) -> Result<Done, Refusal> {
        let current = self.state.policy().map_or(0, |p| p.version);
        if let Some(expected) = expect.filter(|expected| *expected != current) {
            return Err(Refusal::Moved { expected, found: current });
        }
        let (rules, policy): (Arc<dyn Rules>, _) = match text {
            None => (self.config.engine.without_policy(&self.world), None),
            Some(text) => {
                let rules = self.config.engine.parse(&text, &self.world)?;
                let version =
                    PolicyVersion { version: current + 1, text, author: actor.to_owned(), at: now.wall };
                (rules, Some(Box::new(version)))
            }
        };
        let version = policy.as_ref().map(|p| p.version.to_string());
        let audit = audit("policy.set", "policy", Some(current.to_string()), version);
        self.record(actor, vec![audit], vec![Change::Policy(policy)], now);
        self.install_rules(rules);
        Ok(Done::Changed)
    }

    pub(super) fn set_settings(&mut self, actor: &str, new: Settings, now: Now) -> Result<Done, Refusal> {
        let old = self.state.settings().clone();
        check_text("network name", &new.name)?;
        if new.base_domain.parse::<sw_types::DnsName>().is_err() {
            return Err(Refusal::Unfit {
                what: "base domain",
                word: new.base_domain,
                why: "is no domain name",
            });
        }
        if new.stable_suffix != old.stable_suffix {
            return Err(Refusal::Forbidden("the suffix of machine ids cannot be changed".to_owned()));
        }
        if !(8..=30).contains(&new.pool.bits) {
            return Err(Refusal::Unfit {
                what: "pool",
                word: format!("/{}", new.pool.bits),
                why: "must be /8 to /30",
            });
        }
        let text = |s: &Settings| serde_json::to_string(s).ok();
        let audit = audit("settings.set", &old.name, text(&old), text(&new));
        self.change(actor, audit, Change::Settings(Some(Box::new(new))), now)
    }
}
