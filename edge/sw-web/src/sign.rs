//! Pages before or beside signing in: the one-time link, a device's login page, its approval, the phone's steps.

use crate::parts::segment;
use crate::shell::{Theme, bare};
use maud::{Markup, html};

/// `/sign-in`: how to get in; says why the last try did not work.
#[derive(Clone, Debug, Default)]
pub struct SignInView {
    pub refused: String,
    /// Host of the company's provider; empty without one.
    pub oidc_name: String,
    /// Path to go on to after signing in.
    pub next: String,
    pub passkeys: bool,
    pub theme: Theme,
}

/// The page for somebody who is not signed in.
pub fn sign_in(view: &SignInView) -> String {
    let main = html! {
        h1 { "Sign in" }
        @if !view.refused.is_empty() { p.note role="alert" { (view.refused) } }
        p.lead { "Open this page on a machine of the network that belongs to an owner or admin, or use a one-time link." }
        div.acts {
            @if view.passkeys { button #passkey-use .btn.go type="button" data-next=(view.next) { "Use a passkey" } }
            @if !view.oidc_name.is_empty() { a.btn href={ "/oidc/start?next=" (segment(&view.next)) } { "Sign in with " (view.oidc_name) } }
        }
        p #passkey-says .note role="alert" hidden {}
        p.small.muted { "A new link: on the first machine run " code { "samewire admin" } }
    };
    bare("Sign in", view.theme, "phone", &main)
}

/// After the company's provider; the answer's `Refresh` header goes on by itself, as a step that this page began.
pub fn go_on(to: &str, theme: Theme) -> String {
    let main = html! {
        h1 { "Signed in" }
        div.acts { a.btn.go href=(to) { "Go on" } }
    };
    bare("Signed in", theme, "phone", &main)
}

/// `/admin/TOKEN`: the GET changes nothing; the button uses the link up.
pub fn admin_link(token: &str, theme: Theme) -> String {
    let main = html! {
        h1 { "Sign in as owner on this browser" }
        p.lead { "This link works once. It was made on the first machine." }
        form.acts method="post" action={ "/admin/" (token) } { button.btn.go { "Sign in" } }
        p.small.muted { "Not you? Close this page; nothing has happened." }
    };
    bare("Sign in", theme, "phone", &main)
}

/// The same link a second time, or too late.
pub fn admin_link_gone(theme: Theme) -> String {
    let main = html! {
        h1 { "This link has been used, or its hour is over" }
        p.lead { "On the first machine, make a new one: " code { "sudo samewire admin" } }
    };
    bare("Link used", theme, "phone", &main)
}

/// A device that asks to join.
#[derive(Clone, Debug, Default)]
pub struct DeviceView {
    pub id: String,
    pub name: String,
    /// "Pixel 10, Android 16".
    pub device: String,
    pub from: String,
    /// "the same network you are on"; empty otherwise.
    pub from_note: String,
    pub words: String,
    pub key: String,
    pub asked: String,
    pub csrf: String,
    /// Who approves; `None` shows the device's own side.
    pub viewer: Option<String>,
    pub will_be: String,
    pub theme: Theme,
}

/// `/register/ID` for somebody not signed in: it names nobody, and goes on by itself once approved.
pub fn device_waits(view: &DeviceView) -> String {
    let main = html! {
        h1 { (view.name) " asks to join" }
        p.lead { "Ask someone in the network to approve it, or sign in." }
        (join_picture())
        dl.facts.big { dt { "Words" } dd { b { (view.words) } br; span.small.muted { "the same words stand on the approver's screen" } } }
        div.acts { a.btn href={ "/sign-in?next=/register/" (view.id) } { "Sign in" } }
        p #waiting-device .small.muted data-wait={ "/register/" (view.id) "/state" } aria-live="polite" { "Waiting for approval. This page goes on by itself." }
    };
    bare("Waiting for approval", view.theme, "phone", &main)
}

/// The approver's side.
pub fn approve(view: &DeviceView) -> String {
    let who = view.viewer.as_deref().unwrap_or_default();
    let main = html! {
        (join_picture())
        h1 { "Let " (view.name) " join?" }
        p.lead { (view.will_be) }
        dl.facts.big {
            dt { "Device" } dd { (view.device) }
            dt { "Asks from" } dd { (view.from) @if !view.from_note.is_empty() { br; span.small.muted { (view.from_note) } } }
            dt { "Words" } dd { b { (view.words) } br; span.small.muted { "the same words stand on its screen" } }
            dt { "Key" } dd.mono { (view.key) }
            dt { "Asked" } dd { (view.asked) }
        }
        p.small.muted.check { "Approve only a device that you, or someone you know, set up just now." }
        form.acts method="post" action={ "/register/" (view.id) } {
            input type="hidden" name="csrf" value=(view.csrf);
            button.btn.go name="answer" value="approve" { "Approve" }
            button.btn name="answer" value="refuse" { "Refuse" }
        }
        form.small.muted.signed method="post" action="/sign-out" {
            input type="hidden" name="csrf" value=(view.csrf);
            "Signed in as " (who) ". " button.linklike { "Not you?" }
        }
    };
    bare(&format!("Let {} join?", view.name), view.theme, "phone", &main)
}

/// After the answer, on either side.
pub fn device_done(name: &str, address: &str, is_in: bool, theme: Theme) -> String {
    let main = html! {
        @if is_in {
            (join_picture())
            h1 { (name) " is in" }
            p.lead { "Its address is " code { (address) } ". You can close this page." }
            div.acts { a.btn href="/machines" { "All machines" } }
        } @else {
            h1 { (name) " was refused" }
            p.lead { "It cannot join with this request. You can close this page." }
        }
    };
    bare(name, theme, "phone", &main)
}

/// A login request that is over or never was.
pub fn device_gone(theme: Theme) -> String {
    let main = html! {
        h1 { "This request is over" }
        p.lead { "It works once and for 30 minutes. On the device, choose Log in again." }
    };
    bare("Request over", theme, "phone", &main)
}

/// An SSH session that waits for its person.
#[derive(Clone, Debug, Default)]
pub struct SshCheckView {
    pub id: String,
    /// The machine it comes from.
    pub from: String,
    /// The machine it goes to.
    pub to: String,
    /// The account there.
    pub login: String,
    /// "2 minutes ago".
    pub asked: String,
    pub csrf: String,
    /// Who is signed in.
    pub viewer: String,
    /// The answer, once there is one.
    pub allowed: Option<bool>,
    pub theme: Theme,
}

/// "Is this you?"
pub fn ssh_check(view: &SshCheckView) -> String {
    let main = html! {
        @match view.allowed {
            None => {
                h1 { "Is this you?" }
                p.lead { "An SSH session from " b { (view.from) } " to " b { (view.to) } " waits." }
                dl.facts.big {
                    dt { "Account" } dd { (view.login) }
                    dt { "Asked" } dd { (view.asked) }
                }
                p.small.muted.check { "Allow it only if you began it just now." }
                form.acts method="post" action={ "/check/" (view.id) } {
                    input type="hidden" name="csrf" value=(view.csrf);
                    button.btn.go name="answer" value="allow" { "Allow" }
                    button.btn name="answer" value="refuse" { "Refuse" }
                }
            }
            Some(true) => {
                h1 { "The session begins" }
                p.lead { "You can close this page." }
            }
            Some(false) => {
                h1 { "The session was refused" }
                p.lead { "If you did not begin it, somebody else uses " (view.from) "." }
            }
        }
        form.small.muted.signed method="post" action="/sign-out" {
            input type="hidden" name="csrf" value=(view.csrf);
            "Signed in as " (view.viewer) ". " button.linklike { "Not you?" }
        }
    };
    bare("An SSH session waits", view.theme, "phone", &main)
}

/// A session that is over or never was.
pub fn ssh_check_gone(theme: Theme) -> String {
    let main = html! {
        h1 { "This session is over" }
        p.lead { "It waits 30 minutes at most. Begin it again." }
    };
    bare("Session over", theme, "phone", &main)
}

/// Which app store and which steps.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Platform {
    Ios,
    Android,
    #[default]
    Other,
}

