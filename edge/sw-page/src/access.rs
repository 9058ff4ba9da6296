//! The policy editor: check while typing, save, roll back, and the guard against locking oneself out.

use crate::acts::{done, refuse, sentence};
use crate::guard::{Visitor, Way};
use crate::http::{self, Fields};
use crate::site::Site;
use crate::undo::Outcome;
use crate::words;
use ::http::Response;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;
use sw_control::clock;
use sw_net::front::Body;
use sw_tailnet::{Command, Compiled, Cut, PolicyVersion, Tailnet};
use sw_types::{Instant, NodeId, UnixTime};
use sw_web::access::{CheckView, Effect, PolicyError, effects, error_count, error_list, marks, why_not};

/// A risky version goes back after this, unless somebody keeps it.
const RISKY_S: u64 = 60;
/// Effects listed each way; the rest is a number.
const EFFECTS_MAX: usize = 12;

/// The version that waits to be kept, if any.
#[derive(Debug, Default)]
pub(crate) struct Risky(Mutex<Option<Unconfirmed>>);

#[derive(Clone, Debug)]
struct Unconfirmed {
    version: u64,
    until: Instant,
}

impl Risky {
    /// Seconds left for this version.
    pub(crate) fn seconds_left(&self, version: u64, now: Instant) -> Option<u64> {
        let risky = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        risky.as_ref().filter(|r| r.version == version).map(|r| r.until.saturating_since(now).as_secs())
    }

    fn set(&self, version: u64, until: Instant) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(Unconfirmed { version, until });
    }

    /// Takes the waiting version out; false when it is another one or none.
    fn settle(&self, version: u64) -> bool {
        let mut risky = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let is_it = risky.as_ref().is_some_and(|r| r.version == version);
        if is_it {
            *risky = None;
        }
        is_it
    }
}

/// Checks a text against the network as it is, and says what it would change.
pub(crate) fn check_text(tailnet: &Tailnet, visitor: &Visitor, text: &str) -> CheckView {
    let rules = match tailnet.config().engine.parse(text, tailnet.world()) {
        Ok(rules) => rules,
        Err(error) if error.kind == "tests_failed" => {
            let failing_tests: Vec<String> = error.message.lines().map(str::to_owned).collect();
            return CheckView { tests_total: failing_tests.len(), failing_tests, ..CheckView::default() };
        }
        Err(error) => return CheckView { errors: problems(text, &error), ..CheckView::default() },
    };
    let compiled = rules.compile(tailnet.world(), None);
    let reach = |a: NodeId, b: NodeId| compiled.sees(compiled.class(a), compiled.class(b));
    let (mut gains, mut losses) = (BTreeMap::new(), BTreeMap::new());
    let nodes: Vec<NodeId> = tailnet.world().nodes.keys().copied().collect();
    for &a in &nodes {
        for &b in &nodes {
            // Who appears and who disappears; ports are in the filters, compared below.
            match (a < b, tailnet.sees(a, b), reach(a, b)) {
                (true, false, true) => gains.entry(a).or_insert_with(Vec::new).push(b),
                (true, true, false) => losses.entry(a).or_insert_with(Vec::new).push(b),
                _ => {}
            }
        }
    }
    let ports: Vec<NodeId> =
        nodes.iter().copied().filter(|&n| tailnet.filter_of(n)[..] != compiled.filter(n)[..]).collect();
    let mut gains = effects_of(tailnet, &gains);
    if gains.is_empty() && losses.is_empty() && !ports.is_empty() {
        let names: Vec<&str> = ports.iter().take(EFFECTS_MAX).map(|n| label(tailnet, *n)).collect();
        gains.push(Effect {
            what: format!("What {} lets in changes", names.join(", ")),
            note: "ports or protocols".into(),
        });
    }
    CheckView {
        gains,
        losses: effects_of(tailnet, &losses),
        cuts: cuts(tailnet, &*compiled, clock::now().wall),
        way_in: way_in(tailnet, visitor, &reach),
        ..CheckView::default()
    }
}

