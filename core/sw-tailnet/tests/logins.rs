//! A machine that waits at the login page is sent to a new one when the page grows old, and comes in by that.

mod common;

use std::sync::Arc;
use std::time::Duration;

use sw_tailcfg::{Hostinfo, RegisterRequest, RegisterResponse};
use sw_tailnet::{Command, Output, PolicyEngine, Registered, Tailnet, Ticket, Wake};
use sw_types::{CapVer, MachineKey, NodeKey, Now, UserId};

use common::{URL, network};

const MACHINE: MachineKey = MachineKey::from_bytes([1; 32]);

fn request(followup: &str) -> RegisterRequest {
    RegisterRequest {
        version: CapVer(130),
        node_key: NodeKey::from_bytes([1; 32]),
        hostinfo: Some(Arc::new(Hostinfo { hostname: "laptop".to_owned(), ..Hostinfo::default() })),
        followup: followup.to_owned(),
        ..RegisterRequest::default()
    }
}

/// The answer to somebody who waits.
fn heard(tailnet: &mut Tailnet, waiting: Ticket, now: Now) -> Option<RegisterResponse> {
    drop(tailnet.take_uncommitted());
    tailnet.committed();
    std::iter::from_fn(|| tailnet.poll_output(now)).find_map(|output| match output {
        Output::Registered { ticket, response } => (ticket == waiting).then_some(*response),
        Output::Map { .. } | Output::End { .. } | Output::Checked { .. } => None,
    })
}

#[test]
fn a_page_that_grew_old_gives_way_to_a_new_one_while_its_machine_waits() {
    let start = common::start();
    let mut tailnet = network(Arc::new(PolicyEngine::new(URL)), &["ada"]);

    let Registered::Now(first) = tailnet.on_register(MACHINE, &request(""), 1, start) else {
        panic!("a page is given at once");
    };
    assert!(first.auth_url.starts_with(&format!("{URL}/register/")));
    let waits = tailnet.on_register(MACHINE, &request(&first.auth_url), 2, start);
    assert!(matches!(waits, Registered::Later));
    assert_eq!(heard(&mut tailnet, 2, start), None);

    let (due, why) = tailnet.next_deadline(start).unwrap();
    assert_eq!((due - start.mono, why), (Duration::from_secs(30 * 60), Wake::Logins));
    let later = start.after(due - start.mono);
    tailnet.on_deadline(later);
    let renewed = heard(&mut tailnet, 2, later).expect("whoever waits is told");
    assert_ne!(renewed.auth_url, first.auth_url);
    assert!(renewed.error.is_empty() && !renewed.machine_authorized);

    let waits = tailnet.on_register(MACHINE, &request(&renewed.auth_url), 3, later);
    assert!(matches!(waits, Registered::Later));
    let approve = |page: &str| Command::ApproveLogin {
        login: page.rsplit('/').next().unwrap().to_owned(),
        user: UserId(1),
        by_admin: true,
    };
    assert!(tailnet.execute("test", approve(&first.auth_url), later).is_err(), "the old page is gone");
    tailnet.execute("test", approve(&renewed.auth_url), later).unwrap();
    assert!(heard(&mut tailnet, 3, later).expect("it is in").machine_authorized);
}
