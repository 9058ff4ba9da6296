//! What machines report of their paths and connections, and what follows from it.

mod common;

use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{
    AcceptedReport, Hostinfo, LinkPath, LinkReport, MapRequest, PathsReport, RegisterAuth, RegisterRequest,
};
use sw_tailnet::{Command, Ended, Engine, MapReply, PolicyEngine, Registered, Settings, Tailnet};
use sw_types::{CapVer, MachineKey, NodeId, NodeKey, Now, Secret};

use common::{URL, auth_key, network, start};

/// A network of three online machines that may all talk.
struct World {
    tailnet: Tailnet,
    now: Now,
}

impl World {
    fn new() -> Self {
        let mut tailnet = network(Arc::new(PolicyEngine::new(URL)), &["ada"]);
        let key = auth_key(&mut tailnet);
        let mut world = Self { tailnet, now: start() };
        for n in 1..=3 {
            world.join(n, &key);
        }
        world
    }

    fn join(&mut self, n: u8, key: &str) {
        let (machine, node_key) = (MachineKey::from_bytes([n; 32]), NodeKey::from_bytes([n; 32]));
        let host = Hostinfo { os: "linux".into(), hostname: format!("m{n}"), ..Hostinfo::default() };
        let auth = RegisterAuth { auth_key: Secret::new(key.to_owned()) };
        let request = RegisterRequest {
            version: CapVer(145),
            node_key,
            hostinfo: Some(Arc::new(host)),
            auth: Some(auth),
            ..RegisterRequest::default()
        };
        let Registered::Now(answer) = self.tailnet.on_register(machine, &request, 1, self.now) else {
            panic!("a key needs no waiting");
        };
        assert_eq!(answer.error, "");
        let request = MapRequest { version: CapVer(145), node_key, stream: true, ..MapRequest::default() };
        let reply = self.tailnet.on_map_request(machine, &request, u64::from(n), self.now);
        assert!(matches!(reply, Ok(MapReply::Streaming { .. })), "{reply:?}");
        self.commit();
    }

    fn commit(&mut self) {
        drop(self.tailnet.take_uncommitted());
        self.tailnet.committed();
        while self.tailnet.poll_output(self.now).is_some() {}
    }

    fn later(&mut self, by: Duration) {
        self.now = self.now.after(by);
        self.tailnet.on_deadline(self.now);
    }

    fn tell(&mut self, from: i64, links: Vec<LinkReport>, accepted: Vec<AcceptedReport>) {
        self.later(Duration::from_secs(3));
        self.tailnet.on_paths(NodeId(from), PathsReport { links, accepted }, self.now);
    }

    fn path(&self, a: i64, b: i64) -> Option<LinkPath> {
        self.tailnet.link(NodeId(a), NodeId(b)).map(|link| link.path)
    }

    fn policy(&mut self, text: &str) {
        let set = Command::SetPolicy { text: Some(text.to_owned()), expect: None };
        self.tailnet.execute("test", set, self.now).expect("a policy");
        self.commit();
    }

    fn cuts(&self, text: &str) -> Vec<(i64, i64, u16)> {
        let engine = PolicyEngine::new(URL);
        let rules = engine.parse(text, self.tailnet.world()).expect("a policy");
        let compiled = rules.compile(self.tailnet.world(), None);
        let cuts = self.tailnet.cut_by(&*compiled, self.now.wall);
        cuts.iter().map(|cut| (cut.seen.peer.0, cut.to.0, cut.seen.port)).collect()
    }
}

fn link(peer: i64, path: LinkPath) -> LinkReport {
    LinkReport { peer: NodeId(peer), path, delay_us: Some(11_000), bytes: 1 }
}

fn answered(peer: i64, port: u16) -> AcceptedReport {
    AcceptedReport { peer: NodeId(peer), protocol: 6, port }
}

