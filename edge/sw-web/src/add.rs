//! `/machines/add`: three ways side by side, and what joins while you watch.

use crate::parts::{Act, Kind, state};
use crate::qr;
use crate::shell::Shell;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct AddView {
    /// "It works 10 times, until 15:12 today."
    pub sentence: String,
    pub invite_id: String,
    pub join_line: String,
    pub join_string: String,
    pub join_url: String,
    /// `tailscale up --login-server=… --auth-key=…`.
    pub official_up: String,
    pub login_server: String,
    /// Phones cannot join a network without a public address or domain: what to do; empty when they can.
    pub no_phones: String,
    pub joined: Vec<Joined>,
}

#[derive(Clone, Debug, Default)]
pub struct Joined {
    pub name: String,
    pub facts: String,
    pub when: String,
    pub kind: Kind,
}

/// The whole page.
pub fn page(shell: &Shell, view: &AddView) -> String {
    let main = html! {
        p.small.muted { a href="/machines" { "Machines" } " / Add" }
        div.top.wrap {
            div { h1 { "Add a machine" } p { "This invite is for anyone you give it to. " (view.sentence) } }
            span.sp {}
            (Act { to: &format!("/keys/{}/revoke", view.invite_id), label: "Take back", class: "quiet", fields: &[] }.show(shell))
        }
        div.ways {
            section.card.pad.way {
                h2 { "Linux" }
                p.muted { "Paste this in a terminal there. It installs samewire and joins." }
                div.cmd.mono { (view.join_line) }
                button.btn.go type="button" data-copy=(view.join_line) { "Copy line" }
                details.small {
                    summary { "Has samewire already?" }
                    div.cmd.mono { "samewire join " (view.join_string) }
                }
            }
            section.card.pad.way {
                h2 { "Phone or tablet" }
                @if view.no_phones.is_empty() {
                    p.muted { "Point its camera here. It uses the Tailscale app from the store." }
                    @if let Some(code) = qr::svg(&view.join_url) { (code) }
                } @else {
                    p.muted { (view.no_phones) }
                }
            }
            section.card.pad.way {
                h2 { "Mac, Windows, Tailscale" }
                p.muted { "Install the Tailscale app, then run this once." }
                div.cmd.mono { (view.official_up) }
                button.btn type="button" data-copy=(view.official_up) { "Copy line" }
                (platforms(&view.login_server))
            }
        }
        (live(&view.joined))
    };
    shell.document("Add a machine", "", &main)
}

/// The page before there is an invite to show: making one is a change, so it takes a button.
pub fn ask_page(shell: &Shell) -> String {
    let main = html! {
        p.small.muted { a href="/machines" { "Machines" } " / Add" }
        div.top { div { h1 { "Add a machine" } p { "An invite works 10 times, for one hour, for your own machines." } } }
        section.card.pad.empty {
            p { "Linux, phones, Mac, Windows: one line or two taps each." }
            p.below { (Act { to: "/machines/add", label: "Make an invite", class: "go", fields: &[] }.show(shell)) }
        }
    };
    shell.document("Add a machine", "", &main)
}

/// The list that grows while you watch; swapped under the id `joined`.
pub fn live(joined: &[Joined]) -> Markup {
    html! {
        section #joined .card.live aria-live="polite" {
            @for machine in joined {
                div.lrow { span.dot {} b { (machine.name) } span.muted { (machine.facts) } (state(machine.kind, machine.kind.word())) span.sp {} span.muted.small { (machine.when) } }
            }
            div.lrow { span.dot.wait.pulse {} span.muted { "Waiting for the next one. You may leave this page, the invite stays good." } }
        }
    }
}

/// Steps with the official apps, folded.
fn platforms(url: &str) -> Markup {
    let steps = [
        (
            "macOS",
            "Install Tailscale. Hold Option, click its menu icon, Debug, Custom Login Server, Add Account, paste the address. The browser opens this server's page: Join.",
        ),
        (
            "Windows",
            "Install Tailscale. In PowerShell: tailscale login --login-server=ADDRESS. The browser opens this server's page: Join.",
        ),
        (
            "Apple TV",
            "Install, do not open. Settings, Apps, Tailscale, Alternate coordination server URL: the address. Open, allow, scan the code it shows with a phone that is in the network.",
        ),
        (
            "NAS, router, container",
            "The line above over SSH, or TS_AUTHKEY and TS_EXTRA_ARGS=--login-server=ADDRESS.",
        ),
    ];
    html! {
        div.platforms {
            p.small.muted { "Address: " code { (url) } " " button.btn.sm.quiet type="button" data-copy=(url) { "Copy address" } }
            @for (name, text) in steps { details.small { summary { (name) } p.muted { (text) } } }
        }
    }
}
