//! What holds for every page: nothing sticks out, everything has a name, nothing comes from elsewhere.

use std::collections::BTreeSet;
use std::path::Path;

use fantoccini::Locator;
use fantoccini::key::Key;
use serde_json::json;
use sw_store::{Seq, SqliteStore, Store as _};
use sw_tailnet::{Change, Entry, Ids, JoinedBy, Node, Owner, Pool, Role, Settings, User};
use sw_types::{MachineKey, NodeId, NodeKey, UnixTime, UserId};

use crate::network::Network;
use crate::skip;
use crate::tab::{SOON, Tab, missing};

const PAGES: [(&str, &str); 18] = [
    ("machines", "/machines"),
    ("add", "/machines/add"),
    ("machine", "/machines/attic-nas"),
    ("machine-reach", "/machines/attic-nas?tab=reach"),
    ("machine-history", "/machines/attic-nas?tab=history"),
    ("network", "/network"),
    ("network-chosen", "/network?chosen=attic-nas"),
    ("network-table", "/network?as=table"),
    ("access", "/access"),
    ("access-matrix", "/access?tab=matrix"),
    ("access-history", "/access?tab=history"),
    ("people", "/people"),
    ("keys", "/keys"),
    ("dns", "/dns"),
    ("relays", "/relays"),
    ("log", "/log"),
    ("settings", "/settings"),
    ("health", "/health"),
];

/// Bytes of a first page over the wire: HTML, style sheet, script, icon (ux.md §3.2).
const FIRST_PAGE_MAX: u64 = 100 * 1_024;
/// Lowest height of what a finger shall hit (WCAG asks 24, ux.md §3.2 44).
const FINGER: i64 = 44;

/// Texts whose contrast with what lies under them is below WCAG 2.2 AA (4.5, large ones 3). Text in the picture of
/// the network has a halo of the page's colour, so the page's colour lies under it.
const PALE: &str = "
    const rgba = (text) => { const n = text.match(/[\\d.]+/g).map(Number); return n.length > 3 ? n : [...n, 1]; };
    const over = (top, under) => [0, 1, 2].map((i) => top[i] * top[3] + under[i] * (1 - top[3])).concat(1);
    const light = (c) => { const [r, g, b] = c.map((p) => { p /= 255; return p <= 0.04045 ? p / 12.92 : ((p + 0.055) / 1.055) ** 2.4; }); return 0.2126 * r + 0.7152 * g + 0.0722 * b; };
    const ground = (element) => {
        const layers = [];
        for (let e = element; e; e = e.parentElement) {
            const c = rgba(getComputedStyle(e).backgroundColor);
            if (c[3] > 0) layers.push(c);
            if (c[3] === 1) break;
        }
        return layers.reverse().reduce((under, top) => over(top, under), [255, 255, 255, 1]);
    };
    const pale = new Set();
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    for (let text; (text = walker.nextNode());) {
        const e = text.parentElement;
        if (!text.data.trim() || !e.checkVisibility({ opacityProperty: true, visibilityProperty: true })) continue;
        if (e.closest('script, style, noscript, option, [disabled], .vh')) continue;
        const style = getComputedStyle(e), under = ground(e);
        let colour = rgba(e instanceof SVGElement ? style.fill : style.color);
        let opacity = 1;
        for (let a = e; a; a = a.parentElement) opacity *= Number(getComputedStyle(a).opacity);
        colour = over([...colour.slice(0, 3), colour[3] * opacity], under);
        const [a, b] = [light(colour), light(under)];
        const ratio = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
        const size = parseFloat(style.fontSize), large = size >= 24 || size >= 18.66 && Number(style.fontWeight) >= 700;
        if (ratio < (large ? 3 : 4.5)) pale.add(text.data.trim().slice(0, 40) + ' ' + ratio.toFixed(2) + ' in ' + e.tagName + '.' + (e.getAttribute('class') || ''));
    }
    return [...pale];";

/// Looks at every page on a desktop and on a phone, and makes their pictures.
pub(crate) async fn look_at_every_page(tab: &mut Tab) {
    tab.goto("/machines").await;
    tab.js("document.querySelector('h1').style.color = '#dddddd'").await;
    assert_eq!(tab.js(PALE).await.as_array().map(Vec::len), Some(1), "a pale heading is found");
    let mut faults = Vec::new();
    for is_phone in [false, true] {
        if is_phone {
            tab.phone().await;
        } else {
            tab.desktop().await;
        }
        for (name, path) in PAGES {
            tab.goto(path).await;
            tab.picture(name).await;
            faults.extend(faults_of(tab, path, is_phone).await);
            for scheme in ["dark", "light"] {
                tab.colours(scheme).await;
                let pale = tab.js(PALE).await;
                let pale = pale.as_array().into_iter().flatten();
                faults.extend(pale.map(|text| format!("{path}, {scheme}: too pale: {text}")));
            }
        }
    }
    // 200 % zoom of a small window.
    tab.screen(320, 700, 1, true).await;
    for (_, path) in PAGES {
        tab.goto(path).await;
        faults.extend(sticks_out(tab, path).await);
    }
    tab.desktop().await;
    assert!(faults.is_empty(), "{}", faults.join("\n"));
}