#[test]
fn a_link_is_known_from_either_end_until_its_machine_is_gone() {
    let mut world = World::new();
    assert!(world.tailnet.links_of(NodeId(1)).is_none(), "nothing told yet");
    world.tell(
        1,
        vec![link(2, LinkPath::Relay), link(1, LinkPath::Direct), link(99, LinkPath::Direct)],
        vec![],
    );
    assert_eq!(
        world.tailnet.links_of(NodeId(1)).map(<[_]>::len),
        Some(1),
        "itself and strangers are left out"
    );
    assert_eq!((world.path(1, 2), world.path(2, 1)), (Some(LinkPath::Relay), Some(LinkPath::Relay)));
    world.tell(1, vec![link(2, LinkPath::Direct)], vec![]);
    assert_eq!(world.path(2, 1), Some(LinkPath::Direct), "it went direct");

    world.tailnet.on_paths(NodeId(1), PathsReport::default(), world.now);
    assert_eq!(world.path(2, 1), Some(LinkPath::Direct), "a machine that tells too often is not heard");

    world.tailnet.on_stream_closed(1, Ended::Orderly, world.now);
    world.later(Duration::from_millis(900));
    assert!(world.tailnet.is_online(NodeId(1)));
    world.later(Duration::from_millis(200));
    assert!(!world.tailnet.is_online(NodeId(1)), "offline a second after an orderly end");
    assert_eq!(world.path(2, 1), None);
    world.tell(1, vec![link(2, LinkPath::Direct)], vec![]);
    assert_eq!(world.path(2, 1), None, "an offline machine tells nothing");
}

#[test]
fn a_narrower_policy_names_the_connections_it_would_cut() {
    let mut world = World::new();
    world.policy(r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}]}"#);
    world.tell(1, vec![], vec![answered(2, 22), answered(3, 80)]);
    let web_only = r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:80"]}]}"#;
    assert_eq!(world.cuts(web_only), [(2, 1, 22)]);
    assert_eq!(world.cuts(r#"{"grants": [{"src": ["*"], "dst": ["*"], "ip": ["tcp:1-100"]}]}"#), []);
    world.policy(web_only);
    assert_eq!(world.cuts(r#"{"grants": []}"#), [(3, 1, 80)], "what is refused already is no loss");

    world.later(Duration::from_secs(29 * 86_400));
    assert_eq!(world.cuts(r#"{"grants": []}"#).len(), 1);
    world.later(Duration::from_secs(2 * 86_400));
    assert_eq!(world.cuts(r#"{"grants": []}"#), [], "30 days are over");
}

#[test]
fn connections_outlive_a_restart_and_are_bounded() {
    let mut world = World::new();
    world.tell(1, vec![], (0..200).map(|n| answered(2, n)).collect());
    world.tell(1, vec![], (200..400).map(|n| answered(2, n)).collect());
    let facts = world.tailnet.unsaved_facts();
    let (_, own) = facts.iter().find(|(id, _)| *id == NodeId(1)).expect("to be saved");
    assert_eq!(own.accepted.len(), 256);
    assert!(own.accepted.iter().any(|seen| seen.port == 399), "the latest stay");
    let text = serde_json::to_string(own).expect("JSON");
    let read: sw_tailnet::Facts = serde_json::from_str(&text).expect("read");
    assert_eq!(read.accepted, own.accepted);

    world.tell(1, vec![], vec![answered(2, 399)]);
    assert!(world.tailnet.unsaved_facts().is_empty(), "seen again soon is not written again");
}

#[test]
fn a_network_that_remembers_no_connections_forgets_those_it_has() {
    let mut world = World::new();
    world.tell(1, vec![], vec![answered(2, 22)]);
    assert_eq!(world.cuts(r#"{"grants": []}"#).len(), 1);
    drop(world.tailnet.unsaved_facts());
    let settings = world.tailnet.state().settings().clone();
    let off = Settings { record_connections: false, ..settings };
    world.tailnet.execute("test", Command::SetSettings(Box::new(off)), world.now).expect("allowed");
    world.commit();
    assert_eq!(world.cuts(r#"{"grants": []}"#), []);
    let facts = world.tailnet.unsaved_facts();
    let own = facts.iter().find(|(id, _)| *id == NodeId(1)).expect("what is stored goes, too");
    assert!(own.1.accepted.is_empty());
    world.tell(1, vec![link(2, LinkPath::Direct)], vec![answered(2, 22)]);
    assert_eq!(world.path(1, 2), Some(LinkPath::Direct), "paths are told all the same");
    assert_eq!(world.cuts(r#"{"grants": []}"#), []);
}
