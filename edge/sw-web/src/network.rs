//! `/network`: the picture. Dots are machines, lines are live links, discs are owners, sites or tags.

use crate::layout::{Group, PlacedMachine, Placement, place};
use crate::machine::{legend, shortened};
use crate::parts::{Kind, pill, segment, state, thousands};
use crate::shell::Shell;
use maud::{Markup, html};
use std::collections::BTreeMap;

mod far;

/// Above this many machines the far view is drawn: discs of dots and one ribbon per pair of groups.
const NEAR_MAX: usize = 120;
/// Up to this many machines there are no discs: one circle, delays on the lines.
const SMALL_MAX: usize = 6;

const WIDTH: f64 = 1_124.0;
const HEIGHT: f64 = 780.0;

#[derive(Clone, Debug, Default)]
pub struct NetworkView {
    /// "50 machines, 44 online. 44 direct, 7 relayed, 1 by peer relay, right now."
    pub sentence: String,
    pub groups: Vec<Group>,
    /// By machine name.
    pub machines: BTreeMap<String, Dot>,
    pub links: Vec<Link>,
    pub chosen: Option<Chosen>,
    pub as_table: bool,
    pub by_tag: bool,
}

#[derive(Clone, Copy, Debug, Default)]
pub struct Dot {
    pub online: bool,
}

/// A live link: a packet in the last 45 s.
#[derive(Clone, Debug)]
pub struct Link {
    pub a: String,
    pub b: String,
    pub kind: Kind,
    /// Bytes in the last minute; decides the width.
    pub bytes: u64,
    /// "direct", "relayed", "not told: can be direct".
    pub words: String,
    /// "11 ms"; empty when not measured.
    pub delay: String,
}

/// The machine that the panel speaks of.
#[derive(Clone, Debug, Default)]
pub struct Chosen {
    pub name: String,
    pub kind: Kind,
    pub label: String,
    pub peers: Vec<(String, Kind, String)>,
    pub why: String,
}

/// The whole page.
pub fn page(shell: &Shell, view: &NetworkView) -> String {
    let main = html! {
        header.nethead {
            div { h1 { "Network" } (sentence(view)) }
            span.sp {}
            form.search role="search" action="/network" method="get" {
                label.vh for="q" { "Find a machine" }
                input #q type="search" name="chosen" placeholder="Find a machine" autocomplete="off" list="names";
                datalist #names { @for name in view.machines.keys().take(500) { option value=(name) {} } }
                kbd.kbd aria-hidden="true" { "/" }
            }
            div.chips {
                a.chip href="/network" aria-current=[(!view.by_tag && !view.as_table).then_some("true")] { "By owner and site" }
                a.chip href="/network?by=tag" aria-current=[(view.by_tag && !view.as_table).then_some("true")] { "By tag" }
                a.chip href="/network?as=table" aria-current=[view.as_table.then_some("true")] { "Table" }
            }
        }
        @if view.as_table { div.tabled { (table(view)) } } @else { (picture(view)) }
        @if let Some(chosen) = &view.chosen { (panel(chosen)) }
        @if !view.as_table {
            div.legend {
                (legend(Kind::Direct, "direct")) (legend(Kind::Relayed, "relayed")) (legend(Kind::PeerRelay, "by peer relay"))
                (legend(Kind::Idle, "not told")) (legend(Kind::Offline, "offline"))
                @if view.links.iter().any(|link| link.kind == Kind::Idle) {
                    span.muted.small { "Not told: the Tailscale app tells no paths; what its network allows is inferred" }
                }
            }
        }
    };
    shell.document("Network", "wide netpage", &main)
}

/// The sentence under the title; swapped by the event stream with the picture.
pub fn sentence(view: &NetworkView) -> Markup {
    html! { p #network-sentence .muted { (view.sentence) } }
}

/// The picture alone; swapped by the event stream under the id `net`.
pub fn picture(view: &NetworkView) -> Markup {
    html! {
        div.netbox #net {
            @match view.machines.len() {
                0..=SMALL_MAX => (small(view)),
                n if n <= NEAR_MAX => (near(view)),
                _ => (far::picture(view)),
            }
        }
    }
}

fn summary(view: &NetworkView) -> String {
    let of = |kind: Kind| view.links.iter().filter(|l| l.kind == kind).count();
    let online = view.machines.values().filter(|m| m.online).count();
    format!(
        "Picture of the network: {} machines in {} groups, {online} online; {} live direct connections, {} relayed, {} by peer relay. The same facts are in the table view.",
        thousands(view.machines.len()),
        view.groups.len(),
        of(Kind::Direct),
        of(Kind::Relayed),
        of(Kind::PeerRelay)
    )
}

