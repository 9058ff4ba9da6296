//! Filter rules as the server sends them, and packets through a filter: `sw-filter`.

use std::net::IpAddr;
use std::sync::LazyLock;

use ipnet::IpNet;
use sw_filter::{Filter, FilterConfig, Flows, LanFlows, NoHolders, Verdict};
use sw_proto::ip::{Fragment, IpProto, IpView};
use sw_tailcfg::{BODY_MAX, FilterRule, decode_answer};

static OWN: LazyLock<[IpNet; 2]> =
    LazyLock::new(|| ["100.64.0.2/32", "fd7a:115c:a1e0::2/128"].map(|net| net.parse().expect("a prefix")));

fn compile(rules: &[FilterRule]) -> Option<Filter> {
    let config =
        FilterConfig { rules, own: &*OWN, served: &[], lan_flows: LanFlows::Allowed, holders: &NoHolders };
    Filter::compile(&config, [1; 32]).ok()
}

pub(crate) fn rules(data: &[u8]) {
    let Ok(rules) = decode_answer::<Vec<FilterRule>>(data, BODY_MAX) else { return };
    let Some(filter) = compile(&rules) else { return };
    let (peer, stranger): (IpAddr, IpAddr) = ([100, 64, 0, 1].into(), [192, 0, 2, 1].into());
    assert!(!filter.allows(peer, stranger, IpProto::TCP, 80), "only our own addresses are open");
    if rules.iter().all(|rule| rule.dst_ports.is_empty()) {
        assert!(!filter.allows(peer, OWN[0].addr(), IpProto::TCP, 80), "nothing opens a port");
    }
}

pub(crate) fn packet(data: &[u8]) {
    static OPEN: LazyLock<Filter> =
        LazyLock::new(|| compile(&[FilterRule::allow_all()]).expect("good rules"));
    static SHUT: LazyLock<Filter> = LazyLock::new(|| Filter::shields_up(&*OWN, &[], [2; 32]));
    static FLOWS: LazyLock<Flows> = LazyLock::new(|| Flows::new([3; 32]));
    for filter in [&*OPEN, &*SHUT] {
        let verdict = filter.inbound(data, &FLOWS, |_| true);
        if verdict == Verdict::Accept
            && let Ok(view) = IpView::parse(data)
            && view.proto() == IpProto::TCP
            // Later fragments pass by themselves: without the first one they are nothing (node-services.md §13.2).
            && !matches!(view.fragment(), Fragment::Later { .. })
        {
            assert!(OWN.iter().any(|own| own.contains(&view.dst())), "only for us");
        }
        let _ = filter.outbound(data, &FLOWS);
    }
}
