//! `/machines/NAME`: one machine, its paths, who reaches it, what it offers, what happened to it.

use crate::parts::{Act, Kind, csrf, pill, segment, state, wire};
use crate::shell::Shell;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct MachineView {
    pub name: String,
    /// "Online for 41 days. Debian 13, samewire 1.0, tagged files."
    pub sentence: String,
    pub tab: Tab,
    /// The path picture of the chosen pair, if one is chosen.
    pub path: Option<PathView>,
    pub peers: Vec<PeerRow>,
    pub reach: Vec<ReachRow>,
    pub routes: Vec<RouteRow>,
    pub history: Vec<crate::log::Entry>,
    /// (term, value) of the cards on the right.
    pub about: Vec<(String, String)>,
    pub network: Vec<(String, String)>,
    pub tags: Vec<String>,
    /// Machine key expiry may be switched off here.
    pub key_expires: bool,
    pub is_waiting: bool,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Connections,
    Reach,
    Routes,
    History,
}

impl Tab {
    const ALL: [Self; 4] = [Self::Connections, Self::Reach, Self::Routes, Self::History];

    /// The value of `?tab=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Reach => "reach",
            Self::Routes => "routes",
            Self::History => "history",
        }
    }

    /// Reads `?tab=`; anything unknown is the first.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|tab| tab.as_str() == text).unwrap_or_default()
    }

    fn title(self) -> &'static str {
        match self {
            Self::Connections => "Connections",
            Self::Reach => "Who can reach it",
            Self::Routes => "Routes and services",
            Self::History => "History",
        }
    }
}

/// The picture of one path.
#[derive(Clone, Debug, Default)]
pub struct PathView {
    pub from: End,
    pub to: End,
    pub kind: Kind,
    /// "relayed, 48 ms".
    pub label: String,
    /// Name and way of the relay in use ("birch", "relay, TCP 443"), when relayed.
    pub relay: Option<(String, String)>,
    /// What the direct try gave: "no answer in 5 tries".
    pub direct_note: String,
    /// What IPv6 gave; empty leaves the line out.
    pub ipv6_note: String,
    /// Two sentences: because, and the one change.
    pub because: String,
    pub change: String,
}

/// One side of the picture.
#[derive(Clone, Debug, Default)]
pub struct End {
    pub name: String,
    pub address: String,
    pub online: bool,
    /// "Home router", and "easy, maps no port"; both empty for a machine without NAT.
    pub router: String,
    pub router_note: String,
    pub router_is_hard: bool,
}

#[derive(Clone, Debug, Default)]
pub struct PeerRow {
    pub name: String,
    pub kind: Kind,
    /// "direct, 11 ms".
    pub words: String,
    pub way: String,
    pub chosen: bool,
}

#[derive(Clone, Debug, Default)]
pub struct ReachRow {
    pub who: String,
    pub ports: String,
    /// "line 9".
    pub rule: String,
}

#[derive(Clone, Debug, Default)]
pub struct RouteRow {
    pub route: String,
    pub note: String,
    pub allowed: bool,
}

/// The whole page.
pub fn page(shell: &Shell, view: &MachineView) -> String {
    let own = format!("/machines/{}", segment(&view.name));
    let main = html! {
        p.small.muted { a href="/machines" { "Machines" } " / " (view.name) }
        div.top.wrap {
            div { h1 { (view.name) } p { (view.sentence) } }
            span.sp {}
            @if view.is_waiting {
                (Act { to: &format!("{own}/approve"), label: "Approve", class: "go", fields: &[] }.show(shell))
            }
            details.menu {
                summary.btn { "Rename" }
                form.card.pad.pop method="post" action={ (own) "/rename" } {
                    (csrf(shell))
                    label { "New name" input.field name="name" value=(view.name) required maxlength="63" autocomplete="off"; }
                    button.btn.go { "Rename" }
                }
            }
            (more(shell, view, &own))
        }
        nav.tabs aria-label="Parts of this page" {
            @for tab in Tab::ALL {
                a href={ (own) "?tab=" (tab.as_str()) } aria-current=[(tab == view.tab).then_some("page")] { (tab.title()) }
            }
        }
        div.grid2 {
            div {
                @match view.tab {
                    Tab::Connections => (connections(view, &own)),
                    Tab::Reach => (reach(view)),
                    Tab::Routes => (routes(shell, view, &own)),
                    Tab::History => (crate::log::table(shell, &view.history)),
                }
            }
            aside.stack {
                (facts("About", &view.about))
                @if !view.network.is_empty() { (facts("Its network", &view.network)) }
            }
        }
    };
    shell.document(&view.name, "", &main)
}

