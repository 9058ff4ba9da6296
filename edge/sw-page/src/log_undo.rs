//! Undo from the log: what an entry changed goes back to what it was before, if nothing changed it since.

use crate::acts::{done, refuse, sentence};
use crate::guard::Visitor;
use crate::site::Site;
use crate::undo::Outcome;
use ::http::Response;
use sw_net::front::Body;
use sw_tailnet::{Change, Command, Entry, Node, Owner, Settings, State, User, UserChange};

/// Entries looked at; older ones have no undo.
const LOOKED_AT: usize = 100_000;
/// How far back the value before a change is looked for.
const LOOK_BACK: usize = 2_000;

/// `/log/SEQ/undo`.
pub(crate) async fn undo(site: &Site, visitor: &Visitor, seq: &str) -> Response<Body> {
    let entries = site.control.audit(None, LOOKED_AT).await.unwrap_or_default();
    let state = site.control.read(|tailnet| tailnet.state().clone()).await;
    let at = entries.iter().position(|(own, _)| own.0.to_string() == seq);
    let back = at.zip(state.ok()).and_then(|(at, state)| undoing(&state, &entries, at));
    let Some(back) = back else {
        return refuse(site, visitor, "It was changed again since; nothing was undone.", "/log");
    };
    for command in back {
        if let Err(error) = site.control.execute(&visitor.login, command).await {
            return refuse(site, visitor, &sentence(&error), "/log");
        }
    }
    done(site, visitor, "Undone.".into(), Outcome::default(), "/log")
}

/// The commands that undo the entry at `at` (newest first), if each of its changes is still as the entry left it and
/// the one before is known.
pub(crate) fn undoing<S>(state: &State, entries: &[(S, Entry)], at: usize) -> Option<Vec<Command>> {
    let (_, entry) = &entries[at];
    let older = || entries[at + 1..].iter().take(LOOK_BACK).flat_map(|(_, entry)| &entry.changes);
    let mut back = Vec::new();
    for change in &entry.changes {
        match change {
            Change::Node(id, Some(new)) => {
                let old = older().find_map(|c| {
                    if let Change::Node(i, old) = c
                        && i == id
                    {
                        Some(old)
                    } else {
                        None
                    }
                });
                let now = state.node(*id).filter(|now| now.node_key == new.node_key)?;
                back.extend(node(old?.as_deref()?, new, now)?);
            }
            Change::Settings(Some(new)) => {
                let old =
                    older().find_map(|c| if let Change::Settings(old) = c { old.clone() } else { None });
                let old: Box<Settings> = old?;
                back.extend((state.settings() == &**new).then_some(Command::SetSettings(old)));
            }
            Change::User(id, Some(new)) => {
                let old = older().find_map(|c| {
                    if let Change::User(i, old) = c
                        && i == id
                    {
                        Some(old)
                    } else {
                        None
                    }
                });
                back.extend(user(old?.as_deref()?, new, state.user(*id)?));
            }
            Change::Policy(_)
            | Change::Node(..)
            | Change::User(..)
            | Change::Settings(None)
            | Change::AuthKey(..)
            | Change::ApiKey(..)
            | Change::Session(..)
            | Change::NextIds(_) => return None,
        }
    }
    (!back.is_empty()).then_some(back)
}

/// `None` when something else than these was changed, or they were changed again since.
fn node(old: &Node, new: &Node, now: &Node) -> Option<Vec<Command>> {
    let node = new.id;
    let mut back = Vec::new();
    if old.label != new.label {
        let command = Command::RenameNode { node, label: old.label_fixed.then(|| old.label.clone()) };
        (now.label == new.label).then(|| back.push(command))?;
    }
    if old.owner != new.owner {
        let command = match &old.owner {
            Owner::User(user) => Command::GiveNode { node, user: *user },
            Owner::Tags(tags) => Command::TagNode { node, tags: tags.clone() },
        };
        (now.owner == new.owner).then(|| back.push(command))?;
    }
    if old.approved_routes != new.approved_routes {
        let command = Command::SetRoutes { node, routes: old.approved_routes.clone() };
        (now.approved_routes == new.approved_routes).then(|| back.push(command))?;
    }
    if old.approved != new.approved {
        let command = Command::ApproveNode { node, approved: old.approved };
        (now.approved == new.approved).then(|| back.push(command))?;
    }
    if old.expiry != new.expiry && old.node_key == new.node_key {
        let command = Command::SetExpiry { node, at: old.expiry };
        (now.expiry == new.expiry).then(|| back.push(command))?;
    }
    Some(back)
}

fn user(old: &User, new: &User, now: &User) -> Option<Command> {
    let is_role_alone = User { role: old.role, ..new.clone() } == *old && old.role != new.role;
    (is_role_alone && now.role == new.role).then(|| Command::UpdateUser {
        user: new.id,
        change: UserChange { role: Some(old.role), ..UserChange::default() },
    })
}
