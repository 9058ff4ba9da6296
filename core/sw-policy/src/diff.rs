//! What a new policy changes: who gains and who loses what.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

use crate::compiled::{Access, Compiled};
use crate::world::{Node, World};

/// The change for one kind of source towards one kind of destination.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Change {
    /// A person, tags, or a machine.
    pub from: String,
    /// A person, tags, a machine, or addresses.
    pub to: String,
    pub gains: Vec<String>,
    pub loses: Vec<String>,
    /// Machines at the source, by name.
    pub from_machines: Vec<String>,
    /// Machines at the destination, by name; empty for addresses.
    pub to_machines: Vec<String>,
}

/// Compares two policies over the same world; machines of one person or tag that change alike are one entry.
#[must_use]
pub fn diff(old: &Compiled, new: &Compiled, world: &World) -> Vec<Change> {
    // From, to, gains, loses; then the machines on both sides.
    type Key = (String, String, Vec<String>, Vec<String>);
    let mut found: BTreeMap<Key, (BTreeSet<String>, BTreeSet<String>)> = BTreeMap::new();
    let mut add = |from: &Node, to: (String, Option<&Node>), before: &Access, after: &Access| {
        if before == after {
            return;
        }
        let gains: Vec<String> = after.difference(before).cloned().collect();
        let loses: Vec<String> = before.difference(after).cloned().collect();
        let entry = found.entry((label(from, world), to.0, gains, loses)).or_default();
        entry.0.insert(from.name.clone());
        entry.1.extend(to.1.map(|node| node.name.clone()));
    };
    for from in world.nodes.values() {
        for to in world.nodes.values().filter(|to| to.id != from.id) {
            let (before, after) = (old.access(from.id, to.id), new.access(from.id, to.id));
            add(from, (label(to, world), Some(to)), &before, &after);
        }
        let (before, after) = (old.access_to_addresses(from.id), new.access_to_addresses(from.id));
        let places: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
        let none = Access::new();
        for place in places {
            let before = before.get(place).unwrap_or(&none);
            add(from, (place.clone(), None), before, after.get(place).unwrap_or(&none));
        }
    }
    let change = |((from, to, gains, loses), (from_machines, to_machines))| Change {
        from,
        to,
        gains,
        loses,
        from_machines: BTreeSet::into_iter(from_machines).collect(),
        to_machines: BTreeSet::into_iter(to_machines).collect(),
    };
    found.into_iter().map(change).collect()
}

/// Returns the word that a policy would use for a machine.
pub(crate) fn label(node: &Node, world: &World) -> String {
    if !node.tags.is_empty() {
        return node.tags.join(", ");
    }
    let user = node.user.and_then(|user| world.users.get(&user));
    match user {
        Some(user) if user.login().contains('@') => user.login().to_owned(),
        Some(user) => format!("{}@", user.name),
        None => node.name.clone(),
    }
}

/// Prints changes for a person to read.
#[must_use]
pub fn text(changes: &[Change]) -> String {
    if changes.is_empty() {
        return "Nobody gains or loses anything.\n".to_owned();
    }
    let mut out = String::new();
    for change in changes {
        let (from, to) =
            (counted(&change.from, &change.from_machines), counted(&change.to, &change.to_machines));
        // Writing to a String cannot fail.
        let _ = writeln!(out, "{from} to {to}");
        if !change.gains.is_empty() {
            let _ = writeln!(out, "  gains  {}", change.gains.join(", "));
        }
        if !change.loses.is_empty() {
            let _ = writeln!(out, "  loses  {}", change.loses.join(", "));
        }
    }
    out
}

fn counted(label: &str, machines: &[String]) -> String {
    match machines {
        [] => label.to_owned(),
        [one] => format!("{label} ({one})"),
        many if many.len() <= 3 => format!("{label} ({})", many.join(", ")),
        many => format!("{label} ({} machines)", many.len()),
    }
}
