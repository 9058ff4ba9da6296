//! The audit log as a page and as a file.

use super::shell;
use crate::guard::Visitor;
use crate::http;
use crate::log_undo::undoing;
use crate::site::{Ask, Site};
use crate::words;
use ::http::{Response, StatusCode};
use sw_net::front::Body;
use sw_tailnet::{Entry, State};
use sw_types::UserId;
use sw_web::Page;
use sw_web::log::{Entry as Line, LogView, page as render};

/// Entries on the page, and how many of the newest are searched for them; the export has all.
const SHOWN: usize = 200;
const SEARCHED: usize = 5_000;
const EXPORTED: usize = 100_000;

pub(super) async fn page(site: &Site, ask: &Ask, visitor: &Visitor) -> Option<String> {
    let kind = ask.query.get("kind").to_owned();
    let entries = site.control.audit(None, SEARCHED).await.ok()?;
    let since = entries.last().map(|(_, entry)| words::date(entry.at));
    let sentence = match since {
        Some(since) if entries.len() == SEARCHED => {
            format!("The newest 5,000 entries, since {since}; Export has all.")
        }
        Some(since) if entries.len() == 1 => format!("1 entry since {since}."),
        Some(since) => format!("{} entries since {since}.", entries.len()),
        None => String::new(),
    };
    let query = ask.query.get("q").to_owned();
    let wanted = query.to_lowercase();
    let state = site.control.read(|tailnet| tailnet.state().clone()).await.ok()?;
    let has = |text: &str| text.to_lowercase().contains(&wanted);
    let fits = |line: &Line| has(&line.who) || has(&line.what) || has(&line.old) || has(&line.new);
    let lines = (0..entries.len()).flat_map(|at| {
        let (seq, entry) = &entries[at];
        let undo = || undoing(&state, &entries, at).map(|_| format!("/log/{}/undo", seq.0));
        let named = |(what, line): (String, Line)| (what, Line { new: with_names(&state, line.new), ..line });
        let shown =
            lines(entry).into_iter().map(named).filter(|(what, line)| is_of(what, &kind) && fits(line));
        shown.map(move |(_, line)| Line { undo: undo(), ..line }).collect::<Vec<_>>()
    });
    let view = LogView { sentence, entries: lines.take(SHOWN).collect(), kind, query };
    Some(render(&shell(site, ask, visitor, Page::Log).await?, &view))
}

/// What happened to one machine.
pub(super) async fn of_machine(site: &Site, name: &str) -> Vec<Line> {
    let entries = site.control.audit(None, SEARCHED).await.unwrap_or_default();
    let of = |entry: &Entry| {
        entry.audit.iter().any(|audit| audit.target == name && audit.what.starts_with("machine"))
    };
    entries
        .iter()
        .filter(|(_, entry)| of(entry))
        .flat_map(|(_, entry)| lines(entry))
        .map(|(_, line)| line)
        .take(SHOWN)
        .collect()
}

/// One JSON object per line.
pub(super) async fn export(site: &Site) -> Response<Body> {
    let entries = site.control.audit(None, EXPORTED).await.unwrap_or_default();
    let mut text = String::new();
    for (seq, entry) in &entries {
        let line =
            serde_json::json!({ "seq": seq.0, "at": entry.at, "actor": entry.actor, "audit": entry.audit });
        text.push_str(&line.to_string());
        text.push('\n');
    }
    http::with_type(StatusCode::OK, "application/x-ndjson", text)
}

fn lines(entry: &Entry) -> Vec<(String, Line)> {
    let line = |audit: &sw_tailnet::Audit| {
        let line = Line {
            when: words::date_time(entry.at),
            who: entry.actor.clone(),
            what: match audit.what.as_str() {
                "policy.set" => "saved the policy, version".to_owned(),
                what => format!("{} {}", in_words(what), audit.target),
            },
            old: short(audit.old.as_deref()),
            new: short(audit.new.as_deref()),
            undo: None,
        };
        (audit.what.clone(), line)
    };
    entry.audit.iter().map(line).collect()
}

/// `machine.rename` as people say it.
fn in_words(what: &str) -> String {
    let words = match what {
        "machine.rename" => "renamed",
        "machine.joined" => "joined:",
        "machine.delete" => "removed",
        "machine.approve" => "approved",
        "machine.login" => "signed in:",
        "machine.logout" => "signed out:",
        "machine.expiry" => "set the key expiry of",
        "machine.tags" => "set the tags of",
        "machine.routes" => "set the routes of",
        "key.create" => "made key",
        "key.revoke" => "revoked key",
        "settings.set" => "changed the settings of",
        "session.start" => "signed in, session",
        "user.update" => "changed",
        "user.delete" => "removed",
        "login.refuse" => "refused",
        "machine.owner" => "gave away",
        "session.end" => "ended the session",
        "user.create" => "added",
        other => return other.replace(['.', '-'], " "),
    };
    words.to_owned()
}

/// `person 2` by name.
fn with_names(state: &State, text: String) -> String {
    let Some((before, number)) = text.rsplit_once("person ") else { return text };
    let user = number.parse().ok().and_then(|id| state.user(UserId(id)));
    user.map_or_else(|| text.clone(), |user| format!("{}, for {}", before.trim_end(), user.name))
}

/// Long values (settings, policies) are for the export; times are shown as everywhere on the page.
fn short(value: Option<&str>) -> String {
    match value {
        Some(text) if text.ends_with('Z') && text.contains('T') => {
            text.parse().map_or_else(|_| text.to_owned(), words::date_time)
        }
        Some(text) if text.chars().count() <= 60 => text.to_owned(),
        Some(_) => "…".into(),
        None => String::new(),
    }
}

fn is_of(what: &str, kind: &str) -> bool {
    match kind {
        "machines" => what.starts_with("machine"),
        "access" => what.starts_with("policy"),
        "keys" => what.starts_with("key") || what.starts_with("apikey"),
        "sign-in" => what.starts_with("session") || what.starts_with("login"),
        _ => true,
    }
}
