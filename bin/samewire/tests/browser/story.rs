//! One admin's day: sign in, let machines in, change the policy, invite somebody, see a machine go.

use std::time::Duration;

use fantoccini::Locator;
use fantoccini::key::Key;

use crate::network::{Machine, Network, greeter};
use crate::pages::{
    look_at_every_page, press_by_keys, stayed_at_home, sticks_out, works_by_keys, works_without_scripts,
};
use crate::raw::asks_to_join;
use crate::skip;
use crate::tab::{SOON, Tab, missing};

/// A node hears of a new policy within this; 1 s is asked (ux.md §6), the rest is for slow computers.
const REACHES_NODES: Duration = Duration::from_secs(10);
/// A machine that ends in good order shows as offline within this, without a reload: 1 s of grace and what a slow
/// computer takes, but less than the 10 s of a broken stream (control.md §4.2).
const SHOWS_OFFLINE: Duration = Duration::from_secs(7);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_admin_runs_a_network_from_the_page() {
    if let Some(why) = missing() {
        return skip("an_admin_runs_a_network_from_the_page", &why);
    }
    let network = Network::start().await;
    let mut tab = Tab::open(&network.url).await;
    sign_in_by_link(&network, &tab).await;
    let attic = approve_on_the_machines_page(&network, &tab).await;
    let mut birch = approve_on_a_phone(&network, &mut tab).await;
    let studio = network.machine("studio", Some(&network.key().await));
    studio.until_running();
    let port = greeter();
    a_link_shows_in_place(&tab, &attic, &studio, port).await;
    rename_and_undo(&tab).await;
    hostile_names_stay_text(&network, &mut tab).await;
    edit_the_policy(&tab, &attic, port).await;
    invite_a_person(&tab).await;
    goes_offline_live(&tab, &mut birch).await;
    use_a_passkey(&tab).await;
    undo_from_the_log(&tab).await;
    network.add_person("mallory", "<img src=x onerror=window.hacked=1>").await;
    works_by_keys(&tab).await;
    works_without_scripts(&tab).await;
    look_at_every_page(&mut tab).await;
    assert_eq!(
        tab.js("return window.hacked || null").await,
        serde_json::Value::Null,
        "a hostile name is text"
    );
    stayed_at_home(&tab, &network.url).await;
    tab.close().await;
}

async fn sign_in_by_link(network: &Network, tab: &Tab) {
    let link = network.link().await;
    // A link scanner's GET uses nothing up.
    tab.goto(&link).await;
    tab.goto(&link).await;
    tab.picture("sign-in-by-link").await;
    press_by_keys(tab, "Sign in").await;
    tab.until_says("Ada Marsh").await;
    assert_eq!(tab.path().await, "/machines");
    tab.picture("machines-empty").await;
    tab.goto(&link).await;
    tab.press("Sign in").await;
    tab.until_says("samewire admin").await;
}

async fn approve_on_the_machines_page(network: &Network, tab: &Tab) -> Machine {
    tab.goto("/machines").await;
    let attic = network.machine("attic-nas", None);
    attic.login_page();
    // Nobody reloads: the request comes by the event stream.
    tab.until_says("attic-nas asks to join").await;
    tab.picture("machines-waiting").await;
    press_by_keys(tab, "Approve").await;
    attic.until_running();
    tab.goto("/machines").await;
    tab.css("#m-attic-nas").await;
    attic
}

async fn approve_on_a_phone(network: &Network, tab: &mut Tab) -> Machine {
    let birch = network.machine("birch", None);
    let page = birch.login_page();
    tab.phone().await;
    tab.goto(&page).await;
    tab.until_says("Let birch join?").await;
    tab.picture("approve").await;
    // ux.md §6, check 23: complete without scrolling.
    let (page_height, window) = (tab.js("return document.documentElement.scrollHeight").await, 844);
    assert!(page_height.as_i64().is_some_and(|height| height <= window), "{page_height} > {window}");
    tab.press("Approve").await;
    tab.until_says("birch is in").await;
    tab.picture("approved").await;
    birch.until_running();
    tab.desktop().await;
    birch
}

