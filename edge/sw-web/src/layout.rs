//! Places machines for the picture of the network: groups as discs, members on the rim facing their partners.
//! Pure: the same input gives the same picture.

use std::collections::BTreeMap;
use std::f64::consts::TAU;

/// One disc: owner, site or tag, and its machines.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Group {
    pub name: String,
    pub machines: Vec<String>,
}

/// Where a machine stands, and at which angle of its disc (radians, 0 = right, growing downwards).
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PlacedMachine {
    pub x: f64,
    pub y: f64,
    pub angle: f64,
    pub group: usize,
}

/// Draw everything inside `scale(scale)`.
#[derive(Clone, Debug, Default)]
pub struct Placement {
    pub scale: f64,
    /// Centre and radius of each group, in the order given.
    pub discs: Vec<(f64, f64, f64)>,
    pub machines: BTreeMap<String, PlacedMachine>,
}

/// Places `groups` in an area of `width` × `height`; `links` are pairs of machine names.
pub fn place(groups: &[Group], links: &[(String, String)], width: f64, height: f64) -> Placement {
    let of: BTreeMap<&str, usize> = groups
        .iter()
        .enumerate()
        .flat_map(|(g, group)| group.machines.iter().map(move |m| (m.as_str(), g)))
        .collect();
    let mut weight: BTreeMap<(usize, usize), f64> = BTreeMap::new();
    let mut partners: BTreeMap<&str, Vec<usize>> = BTreeMap::new();
    for (a, b) in links {
        let (Some(&ga), Some(&gb)) = (of.get(a.as_str()), of.get(b.as_str())) else { continue };
        if ga == gb {
            continue;
        }
        for (machine, own, other) in [(a, ga, gb), (b, gb, ga)] {
            *weight.entry((own, other)).or_default() += 1.0;
            partners.entry(machine).or_default().push(other);
        }
    }
    let (grow, centres) = place_groups_growing(groups, &weight, width, height);
    let mut placement = Placement { scale: 1.0 / grow, ..Placement::default() };
    for (g, group) in groups.iter().enumerate() {
        let radius = rim(group.machines.len());
        placement.discs.push((centres[g].0, centres[g].1, radius));
        for (machine, angle) in place_members(g, &group.machines, &centres, &partners) {
            let (x, y) = (centres[g].0 + radius * angle.cos(), centres[g].1 + radius * angle.sin());
            placement.machines.insert(machine, PlacedMachine { x, y, angle, group: g });
        }
    }
    placement
}

/// Radius of a disc with `n` machines on its rim.
pub(crate) fn rim(n: usize) -> f64 {
    (13.0 + n as f64 * 34.0 / TAU).max(30.0)
}

/// Half width, height above and height below the centre: disc, labels beside it, name on top.
fn room(group: &Group) -> (f64, f64, f64) {
    let radius = rim(group.machines.len());
    let label = 6.6 * group.machines.iter().map(|m| m.chars().count().min(24)).max().unwrap_or(0) as f64;
    (radius + label + 6.0, radius + 60.0, radius + 30.0)
}

fn place_groups_growing(
    groups: &[Group],
    weight: &BTreeMap<(usize, usize), f64>,
    width: f64,
    height: f64,
) -> (f64, Vec<(f64, f64)>) {
    let mut grow = 1.0;
    loop {
        if let Some(centres) = place_groups(groups, weight, width * grow, height * grow) {
            return (grow, centres);
        }
        grow *= 1.04;
    }
}

/// Biggest first, outward on a spiral; `None` when a group finds no place.
fn place_groups(
    groups: &[Group],
    weight: &BTreeMap<(usize, usize), f64>,
    width: f64,
    height: f64,
) -> Option<Vec<(f64, f64)>> {
    let sizes: Vec<_> = groups.iter().map(room).collect();
    let mut order: Vec<usize> = (0..groups.len()).collect();
    order.sort_by_key(|&g| (std::cmp::Reverse(groups[g].machines.len()), &groups[g].name));
    let middle = (width / 2.0, height / 2.0);
    let mut done: BTreeMap<usize, (f64, f64)> = BTreeMap::new();
    for &g in &order {
        let (half, up, down) = sizes[g];
        let is_free = |&(x, y): &(f64, f64)| {
            let inside = x >= half && x <= width - half && y >= up && y <= height - down;
            inside
                && done.iter().all(|(&h, &(u, v))| {
                    let (other_half, other_up, other_down) = sizes[h];
                    let apart_x = (x - u).abs() >= half + other_half + 8.0;
                    let dy = y - v;
                    apart_x || dy <= -(down + other_up + 4.0) || dy >= up + other_down + 4.0
                })
        };
        let spiral = (0..6_000).map(|step| {
            let (angle, radius) = (f64::from(step) * 0.25, f64::from(step) * 0.7);
            (middle.0 + radius * 1.18 * angle.cos(), middle.1 + 12.0 + radius * 0.86 * angle.sin())
        });
        let cost = |p: (f64, f64)| {
            let pull: f64 = done
                .iter()
                .map(|(&h, &q)| weight.get(&(g, h)).copied().unwrap_or(0.0) * distance(p, q))
                .sum();
            0.5 * distance(p, middle) + pull
        };
        let best = spiral.filter(is_free).take(60).min_by(|a, b| cost(*a).total_cmp(&cost(*b)))?;
        done.insert(g, best);
    }
    Some((0..groups.len()).map(|g| done[&g]).collect())
}