/// 0.8 + 0.55 for each power of ten of bytes above 1,000, four at most.
fn stroke(bytes: u64) -> f64 {
    let step = (bytes.max(1) as f64).log10().floor() - 2.0;
    0.8 + 0.55 * step.clamp(0.0, 4.0)
}

fn line_class(kind: Kind) -> &'static str {
    match kind {
        Kind::Direct => "w-direct",
        Kind::Relayed => "w-relay",
        Kind::PeerRelay => "w-peer",
        Kind::Idle | Kind::Offline | Kind::Bad => "w-try",
    }
}

fn dot_class(view: &NetworkView, name: &str) -> &'static str {
    if !view.machines.get(name).is_some_and(|m| m.online) {
        return "f-off";
    }
    let mut links = view.links.iter().filter(|l| l.a == name || l.b == name).peekable();
    let all_relayed = links.peek().is_some() && links.all(|l| l.kind == Kind::Relayed);
    if all_relayed { "f-relay" } else { "f-direct" }
}

/// Up to six machines: one circle, names and delays written out; alone, a wire to "your next machine".
fn small(view: &NetworkView) -> Markup {
    let names: Vec<&String> = view.machines.keys().collect();
    let n = names.len().max(2);
    let spot = |i: usize| {
        let angle = std::f64::consts::TAU * i as f64 / n as f64 + std::f64::consts::PI;
        (380.0 + 250.0 * angle.cos(), 270.0 + 210.0 * angle.sin())
    };
    let at: BTreeMap<&str, (f64, f64)> =
        names.iter().enumerate().map(|(i, name)| (name.as_str(), spot(i))).collect();
    html! {
        svg.net.few viewBox="0 0 760 560" role="img" aria-label=(summary(view)) {
            @if names.len() == 1 {
                @let ((ax, ay), (bx, by)) = (spot(0), spot(1));
                path.w-try d=(format!("M{ax:.1} {ay:.1}L{bx:.1} {by:.1}")) stroke-width="2" {}
                circle.f-off cx=(format!("{bx:.1}")) cy=(format!("{by:.1}")) r="9" {}
                text.lab x=(format!("{bx:.1}")) y=(format!("{:.1}", by + 30.0)) text-anchor="middle" { "your next machine" }
            }
            @for link in &view.links {
                @if let (Some((ax, ay)), Some((bx, by))) = (at.get(link.a.as_str()), at.get(link.b.as_str())) {
                    path class=(line_class(link.kind)) d=(format!("M{ax:.1} {ay:.1}L{bx:.1} {by:.1}")) stroke-width=(format!("{:.1}", stroke(link.bytes) + 0.8)) {
                        title { (link.a) " to " (link.b) ", " (link.words) }
                    }
                    @let (x, y, anchor) = beside((*ax, *ay), (*bx, *by));
                    text.lab x=(format!("{x:.1}")) y=(format!("{y:.1}")) text-anchor=(anchor) { (link.delay) }
                }
            }
            @for name in &names {
                @let (x, y) = at[name.as_str()];
                @let is_chosen = view.chosen.as_ref().is_some_and(|chosen| chosen.name == **name);
                a href={ "/network?chosen=" (segment(name)) } {
                    @if is_chosen { circle.s-acc.ring cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="15" stroke-width="2" {} }
                    circle class={ (dot_class(view, name)) " nd" } cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r="9" {}
                    // Above the upper ones, so that no line runs through a name.
                    @let is_upper = y < 240.0;
                    text.lab.nb.up[is_upper] x=(format!("{x:.1}")) y=(format!("{:.1}", if is_upper { y - 20.0 } else { y + 28.0 })) text-anchor="middle" {
                        @if name.chars().count() > 14 { title { (name) } }
                        (shortened(name, 14))
                    }
                }
            }
        }
    }
}

/// Where a word stands beside the middle of a line, and from where it is written.
fn beside((ax, ay): (f64, f64), (bx, by): (f64, f64)) -> (f64, f64, &'static str) {
    const GAP: f64 = 11.0;
    // The normal that points upwards.
    let (dx, dy) = if bx < ax { (ax - bx, ay - by) } else { (bx - ax, by - ay) };
    let length = dx.hypot(dy).max(1.0);
    let (x, y) = ((ax + bx) / 2.0 + GAP * dy / length, (ay + by) / 2.0 - GAP * dx / length);
    let slope = dy / length;
    // On a slope the word must not grow back into the line.
    let anchor = if slope > 0.15 {
        "start"
    } else if slope < -0.15 {
        "end"
    } else {
        "middle"
    };
    (x, y + 3.0, anchor)
}