/// The picture shows what the machines measure, and changes without a reload.
async fn a_link_shows_in_place(tab: &Tab, attic: &Machine, studio: &Machine, port: u16) {
    tab.goto("/network").await;
    tab.css("#net").await;
    tab.js("window.same = true").await;
    let drawn = "return [...document.querySelectorAll('#net path.w-direct title')].some((t) => /attic.* to birch|birch to attic/.test(t.textContent) && t.textContent.includes('direct'))";
    assert_eq!(tab.js(drawn).await, false, "nothing was sent yet");
    attic.connect("birch", port);
    let took = tab.until("the link is drawn as direct", SOON, async || tab.js(drawn).await == true).await;
    crate::say(&format!("first connection to the link in the picture: {} ms", took.as_millis()));
    assert_eq!(tab.js("return window.same").await, true, "the page was not loaded again");
    tab.until_says("3 online. 1 direct, 0 relayed, right now.").await;
    studio.connect("birch", port);
    studio.connect("attic-nas", port);
    tab.until_says("3 online. 3 direct, 0 relayed, right now.").await;
    tab.picture("network-live").await;
    tab.goto("/machines/birch").await;
    tab.until_says("Path to attic-nas").await;
    tab.until_says("Direct: packets go from socket to socket").await;
    tab.picture("machine-path").await;
}

/// Names that machines give themselves are text, whatever is in them, and break no layout.
async fn hostile_names_stay_text(network: &Network, tab: &mut Tab) {
    let wide: String = std::iter::repeat_n('\u{754c}', 63).collect();
    let names = ["<img src=x onerror=window.hacked=1>", &wide, "a\u{202e}gnp.exe\u{1b}[31m"];
    let mut pages = Vec::new();
    for (number, name) in (1..).zip(names) {
        pages.push(asks_to_join(&network.url, number, name).await);
    }
    for is_phone in [false, true] {
        if is_phone {
            tab.phone().await;
        }
        for path in pages.iter().map(String::as_str).chain(["/machines"]) {
            tab.goto(path).await;
            assert!(sticks_out(tab, path).await.is_empty(), "{path} is whole");
            let images = tab.js("return document.querySelectorAll('img, [onerror]').length").await;
            assert_eq!(images, 0, "{path}: markup of a name");
            let text = tab.text().await;
            assert!(!text.contains(['\u{202e}', '\u{1b}']), "{path}: signs that turn the text around");
        }
    }
    tab.desktop().await;
    for path in &pages {
        tab.goto(path).await;
        tab.press("Approve").await;
        tab.until_says(" is in").await;
    }
    tab.goto("/machines").await;
    tab.picture("hostile-names").await;
    assert_eq!(tab.js("return window.hacked || null").await, serde_json::Value::Null);
}

async fn rename_and_undo(tab: &Tab) {
    tab.goto("/machines/studio").await;
    tab.picture("machine").await;
    tab.client.find(Locator::Css("body")).await.expect("a body").send_keys("e").await.expect("a key");
    let field = tab.css("input[name=name]").await;
    field.clear().await.expect("a field");
    field.send_keys(&format!("workshop{}", char::from(Key::Enter))).await.expect("typed");
    tab.until_says("Renamed to workshop.").await;
    tab.press("Undo").await;
    tab.until_says("Undone").await;
    tab.goto("/machines").await;
    tab.css("#m-studio").await;
}