/// Machines with links to other groups face them; the others fill one gap.
fn place_members(
    own: usize,
    members: &[String],
    centres: &[(f64, f64)],
    partners: &BTreeMap<&str, Vec<usize>>,
) -> Vec<(String, f64)> {
    let mut wanted: Vec<(f64, &str)> = Vec::new();
    let mut inner: Vec<&str> = Vec::new();
    for machine in members {
        match wish(own, partners.get(machine.as_str()), centres) {
            Some(angle) => wanted.push((angle, machine)),
            None => inner.push(machine),
        }
    }
    wanted.sort_by(|a, b| a.0.total_cmp(&b.0).then(a.1.cmp(b.1)));
    let n = members.len();
    let mut best: Option<(f64, usize, f64)> = None;
    for cut in 0..=wanted.len() {
        for quarter in 0..48 {
            let start = TAU * f64::from(quarter) / 48.0;
            let cost = arrangement_cost(&wanted, inner.len(), n, cut, start);
            if best.is_none_or(|(least, _, _)| cost < least - 1e-9) {
                best = Some((cost, cut, start));
            }
        }
    }
    let (_, cut, start) = best.unwrap_or((0.0, 0, 0.0));
    let order = wanted[..cut].iter().map(|w| w.1).chain(inner).chain(wanted[cut..].iter().map(|w| w.1));
    order.enumerate().map(|(j, machine)| (machine.to_owned(), start + TAU * j as f64 / n as f64)).collect()
}

/// The angle towards the partners' discs; `None` without any.
fn wish(own: usize, partners: Option<&Vec<usize>>, centres: &[(f64, f64)]) -> Option<f64> {
    let (cx, cy) = centres[own];
    let (x, y) = partners?.iter().fold((0.0, 0.0), |(x, y), &other| {
        let (ox, oy) = centres[other];
        let far = distance((ox, oy), (cx, cy)).max(1e-9);
        (x + (ox - cx) / far, y + (oy - cy) / far)
    });
    (x != 0.0 || y != 0.0).then(|| y.atan2(x))
}

/// Squared angle errors, and a little for each label above or below, where it costs room.
fn arrangement_cost(wanted: &[(f64, &str)], inner: usize, n: usize, cut: usize, start: f64) -> f64 {
    let at = |j: usize| start + TAU * j as f64 / n as f64;
    let errors: f64 = wanted
        .iter()
        .enumerate()
        .map(|(i, (angle, _))| turn(at(if i < cut { i } else { i + inner }), *angle).powi(2))
        .sum();
    let labels = (0..n).filter(|&j| at(j).cos().abs() < 0.20).count();
    errors + 0.15 * labels as f64
}

fn turn(a: f64, b: f64) -> f64 {
    (a - b + TAU / 2.0).rem_euclid(TAU) - TAU / 2.0
}

fn distance(a: (f64, f64), b: (f64, f64)) -> f64 {
    (a.0 - b.0).hypot(a.1 - b.1)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn sample(groups: usize, each: usize) -> (Vec<Group>, Vec<(String, String)>) {
        let groups: Vec<Group> = (0..groups)
            .map(|g| Group {
                name: format!("group {g}"),
                machines: (0..each + g % 4).map(|m| format!("machine-{g}-{m}")).collect(),
            })
            .collect();
        let links = (0..groups.len())
            .flat_map(|g| {
                let other = (g * 7 + 3) % groups.len();
                let (a, b) = (groups[g].machines[0].clone(), groups[other].machines[1].clone());
                (a != b).then_some((a, b))
            })
            .collect();
        (groups, links)
    }

    #[test]
    fn every_machine_has_a_place_and_no_two_discs_overlap() {
        for (n, each) in [(1, 2), (7, 7), (20, 5)] {
            let (groups, links) = sample(n, each);
            let placed = place(&groups, &links, 1_124.0, 780.0);
            let machines: usize = groups.iter().map(|g| g.machines.len()).sum();
            assert_eq!(placed.machines.len(), machines);
            for (i, a) in placed.discs.iter().enumerate() {
                for b in &placed.discs[..i] {
                    assert!(distance((a.0, a.1), (b.0, b.1)) > a.2 + b.2, "discs overlap with {n} groups");
                }
            }
        }
    }

    #[test]
    fn the_same_network_gives_the_same_picture() {
        let (groups, links) = sample(9, 6);
        let (a, b) = (place(&groups, &links, 1_124.0, 780.0), place(&groups, &links, 1_124.0, 780.0));
        assert_eq!(a.machines, b.machines);
    }
}
