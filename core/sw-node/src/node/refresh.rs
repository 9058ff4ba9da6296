//! What follows from a changed netmap, changed prefs or a changed state.

use super::*;

impl Node {
    pub(super) fn refresh_everything(&mut self, now: Now) {
        let changes = self.netmap.as_ref().map(Changes::everything).unwrap_or_default();
        self.refresh(&changes, now);
        self.drain_control(now);
    }

    /// Tells the edge what follows from changes of the network.
    pub(super) fn refresh(&mut self, changes: &Changes, now: Now) {
        self.refresh_peers(changes, now);
        if let (true, Some(netmap)) = (changes.derp_map, &self.netmap) {
            let (map, problems) = netmap.derp_map.check();
            for problem in problems {
                tracing::warn!(%problem, "relay map");
            }
            self.outputs.push_back(Output::RelayMap(map));
        }
        if changes.filter || changes.self_node {
            self.refresh_filter(now);
        }
        if changes.addressing || changes.dns || changes.self_node || self.netmap.is_none() {
            self.refresh_machine(now);
        }
        let wall = now.wall;
        self.expiry_check = self.netmap.as_ref().and_then(|netmap| {
            let own = netmap.self_node.key_expiry.filter(|expiry| *expiry > wall);
            let next = netmap.next_expiry(wall).into_iter().chain(own).min()?;
            Some(now.mono + next.saturating_since(wall).min(EXPIRY_CHECK_MAX) + Duration::from_millis(1))
        });
        if !changes.is_empty() {
            self.outputs.push_back(Output::Event(Event::NetmapChanged {
                peers: changes.peers.clone(),
                removed: changes.removed.keys().copied().collect(),
                is_whole: changes.self_node || changes.dns || changes.derp_map || changes.domain,
            }));
        }
        self.update_state(now);
    }

    pub(super) fn refresh_peers(&mut self, changes: &Changes, now: Now) {
        if !self.is_active(now) {
            let mut removed: Vec<NodeKey> = std::mem::take(&mut self.published).into_iter().collect();
            removed.sort();
            if !removed.is_empty() {
                self.outputs.push_back(Output::Peers { changed: Vec::new(), removed });
            }
            return;
        }
        let Some(netmap) = &self.netmap else { return };
        let mut removed: BTreeSet<NodeKey> = changes.removed.values().copied().collect();
        removed.extend(&changes.retired_keys);
        removed.retain(|key| netmap.peer_by_key(key).is_none());
        let mut changed = Vec::new();
        for node in changes.peers.iter().filter_map(|id| netmap.peer(*id)) {
            match peer_config(netmap, node, &self.prefs, now.wall) {
                Some(config) => changed.push(config),
                None => drop(removed.insert(node.key)),
            }
        }
        let removed: Vec<NodeKey> = removed.into_iter().filter(|key| self.published.remove(key)).collect();
        self.published.extend(changed.iter().map(|config| config.key));
        if !changed.is_empty() || !removed.is_empty() {
            self.outputs.push_back(Output::Peers { changed, removed });
        }
    }

    pub(super) fn refresh_filter(&mut self, now: Now) {
        let filter = match &self.netmap {
            Some(netmap) if self.is_active(now) => filter_config(netmap, &self.prefs),
            Some(_) | None => FilterConfig::default(),
        };
        if self.last_filter.as_ref() != Some(&filter) {
            self.last_filter = Some(filter.clone());
            self.outputs.push_back(Output::Filter(filter));
        }
    }

    pub(super) fn refresh_machine(&mut self, now: Now) {
        let active = self.netmap.as_ref().filter(|_| self.is_active(now));
        let facts = &self.config.dns_facts;
        let plan = active.map(|netmap| machine_plan(netmap, &self.prefs, facts, &self.lan, now.wall));
        let (machine, resolver) = plan.unzip();
        if machine != self.last_machine {
            self.machine_ready &= machine.is_some();
            self.last_machine.clone_from(&machine);
            self.outputs.push_back(Output::Machine(machine));
        }
        if self.last_resolver.as_deref() != resolver.as_ref() {
            self.last_resolver = resolver.map(Arc::new);
            self.outputs.push_back(Output::Resolver(self.last_resolver.clone().unwrap_or_default()));
        }
    }
}