fn more(shell: &Shell, view: &MachineView, own: &str) -> Markup {
    html! {
        details.menu {
            summary.btn { "More" }
            div.card.pad.pop {
                form method="post" action={ (own) "/tags" } {
                    (csrf(shell))
                    label { "Tags, by commas" input.field name="tags" value=(view.tags.join(",")) placeholder="tag:files" autocomplete="off"; }
                    button.btn.sm { "Save tags" }
                }
                @if view.key_expires {
                    (Act { to: &format!("{own}/extend"), label: "Extend key", class: "sm", fields: &[] }.show(shell))
                    (Act { to: &format!("{own}/keep"), label: "Never expire", class: "sm", fields: &[] }.show(shell))
                }
                (Act { to: &format!("{own}/expire"), label: "Expire key", class: "sm", fields: &[] }.show(shell))
                form method="post" action={ (own) "/remove" } {
                    (csrf(shell))
                    label { "To remove it, type its name" input.field name="confirm" required autocomplete="off"; }
                    button.btn.sm.danger { "Remove" }
                }
            }
        }
    }
}

fn facts(title: &str, facts: &[(String, String)]) -> Markup {
    html! {
        section.card.pad {
            h2 { (title) }
            dl.facts { @for (term, value) in facts { dt { (term) } dd { (breakable(value)) } } }
        }
    }
}

/// A long IPv6 address breaks after a colon, and is copied as it is.
fn breakable(value: &str) -> Markup {
    let is_long = value.matches(':').count() > 2;
    html! {
        @for (at, piece) in value.split(':').enumerate() {
            @if at > 0 { ":" @if is_long { wbr; } }
            (piece)
        }
    }
}

fn connections(view: &MachineView, own: &str) -> Markup {
    html! {
        @if let Some(path) = &view.path {
            section.card {
                div.pad {
                    div.bar { h2 { "Path to " (path.to.name) } span.sp {} (pill(path.kind, &path.label)) }
                    (path_picture(path))
                }
                div.why { b { (path.because) } @if !path.change.is_empty() { span.muted { (path.change) } } }
            }
        }
        @if view.peers.is_empty() {
            section.card.pad.empty { p { "No connection in the last hour. Choose a machine to check a path." } }
        } @else {
            div.card.scroll.below[view.path.is_some()] {
                table.cards {
                    thead { tr {
                        th scope="col" { "To" } th scope="col" { "Path" } th scope="col" { "First known address" }
                    } }
                    tbody { @for peer in &view.peers {
                        tr.sel[peer.chosen] {
                            td { a.name href={ (own) "?to=" (segment(&peer.name)) } { (peer.name) } }
                            td { (state(peer.kind, &peer.words)) }
                            td.mono.muted { (peer.way) }
                        }
                    } }
                }
            }
            p.small.muted.below {
                "Paths in use as samewire machines measure them. The Tailscale app tells none: between two of those it is said what their networks allow."
            }
        }
    }
}

fn reach(view: &MachineView) -> Markup {
    html! {
        div.card.scroll { table.cards {
            thead { tr { th scope="col" { "Who" } th scope="col" { "Ports" } th scope="col" { "By" } } }
            tbody {
                @for row in &view.reach { tr { td { (row.who) } td.mono data-l="ports" { (row.ports) } td { a href="/access" { (row.rule) } } } }
                @if view.reach.is_empty() { tr { td colspan="3" { "Nobody. No rule of the policy names this machine." } } }
            }
        } }
    }
}

fn routes(shell: &Shell, view: &MachineView, own: &str) -> Markup {
    html! {
        div.card.scroll { table.cards {
            thead { tr { th scope="col" { "Offers" } th scope="col" { "State" } th.num scope="col" {} } }
            tbody {
                @for route in &view.routes {
                    tr {
                        td.mono { (route.route) }
                        td { (if route.allowed { "allowed" } else { "waits for you" }) span.sub { (route.note) } }
                        td.num {
                            @let allow = if route.allowed { "0" } else { "1" };
                            (Act {
                                to: &format!("{own}/routes"),
                                label: if route.allowed { "Take back" } else { "Allow" },
                                class: "sm",
                                fields: &[("route", &route.route), ("allow", allow)],
                            }.show(shell))
                        }
                    }
                }
                @if view.routes.is_empty() { tr { td colspan="3" { "It offers no subnet and is no exit node." } } }
            }
        } }
    }
}