async fn faults_of(tab: &Tab, path: &str, is_phone: bool) -> Vec<String> {
    let mut faults = sticks_out(tab, path).await;
    let tree = tab.cdp("Accessibility.getFullAXTree", json!({})).await;
    let nodes = tree["nodes"].as_array().cloned().unwrap_or_default();
    let shown: Vec<_> = nodes.iter().filter(|node| node["ignored"] == false).collect();
    let roles: BTreeSet<&str> = shown.iter().filter_map(|node| node["role"]["value"].as_str()).collect();
    for landmark in ["main", "navigation", "heading"] {
        if !roles.contains(landmark) {
            faults.push(format!("{path}: a screen reader finds no {landmark}"));
        }
    }
    for node in shown {
        let role = node["role"]["value"].as_str().unwrap_or_default();
        let needs_name =
            ["button", "link", "textbox", "searchbox", "combobox", "checkbox", "dialog", "image"];
        if needs_name.contains(&role) && node["name"]["value"].as_str().unwrap_or_default().is_empty() {
            faults.push(format!("{path}: a {role} has no name: {node}"));
        }
    }
    if is_phone {
        let script = format!(
            "return [...document.querySelectorAll('main .btn, main input:not([type=hidden]), main select, .tabbar a')]
                .filter((e) => e.checkVisibility() && e.getBoundingClientRect().height < {FINGER})
                .map((e) => e.outerHTML.slice(0, 90) + ' ' + e.getBoundingClientRect().height)"
        );
        let small = tab.js(&script).await;
        faults.extend(small.as_array().into_iter().flatten().map(|e| format!("{path}: too small: {e}")));
    }
    faults
}

/// Whether the page scrolls sideways.
pub(crate) async fn sticks_out(tab: &Tab, path: &str) -> Vec<String> {
    let wide = tab.js("return [document.documentElement.scrollWidth, innerWidth]").await;
    let fits = wide[0].as_i64() <= wide[1].as_i64();
    if fits { Vec::new() } else { vec![format!("{path}: {} wide in a window of {}", wide[0], wide[1])] }
}

/// Nothing was asked of another host, and the console stayed silent.
pub(crate) async fn stayed_at_home(tab: &Tab, base: &str) {
    for line in tab.log("performance").await {
        let text = line["message"].as_str().unwrap_or_default();
        let message: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
        if message["message"]["method"] == "Network.requestWillBeSent" {
            let url = message["message"]["params"]["request"]["url"].as_str().unwrap_or_default().to_owned();
            assert!(url.starts_with(base) || url.starts_with("data:"), "asked elsewhere: {url}");
        }
    }
    let complaints: Vec<_> =
        tab.log("browser").await.into_iter().filter(|line| line["level"] != "INFO").collect();
    // A link used up answers 410, which Chromium reports as an error of the network.
    let complaints: Vec<_> = complaints.iter().filter(|line| !line.to_string().contains("410")).collect();
    assert!(complaints.is_empty(), "{complaints:?}");
}

/// All pages read and all forms work without a script.
pub(crate) async fn works_without_scripts(tab: &Tab) {
    tab.cdp("Emulation.setScriptExecutionDisabled", json!({ "value": true })).await;
    for (_, path) in PAGES {
        tab.goto(path).await;
        let heading = tab.client.find(Locator::Css("h1")).await.expect("a heading");
        assert!(!heading.text().await.expect("text").is_empty(), "{path}");
    }
    tab.goto("/machines/add").await;
    let make = Locator::XPath("//button[contains(., 'invite')]");
    tab.client.find(make).await.expect("a button").click().await.expect("pressed");
    let line =
        tab.client.wait().at_most(SOON).for_element(Locator::XPath("//*[contains(., '| sudo sh')]")).await;
    line.expect("a join line");
    tab.cdp("Emulation.setScriptExecutionDisabled", json!({ "value": false })).await;
    tab.goto("/machines/add").await;
    tab.picture("add-invite").await;
}

