//! `/settings`: what holds for the whole network, signing in, safe keeping.

use crate::parts::{Act, csrf};
use crate::shell::{Shell, Theme};
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct SettingsView {
    pub network: String,
    pub address_range: String,
    pub approval: bool,
    pub record_connections: bool,
    /// Days; 0 = keys do not expire.
    pub key_expiry_days: u32,
    pub passkeys: Passkeys,
    pub oidc: String,
    pub backup: String,
    pub version: String,
    pub theme: Theme,
}

/// Passkeys need a domain name, or `localhost`.
#[derive(Clone, Debug, Default)]
pub enum Passkeys {
    /// The page is reached by an address or without TLS.
    #[default]
    NeedsName,
    /// They work where the page is opened by its own URL, which this is not.
    AtUrl(String),
    /// Registered ones: id and words.
    Offered(Vec<(String, String)>),
}

/// The whole page.
pub fn page(shell: &Shell, view: &SettingsView) -> String {
    let main = html! {
        div.top { div { h1 { "Settings" } } }
        div.stack.narrow { (network(shell, view)) (sign_in(shell, view)) (keeping(shell, view)) (look(shell, view)) }
    };
    shell.document("Settings", "", &main)
}

fn setting(title: &str, note: &str, control: &Markup) -> Markup {
    html! { div.set { div { b { (title) } p.small.muted { (note) } } div { (control) } } }
}

fn one(shell: &Shell, name: &str, input: &Markup) -> Markup {
    html! {
        form.reach method="post" action="/settings" {
            (csrf(shell))
            input type="hidden" name="setting" value=(name);
            (input)
            button.btn.sm disabled[!shell.can_write] { "Save" }
        }
    }
}

fn network(shell: &Shell, view: &SettingsView) -> Markup {
    let name =
        html! { input.field name="value" value=(view.network) aria-label="Name" required maxlength="63"; };
    let switch = |is_on: bool, name: &str| {
        html! {
            select.field name="value" aria-label=(name) {
                option value="on" selected[is_on] { "on" }
                option value="off" selected[!is_on] { "off" }
            }
        }
    };
    let approval = switch(view.approval, "Approval");
    let connections = switch(view.record_connections, "Remember connections");
    let expiry = html! {
        select.field name="value" aria-label="Key expiry" {
            @for (days, word) in [(0, "never"), (30, "30 days"), (90, "90 days"), (180, "180 days"), (365, "a year")] {
                option value=(days) selected[days == view.key_expiry_days] { (word) }
            }
        }
    };
    html! {
        section.card.pad {
            h2 { "Network" }
            (setting("Name", "Shown on every machine and in invites", &one(shell, "network", &name)))
            (setting("Address range", "New machines get the next free address", &html! { span.mono { (view.address_range) } }))
            (setting("New machines need approval", "Invites for one person are approved already", &one(shell, "approval", &approval)))
            (setting("Keys expire after", "Tagged machines never expire", &one(shell, "key-expiry", &expiry)))
            (setting("Remember connections for 30 days", "Who reached which port of whom, so that Access can name what a rule would cut. Off forgets them", &one(shell, "connections", &connections)))
        }
    }
}

fn sign_in(shell: &Shell, view: &SettingsView) -> Markup {
    let way = shell.viewer.as_ref().map(|v| v.way.clone()).unwrap_or_default();
    html! {
        section.card.pad {
            h2 { "Signing in to this page" }
            (setting("You", &format!("You are signed in {way}"), &html! {
                form method="post" action="/sign-out" { (csrf(shell)) button.btn.sm { "Sign out" } }
            }))
            @match &view.passkeys {
                Passkeys::NeedsName => (setting("Passkeys", &format!("Passkeys need a domain name and https; browsers refuse bare addresses. You are signed in {way}. With a domain: samewire up --domain NAME"), &html! {})),
                Passkeys::AtUrl(url) => (setting("Passkeys", "They work where this page is opened by its own name", &html! { a href=(url) { (url) } })),
                Passkeys::Offered(keys) => {
                    (setting("Passkeys", if keys.is_empty() { "None yet" } else { "Each signs you in on the devices that keep it" }, &html! {
                        button #passkey-add .btn.sm type="button" data-csrf=(shell.csrf) disabled[!shell.can_write] { "Add a passkey" }
                    }))
                    p #passkey-says .note role="alert" hidden {}
                    @for (id, words) in keys {
                        (setting("", &format!("Passkey {}, {words}", id.chars().take(6).collect::<String>()), &Act { to: "/settings/passkeys/remove", label: "Remove", class: "sm quiet", fields: &[("id", id)] }.show(shell)))
                    }
                }
            }
            (setting("Company sign-in (OIDC)", &view.oidc, &html! {}))
        }
    }
}

fn keeping(shell: &Shell, view: &SettingsView) -> Markup {
    html! {
        section.card.pad {
            h2 { "Safe keeping" }
            (setting("Backup", &view.backup, &html! {
                form method="post" action="/settings/backup" { (csrf(shell)) button.btn.sm disabled[!shell.can_write] { "Download" } }
            }))
            (setting("Restore", "On the server: samewire restore FILE", &html! {}))
            (setting("Version", &view.version, &html! {}))
            (setting("Move to another server", "Back up here, restore there; every machine follows by itself", &html! {}))
        }
    }
}

fn look(shell: &Shell, view: &SettingsView) -> Markup {
    let themes = [
        (Theme::System, "system", "as the system"),
        (Theme::Light, "light", "light"),
        (Theme::Dark, "dark", "dark"),
    ];
    html! {
        section.card.pad {
            h2 { "This page" }
            (setting("Colours", "Kept in this browser", &html! {
                form.reach method="post" action="/settings/theme" {
                    (csrf(shell))
                    select.field name="theme" aria-label="Colours" {
                        @for (theme, value, word) in themes { option value=(value) selected[theme == view.theme] { (word) } }
                    }
                    button.btn.sm { "Save" }
                }
            }))
            (setting("Keys", "Press ? for the list of keys", &html! { button #keys-switch .btn.sm type="button" { "Switch off" } }))
        }
    }
}