/// Both machines, their routers, the way tried in the middle, the way used as the strong line.
fn path_picture(path: &PathView) -> Markup {
    let is_direct = path.kind == Kind::Direct;
    let middle = if is_direct { "w-direct" } else { "w-try" };
    let summary = format!("{} to {}: {}. {}", path.from.name, path.to.name, path.label, path.because);
    // Nothing stands above and below a path without a relay.
    let window = if path.relay.is_some() { "0 0 830 276" } else { "0 84 830 116" };
    html! {
        div.pathbox { svg viewBox=(window) width="100%" role="img" aria-label=(summary) {
            (end(&path.from, 2, "this machine"))
            (end(&path.to, 678, ""))
            (router(&path.from, 190))
            (router(&path.to, 490))
            path class=(middle) d=(straight(path)) stroke-width=(if is_direct { 3 } else { 2 }) {}
            @if path.relay.is_some() {
                circle.f-surface cx="409" cy="142" r="13" {}
                path.s-bad d="M404 137l10 10M414 137l-10 10" stroke-width="2" stroke-linecap="round" {}
                text.t-m x="409" y="177" font-size="12" text-anchor="middle" { (path.direct_note) }
            }
            @if let Some((name, way)) = &path.relay {
                @let class = if path.kind == Kind::PeerRelay { "w-peer" } else { "w-relay" };
                path class=(class) d="M77 96C77 40 250 34 352 34M466 34C568 34 753 40 753 96" stroke-width="3" {}
                rect.f-relaybg x="352" y="10" width="114" height="48" rx="14" {}
                text.t-relay x="409" y="31" font-size="14" font-weight="620" text-anchor="middle" { (name) }
                text.t-relay x="409" y="48" font-size="12" text-anchor="middle" { (way) }
            }
            @if !path.ipv6_note.is_empty() {
                path.w-try d="M77 188C77 246 250 250 300 250M518 250C568 250 753 246 753 188" stroke-width="2" {}
                text.t-m x="409" y="254" font-size="12.5" text-anchor="middle" { (path.ipv6_note) }
            }
        } }
    }
}

/// The line between the machines, with gaps where their routers stand.
fn straight(path: &PathView) -> &'static str {
    match (path.from.router.is_empty(), path.to.router.is_empty()) {
        (false, false) => "M152 142H190M336 142H490M636 142H678",
        (true, false) => "M152 142H490M636 142H678",
        (false, true) => "M152 142H190M336 142H678",
        (true, true) => "M152 142H678",
    }
}

fn end(end: &End, x: i32, note: &str) -> Markup {
    html! {
        rect.f-surface x=(x) y="96" width="150" height="92" rx="14" {}
        circle class=(if end.online { "f-direct" } else { "f-off" }) cx=(x + 22) cy="121" r="4.5" {}
        text x=(x + 35) y="126" font-size="15" font-weight="620" { (shortened(&end.name, 13)) }
        text.t-m.t-mono x=(x + 18) y="150" font-size="12" { (end.address) }
        text.t-m x=(x + 18) y="170" font-size="12" { (note) }
    }
}

fn router(end: &End, x: i32) -> Markup {
    html! {
        @if !end.router.is_empty() {
            rect.f-sunk x=(x) y="107" width="146" height="70" rx="12" {}
            text x=(x + 73) y="136" font-size="13" font-weight="600" text-anchor="middle" { (end.router) }
            text class=(if end.router_is_hard { "t-relay" } else { "t-m" }) x=(x + 73) y="156" font-size="12" text-anchor="middle" { (end.router_note) }
        }
    }
}

/// Cut in the middle, as in the terminal.
pub(crate) fn shortened(name: &str, len: usize) -> String {
    let chars: Vec<char> = name.chars().collect();
    if chars.len() <= len {
        return name.to_owned();
    }
    let head = len * 2 / 3;
    let tail = len - head - 1;
    chars[..head].iter().chain(&['…']).chain(&chars[chars.len() - tail..]).collect()
}

/// A path word for the legend.
pub(crate) fn legend(kind: Kind, word: &str) -> Markup {
    html! { span class={ "st " (kind.class()) } { (wire(kind)) (word) } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Page;

    #[test]
    fn a_relayed_path_says_why_and_names_the_relay() {
        let path = PathView {
            kind: Kind::Relayed,
            label: "relayed, 48 ms".into(),
            relay: Some(("birch".into(), "relay, TCP 443".into())),
            because: "Relayed, because the phone's network uses a new port for every destination.".into(),
            ..PathView::default()
        };
        let view = MachineView { name: "attic-nas".into(), path: Some(path), ..MachineView::default() };
        let html = page(&Shell::for_tests(Page::Machines), &view);
        assert!(
            html.contains("w-relay")
                && html.contains("birch")
                && html.contains("new port for every destination")
        );
    }

    #[test]
    fn long_names_are_cut_in_the_middle() {
        assert_eq!(shortened("attic-nas", 13), "attic-nas");
        assert_eq!(shortened("a-very-long-machine-name", 13).chars().count(), 13);
    }
}
