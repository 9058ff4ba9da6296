//! Which person a policy's words name (policy.md §15.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use sw_types::UserId;

use crate::plan::{Plan, SelId};
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

/// The person that each word of a policy names; ambiguous words name nobody.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Names(BTreeMap<String, Option<UserId>>);

impl Names {
    /// Resolves the words of all people.
    pub(crate) fn new(users: &BTreeMap<UserId, Arc<User>>) -> Self {
        let mut best: BTreeMap<String, (u8, Option<UserId>)> = BTreeMap::new();
        for user in users.values() {
            let mut tokens = user.tokens();
            tokens.sort_unstable();
            tokens.dedup();
            for token in tokens {
                let Some(strength) = strength(user, &token) else { continue };
                let entry = best.entry(token).or_insert((u8::MAX, None));
                if strength < entry.0 {
                    *entry = (strength, Some(user.id));
                } else if strength == entry.0 {
                    entry.1 = None;
                }
            }
        }
        Self(best.into_iter().map(|(token, (_, user))| (token, user)).collect())
    }

    /// Returns the person that a word names.
    pub(crate) fn get(&self, token: &str) -> Option<UserId> {
        self.0.get(token).copied().flatten()
    }

    /// Reports whether a word names several people equally well.
    pub(crate) fn is_ambiguous(&self, token: &str) -> bool {
        self.0.get(token) == Some(&None)
    }
}

/// The people of a network, and which selectors of a policy they meet with their own machines.
#[derive(Clone, Debug, Default)]
pub(crate) struct People {
    pub(crate) users: BTreeMap<UserId, Arc<User>>,
    /// The person of every word.
    pub(crate) names: Names,
    sels: BTreeMap<UserId, Vec<SelId>>,
}

impl People {
    pub(crate) fn new(plan: &Plan, users: &BTreeMap<UserId, Arc<User>>) -> Self {
        let names = Names::new(users);
        let mut sels: BTreeMap<UserId, Vec<SelId>> = BTreeMap::new();
        for (token, found) in &plan.by_token {
            if let Some(user) = names.get(token) {
                sels.entry(user).or_default().extend(found);
            }
        }
        for user in users.values() {
            let own = sels.entry(user.id).or_default();
            if let Some(found) = user.domain().and_then(|domain| plan.by_domain.get(&domain.to_lowercase())) {
                own.extend(found);
            }
            own.extend(user.group_tokens().filter_map(|token| plan.by_token.get(&token)).flatten());
            own.extend(plan.by_role.iter().filter(|(role, _)| user.role.is(*role)).map(|(_, sel)| *sel));
            own.sort_unstable();
            own.dedup();
        }
        Self { users: users.clone(), names, sels }
    }

    /// Reports whether a word of a policy means a person: by name, or by a group of the identity provider.
    pub(crate) fn is(&self, token: &str, user: &User) -> bool {
        self.names.get(token) == Some(user.id) || user.group_tokens().any(|own| own == token)
    }

    /// Returns the selectors that the machines of a person meet, `autogroup:member` left out.
    pub(crate) fn sels(&self, user: UserId) -> &[SelId] {
        self.sels.get(&user).map_or(&[], Vec::as_slice)
    }
}
