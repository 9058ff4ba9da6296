//! `/keys`: invites, auth keys and API keys.

use crate::parts::{Act, csrf, section};
use crate::shell::Shell;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct KeysView {
    /// "2 invites, 1 auth key and 1 API key are valid."
    pub sentence: String,
    pub auth: Vec<AuthKey>,
    pub api: Vec<ApiKey>,
    /// A secret just made: shown once, here and nowhere else.
    pub fresh: Option<String>,
}

#[derive(Clone, Debug, Default)]
pub struct AuthKey {
    pub id: String,
    /// Public prefix, "7QmX2v...".
    pub shown: String,
    pub note: String,
    pub adds: String,
    pub left: String,
    pub ends: String,
    pub last_used: String,
}

#[derive(Clone, Debug, Default)]
pub struct ApiKey {
    pub id: String,
    pub shown: String,
    pub note: String,
    pub may: String,
    pub ends: String,
    pub last_used: String,
}

/// The whole page.
pub fn page(shell: &Shell, view: &KeysView) -> String {
    let main = html! {
        div.top {
            div { h1 { "Keys" } p { (view.sentence) } }
            span.sp {}
            details.menu {
                summary.btn.go { "Make a key" }
                div.card.pad.pop { (make(shell)) }
            }
        }
        @if let Some(secret) = &view.fresh {
            section.card.pad.fresh {
                p { b { "Shown once. " } "Copy it now; only its beginning is kept here." }
                div.cmd.mono { (secret) }
                button.btn type="button" data-copy=(secret) { "Copy key" }
            }
        }
        (section("Invites and auth keys", "Whoever has one can add a machine"))
        (auth_table(shell, &view.auth))
        (section("API keys", "For programs that manage the network"))
        (api_table(shell, &view.api))
    };
    shell.document("Keys", "", &main)
}

fn make(shell: &Shell) -> Markup {
    html! {
        form method="post" action="/keys" {
            (csrf(shell))
            h2 { "Auth key" }
            label { "For person" input.field name="user" placeholder="ada" autocomplete="off"; }
            label { "Tags, by commas" input.field name="tags" placeholder="tag:ci" autocomplete="off"; }
            label.check { input type="checkbox" name="reusable" value="1"; " more than once" }
            label.check { input type="checkbox" name="ephemeral" value="1"; " machines that go away are forgotten" }
            label { "Good for" select.field name="expiry" { option value="3600" { "1 hour" } option value="86400" { "1 day" } option value="7776000" { "90 days" } } }
            button.btn.go { "Make" }
        }
        form method="post" action="/keys/api" {
            (csrf(shell))
            h2 { "API key" }
            label { "What it is for" input.field name="note" required autocomplete="off"; }
            button.btn { "Make" }
        }
    }
}

fn auth_table(shell: &Shell, keys: &[AuthKey]) -> Markup {
    html! {
        @if keys.is_empty() { section.card.pad.empty { p { "No keys. Invites are made on the Machines page." } } }
        @else { div.card.scroll { table.cards {
            thead { tr {
                th scope="col" { "Key" } th scope="col" { "Adds" } th scope="col" { "Left" }
                th scope="col" { "Ends" } th scope="col" { "Last used" } th.num scope="col" {}
            } }
            tbody { @for key in keys {
                tr {
                    td { span.name.mono { (key.shown) } span.sub { (key.note) } }
                    td.muted { (key.adds) } td data-l="left" { (key.left) } td data-l="ends" { (key.ends) } td.muted data-l="used" { (key.last_used) }
                    td.num { (Act { to: &format!("/keys/{}/revoke", key.id), label: "Revoke, others keep working", class: "sm quiet", fields: &[] }.show(shell)) }
                }
            } }
        } } }
    }
}

fn api_table(shell: &Shell, keys: &[ApiKey]) -> Markup {
    html! {
        @if keys.is_empty() { section.card.pad.empty { p { "No API keys." } } }
        @else { div.card.scroll { table.cards {
            thead { tr { th scope="col" { "Key" } th scope="col" { "May" } th scope="col" { "Ends" } th scope="col" { "Last used" } th.num scope="col" {} } }
            tbody { @for key in keys {
                tr {
                    td { span.name.mono { (key.shown) } span.sub { (key.note) } }
                    td.muted { (key.may) } td data-l="ends" { (key.ends) } td.muted data-l="used" { (key.last_used) }
                    td.num { (Act { to: &format!("/keys/api/{}/revoke", key.id), label: "Revoke, others keep working", class: "sm quiet", fields: &[] }.show(shell)) }
                }
            } }
        } } }
    }
}
