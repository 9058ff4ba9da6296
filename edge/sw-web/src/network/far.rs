//! The far view: discs filled with dots, one ribbon for all links between two groups.

use super::{HEIGHT, NetworkView, WIDTH, dot_class, group_name, summary};
use crate::layout::Group;
use crate::parts::{Kind, segment};
use maud::{Markup, html};
use std::collections::BTreeMap;

/// Groups above this become a ring with a count.
const DOTS_MAX: usize = 200;
/// Golden angle, radians.
const GOLDEN: f64 = 2.399_963_229_728_653;

pub(super) fn picture(view: &NetworkView) -> Markup {
    let discs = place_discs(&view.groups);
    html! {
        svg.net viewBox={ "0 0 " (WIDTH) " " (HEIGHT) } role="img" aria-label=(summary(view)) {
            @for ribbon in ribbons(view) {
                @let (a, b) = (discs[ribbon.a], discs[ribbon.b]);
                path class={ (if ribbon.mostly_relayed { "w-relay" } else { "w-direct" }) " rib" } d=(bent(a, b)) stroke-width=(format!("{:.1}", ribbon.width)) {}
            }
            @for (group, (x, y, r)) in view.groups.iter().zip(&discs) {
                a href={ "/network?group=" (segment(&group.name)) } {
                    circle.disc cx=(format!("{x:.1}")) cy=(format!("{y:.1}")) r=(format!("{r:.1}")) {}
                    (dots(view, group, *x, *y))
                }
                (group_name(view, group, *x, y - r - 10.0))
            }
        }
    }
}

struct Ribbon {
    a: usize,
    b: usize,
    width: f64,
    mostly_relayed: bool,
}

/// One per pair of groups that talk; thin ones first, so strong ones lie on top.
fn ribbons(view: &NetworkView) -> Vec<Ribbon> {
    let of: BTreeMap<&str, usize> = view
        .groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| group.machines.iter().map(move |m| (m.as_str(), g)))
        .collect();
    let mut pairs: BTreeMap<(usize, usize), (usize, usize)> = BTreeMap::new();
    for link in &view.links {
        let (Some(&a), Some(&b)) = (of.get(link.a.as_str()), of.get(link.b.as_str())) else { continue };
        if a != b {
            let entry = pairs.entry((a.min(b), a.max(b))).or_default();
            entry.0 += 1;
            entry.1 += usize::from(link.kind == Kind::Relayed);
        }
    }
    let mut ribbons: Vec<Ribbon> = pairs
        .into_iter()
        .map(|((a, b), (links, relayed))| Ribbon {
            a,
            b,
            width: 0.8 + 0.62 * (links as f64).sqrt(),
            mostly_relayed: relayed * 2 > links,
        })
        .collect();
    ribbons.sort_by(|a, b| a.width.total_cmp(&b.width));
    ribbons
}

/// From rim to rim, bent 22 % towards the centre of the picture.
fn bent(a: (f64, f64, f64), b: (f64, f64, f64)) -> String {
    let middle = ((a.0 + b.0) / 2.0, (a.1 + b.1) / 2.0);
    let bend = (middle.0 + (WIDTH / 2.0 - middle.0) * 0.22, middle.1 + (HEIGHT / 2.0 - middle.1) * 0.22);
    format!("M{:.1} {:.1}Q{:.1} {:.1} {:.1} {:.1}", a.0, a.1, bend.0, bend.1, b.0, b.1)
}

fn disc_radius(group: &Group) -> f64 {
    (5.6 * (group.machines.len().min(DOTS_MAX) as f64 + 0.5).sqrt() + 9.0).max(22.0)
}

/// Biggest in the middle, the others outward on a spiral without overlap, then scaled to fit.
fn place_discs(groups: &[Group]) -> Vec<(f64, f64, f64)> {
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&g| (std::cmp::Reverse(groups[g].machines.len()), &groups[g].name));
    let mut discs = vec![(0.0, 0.0, 0.0); groups.len()];
    let mut done: Vec<(f64, f64, f64)> = Vec::new();
    for g in order {
        let radius = disc_radius(&groups[g]);
        let spot = (0..200_000)
            .map(|step| (f64::from(step) * 0.25, f64::from(step) * 0.7))
            .map(|(angle, far)| (far * 1.18 * angle.cos(), far * 0.86 * angle.sin()))
            .find(|(x, y)| done.iter().all(|d| (x - d.0).hypot(y - d.1) > radius + d.2 + 44.0))
            .unwrap_or_default();
        done.push((spot.0, spot.1, radius));
        discs[g] = (spot.0, spot.1, radius);
    }
    let reach = |pick: fn(&(f64, f64, f64)) -> f64| {
        discs.iter().map(|d| pick(d).abs() + d.2 + 30.0).fold(1.0, f64::max)
    };
    let scale = (WIDTH / 2.0 / reach(|d| d.0)).min(HEIGHT / 2.0 / reach(|d| d.1)).min(1.0);
    discs.iter().map(|d| (WIDTH / 2.0 + d.0 * scale, HEIGHT / 2.0 + d.1 * scale, d.2 * scale)).collect()
}

/// All dots of one colour in a disc are one path with round caps.
fn dots(view: &NetworkView, group: &Group, x: f64, y: f64) -> Markup {
    if group.machines.len() > DOTS_MAX {
        return html! {};
    }
    let scale = 0.92;
    let mut paths: BTreeMap<&str, String> = BTreeMap::new();
    for (j, machine) in group.machines.iter().enumerate() {
        let (radius, angle) = (5.6 * (j as f64 + 0.5).sqrt() * scale, GOLDEN * j as f64);
        let d = format!("M{:.1} {:.1}h0", x + radius * angle.cos(), y + radius * angle.sin());
        paths.entry(dot_class(view, machine)).or_default().push_str(&d);
    }
    html! {
        @for (class, d) in paths { path class={ "dots d-" (class.trim_start_matches("f-")) } d=(d) {} }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn discs_of_the_far_view_do_not_overlap() {
        let view = super::super::tests::network(1_046, 22);
        let discs = place_discs(&view.groups);
        for (i, a) in discs.iter().enumerate() {
            for b in &discs[..i] {
                assert!((a.0 - b.0).hypot(a.1 - b.1) > a.2 + b.2);
            }
        }
    }
}
