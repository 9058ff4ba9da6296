//! Which person a policy's words name (policy.md §15.1).

use std::collections::BTreeMap;

use sw_types::UserId;

use crate::world::User;

/// How a word names a person: identity provider, then e-mail, then name.
fn strength(user: &User, token: &str) -> Option<u8> {
    if !user.provider.is_empty() && user.provider.to_lowercase() == token {
        return Some(0);
    }
    if !user.email.is_empty() && user.email.to_lowercase() == token {
        return Some(1);
    }
    user.tokens().iter().any(|own| own == token).then_some(2)
}

/// Reports whether `token` names at most one person.
pub(crate) fn is_unambiguous(users: &BTreeMap<UserId, User>, token: &str) -> bool {
    let found: Vec<u8> = users.values().filter_map(|user| strength(user, token)).collect();
    let best = found.iter().min();
    found.iter().filter(|strength| Some(*strength) == best).count() <= 1
}

/// The person that each word of a policy names; ambiguous words name nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(BTreeMap<String, UserId>);

impl Names {
    /// Resolves those words for which `is_used` holds.
    pub(crate) fn new(users: &BTreeMap<UserId, User>, is_used: impl Fn(&str) -> bool) -> Self {
        let mut best: BTreeMap<String, (u8, UserId, bool)> = BTreeMap::new();
        for user in users.values() {
            let mut tokens = user.tokens();
            tokens.sort_unstable();
            tokens.dedup();
            for token in tokens.into_iter().filter(|token| is_used(token)) {
                let Some(strength) = strength(user, &token) else { continue };
                let entry = best.entry(token).or_insert((strength, user.id, true));
                if entry.1 == user.id {
                    continue;
                }
                if strength < entry.0 {
                    *entry = (strength, user.id, true);
                } else if strength == entry.0 {
                    entry.2 = false;
                }
            }
        }
        let certain = best.into_iter().filter(|(_, (_, _, is_alone))| *is_alone);
        Self(certain.map(|(token, (_, user, _))| (token, user)).collect())
    }

    /// Returns the person that a word names.
    pub(crate) fn get(&self, token: &str) -> Option<UserId> {
        self.0.get(token).copied()
    }
}
