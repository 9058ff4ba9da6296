//! Profiles: this machine as a member of several networks, one at a time (localapi-cli.md §A3).

use sw_types::local::{LoginProfile, Problem};
use sw_types::problem::quoted;

use super::Core;
use crate::store::lock_key;

impl Core {
    /// The profile with this id.
    pub(crate) fn profile(&self, id: &str) -> Option<LoginProfile> {
        self.store.profiles().into_iter().find(|profile| profile.id == id)
    }

    /// Leaves the present profile as it is and takes up another; `""` begins a new one.
    pub(crate) fn switch_profile(&mut self, id: &str) -> Result<(), Problem> {
        if !id.is_empty() && self.profile(id).is_none() {
            return Err(no_such_profile(id));
        }
        if id == self.store.current_profile().id {
            return Ok(());
        }
        let operator = self.node.prefs().operator_user.clone();
        let mut prefs = self.store.switch(id)?;
        if id.is_empty() {
            // Whoever may operate this machine may do so in the new profile too.
            prefs.operator_user = operator;
        }
        self.remember.forget();
        self.store.remove_cache();
        // The next request finds its server by the new preferences.
        self.control.forget_client();
        let now = self.now();
        let lock = lock_key(&prefs);
        self.node.on_profile(prefs, lock, now);
        self.reload_serving();
        Ok(())
    }

    /// Forgets a profile; of the one in use, a new one takes the place.
    pub(crate) fn remove_profile(&mut self, id: &str) -> Result<(), Problem> {
        if self.profile(id).is_none() {
            return Err(no_such_profile(id));
        }
        if id == self.store.current_profile().id {
            self.switch_profile("")?;
        }
        self.store.remove_profile(id)
    }

    /// Forgets all profiles.
    pub(crate) fn remove_all_profiles(&mut self) -> Result<(), Problem> {
        self.switch_profile("")?;
        self.store.profiles().iter().try_for_each(|profile| self.store.remove_profile(&profile.id))
    }
}

fn no_such_profile(id: &str) -> Problem {
    let what = format!("there is no account {} on this machine.", quoted(id));
    Problem::other(what, "", "samewire switch --list shows all")
}