impl Platform {
    /// Reads a browser's `User-Agent`.
    pub fn from_user_agent(text: &str) -> Self {
        if text.contains("Android") {
            Self::Android
        } else if text.contains("iPhone") || text.contains("iPad") {
            Self::Ios
        } else {
            Self::Other
        }
    }
}

/// `/j/TOKEN` in a browser: three steps, the address to copy, and a line that goes on by itself.
pub fn phone(platform: Platform, login_server: &str, join_line: &str, ends: &str, theme: Theme) -> String {
    let steps: &[&str] = match platform {
        Platform::Ios => &[
            "Install Tailscale from the App Store and open it.",
            "Account picture top right, Log in, then the menu (...), Use custom coordination server. Paste the address.",
            "Tap Join on the page that opens, then allow the VPN profile.",
        ],
        Platform::Android => &[
            "Install Tailscale from the Play Store or F-Droid and open it.",
            "Settings (top right), Accounts, menu (three dots), Use an alternate server. Paste the address.",
            "Tap Join on the page that opens.",
        ],
        Platform::Other => &[],
    };
    let main = html! {
        h1 { "Join this network" }
        p.lead { "This invite is good " (ends) "." }
        @if steps.is_empty() {
            p { "On a Linux machine, paste this line in a terminal:" }
            div.cmd.mono { (join_line) }
            div.acts { button.btn.go type="button" data-copy=(join_line) { "Copy line" } }
        } @else {
            ol.steps { @for step in steps { li { (step) } } }
            div.cmd.mono { (login_server) }
            div.acts { button.btn.go type="button" data-copy=(login_server) { "Copy address" } }
        }
        p.small.muted aria-live="polite" { "Waiting for the app." }
    };
    bare("Join this network", theme, "phone", &main)
}

