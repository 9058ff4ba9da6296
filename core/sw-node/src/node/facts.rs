//! Facts that prefs, configuration and netmap tell.

use super::*;

/// The user's profile of a node's owner, from the network or from the login.
pub fn profile_of(netmap: &Netmap, user: UserId) -> Option<UserProfile> {
    let profile = netmap.user_profiles.get(&user)?;
    Some(UserProfile {
        id: profile.id,
        login_name: profile.login_name.clone(),
        display_name: profile.display_name.clone(),
        profile_pic_url: profile.profile_pic_url.clone(),
        groups: None,
    })
}

pub(super) fn is_of_key(message: &MapResponse, key: &NodeKey) -> bool {
    message.node.as_ref().is_some_and(|node| node.key == *key)
}

pub(super) fn old_key(prefs: &Prefs) -> NodeKey {
    let text = prefs.config.as_ref().map(|config| config.old_private_node_key.0.as_str()).unwrap_or_default();
    NodePrivate::from_text(text).map(|key| key.public()).unwrap_or_default()
}

pub(super) fn session_keys(prefs: &Prefs, lock: LockKey) -> SessionKeys {
    let text = prefs.config.as_ref().map(|config| config.private_node_key.0.as_str()).unwrap_or_default();
    // Without a stored key the session is never used before `set_keys`.
    let node = NodePrivate::from_text(text).unwrap_or_else(|_| NodePrivate::from_bytes([1; 32]));
    SessionKeys { node, old: old_key(prefs), lock }
}

pub(super) fn hostinfo(
    config: &NodeConfig,
    prefs: &Prefs,
    net_info: Option<&NetInfo>,
    services: &[Service],
) -> Hostinfo {
    let mut info = config.hostinfo.clone();
    if !prefs.hostname.is_empty() {
        info.hostname.clone_from(&prefs.hostname);
    }
    info.shields_up = prefs.shields_up;
    info.routable_ips = prefs.advertise_routes.clone().unwrap_or_default();
    info.request_tags = prefs.advertise_tags.clone().unwrap_or_default();
    info.exit_node_id.0.clone_from(&prefs.exit_node_id);
    info.userspace = Some(config.is_userspace);
    info.userspace_router = Some(config.is_userspace);
    info.services = services.to_vec();
    info.net_info = net_info.cloned();
    info
}