/// Connections that really happened and would be refused, in words.
fn cuts(tailnet: &Tailnet, new: &dyn Compiled, now: UnixTime) -> Vec<Effect> {
    let all = tailnet.cut_by(new, now);
    let effect = |cut: &Cut| {
        let (from, to) = (label(tailnet, cut.seen.peer), label(tailnet, cut.to));
        let protocol = match cut.seen.protocol {
            6 => "TCP".to_owned(),
            17 => "UDP".to_owned(),
            other => format!("protocol {other}"),
        };
        Effect {
            what: format!("{from} was connected to {to} on {protocol} {}", cut.seen.port),
            note: format!("last {}; this would refuse it", words::ago(cut.seen.at, now)),
        }
    };
    let mut effects: Vec<Effect> = all.iter().take(EFFECTS_MAX).map(effect).collect();
    if let Some(more) = all.len().checked_sub(EFFECTS_MAX).filter(|more| *more > 0) {
        effects.push(Effect { what: format!("and {more} more"), note: String::new() });
    }
    effects
}

fn effects_of(tailnet: &Tailnet, pairs: &BTreeMap<NodeId, Vec<NodeId>>) -> Vec<Effect> {
    let effect = |(a, others): (&NodeId, &Vec<NodeId>)| {
        let names: Vec<&str> = others.iter().take(5).map(|n| label(tailnet, *n)).collect();
        let more = if others.len() > 5 { format!(" and {} more", others.len() - 5) } else { String::new() };
        Effect { what: format!("{} and {}{more}", label(tailnet, *a), names.join(", ")), note: String::new() }
    };
    pairs.iter().take(EFFECTS_MAX).map(effect).collect()
}

/// Whether the machine that somebody came in by still reaches a machine with the page.
fn way_in(
    tailnet: &Tailnet,
    visitor: &Visitor,
    reach: &impl Fn(NodeId, NodeId) -> bool,
) -> Option<(bool, String)> {
    let Way::Machine(own) = &visitor.way else {
        return Some((true, "the page's own address is not ruled by the policy".into()));
    };
    let own = tailnet.state().node_by_label(own)?.id;
    let stays = tailnet.world().nodes.keys().any(|&other| other != own && reach(own, other));
    let note = if stays {
        "your machine keeps its neighbours"
    } else {
        "no machine would reach yours, nor yours any other"
    };
    Some((stays, note.into()))
}

fn label(tailnet: &Tailnet, id: NodeId) -> &str {
    tailnet.state().node(id).map_or("?", |node| &node.label)
}

/// The engine's problem with its place.
fn problems(text: &str, error: &sw_tailnet::PolicyError) -> Vec<PolicyError> {
    let (line, column) = error.at.unwrap_or((1, 1));
    let mut lines = error.message.lines();
    let what = lines.next().unwrap_or_default();
    // The place stands in front of the error already.
    let what = what.strip_prefix(&format!("line {line}, column {column}: ")).unwrap_or(what);
    let what = capitalised(what);
    let mut fix = lines.collect::<Vec<_>>().join(" ");
    if fix.is_empty() {
        fix = did_you_mean(text, &what).map(|word| format!("Did you mean \"{word}\"?")).unwrap_or_default();
    }
    vec![PolicyError {
        line: line as usize,
        column: column as usize,
        len: word_len(text, line, column),
        what,
        fix,
    }]
}

fn capitalised(text: &str) -> String {
    let mut chars = text.chars();
    chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
}

/// The word of the same text that is nearest to the one an error names, if only a typing error lies between.
fn did_you_mean<'t>(text: &'t str, what: &str) -> Option<&'t str> {
    let wrong = what.split('"').nth(1)?;
    let kind = wrong.split(':').next();
    let words =
        text.split('"').skip(1).step_by(2).filter(|word| *word != wrong && word.split(':').next() == kind);
    words.map(|word| (distance(wrong, word), word)).filter(|(far, _)| *far <= 2).min().map(|(_, word)| word)
}

/// Letters to change, add, drop or swap to come from one word to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let (mut before, mut last) = (Vec::new(), (0..=b.len()).collect::<Vec<usize>>());
    for i in 0..a.len() {
        let mut next = vec![i + 1];
        for j in 0..b.len() {
            let mut least = (last[j] + usize::from(a[i] != b[j])).min(last[j + 1] + 1).min(next[j] + 1);
            if i > 0 && j > 0 && a[i] == b[j - 1] && a[i - 1] == b[j] {
                least = least.min(before[j - 1] + 1);
            }
            next.push(least);
        }
        before = std::mem::replace(&mut last, next);
    }
    last[b.len()]
}

