//! What a node reads besides packets: DNS queries, its state file, map messages one after another (`sw-node`).

use std::collections::{BTreeMap, BTreeSet};
use std::sync::LazyLock;

use sw_node::Netmap;
use sw_node::resolve::{Answer, Resolver, ResolverConfig};
use sw_node::state_file::StateFile;
use sw_tailcfg::{decode_map_response, encode};
use sw_types::UnixTime;

static RESOLVER: LazyLock<Resolver> = LazyLock::new(|| {
    let name = "nas.home.internal".to_owned();
    Resolver::new(ResolverConfig {
        suffix: Some("home.internal".to_owned()),
        hosts: BTreeMap::from([(name.as_str().into(), vec![[100, 64, 0, 2].into()])]),
        wildcard_hosts: BTreeSet::from([name]),
        local_domains: BTreeSet::from(["home.internal".to_owned()]),
        routes: BTreeMap::new(),
        default_upstreams: Vec::new(),
    })
});

pub(crate) fn dns_query(data: &[u8]) {
    let is_answer = |reply: &[u8]| reply[..2] == data[..2] && reply[2] & 0x80 != 0;
    if let Answer::Reply(reply) = RESOLVER.answer(data, 7) {
        assert!(is_answer(&reply), "an answer has the question's id");
        assert!(reply.len() <= 65_535);
        let fit = Resolver::fit_udp(data, reply);
        assert!(is_answer(&fit));
    }
    if let Some(reply) = Resolver::failure(data) {
        assert!(is_answer(&reply));
    }
}

pub(crate) fn state_file(data: &[u8]) {
    if let Ok(state) = StateFile::parse(data) {
        let text = state.render();
        assert_eq!(StateFile::parse(&text).expect("our own file").render(), text);
    }
}

pub(crate) fn netmap(data: &[u8]) {
    let now = UnixTime::from_secs(1_700_000_000);
    // Lines are messages of one stream.
    let mut netmap = Netmap::default();
    for line in data.split(|byte| *byte == b'\n') {
        if let Ok(decoded) = decode_map_response(line) {
            drop(netmap.apply(decoded.response, now));
        }
    }
    let whole = netmap.to_message();
    assert_eq!(whole.peers.len(), netmap.peer_count());
    assert!(netmap.peers().all(|peer| netmap.peer(peer.id).is_some()));
    drop((netmap.next_expiry(now), netmap.filter_rules(), netmap.magic_dns_suffix()));
    let again = decode_map_response(&encode(&whole)).expect("our own message");
    assert!(again.rejected.is_empty());
}
