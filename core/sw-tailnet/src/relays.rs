//! The relay map in force: the server's own, with what the policy changes in it (policy.md §5.11).

use std::collections::BTreeMap;

use sw_tailcfg::{DerpMap, DerpRegion};
use sw_types::RegionId;

use crate::tailnet::Tailnet;

/// A policy's own relays.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct RelayChange {
    /// The server's own map is left out.
    pub omits_default: bool,
    /// Regions that are added or replaced, or with `None` taken out.
    pub regions: BTreeMap<RegionId, Option<DerpRegion>>,
}

impl RelayChange {
    /// Applies the change to the server's own map.
    pub(crate) fn apply(&self, own: &DerpMap) -> DerpMap {
        let mut map = own.clone();
        let mut regions = map.regions.take().unwrap_or_default();
        if self.omits_default {
            regions.clear();
        }
        for (id, region) in &self.regions {
            match region {
                Some(region) => regions.insert(*id, region.clone()),
                None => regions.remove(id),
            };
        }
        map.regions = Some(regions);
        map
    }
}

impl Tailnet {
    /// Takes the server's own relay map.
    pub fn on_derp_map(&mut self, map: DerpMap) {
        self.own_derp_map = map;
        self.refresh_relays();
    }

    /// Puts the server's own relay map, changed by the policy, in force.
    pub(crate) fn refresh_relays(&mut self) {
        let map = match self.rules.relays() {
            Some(change) => change.apply(&self.own_derp_map),
            None => self.own_derp_map.clone(),
        };
        if map != self.derp_map {
            self.derp_map = map;
            self.stamp += 1;
            self.streams.derp_changed(self.stamp);
        }
    }
}
