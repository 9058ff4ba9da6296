//! Questions that operators ask about machines; nothing here changes anything.

use ipnet::IpNet;
use sw_tailcfg::FilterRule;
use sw_types::NodeId;

use crate::live::{Facts, Presence};
use crate::rules::{SshCheck, World};
use crate::tailnet::Tailnet;

impl Tailnet {
    /// What a machine says of itself.
    pub fn facts(&self, node: NodeId) -> Option<&Facts> {
        self.live.get(&node).map(|live| &live.facts)
    }

    /// Whether it has a live map stream.
    pub fn presence(&self, node: NodeId) -> Presence {
        self.live.get(&node).map_or(Presence::Offline, |live| live.presence)
    }

    /// Whether others see it online.
    pub fn is_online(&self, node: NodeId) -> bool {
        self.presence(node).is_online()
    }

    /// Routes that it announces, approved or not.
    pub fn announced_routes(&self, node: NodeId) -> &[IpNet] {
        self.facts(node).map_or(&[], |facts| &facts.host.routable_ips)
    }

    /// Routes that others use it for now: announced, approved, and it is the primary of each.
    pub fn serving_routes(&self, node: NodeId) -> &[IpNet] {
        self.live.get(&node).map_or(&[], |live| &live.serving)
    }

    /// Whether two machines are peers by the policy in force.
    pub fn sees(&self, a: NodeId, b: NodeId) -> bool {
        self.compiled.sees(self.compiled.class(a), self.compiled.class(b))
    }

    /// The packet filter that a machine is sent.
    pub fn filter_of(&self, node: NodeId) -> std::sync::Arc<[FilterRule]> {
        self.compiled.filter(node)
    }

    /// Whether an SSH session needs a check of the person; `None`: no rule with a check matches (policy.md §12).
    pub fn ssh_check(&self, src: NodeId, dst: NodeId, login: &str) -> Option<SshCheck> {
        self.compiled.ssh_check(src, dst, login)
    }

    /// Everything that a policy can depend on, as it is now.
    pub fn world(&self) -> &World {
        &self.world
    }
}