/// Characters of the word at a place: up to the closing quote or the next sign.
fn word_len(text: &str, line: u32, column: u32) -> usize {
    let line = text.lines().nth(line as usize - 1).unwrap_or_default();
    let rest: Vec<char> = line.chars().skip(column as usize - 1).collect();
    let (skip, is_end): (usize, fn(char) -> bool) = match rest.first() {
        Some('"') => (1, |c| c == '"'),
        _ => (0, |c| " ,:]}\"".contains(c)),
    };
    let len = rest.iter().skip(skip).take_while(|c| !is_end(**c)).count();
    (len + 2 * skip).max(1)
}

/// The text in force, or what the editor begins with.
pub(crate) fn current(tailnet: &Tailnet) -> (u64, String) {
    match tailnet.state().policy() {
        Some(PolicyVersion { version, text, .. }) => (*version, text.clone()),
        None => (
            0,
            "{\n  \"grants\": [\n    {\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"*\"]},\n  ],\n}\n"
                .into(),
        ),
    }
}

/// `/access/check`: fragments for the page, as JSON.
pub(crate) async fn check(site: &Site, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let (text, who) = (form.raw("text").replace("\r\n", "\n"), visitor.clone());
    let shown = text.clone();
    let view = site.control.read(move |tailnet| check_text(tailnet, &who, &text)).await.unwrap_or_default();
    http::json(&serde_json::json!({
        "ok": view.errors.is_empty() && view.failing_tests.is_empty(),
        "marks": marks(&shown, &view).into_string(),
        "count": error_count(&view).into_string(),
        "errors": error_list(&view).into_string(),
        "effects": effects(&view).into_string(),
        "whynot": why_not(&view),
    }))
}

/// Saves a new version; a risky one is guarded.
pub(crate) async fn save(site: &Arc<Site>, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let text = form.raw("text").replace("\r\n", "\n");
    let base: u64 = form.get("base").parse().unwrap_or(0);
    let who = visitor.clone();
    let wanted = text.clone();
    let read = site.control.read(move |tailnet| {
        let view = check_text(tailnet, &who, &wanted);
        (view, tailnet.state().policy().map(|p| p.text.clone()))
    });
    let (view, before) = match read.await {
        Ok(read) => read,
        Err(error) => return refuse(site, visitor, &sentence(&error), "/access"),
    };
    if let Some(error) = view.errors.first() {
        let why = format!("Line {}: {} Nothing was saved.", error.line, error.what);
        return refuse(site, visitor, &why, "/access");
    }
    let command = Command::SetPolicy { text: Some(text), expect: Some(base) };
    if let Err(error) = site.control.execute(&visitor.login, command).await {
        return refuse(site, visitor, &sentence(&error), "/access");
    }
    let version = base + 1;
    if view.way_in.as_ref().is_some_and(|(stays, _)| !stays) {
        guard(site, version, before.clone(), Duration::from_secs(RISKY_S));
    }
    let back = vec![Command::SetPolicy { text: before, expect: Some(version) }];
    done(
        site,
        visitor,
        format!("Version {version} is in force."),
        Outcome { back, ..Outcome::default() },
        "/access",
    )
}

/// Takes a risky version back after a minute, unless it was kept.
fn guard(site: &Arc<Site>, version: u64, before: Option<String>, patience: Duration) {
    let until = clock::now().mono + patience;
    site.risky.set(version, until);
    let site = Arc::clone(site);
    tokio::spawn(async move {
        tokio::time::sleep(patience).await;
        if site.risky.settle(version) {
            let command = Command::SetPolicy { text: before, expect: Some(version) };
            match site.control.execute("samewire", command).await {
                Ok(_) => tracing::warn!(
                    version,
                    "a policy version was taken back: nobody confirmed it within 60 s"
                ),
                Err(error) => {
                    tracing::error!(%error, version, "a risky policy version could not be taken back");
                }
            }
        }
    });
}

