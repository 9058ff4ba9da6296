//! Time to compile a large network's policy, and to follow one machine that joins.
//! Run by `cargo bench -p sw-policy`. Times are of the processor where the system tells them, so that other
//! programs on the machine do not count.
#![expect(clippy::disallowed_methods, reason = "a benchmark reads the clock")]

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use sw_policy::{Attributes, Compiled, Context, Node, Policy, Role, User, World};
use sw_types::{NodeId, UserId};

const NODES: i64 = 10_000;
const USERS: i64 = 3_000;
const GROUPS: i64 = 500;
const RULES: i64 = 2_000;
const TAGS: i64 = 200;
const COMPILE_MAX: Duration = Duration::from_secs(1);
const JOIN_MAX: Duration = Duration::from_millis(2);

/// A moment, as processor time of this thread; as wall time where the system does not tell it.
struct Watch {
    cpu: Option<Duration>,
    wall: Instant,
}

impl Watch {
    fn start() -> Self {
        Self { cpu: Self::cpu(), wall: Instant::now() }
    }

    fn cpu() -> Option<Duration> {
        let text = std::fs::read_to_string("/proc/thread-self/schedstat").ok()?;
        Some(Duration::from_nanos(text.split(' ').next()?.parse().ok()?))
    }

    fn elapsed(&self) -> Duration {
        match (self.cpu, Self::cpu()) {
            (Some(start), Some(now)) => now - start,
            _ => self.wall.elapsed(),
        }
    }
}

fn node(id: i64) -> Node {
    // One machine in five is tagged, one in a hundred is a router.
    let is_tagged = id % 5 == 0;
    let routes = if id % 100 == 0 {
        vec![format!("10.{}.{}.0/24", id / 100 % 250, id % 250).parse().expect("a prefix")]
    } else {
        Vec::new()
    };
    Node {
        id: NodeId(id),
        name: format!("n{id}"),
        user: (!is_tagged).then_some(UserId(1 + id % USERS)),
        tags: if is_tagged { vec![format!("tag:t{}", id % TAGS)] } else { Vec::new() },
        addresses: vec![
            std::net::Ipv4Addr::from_bits(0x6440_0100 + u32::try_from(id).expect("small")).into(),
            format!("fd7a:115c:a1e0::{id:x}").parse().expect("an address"),
        ],
        announced: routes.clone(),
        approved: routes,
        posture: Attributes::new(),
    }
}

fn world() -> World {
    let user = |id: i64| User {
        id: UserId(id),
        name: format!("u{id}"),
        email: format!("u{id}@example.com"),
        provider: String::new(),
        role: if id == 1 { Role::Owner } else { Role::Member },
        groups: Vec::new(),
    };
    World {
        users: (1..=USERS).map(|id| (UserId(id), Arc::new(user(id)))).collect(),
        nodes: (1..=NODES).map(|id| (NodeId(id), Arc::new(node(id)))).collect(),
    }
}

/// Rules of the kinds that real policies have: groups to tags by port, a few for everybody, subnets, own machines.
fn policy() -> String {
    let mut text = String::from("{\n\"groups\": {\n");
    for group in 0..GROUPS {
        let members: Vec<String> =
            (0..20).map(|at| format!("\"u{}@example.com\"", 1 + (group * 37 + at * 151) % USERS)).collect();
        // Writing to a String cannot fail.
        let _ = writeln!(text, "\"group:g{group}\": [{}],", members.join(", "));
    }
    text.push_str("},\n\"tagOwners\": {\n");
    for tag in 0..TAGS {
        let _ = writeln!(text, "\"tag:t{tag}\": [\"group:g{tag}\"],");
    }
    text.push_str("},\n\"grants\": [\n");
    for rule in 0..RULES {
        let (group, tag, port) = (rule % GROUPS, rule * 7 % TAGS / 5 * 5, 1 + rule * 13 % 60_000);
        let (src, dst) = match rule % 20 {
            0 => ("autogroup:member".to_owned(), format!("tag:t{tag}")),
            1 => (format!("group:g{group}"), format!("10.{}.0.0/16", rule % 250)),
            2 => (format!("tag:t{}", rule % TAGS / 5 * 5), format!("tag:t{tag}")),
            3 if rule % 100 == 3 => ("autogroup:member".to_owned(), "autogroup:self".to_owned()),
            _ => (format!("group:g{group}"), format!("tag:t{tag}")),
        };
        let _ = writeln!(text, "{{\"src\": [\"{src}\"], \"dst\": [\"{dst}\"], \"ip\": [\"tcp:{port}\"]}},");
    }
    text.push_str("],\n}\n");
    text
}

/// Asks for everything that the server sends to every machine.
fn views(compiled: &Compiled, world: &World) -> (usize, usize) {
    let mut rules = 0;
    let mut classes = BTreeMap::new();
    for id in world.nodes.keys() {
        rules += black_box(compiled.filter(*id)).len();
        black_box(compiled.ssh(*id, "https://c.example"));
        black_box(compiled.attributes(*id));
        *classes.entry(compiled.class(*id)).or_insert(0_usize) += 1;
    }
    let mut pairs = 0;
    for (a, of_a) in &classes {
        // Who sees whom is symmetric.
        for (b, of_b) in classes.range(..=a) {
            if compiled.sees(*a, *b) {
                pairs += of_a * of_b;
            }
        }
    }
    (rules, pairs)
}

#[expect(clippy::print_stdout, reason = "the figures")]
fn main() {
    let mut world = world();
    let text = policy();
    println!(
        "{NODES} machines, {USERS} people, {GROUPS} groups, {RULES} rules, {} KiB of policy",
        text.len() / 1024
    );
    let mut best = Duration::MAX;
    let mut compiled = None;
    for _ in 0..3 {
        let start = Watch::start();
        let policy =
            Policy::parse(&text, Context { world: &world, domains: None }).expect("the policy is valid");
        let parsed = start.elapsed();
        let fresh = Compiled::new(&Arc::new(policy), &world);
        let applied = start.elapsed();
        let (rules, pairs) = views(&fresh, &world);
        let total = start.elapsed();
        println!(
            "parse {parsed:?}, apply {:?}, all views {:?}: {total:?} ({rules} rules, {pairs} pairs of peers)",
            applied - parsed,
            total - applied
        );
        best = best.min(total);
        compiled = Some(fresh);
    }
    let mut compiled = compiled.expect("there were rounds");
    // WHY: processor time comes in steps of some milliseconds, so many joins are measured together.
    const JOINS: i64 = 1_000;
    let newcomers: Vec<Arc<Node>> = (NODES + 1..=NODES + JOINS).map(|id| Arc::new(node(id))).collect();
    let start = Watch::start();
    for newcomer in newcomers {
        let id = newcomer.id;
        world.nodes.insert(id, newcomer);
        let next = compiled.update(&world);
        black_box(next.filter(id));
        black_box(next.ssh(id, "https://c.example"));
        black_box(next.peers(id));
        compiled = next;
    }
    let join = start.elapsed() / u32::try_from(JOINS).expect("small");
    println!("compile with all views: {best:?}  (bar {COMPILE_MAX:?})");
    println!("one machine joins:      {join:?} on average of {JOINS}  (bar {JOIN_MAX:?})");
    let is_met = best < COMPILE_MAX && join < JOIN_MAX;
    println!("{}", if is_met { "all bars met" } else { "BAR MISSED" });
    if !is_met {
        std::process::exit(1);
    }
}
