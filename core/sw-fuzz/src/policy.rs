//! Policy texts: `sw-policy`.

use std::sync::{Arc, LazyLock};

use sw_policy::hujson::{self, Step};
use sw_policy::{Compiled, Context, IpRange, Node, Policy, Role, User, World};
use sw_types::{NodeId, UserId};

pub(crate) fn hujson_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let value = match hujson::parse(text) {
        Ok(value) => value,
        Err(problems) => {
            assert!(!problems.is_empty());
            for problem in problems {
                assert!(
                    problem.span.start <= problem.span.end && problem.span.end <= text.len() + 1,
                    "{problem:?}"
                );
            }
            return;
        }
    };
    assert!(value.span.end <= text.len());
    let tidy = hujson::format(text).expect("it parses");
    let again = hujson::parse(&tidy).expect("our own layout");
    assert_eq!(again.to_json(), value.to_json());
    assert_eq!(hujson::format(&tidy).expect("our own layout"), tidy, "the layout is stable");

    let path = [Step::Name("acls".to_owned())];
    if let Ok(longer) = hujson::append(text, &path, "7") {
        let last = [path[0].clone(), Step::Index(usize::MAX)];
        assert!(hujson::parse(&longer).is_ok());
        assert!(hujson::remove(text, &last).is_err());
    }
    for edited in [hujson::replace(text, &path, "[]"), hujson::remove(text, &path)].into_iter().flatten() {
        assert!(hujson::parse(&edited).is_ok());
    }
}

/// A person with two machines, one of them tagged.
static WORLD: LazyLock<World> = LazyLock::new(|| {
    let mut world = World::default();
    let user = User {
        id: UserId(1),
        name: "alice".to_owned(),
        email: "alice@example.com".to_owned(),
        provider: String::new(),
        role: Role::Owner,
        groups: Vec::new(),
    };
    world.users.insert(UserId(1), Arc::new(user));
    for (id, tags) in [(1, Vec::new()), (2, vec!["tag:web".to_owned()])] {
        let node = Node {
            id: NodeId(id),
            name: format!("n{id}"),
            user: Some(UserId(1)),
            tags,
            addresses: vec![[100, 64, 0, id as u8].into()],
            announced: Vec::new(),
            approved: Vec::new(),
            posture: Default::default(),
        };
        world.nodes.insert(NodeId(id), Arc::new(node));
    }
    world
});

pub(crate) fn policy_text(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    match Policy::parse(text, Context { world: &WORLD, domains: None }) {
        Ok(policy) => {
            let compiled = Compiled::new(&Arc::new(policy), &WORLD);
            for node in [NodeId(1), NodeId(2)] {
                drop((compiled.filter(node), compiled.ssh(node, "https://unused"), compiled.peers(node)));
                drop((compiled.attributes(node), compiled.auto_approved(node)));
            }
        }
        Err(rejection) => {
            assert!(!rejection.problems().is_empty());
            assert!(!rejection.message().is_empty() && !rejection.report().is_empty());
        }
    }
}

pub(crate) fn ip_range(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Some(range) = IpRange::parse(text) else { return };
    assert!(range.contains(range.first()) && range.contains(range.last()));
    assert_eq!(IpRange::parse(&range.to_string()), Some(range));
    let prefixes = range.prefixes();
    assert!(prefixes.len() <= 254, "a range of 128 bits is at most that many prefixes");
    assert_eq!(prefixes.first().map(|net| net.network()), Some(range.first()));
    assert!(prefixes.iter().all(|net| range.covers(IpRange::prefix(*net))));
}