async fn edit_the_policy(tab: &Tab, attic: &Machine, port: u16) {
    attic.until("it sees birch", |_| attic.sees("birch").then_some(()));
    tab.goto("/access").await;
    let wrong = "{\n  \"tagOwners\": {\"tag:files\": [\"ada@\"]},\n  \"grants\": [{\"src\": [\"ada@\"], \"dst\": [\"tag:flies\"], \"ip\": [\"*\"]}],\n}";
    write_policy(tab, wrong).await;
    tab.until("the error shows under its line", Duration::from_secs(1) + SOON, async || {
        tab.text().await.contains("Did you mean \"tag:files\"?")
            && !tab.css("#save").await.is_enabled().await.expect("a button")
    })
    .await;
    tab.picture("access-error").await;
    let right = "{\n  // Nobody reaches anybody but one's own machines' page.\n  \"grants\": [{\"src\": [\"studio\"], \"dst\": [\"attic-nas\"], \"ip\": [\"22\"]}],\n  \"hosts\": {\"studio\": \"100.64.0.3\", \"attic-nas\": \"100.64.0.1\"},\n}";
    write_policy(tab, right).await;
    tab.until("Save is on", SOON, async || tab.css("#save").await.is_enabled().await.expect("a button"))
        .await;
    tab.until_says(&format!("attic-nas was connected to birch on TCP {port}")).await;
    tab.picture("access").await;
    press_by_keys(tab, "Save version 1").await;
    let took = tab.until("the node hears of it", REACHES_NODES, async || !attic.sees("birch")).await;
    crate::say(&format!("policy saved to node told: {} ms", took.as_millis()));
    tab.until_says("Version 1 is in force.").await;
    write_policy(tab, "{\"grants\": [{\"src\": [\"*\"], \"dst\": [\"*\"], \"ip\": [\"*\"]}]}").await;
    tab.until("Save is on", SOON, async || tab.css("#save").await.is_enabled().await.expect("a button"))
        .await;
    tab.css("#save").await.click().await.expect("a button");
    tab.until_says("Version 2 is in force.").await;
    attic.until("it sees birch again", |_| attic.sees("birch").then_some(()));
    tab.goto("/access?tab=history").await;
    tab.press("Put back").await;
    tab.until_says("Version 1 is in force again.").await;
    attic.until("the old version reaches it", |_| (!attic.sees("birch")).then_some(()));
    tab.press("Undo").await;
    attic.until("the undo reaches it", |_| attic.sees("birch").then_some(()));
}

async fn undo_from_the_log(tab: &Tab) {
    tab.goto("/machines/attic-nas").await;
    tab.press("More").await;
    tab.press("Expire key").await;
    tab.until_says("Its key has expired").await;
    tab.goto("/health").await;
    tab.until_says("1 thing needs you.").await;
    tab.picture("health-problem").await;
    tab.goto("/log?kind=machines&q=attic").await;
    tab.press("Undo").await;
    tab.until_says("Undone.").await;
    tab.goto("/health").await;
    tab.until_says("All well.").await;
}

/// Puts a text into the editor as if typed.
async fn write_policy(tab: &Tab, text: &str) {
    tab.css("#text").await;
    let quoted = serde_json::to_string(text).expect("a string");
    tab.js(&format!(
        "const t = document.getElementById('text'); t.value = {quoted}; t.dispatchEvent(new Event('input'));"
    ))
    .await;
}

async fn invite_a_person(tab: &Tab) {
    tab.goto("/people").await;
    tab.press("Invite someone").await;
    tab.fill("input[name=name]", "jun").await;
    tab.press("Make the link").await;
    tab.until_says("jun is invited").await;
    tab.picture("people").await;
}

async fn goes_offline_live(tab: &Tab, birch: &mut Machine) {
    tab.goto("/machines").await;
    tab.picture("machines").await;
    tab.js("window.same = true").await;
    birch.stop();
    let took = tab.until("birch is offline", SHOWS_OFFLINE, async || {
        tab.css("#m-birch").await.text().await.is_ok_and(|row| row.contains("offline"))
    });
    let took = took.await;
    crate::say(&format!("stopped to shown as offline: {} ms", took.as_millis()));
    assert_eq!(tab.js("return window.same").await, true, "the page was not loaded again");
}

async fn use_a_passkey(tab: &Tab) {
    tab.add_authenticator().await;
    tab.goto("/settings").await;
    tab.until_says("None yet").await;
    tab.press("Add a passkey").await;
    tab.until_says("The passkey is added.").await;
    tab.picture("settings").await;
    tab.press("Sign out").await;
    tab.until_says("Use a passkey").await;
    tab.picture("sign-in").await;
    tab.goto("/machines").await;
    tab.until_says("Sign in").await;
    tab.press("Use a passkey").await;
    tab.until_says("Ada Marsh").await;
    assert_eq!(tab.path().await, "/machines");
}
