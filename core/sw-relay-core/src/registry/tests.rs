use super::*;

fn key(n: u8) -> NodeKey {
    NodeKey::from_bytes([n; 32])
}

fn from() -> SocketAddr {
    "192.0.2.1:1000".parse().unwrap()
}

fn connect(registry: &mut Registry, n: u8) -> ConnId {
    let conn = registry.on_connect(Arrival::regular(key(n), from()));
    outputs(registry);
    conn
}

fn outputs(registry: &mut Registry) -> Vec<Output> {
    std::iter::from_fn(|| registry.poll_output()).collect()
}

fn gone(to: ConnId, n: u8) -> Output {
    Output::PeerGone { to, peer: key(n), reason: PeerGone::Disconnected }
}

#[test]
fn those_who_received_from_a_key_hear_when_it_leaves() {
    let mut registry = Registry::new();
    let (a, b, c) = (connect(&mut registry, 1), connect(&mut registry, 2), connect(&mut registry, 3));
    assert_eq!(registry.route(a, key(2)), Route::Local(b));
    assert_eq!(registry.route(a, key(9)), Route::Unknown);
    registry.on_disconnect(a);
    assert_eq!(outputs(&mut registry), [gone(b, 1)], "and {c:?} does not");
    registry.on_disconnect(a);
    assert_eq!(outputs(&mut registry), [], "twice is once");
}

#[test]
fn the_connection_heard_last_is_active() {
    let mut registry = Registry::new();
    let sender = connect(&mut registry, 1);
    let first = connect(&mut registry, 2);
    let second = registry.on_connect(Arrival::regular(key(2), from()));
    let active = |conn, is_active| Output::Active { conn, is_active };
    let shared = |conn, is_shared| Output::Shared { conn, is_shared };
    assert_eq!(
        outputs(&mut registry),
        [active(first, false), active(second, true), shared(first, true), shared(second, true)]
    );
    assert_eq!(registry.route(sender, key(2)), Route::Local(second));
    registry.on_activity(first);
    assert_eq!(outputs(&mut registry), [active(second, false), active(first, true)]);
    registry.on_activity(first);
    assert_eq!(outputs(&mut registry), [], "it is active already");
    assert_eq!(registry.route(sender, key(2)), Route::Local(first));
    let stats = registry.stats();
    assert_eq!((stats.duplicate_keys, stats.duplicate_connections, stats.local_clients), (1, 2, 2));
    registry.on_disconnect(first);
    assert_eq!(outputs(&mut registry), [shared(second, false), active(second, true)]);
    assert_eq!((registry.stats().duplicate_keys, registry.stats().duplicate_connections), (0, 0));
}

#[test]
fn a_watcher_hears_of_all_then_of_changes() {
    let mut registry = Registry::new();
    let a = connect(&mut registry, 1);
    let watcher = connect(&mut registry, 7);
    registry.on_watch(watcher);
    let present = |n| Output::PeerPresent {
        to: watcher,
        present: PeerPresent { key: key(n), from: Some(from()), flags: PresentFlags::REGULAR },
    };
    assert_eq!(outputs(&mut registry), [present(1)]);
    let second = registry.on_connect(Arrival::regular(key(1), from()));
    assert!(outputs(&mut registry).contains(&present(1)), "each connection is told");
    registry.on_disconnect(a);
    assert!(!outputs(&mut registry).contains(&gone(watcher, 1)), "the key is still here");
    registry.on_disconnect(second);
    assert_eq!(outputs(&mut registry), [gone(watcher, 1)]);
}

#[test]
fn the_mesh_is_used_for_keys_that_are_not_here_and_earliest_first() {
    let mut registry = Registry::new();
    let a = connect(&mut registry, 1);
    registry.on_remote_present(LinkId(1), key(5));
    registry.on_remote_present(LinkId(2), key(5));
    assert_eq!(registry.route(a, key(5)), Route::Forward(LinkId(1)));
    assert_eq!(registry.route_forwarded(key(8), key(5)), Route::Unknown, "never forwarded twice");
    registry.on_link_down(LinkId(1));
    assert_eq!(outputs(&mut registry), [Output::MeshChanged]);
    assert_eq!(registry.route(a, key(5)), Route::Forward(LinkId(2)));
    let here = connect(&mut registry, 5);
    assert_eq!(registry.route(a, key(5)), Route::Local(here));
    registry.on_disconnect(here);
    assert_eq!(outputs(&mut registry), [], "still in the region");
    registry.on_remote_gone(LinkId(2), key(5));
    outputs(&mut registry);
    assert_eq!(registry.route(a, key(5)), Route::Unknown);
}

