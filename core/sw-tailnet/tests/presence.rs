//! When a machine whose stream ended is shown offline (control.md §4.2).
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

mod common;

use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{MapRequest, RegisterAuth, RegisterRequest};
use sw_tailnet::{Ended, MapReply, PolicyEngine, Registered, StreamId, Tailnet};
use sw_types::{CapVer, Instant, MachineKey, NodeId, NodeKey, Now, Secret, UnixTime};

use common::{URL, auth_key, network};

const MACHINE: MachineKey = MachineKey::from_bytes([1; 32]);
const NODE: NodeId = NodeId(1);

fn one_machine(now: Now) -> Tailnet {
    let mut tailnet = network(Arc::new(PolicyEngine::new(URL)), &["ada"]);
    let auth_key = Secret::new(auth_key(&mut tailnet));
    let request = RegisterRequest {
        version: CapVer(130),
        node_key: NodeKey::from_bytes([1; 32]),
        auth: Some(RegisterAuth { auth_key }),
        ..RegisterRequest::default()
    };
    let joined = tailnet.on_register(MACHINE, &request, 1, now);
    assert!(matches!(joined, Registered::Now(answer) if answer.machine_authorized));
    tailnet
}

fn listen(tailnet: &mut Tailnet, stream: StreamId, now: Now) {
    let request = MapRequest {
        version: CapVer(130),
        node_key: NodeKey::from_bytes([1; 32]),
        stream: true,
        ..MapRequest::default()
    };
    let reply = tailnet.on_map_request(MACHINE, &request, stream, now).unwrap();
    assert!(matches!(reply, MapReply::Streaming { .. }));
    drop(tailnet.take_uncommitted());
    tailnet.committed();
    while tailnet.poll_output(now).is_some() {}
    assert!(tailnet.is_online(NODE));
}

#[test]
fn who_says_goodbye_is_offline_soon_who_breaks_off_may_come_back_first() {
    let mut now = Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_800_000_000) };
    let mut tailnet = one_machine(now);
    for (stream, ended, grace) in [(1, Ended::Orderly, 1), (2, Ended::Broken, 10)] {
        listen(&mut tailnet, stream, now);
        tailnet.on_stream_closed(stream, ended, now);
        assert!(tailnet.is_online(NODE), "{ended:?}: not at once");
        let grace = Duration::from_secs(grace);
        tailnet.on_deadline(now.after(grace - Duration::from_millis(1)));
        assert!(tailnet.is_online(NODE), "{ended:?}: its grace is not over");
        now = now.after(grace);
        tailnet.on_deadline(now);
        assert!(!tailnet.is_online(NODE), "{ended:?}");
    }

    // Back within the grace: it never was away.
    listen(&mut tailnet, 3, now);
    tailnet.on_stream_closed(3, Ended::Broken, now);
    listen(&mut tailnet, 4, now);
    tailnet.on_deadline(now.after(Duration::from_secs(60)));
    assert!(tailnet.is_online(NODE));

    // Nothing was heard for long: there is nothing to wait for.
    tailnet.on_stream_closed(4, Ended::Dead, now);
    assert!(!tailnet.is_online(NODE));
}