/// Presses a button as somebody without a mouse does: Tab until it has the focus, then Enter.
pub(crate) async fn press_by_keys(tab: &Tab, word: &str) {
    // From the top of the page, as after a jump by F6 or a fresh load.
    tab.js("document.activeElement.blur(); getSelection().removeAllRanges()").await;
    let focused =
        "const e = document.activeElement; return e.tagName === 'BUTTON' ? e.textContent.trim() : ''";
    for _ in 0..80 {
        tab.keys(&char::from(Key::Tab).to_string()).await;
        // The editor takes Tab for itself and lets go with Escape.
        if tab.js("return document.activeElement.tagName").await == "TEXTAREA" {
            tab.keys(&char::from(Key::Escape).to_string()).await;
            tab.js("document.activeElement.blur()").await;
        }
        if tab.js(focused).await == word {
            let ring = tab.js("return getComputedStyle(document.activeElement).outlineStyle").await;
            assert_ne!(ring, "none", "{word}: the focus shows");
            return tab.keys(&char::from(Key::Enter).to_string()).await;
        }
    }
    panic!("no Tab leads to {word:?}");
}

/// Find a machine, open it and look at its path, with keys alone.
pub(crate) async fn works_by_keys(tab: &Tab) {
    tab.goto("/access").await;
    tab.js("document.activeElement.blur()").await;
    tab.keys("gm").await;
    tab.until("g m opens Machines", SOON, async || tab.path().await == "/machines").await;
    tab.css("#q").await;
    tab.keys("/").await;
    tab.keys(&format!("attic{}", char::from(Key::Enter))).await;
    tab.until("search finds by a key", SOON, async || tab.path().await.contains("q=attic")).await;
    tab.css("#m-attic-nas").await;
    tab.keys("j").await;
    tab.keys(&char::from(Key::Enter).to_string()).await;
    tab.until("Enter opens it", SOON, async || tab.path().await == "/machines/attic-nas").await;
    // The list of peers is walked the same way; what is chosen draws its path, which is read as words.
    tab.keys("j").await;
    tab.keys(&char::from(Key::Enter).to_string()).await;
    tab.until("Enter draws the path", SOON, async || tab.path().await.contains("to=")).await;
    let said = tab.js("return document.querySelector('.pathbox svg').getAttribute('aria-label')").await;
    let said = said.as_str().expect("words").to_owned();
    assert!(said.starts_with("attic-nas to ") && said.ends_with('.'), "a screen reader hears {said:?}");
    // The focus can be seen.
    tab.keys(&char::from(Key::Tab).to_string()).await;
    let ring = tab.js("return getComputedStyle(document.activeElement).outlineStyle").await;
    assert_ne!(ring, "none", "the focus shows");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_thousand_machines_stay_within_the_budget() {
    if let Some(why) = missing() {
        return skip("a_thousand_machines_stay_within_the_budget", &why);
    }
    let state = tempfile::tempdir().expect("a folder");
    write_network(&state.path().join("control"), 1_000);
    let network = Network::start_in(state).await;
    let tab = Tab::open(&network.url).await;
    tab.goto(&network.link().await).await;
    tab.press("Sign in").await;
    tab.until_says("1000 machines").await;
    for page in ["/machines", "/network", "/people", "/log"] {
        tab.cdp("Network.clearBrowserCache", json!({})).await;
        tab.goto(page).await;
        let cost = tab
            .js("const n = performance.getEntriesByType('navigation')[0], r = performance.getEntriesByType('resource').filter((e) => e.initiatorType !== 'other');
                 return [n.transferSize + r.reduce((sum, e) => sum + e.transferSize, 0), r.length + 1, Math.round(n.responseStart - n.requestStart)]")
            .await;
        let bytes = cost[0].as_u64().expect("bytes");
        println!(
            "{page} with 1,000 machines: {bytes} bytes, {} requests, first byte after {} ms",
            cost[1], cost[2]
        );
        assert!(bytes < FIRST_PAGE_MAX, "{page}: {bytes} bytes");
        assert!(cost[1].as_u64().is_some_and(|requests| requests <= 3), "{page}: {} requests", cost[1]);
    }
    picture_is_readable(&tab, 1_000).await;
    tab.close().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_picture_of_five_and_fifty_machines_is_readable() {
    if let Some(why) = missing() {
        return skip("the_picture_of_five_and_fifty_machines_is_readable", &why);
    }
    for machines in [5, 50] {
        let state = tempfile::tempdir().expect("a folder");
        write_network(&state.path().join("control"), machines);
        let network = Network::start_in(state).await;
        let tab = Tab::open(&network.url).await;
        tab.goto(&network.link().await).await;
        tab.press("Sign in").await;
        tab.until_says(&format!("{machines} machines")).await;
        picture_is_readable(&tab, machines).await;
        tab.close().await;
    }
}

/// ux.md §6, check 20: no name lies over another, the chosen machine can be read, and it is the same picture again.
async fn picture_is_readable(tab: &Tab, machines: u16) {
    let overlaps = "
        const all = [...document.querySelectorAll('.net .gname, .net .lab.nb, .net .lab.me')].filter((t) => t.textContent.trim());
        const boxes = all.map((t) => [t.textContent.trim(), t.getBoundingClientRect()]);
        const out = [];
        boxes.forEach(([a, p], i) => boxes.slice(i + 1).forEach(([b, q]) => {
            if (p.left < q.right - 1 && q.left < p.right - 1 && p.top < q.bottom - 2 && q.top < p.bottom - 2) out.push(a + ' over ' + b);
        }));
        return [boxes.length, out];";
    tab.goto("/network").await;
    tab.picture(&format!("network-{machines}")).await;
    let found = tab.js(overlaps).await;
    assert!(found[0].as_u64().is_some_and(|names| names > 1), "{machines}: names are drawn");
    assert_eq!(found[1], json!([]), "{machines} machines: names lie over each other");
    let first = tab.js("return document.getElementById('net').outerHTML").await;
    tab.goto("/network").await;
    let again = tab.js("return document.getElementById('net').outerHTML").await;
    assert_eq!(first, again, "{machines} machines: the same picture again");
    tab.goto("/network?chosen=machine-3").await;
    tab.until_says("Open machine").await;
    tab.picture(&format!("network-{machines}-chosen")).await;
    let panel = tab.js("return document.querySelector('.panel').textContent").await;
    assert!(panel.as_str().is_some_and(|text| text.contains("machine-3")), "{panel}");
    if machines <= 120 {
        let ring = tab.js("return document.querySelectorAll('.net circle.s-acc').length").await;
        assert_eq!(ring, 1, "{machines} machines: the chosen one has a ring");
        let free = "
            const me = [...document.querySelectorAll('.net text')].find((t) => t.textContent.trim() === 'machine-3').getBoundingClientRect();
            return [...document.querySelectorAll('.net .lab')].filter((t) => t.textContent.trim() && t.textContent.trim() !== 'machine-3').every((t) => {
                const o = t.getBoundingClientRect();
                return me.left >= o.right || o.left >= me.right || me.top >= o.bottom - 2 || o.top >= me.bottom - 2;
            });";
        assert_eq!(tab.js(free).await, true, "{machines} machines: nothing lies over the chosen one's name");
    }
}

/// A database as a server leaves it, with that many machines.
fn write_network(dir: &Path, machines: u16) {
    std::fs::create_dir_all(dir).expect("a folder");
    let created = UnixTime::from_secs(1_790_000_000);
    let key = |i: u16, kind: u8| {
        let mut bytes = [kind; 32];
        bytes[..2].copy_from_slice(&i.to_be_bytes());
        bytes
    };
    let person = |id: i64, name: &str| {
        let user = User {
            id: UserId(id),
            name: name.into(),
            email: None,
            display_name: name.into(),
            picture: None,
            role: if id == 1 { Role::Owner } else { Role::Member },
            suspended: false,
            provider: None,
            groups: Vec::new(),
            passkeys: Vec::new(),
            created,
        };
        Change::User(user.id, Some(Box::new(user)))
    };
    let machine = |i: u16| {
        let [high, low] = (i + 1).to_be_bytes();
        let node = Node {
            id: NodeId(i64::from(i) + 1),
            machine_key: MachineKey::from(key(i, 1)),
            node_key: NodeKey::from(key(i, 2)),
            owner: Owner::User(UserId(i64::from(i % 20) + 1)),
            host_name: format!("machine-{i}"),
            label: format!("machine-{i}"),
            label_fixed: false,
            ipv4: [100, 64, high, low].into(),
            ipv6: format!("fd7a:115c:a1e0::{:x}", i + 1).parse().expect("an address"),
            created,
            expiry: None,
            approved: true,
            approved_routes: Vec::new(),
            ephemeral: false,
            joined_by: JoinedBy::Admin,
        };
        Change::Node(node.id, Some(Box::new(node)))
    };
    let people =
        (1..=20).map(|id| person(id, if id == 1 { "ada".into() } else { format!("person-{id}") }.as_str()));
    let settings = Settings::new("1000".to_owned(), Pool::default());
    let mut changes = vec![Change::Settings(Some(Box::new(settings)))];
    changes.extend(people);
    changes.extend((0..machines).map(machine));
    let last = u32::from_be_bytes([100, 64, machines.to_be_bytes()[0], machines.to_be_bytes()[1]]);
    changes.push(Change::NextIds(Ids { node: i64::from(machines) + 1, user: 21, last_v4: last }));
    let entry = Entry { at: created, actor: "root".into(), audit: Vec::new(), changes };
    let mut store = SqliteStore::open(&dir.join("control.db")).expect("a store");
    store.load().expect("empty");
    store.append(Seq(0), &[entry]).expect("written");
}