#[test]
fn a_remote_sender_that_leaves_the_region_is_told_of() {
    let mut registry = Registry::new();
    let a = connect(&mut registry, 1);
    registry.on_remote_present(LinkId(1), key(5));
    assert_eq!(registry.route_forwarded(key(5), key(1)), Route::Local(a));
    registry.on_link_down(LinkId(1));
    assert_eq!(outputs(&mut registry), [gone(a, 5), Output::MeshChanged]);
}

#[test]
fn closing_a_key_closes_all_its_connections() {
    let mut registry = Registry::new();
    let (first, second) = (connect(&mut registry, 1), connect(&mut registry, 1));
    registry.on_close_key(key(1));
    assert_eq!(outputs(&mut registry), [Output::Close { conn: first }, Output::Close { conn: second }]);
}

/// Compares with the obvious model: lists of what is connected, searched from end to end.
#[test]
fn arbitrary_histories_agree_with_a_slow_model() {
    arbtest::arbtest(|u| {
        let mut registry = Registry::new();
        // In order of last activity.
        let mut model: Vec<(ConnId, NodeKey)> = Vec::new();
        let mut heard: Vec<(NodeKey, ConnId)> = Vec::new();
        for _ in 0..u.int_in_range(1..=60)? {
            let n = u.int_in_range(1..=4)?;
            match u.int_in_range(0..=3)? {
                0 => model.push((registry.on_connect(Arrival::regular(key(n), from())), key(n))),
                1 if !model.is_empty() => {
                    let (conn, left) = model.remove(u.choose_index(model.len())?);
                    outputs(&mut registry);
                    registry.on_disconnect(conn);
                    heard.retain(|(_, to)| *to != conn);
                    let mut want: Vec<ConnId> = Vec::new();
                    if model.iter().all(|(_, other)| *other != left) {
                        want =
                            heard.iter().filter(|(source, _)| *source == left).map(|(_, to)| *to).collect();
                        heard.retain(|(source, _)| *source != left);
                    }
                    let told = outputs(&mut registry).into_iter();
                    let mut told: Vec<_> = told
                        .filter_map(|o| if let Output::PeerGone { to, .. } = o { Some(to) } else { None })
                        .collect();
                    told.sort_unstable();
                    want.sort_unstable();
                    assert_eq!(told, want);
                }
                2 if !model.is_empty() => {
                    let entry = model.remove(u.choose_index(model.len())?);
                    registry.on_activity(entry.0);
                    model.push(entry);
                }
                _ if !model.is_empty() => {
                    let (conn, source) = *u.choose(&model)?;
                    let want = model.iter().rev().find(|(_, other)| *other == key(n)).map(|(conn, _)| *conn);
                    match registry.route(conn, key(n)) {
                        Route::Local(got) => {
                            assert_eq!(Some(got), want);
                            if !heard.contains(&(source, got)) {
                                heard.push((source, got));
                            }
                        }
                        Route::Unknown => assert_eq!(want, None),
                        Route::Forward(_) => panic!("there is no mesh"),
                    }
                }
                _ => {}
            }
        }
        let keys: BTreeSet<_> = model.iter().map(|(_, key)| *key).collect();
        assert_eq!((registry.stats().connections, registry.stats().local_clients), (model.len(), keys.len()));
        Ok(())
    });
}

#[test]
fn machines_that_take_packets_from_each_other_are_told() {
    let mut registry = Registry::new();
    let first = connect(&mut registry, 1);
    let second = connect(&mut registry, 1);
    let fights = |registry: &mut Registry| -> Vec<Output> {
        outputs(registry).into_iter().filter(|output| matches!(output, Output::Fight { .. })).collect()
    };
    // A machine that connected anew may be heard on its old connection.
    for conn in [first, second, first, second, first, second, first] {
        registry.on_activity(conn);
    }
    assert_eq!(fights(&mut registry), []);
    registry.on_activity(second);
    let told = |conn, is_fighting| Output::Fight { conn, is_fighting };
    assert_eq!(fights(&mut registry), [told(first, true), told(second, true)]);
    registry.on_activity(first);
    assert_eq!(fights(&mut registry), [], "once");
    let third = registry.on_connect(Arrival::regular(key(1), from()));
    assert_eq!(fights(&mut registry), [told(third, true)], "who joins hears it too");
    registry.on_disconnect(first);
    assert_eq!(fights(&mut registry), []);
    registry.on_disconnect(third);
    assert_eq!(fights(&mut registry), [told(second, false)], "over");
    let fourth = registry.on_connect(Arrival::regular(key(1), from()));
    assert_eq!(fights(&mut registry), [], "{fourth:?} begins anew");
}
