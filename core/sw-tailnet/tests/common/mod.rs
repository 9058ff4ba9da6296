//! A network with its people, which the tests begin with.
#![allow(dead_code, reason = "each test program uses what it needs")]
#![expect(clippy::unwrap_used, reason = "tests, in their helpers too")]

use std::sync::Arc;

use sw_tailnet::{Command, Config, Done, Engine, NewAuthKey, NewUser, Pool, Settings, State, Tailnet};
use sw_types::{Instant, Now, UnixTime, UserId};

/// Where the server of the tests is.
pub(crate) const URL: &str = "http://192.0.2.1";
/// When the tests begin.
pub(crate) fn start() -> Now {
    Now { mono: Instant::ZERO, wall: UnixTime::from_secs(1_800_000_000) }
}

/// An empty network of these people; the first is its owner.
pub(crate) fn network(engine: Arc<dyn Engine>, people: &[&str]) -> Tailnet {
    let config = Config { url: URL.to_owned(), engine, seed: [7; 32] };
    let state = State::new(Settings::new("SW".to_owned(), Pool::default()));
    let mut tailnet = Tailnet::new(config, state, Vec::new(), start());
    for name in people {
        let email = Some(format!("{name}@example.com"));
        let user = NewUser { name: (*name).to_owned(), email, ..NewUser::default() };
        tailnet.execute("test", Command::CreateUser(user), start()).unwrap();
    }
    tailnet
}

/// A key of the first person, whose machines need nobody's approval.
pub(crate) fn auth_key(tailnet: &mut Tailnet) -> String {
    let new = NewAuthKey { user: Some(UserId(1)), preapproved: true, ..NewAuthKey::default() };
    let Done::Secret { text, .. } = tailnet.execute("test", Command::CreateAuthKey(new), start()).unwrap()
    else {
        panic!("a key is a secret");
    };
    text.expose().clone()
}
