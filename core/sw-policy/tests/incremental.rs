//! After any change of the world, what follows from the change equals what is made from scratch.

mod world;

use std::collections::BTreeMap;
use std::sync::Arc;

use arbitrary::Unstructured;
use ipnet::IpNet;
use sw_policy::{Compiled, Context, Policy, World};
use sw_types::{NodeId, Rng};

/// Everything that a policy says about a world, printed.
fn print(compiled: &Compiled, world: &World) -> BTreeMap<NodeId, String> {
    let mut printed = BTreeMap::new();
    for node in world.nodes.values() {
        let peers = compiled.peers(node.id);
        let all: Vec<IpNet> = world.nodes.values().flat_map(|node| node.approved.clone()).collect();
        let routes: Vec<(NodeId, Vec<IpNet>)> = world
            .nodes
            .keys()
            .map(|peer| (*peer, compiled.routes_seen(compiled.class(node.id), *peer, &all)))
            .collect();
        let text = serde_json::json!({
            "filter": compiled.filter(node.id),
            "ssh": compiled.ssh(node.id, "https://c.example"),
            "attributes": compiled.attributes(node.id),
            "approved": format!("{:?}", compiled.auto_approved(node.id)),
            "peers": format!("{peers:?}"),
            "routes": format!("{routes:?}"),
        });
        printed.insert(node.id, serde_json::to_string_pretty(&text).expect("JSON prints"));
    }
    printed
}

#[test]
fn ten_thousand_changes_give_what_scratch_gives() {
    let mut rng = Rng::new([5; 32]);
    let (mut changes, mut rules) = (0, 0);
    while changes < 10_000 {
        let mut noise = vec![0; 32_768];
        rng.fill(&mut noise);
        let u = &mut Unstructured::new(&noise);
        let mut world = world::World::default();
        let text = world::policy(u).unwrap();
        let policy = Policy::parse(&text, Context { world: &world.now, domains: None })
            .unwrap_or_else(|rejection| panic!("{}\n{text}", rejection.report()));
        let policy = Arc::new(policy);
        let mut compiled = Compiled::new(&policy, &world.now);
        for _ in 0..100 {
            let what = world.change(u).unwrap();
            compiled = compiled.update(&world.now);
            let scratch = Compiled::new(&policy, &world.now);
            let (follows, fresh) = (print(&compiled, &world.now), print(&scratch, &world.now));
            for (id, fresh) in &fresh {
                assert_eq!(&follows[id], fresh, "machine {id} after {what}\n{text}\n{:#?}", world.now);
            }
            rules += world.now.nodes.keys().map(|id| scratch.filter(*id).len()).sum::<usize>();
            changes += 1;
        }
    }
    assert!(rules > 100_000, "the policies say something: {rules} rules");
    println!("{changes} changes, {rules} rules compared");
}
