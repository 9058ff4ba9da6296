//! What is worth knowing although nothing stopped: the end of the own key, other programs, versions, the name.

use std::time::Duration;

use sw_tailcfg::ServerIs;
use sw_types::local::{BackendState, Problem};
use sw_types::problem::{Severity, Slug, span};
use sw_types::{CapVer, DnsLabel};

use super::Core;
use super::queries::short_name;

/// How far ahead the end of the own key is told.
const EXPIRY_NOTICE: Duration = Duration::from_secs(14 * 86_400);
/// The official daemon.
const OTHER_CLIENT: &str = "tailscaled";

impl Core {
    /// All of them; warnings stand among the health texts too.
    pub(super) fn notices(&self) -> Vec<Problem> {
        let all = [
            self.key_expires_soon(),
            self.other_client.clone(),
            self.server_older(),
            self.update_available(),
            self.name_taken(),
        ];
        all.into_iter().flatten().collect()
    }

    /// The warnings, one line each.
    pub(super) fn warnings(&self) -> impl Iterator<Item = String> {
        let is_warning =
            |notice: &Problem| notice.known_slug().is_some_and(|slug| slug.severity() == Severity::Warning);
        self.notices().into_iter().filter(is_warning).map(|notice| notice.sentence())
    }

    fn key_expires_soon(&self) -> Option<Problem> {
        let now = self.now().wall;
        let expiry = self.node.netmap()?.self_node.key_expiry.filter(|expiry| *expiry > now)?;
        let left = expiry.saturating_since(now);
        let values = [("time", &*span(left)), ("reason", &*format!("it is good until {expiry}"))];
        (left < EXPIRY_NOTICE).then(|| Slug::KeyExpiresSoon.problem(&values))
    }

    /// The server of this network is what this machine's next version comes from.
    fn update_available(&self) -> Option<Problem> {
        let server = self.server_is.as_ref().filter(|server| server.is_newer_than(crate::VERSION_SHORT))?;
        Some(Slug::UpdateAvailable.problem(&[
            ("new", &server.version),
            ("own", crate::VERSION_SHORT),
            ("reason", "the server of this network runs it"),
        ]))
    }

    fn server_older(&self) -> Option<Problem> {
        let server: &ServerIs = self.server_is.as_ref().filter(|server| server.protocol < CapVer::CLIENT)?;
        let host = self.control.client().map(|client| client.authority().to_owned()).unwrap_or_default();
        Some(Slug::ServerOlder.problem(&[
            ("capver", &server.protocol.to_string()),
            ("feature", &format!("what came with protocol {}", CapVer::CLIENT)),
            ("server", &host),
        ]))
    }

    /// Only where the machine that has the name is seen: an admin may have chosen the one with the number.
    fn name_taken(&self) -> Option<Problem> {
        let netmap = self.node.netmap().filter(|_| self.node.state() == BackendState::Running)?;
        let wanted = DnsLabel::sanitize(&self.node.control().hostinfo().hostname);
        let name = short_name(&netmap.self_node.name);
        let number = name.strip_prefix(wanted.as_str())?.strip_prefix('-')?;
        let holder = netmap.peers().find(|peer| short_name(&peer.name) == wanted.as_str())?;
        number.parse::<u32>().ok()?;
        let owner = match (holder.tags.first(), sw_node::node::profile_of(netmap, holder.user)) {
            (Some(tag), _) => tag.clone(),
            (None, Some(profile)) => profile.login_name,
            (None, None) => String::new(),
        };
        Some(Slug::NameTaken.problem(&[("name", &name), ("wanted", wanted.as_str()), ("owner", &owner)]))
    }

    /// Looks for the official daemon: an interface with addresses of such networks that is not ours.
    pub(super) fn look_for_other_client(&mut self) {
        let own = self.device.tun_name().unwrap_or_default();
        let is_other = |interface: &&sw_os::link::Interface| {
            let has_address = interface.addresses.iter().any(|net| sw_types::is_tailnet_ip(net.addr()));
            has_address && interface.name != own
        };
        let found = self.interfaces.interfaces.iter().find(is_other).map(|interface| interface.name.clone());
        let holder = found.as_deref().and_then(sw_os::host::holder_of_tun);
        let tun = found.filter(|_| holder.is_some_and(|holder| holder.program == OTHER_CLIENT));
        self.other_client = tun.map(|tun| Slug::OtherClient.problem(&[("tun", &tun)]));
    }
}