/// Up to 120 machines: discs, members on the rim, links bundled between discs.
fn near(view: &NetworkView) -> Markup {
    let pairs: Vec<(String, String)> = view.links.iter().map(|l| (l.a.clone(), l.b.clone())).collect();
    let placed = place(&view.groups, &pairs, WIDTH, HEIGHT);
    let chosen = view.chosen.as_ref().map(|c| c.name.as_str());
    let is_hot = |l: &&Link| chosen.is_some_and(|c| l.a == c || l.b == c);
    html! {
        svg.net viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(summary(view)) {
            g transform={ "scale(" (format!("{:.4}", placed.scale)) ")" } {
                @for (i, (x, y, r)) in placed.discs.iter().enumerate() {
                    @let on = chosen.is_some_and(|c| view.groups[i].machines.iter().any(|m| m == c));
                    circle.disc.on[on] cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r=(format!("{r:.1}")) {}
                }
                @for link in view.links.iter().filter(|l| !is_hot(l)) { (near_link(link, &placed, false)) }
                @for link in view.links.iter().filter(is_hot) { (near_link(link, &placed, true)) }
                @for (name, spot) in &placed.machines { (near_machine(view, name, spot, chosen)) }
                @for (group, (x, y, r)) in view.groups.iter().zip(&placed.discs) { (group_name(view, group, *x, y - r - 26.0)) }
            }
        }
    }
}

fn near_link(link: &Link, placed: &Placement, is_hot: bool) -> Markup {
    let (Some(a), Some(b)) = (placed.machines.get(&link.a), placed.machines.get(&link.b)) else {
        return html! {};
    };
    let ((ax, ay, _), (bx, by, _)) = (placed.discs[a.group], placed.discs[b.group]);
    // Inside a disc a link bends to the centre; between discs both handles lie on the line of centres.
    let (c1, c2) = if a.group == b.group {
        let bend = |m: &PlacedMachine| (m.x + (ax - m.x) * 0.72, m.y + (ay - m.y) * 0.72);
        (bend(a), bend(b))
    } else {
        let along = |t: f64| (ax + (bx - ax) * t, ay + (by - ay) * t);
        (along(0.3), along(0.7))
    };
    let d = format!(
        "M{:.1} {:.1}C{:.1} {:.1} {:.1} {:.1} {:.1} {:.1}",
        a.x, a.y, c1.0, c1.1, c2.0, c2.1, b.x, b.y
    );
    let shade = match (is_hot, a.group == b.group) {
        (true, _) => "hot",
        (false, true) => "in",
        (false, false) => "far",
    };
    let width = stroke(link.bytes) + if is_hot { 1.2 } else { 0.0 };
    html! {
        path class={ (line_class(link.kind)) " " (shade) } d=(d) stroke-width=(format!("{width:.1}")) {
            title { (link.a) " to " (link.b) ", " (link.words) }
        }
    }
}

fn near_machine(view: &NetworkView, name: &str, spot: &PlacedMachine, chosen: Option<&str>) -> Markup {
    let links = view.links.iter().filter(|l| l.a == name || l.b == name).count();
    let radius = (3.6 + 0.45 * links as f64).min(6.3);
    let (cos, sin) = (spot.angle.cos(), spot.angle.sin());
    let (x, y, anchor) = if cos.abs() < 0.2 {
        (spot.x, spot.y + if sin < 0.0 { -12.0 } else { 20.0 }, "middle")
    } else if cos > 0.0 {
        (spot.x + 12.0, spot.y + 4.0, "start")
    } else {
        (spot.x - 12.0, spot.y + 4.0, "end")
    };
    let is_chosen = chosen == Some(name);
    let is_partner = chosen
        .is_some_and(|c| view.links.iter().any(|l| (l.a == c && l.b == name) || (l.b == c && l.a == name)));
    html! {
        a href={ "/network?chosen=" (segment(name)) } {
            @if is_chosen { circle.s-acc cx=(format!("{:.1}", spot.x)) cy=(format!("{:.1}", spot.y)) r="11" stroke-width="2" {} }
            circle class={ (dot_class(view, name)) " nd" } cx=(format!("{:.1}", spot.x)) cy=(format!("{:.1}", spot.y)) r=(format!("{radius:.1}")) {}
            text.lab.me[is_chosen].nb[is_partner] x=(format!("{x:.1}")) y=(format!("{y:.1}")) text-anchor=(anchor) { (name) }
        }
    }
}