/// An invite that is over: what is wrong with it, and the reason where one is known.
pub fn invite_gone(what: &str, why: &str, theme: Theme) -> String {
    let mut letters = what.trim_end_matches('.').chars();
    let title: String = letters.next().iter().flat_map(|first| first.to_uppercase()).chain(letters).collect();
    let main = html! {
        h1 { (title) }
        @if !why.is_empty() { p.muted { (why) "." } }
        p.lead { "On a machine in the network: " code { "samewire invite" } }
    };
    bare("Invite", theme, "phone", &main)
}

fn join_picture() -> Markup {
    html! {
        svg.joinpic viewBox="0 0 350 96" aria-hidden="true" {
            path.w-try d="M72 48C130 84 220 84 278 48" stroke-width="2.5" {}
            circle.f-acc cx="64" cy="44" r="12" {}
            circle.s-acc cx="286" cy="44" r="12" stroke-width="2.5" {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_link_page_only_offers_a_button() {
        let html = admin_link("4tYw8PzR2mLc6HsDq9XfBn", Theme::System);
        assert!(html.contains("method=\"post\" action=\"/admin/4tYw8PzR2mLc6HsDq9XfBn\""));
    }

    #[test]
    fn strangers_see_no_person_and_no_machine() {
        let view = DeviceView {
            name: "pixel".into(),
            words: "river lamp oak".into(),
            viewer: Some("Ada".into()),
            ..DeviceView::default()
        };
        let html = device_waits(&view);
        assert!(html.contains("river lamp oak") && !html.contains("Ada"));
    }

    #[test]
    fn a_phone_gets_its_own_steps() {
        let agent = "Mozilla/5.0 (iPhone; CPU iPhone OS 26_0 like Mac OS X)";
        assert_eq!(Platform::from_user_agent(agent), Platform::Ios);
        let html = phone(Platform::Ios, "https://203.0.113.7", "curl …", "until 15:12", Theme::System);
        assert!(html.contains("custom coordination server") && html.contains("https://203.0.113.7"));
    }
}
