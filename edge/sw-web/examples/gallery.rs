//! Writes every page with made-up data into a folder, to look at: `cargo run -p sw-web --example gallery -- DIR`.
#![expect(clippy::unwrap_used, reason = "a tool for looking, run by hand")]

use std::collections::BTreeMap;
use std::path::Path;
use sw_web::{
    Connection, Group, Kind, Page, Shell, Theme, access, add, health, log, machine, machines, network, sign,
};

fn main() {
    let dir = std::env::args().nth(1).expect("a folder to write to");
    let dir = Path::new(&dir);
    std::fs::create_dir_all(dir.join("assets")).unwrap();
    for name in ["app.css", "app.js", "icon.svg"] {
        std::fs::write(dir.join("assets").join(name), sw_web::assets::Asset::by_name(name).unwrap().text)
            .unwrap();
    }
    let write = |name: &str, html: String| {
        std::fs::write(dir.join(format!("{name}.html")), html.replace("\"/assets/", "\"assets/")).unwrap();
    };
    write("machines", machines::page(&shell(Page::Machines), &machines()));
    let mut dark = shell(Page::Network);
    dark.theme = Theme::Dark;
    write("network", network::page(&dark, &picture(50, 7)));
    write("network-1000", network::page(&shell(Page::Network), &picture(1_046, 22)));
    write("network-5", network::page(&shell(Page::Network), &picture(5, 1)));
    write("access", access::page(&shell(Page::Access), &policy()));
    write("machine", machine::page(&dark, &one_machine()));
    write("log", log::page(&shell(Page::Log), &log::LogView::default()));
    write("health", health::page(&shell(Page::Health), &health::HealthView::default()));
    let view = sign::DeviceView {
        name: "pixel-jun".into(),
        device: "Pixel 10, Android 16".into(),
        from: "198.51.100.23".into(),
        from_note: "the same network you are on".into(),
        words: "river lamp oak".into(),
        key: "mKq0t 7Zr4e".into(),
        asked: "a minute ago".into(),
        will_be: "It will be one of Jun's machines and reach what Jun may reach.".into(),
        viewer: Some("Jun Okafor".into()),
        ..sign::DeviceView::default()
    };
    write("approve", sign::approve(&view));
    let view = add::AddView {
        sentence: "It works 10 times, until 15:12 today.".into(),
        join_line: "curl -fsSL https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy | sudo sh".into(),
        join_url: "https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy".into(),
        official_up: "tailscale up --login-server=https://203.0.113.7 --auth-key=swkey-7QmX2v".into(),
        ..add::AddView::default()
    };
    write("add", add::page(&shell(Page::Machines), &view));
}

fn shell(page: Page) -> Shell {
    Shell::for_tests(page)
}

fn machines() -> machines::MachinesView {
    let names =
        ["birch", "attic-nas", "ada-laptop", "ada-phone", "studio", "jun-phone", "office-gate", "printer-pi"];
    let rows = names.iter().enumerate().map(|(i, name)| machines::Row {
        name: (*name).into(),
        os: "Debian 13".into(),
        chips: if i == 0 { vec!["first machine".into(), "exit node".into()] } else { vec![] },
        address: format!("100.84.12.{}", i + 1),
        connection: Connection {
            kind: [Kind::Direct, Kind::Relayed, Kind::Offline][i % 3],
            text: ["direct to 6", "all relayed", "offline"][i % 3].into(),
            why: ["", "UDP is blocked at the office", ""][i % 3].into(),
        },
        person: if i % 3 == 1 { String::new() } else { "Ada".into() },
        software: "samewire 1.0".into(),
        seen: "now".into(),
        online: i % 3 != 2,
    });
    let waiting = vec![machines::Waiting::Join {
        id: "x".into(),
        name: "pixel-jun".into(),
        person: "Jun".into(),
        facts: "Android 16, from 198.51.100.23, 2 minutes ago".into(),
        key: "mKq0t".into(),
    }];
    machines::MachinesView {
        sentence: "8 machines, 6 online. 4 of 6 reach all others directly.".into(),
        rows: rows.collect(),
        matching: 8,
        counts: machines::Counts { all: 8, online: 6, relayed: 3, update: 0 },
        waiting,
        ..machines::MachinesView::default()
    }
}

