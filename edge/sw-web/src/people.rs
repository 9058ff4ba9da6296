//! `/people`: who is in the network, and who is invited.

use crate::parts::{Act, csrf, initials, section};
use crate::shell::Shell;
use maud::html;

#[derive(Clone, Debug, Default)]
pub struct PeopleView {
    /// "4 people, 1 invited."
    pub sentence: String,
    pub people: Vec<Person>,
    pub invites: Vec<Invite>,
}

#[derive(Clone, Debug, Default)]
pub struct Person {
    pub id: String,
    pub name: String,
    /// As in the policy: "ada@".
    pub login: String,
    pub role: String,
    pub machines: usize,
    pub sign_in: String,
    pub seen: String,
}

#[derive(Clone, Debug, Default)]
pub struct Invite {
    pub id: String,
    pub for_whom: String,
    pub sent: String,
    pub may: String,
    pub ends: String,
    /// The link, shown once right after it was made.
    pub link: String,
}

/// The roles that can be given.
pub const ROLES: [&str; 3] = ["member", "admin", "owner"];

/// The whole page.
pub fn page(shell: &Shell, view: &PeopleView) -> String {
    let main = html! {
        div.top {
            div { h1 { "People" } p { (view.sentence) } }
            span.sp {}
            details.menu {
                summary.btn.go { "Invite someone" }
                form.card.pad.pop method="post" action="/people/invite" {
                    (csrf(shell))
                    label { "Name" input.field name="name" required maxlength="63" autocomplete="off" placeholder="sam"; }
                    label { "May" select.field name="role" { option value="member" { "be a member" } option value="admin" { "be an admin" } } }
                    button.btn.go { "Make the link" }
                }
            }
        }
        @if view.people.len() <= 1 && view.invites.is_empty() {
            section.card.pad.empty { p { "Just you. Invite someone with a link; they need no account." } }
        }
        div.card.scroll { table.cards {
            thead { tr {
                th scope="col" { "Person" } th scope="col" { "Role" } th scope="col" { "Machines" }
                th scope="col" { "Signs in by" } th scope="col" { "Seen" } th.num scope="col" {}
            } }
            tbody { @for person in &view.people {
                tr {
                    td { div.nm { span.av aria-hidden="true" { (initials(&person.name)) } span.avn { span.name { (person.name) } span.sub { (person.login) } } } }
                    td { (person.role) }
                    td data-l="machines" { (person.machines) }
                    td.muted { (person.sign_in) }
                    td.muted data-l="seen" { (person.seen) }
                    td.num {
                        details.menu {
                            summary.btn.sm.quiet { "Change" }
                            div.card.pad.pop {
                                form method="post" action={ "/people/" (person.id) "/role" } {
                                    (csrf(shell))
                                    label { "Role" select.field name="role" { @for role in ROLES { option value=(role) selected[role == person.role] { (role) } } } }
                                    button.btn.sm { "Save" }
                                }
                                form method="post" action={ "/people/" (person.id) "/remove" } {
                                    (csrf(shell))
                                    label { "To remove " (person.name) ", type " (person.login) input.field name="confirm" required autocomplete="off"; }
                                    button.btn.sm.danger { "Remove" }
                                }
                            }
                        }
                    }
                }
            } }
        } }
        @if !view.invites.is_empty() {
            (section("Open invites", "A link is enough; nobody needs an account"))
            div.card.scroll { table.cards {
                thead { tr { th scope="col" { "For" } th scope="col" { "May" } th scope="col" { "Ends" } th.num scope="col" {} } }
                tbody { @for invite in &view.invites {
                    tr {
                        td { span.name { (invite.for_whom) } span.sub { (invite.sent) } @if !invite.link.is_empty() { div.cmd.mono { (invite.link) } } }
                        td.muted { (invite.may) }
                        td.muted data-l="ends" { (invite.ends) }
                        td.num {
                            @if !invite.link.is_empty() { button.btn.sm.quiet type="button" data-copy=(invite.link) { "Copy link" } }
                            (Act { to: &format!("/keys/{}/revoke", invite.id), label: "Take back", class: "sm quiet", fields: &[] }.show(shell))
                        }
                    }
                } }
            } }
        }
    };
    shell.document("People", "", &main)
}