/// Keeps a risky version. The request itself proves that the way in works.
pub(crate) fn keep(site: &Site, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let version = form.get("version").parse().unwrap_or(0);
    if site.risky.settle(version) {
        done(site, visitor, format!("Version {version} is kept."), Outcome::default(), "/access")
    } else {
        refuse(site, visitor, "It was taken back already; the History still has it.", "/access?tab=history")
    }
}

/// Puts an old version in force again.
pub(crate) async fn rollback(site: &Arc<Site>, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let version: u64 = form.get("version").parse().unwrap_or(0);
    let Some(old) = history(site).await.into_iter().find(|p| p.version == version) else {
        return refuse(site, visitor, "That version is no longer kept.", "/access?tab=history");
    };
    let current = site.control.read(|tailnet| tailnet.state().policy().cloned()).await.ok().flatten();
    let expect = current.as_ref().map(|p| p.version);
    let command = Command::SetPolicy { text: Some(old.text), expect };
    match site.control.execute(&visitor.login, command).await {
        Ok(_) => {
            let back = vec![Command::SetPolicy { text: current.map(|p| p.text), expect: None }];
            done(
                site,
                visitor,
                format!("Version {version} is in force again."),
                Outcome { back, ..Outcome::default() },
                "/access?tab=history",
            )
        }
        Err(error) => refuse(site, visitor, &sentence(&error), "/access?tab=history"),
    }
}

/// All versions that the log still holds, newest first.
pub(crate) async fn history(site: &Site) -> Vec<PolicyVersion> {
    site.control.policy_versions().await.unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_of_the_same_kind_is_named() {
        let text = "{\"tagOwners\": {\"tag:build\": []}, \"dst\": [\"tag:bulid\", \"build\"]}";
        assert_eq!(did_you_mean(text, "Tag not found: \"tag:bulid\""), Some("tag:build"));
        assert_eq!(did_you_mean(text, "Tag not found: \"tag:other\""), None);
        assert_eq!(distance("bulid", "build"), 1, "a swap is one");
    }

    #[test]
    fn the_wrong_word_is_measured() {
        let text = "{\n  \"dst\": [\"tag:bulid\"],\n  nul: 1\n}";
        assert_eq!(word_len(text, 2, 11), 11, "quotes included");
        assert_eq!(word_len(text, 3, 3), 3);
        assert_eq!(word_len(text, 99, 1), 1);
    }

    #[tokio::test]
    async fn a_risky_version_goes_back_unless_somebody_keeps_it() {
        let state = tempfile::tempdir().expect("a folder");
        let config = sw_control::ServerConfig {
            url: "http://localhost".into(),
            state: state.path().join("control"),
            engine: Arc::new(sw_tailnet::PolicyEngine::new("http://localhost")),
        };
        let server = sw_control::Server::start(config).expect("starts");
        let site = Site::for_tests(server.control().clone());
        let text = || site.control.read(|t| t.state().policy().map(|p| p.text.clone()));
        for (kept, expected) in [(false, None), (true, Some("{}"))] {
            let set = Command::SetPolicy { text: Some("{}".into()), expect: None };
            site.control.execute("ada", set).await.expect("saved");
            let version = site.control.read(|t| t.state().policy().map(|p| p.version)).await.expect("runs");
            let version = version.expect("a version");
            guard(&site, version, None, Duration::from_millis(50));
            assert!(!kept || site.risky.settle(version));
            let begun = std::time::Instant::now();
            while site.risky.seconds_left(version, clock::now().mono).is_some() {
                assert!(begun.elapsed() < Duration::from_secs(10), "nobody settled it");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            while !kept && text().await.expect("runs").is_some() {
                assert!(begun.elapsed() < Duration::from_secs(10), "it was not taken back");
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            assert_eq!(text().await.expect("runs").as_deref(), expected);
        }
    }

    #[test]
    fn only_the_waiting_version_is_settled() {
        let risky = Risky::default();
        risky.set(7, Instant::ZERO + Duration::from_secs(60));
        assert_eq!(risky.seconds_left(7, Instant::ZERO), Some(60));
        assert!(!risky.settle(6));
        assert!(risky.settle(7));
        assert!(!risky.settle(7));
    }
}