fn picture(machines: usize, groups: usize) -> network::NetworkView {
    let name = |m: usize| format!("machine-{m}");
    let groups: Vec<Group> = (0..groups)
        .map(|g| Group {
            name: ["Ada", "Jun", "Lisbon", "Graz", "tag:prod", "tag:ci", "Mira"][g % 7].to_owned(),
            machines: (g..machines).step_by(groups).map(name).collect(),
        })
        .collect();
    let links = (0..machines)
        .map(|m| network::Link {
            a: name(m),
            b: name((m * 31 + 7) % machines),
            kind: if m % 6 == 0 { Kind::Relayed } else { Kind::Direct },
            bytes: 10_u64.pow((m % 7) as u32),
            words: "direct".into(),
            delay: "11 ms".into(),
        })
        .filter(|l| l.a != l.b)
        .collect();
    let dots: BTreeMap<String, network::Dot> =
        (0..machines).map(|m| (name(m), network::Dot { online: m % 9 != 0 })).collect();
    let chosen = (machines == 50).then(|| network::Chosen {
        name: name(12),
        kind: Kind::Relayed,
        label: "all relayed".into(),
        peers: vec![("birch".into(), Kind::Relayed, "relayed, 31 ms".into())],
        why: "the office firewall drops all outgoing UDP.".into(),
    });
    network::NetworkView {
        sentence: format!("{machines} machines, some online."),
        groups,
        machines: dots,
        links,
        chosen,
        ..network::NetworkView::default()
    }
}

fn policy() -> access::AccessView {
    let text = "{\n  // Everyone reaches their own machines.\n  \"grants\": [\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},\n    {\"src\": [\"jun@\"], \"dst\": [\"tag:bulid\"], \"ip\": [\"22\"]},\n  ],\n}\n";
    access::AccessView {
        sentence: "Who may reach what. Version 12, saved by Ada on 19 November.".into(),
        version: 12,
        text: text.into(),
        check: access::CheckView {
            errors: vec![access::PolicyError {
                line: 5,
                column: 31,
                len: 9,
                what: "No tag is called tag:bulid.".into(),
                fix: "Did you mean tag:build? Tags are declared under tagOwners.".into(),
            }],
            ..access::CheckView::default()
        },
        ..access::AccessView::default()
    }
}

fn one_machine() -> machine::MachineView {
    let end = |name: &str, router: &str, note: &str| machine::End {
        name: name.into(),
        address: "100.84.12.4".into(),
        online: true,
        router: router.into(),
        router_note: note.into(),
        router_is_hard: note.starts_with("hard"),
    };
    machine::MachineView {
        name: "attic-nas".into(),
        sentence: "Online for 41 days. Debian 13, samewire 1.0, tagged files.".into(),
        path: Some(machine::PathView {
            from: end("attic-nas", "Home router", "easy, maps no port"),
            to: end("ada-phone", "Mobile network", "hard, changes ports"),
            kind: Kind::Relayed,
            label: "relayed, 48 ms".into(),
            relay: Some(("birch".into(), "relay, TCP 443".into())),
            direct_note: "no answer in 5 tries".into(),
            ipv6_note: "IPv6: the phone has it, this home does not".into(),
            because: "Relayed, because the phone's mobile network uses a new port for every destination."
                .into(),
            change: "One change would make it direct: allow port mapping (UPnP or PCP) in the home router."
                .into(),
        }),
        peers: vec![machine::PeerRow {
            name: "ada-laptop".into(),
            kind: Kind::Direct,
            way: "192.168.8.31:41641, same LAN".into(),
            words: "can be direct".into(),
            chosen: false,
        }],
        about: vec![
            ("Name".into(), "attic-nas.home.internal".into()),
            ("Address".into(), "100.84.12.4".into()),
        ],
        ..machine::MachineView::default()
    }
}