/// Name and number over a disc: `Ada 5 of 7`.
fn group_name(view: &NetworkView, group: &Group, x: f64, y: f64) -> Markup {
    let all = group.machines.len();
    let online = group.machines.iter().filter(|m| view.machines.get(*m).is_some_and(|d| d.online)).count();
    let number =
        if online == all { thousands(all) } else { format!("{} of {}", thousands(online), thousands(all)) };
    html! {
        text.gname x=(format!("{x:.1}")) y=(format!("{y:.1}")) text-anchor="middle" {
            (group.name) tspan.t-m dx="8" font-weight="400" { (number) }
        }
    }
}

fn table(view: &NetworkView) -> Markup {
    html! {
        div.card.scroll { table.cards {
            thead { tr { th scope="col" { "From" } th scope="col" { "To" } th scope="col" { "Path" } th.num scope="col" { "Delay" } } }
            tbody {
                @for link in &view.links {
                    tr {
                        td { a.name href={ "/machines/" (segment(&link.a)) } { (link.a) } }
                        td { a.name href={ "/machines/" (segment(&link.b)) } { (link.b) } }
                        td { (state(link.kind, &link.words)) }
                        td.num { (link.delay) }
                    }
                }
                @if view.links.is_empty() { tr { td colspan="4" { "No machine talks to another right now." } } }
            }
        } }
    }
}

fn panel(chosen: &Chosen) -> Markup {
    html! {
        aside.card.pad.panel aria-live="polite" {
            div.bar { h2 { (chosen.name) } span.sp {} a.btn.sm.quiet href="/network" aria-label="Close" { "Esc" } }
            p { (pill(chosen.kind, &chosen.label)) }
            dl.facts { @for (name, kind, text) in &chosen.peers { dt { (name) } dd { (state(*kind, text)) } } }
            @if !chosen.why.is_empty() { p.small { b { "Why: " } (chosen.why) } }
            p { a href={ "/machines/" (segment(&chosen.name)) } { "Open machine" } }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    pub(super) fn network(machines: usize, groups: usize) -> NetworkView {
        let groups: Vec<Group> = (0..groups)
            .map(|g| Group {
                name: format!("group {g}"),
                machines: (g..machines).step_by(groups).map(|m| format!("m{m}")).collect(),
            })
            .collect();
        let dots = (0..machines).map(|m| (format!("m{m}"), Dot { online: m % 9 != 0 })).collect();
        let links = (0..machines)
            .map(|m| Link {
                a: format!("m{m}"),
                b: format!("m{}", (m * 31 + 7) % machines),
                kind: if m % 6 == 0 { Kind::Relayed } else { Kind::Direct },
                bytes: 10_u64.pow((m % 7) as u32),
                words: "direct".into(),
                delay: "11 ms".into(),
            })
            .filter(|l| l.a != l.b)
            .collect();
        NetworkView { groups, machines: dots, links, ..NetworkView::default() }
    }

    #[test]
    fn each_size_has_its_picture_and_says_it_in_words() {
        for (machines, groups) in [(1, 1), (5, 2), (50, 7), (1_046, 22)] {
            let svg = picture(&network(machines, groups)).into_string();
            assert!(svg.contains("role=\"img\""));
            assert!(
                svg.contains(&format!("{} machines in {groups} groups", thousands(machines))),
                "{machines}"
            );
            let elements = svg.matches('<').count() - svg.matches("</").count();
            assert!(elements <= 2_500, "{machines} machines drew {elements} elements");
        }
    }

    #[test]
    fn a_machine_with_only_relayed_links_is_ochre() {
        let mut view = network(20, 2);
        view.links.retain(|l| l.a != "m6" && l.b != "m6");
        view.links.push(Link {
            a: "m6".into(),
            b: "m1".into(),
            kind: Kind::Relayed,
            bytes: 1,
            words: "relayed".into(),
            delay: String::new(),
        });
        assert_eq!(dot_class(&view, "m6"), "f-relay");
        assert_eq!(dot_class(&view, "m0"), "f-off");
    }

    #[test]
    fn width_grows_with_powers_of_ten() {
        assert!((stroke(0) - 0.8).abs() < 1e-9);
        assert!(stroke(10_000) < stroke(1_000_000));
        assert!((stroke(u64::MAX) - 3.0).abs() < 1e-9);
    }
}
