//! `/log`: who changed what, and the way back.

use crate::parts::{Act, segment};
use crate::shell::Shell;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct LogView {
    /// "1,204 entries since 12 October."
    pub sentence: String,
    pub entries: Vec<Entry>,
    /// One of `KINDS`, empty for all.
    pub kind: String,
    /// Person, machine or word looked for.
    pub query: String,
}

#[derive(Clone, Debug, Default)]
pub struct Entry {
    pub when: String,
    pub who: String,
    pub what: String,
    /// Old and new value, when there are.
    pub old: String,
    pub new: String,
    /// Where a POST undoes it.
    pub undo: Option<String>,
}

/// Value of `?kind=` and its word.
pub const KINDS: [(&str, &str); 5] =
    [("", "All"), ("machines", "Machines"), ("access", "Access"), ("keys", "Keys"), ("sign-in", "Sign-in")];

/// The whole page.
pub fn page(shell: &Shell, view: &LogView) -> String {
    let main = html! {
        div.top { div { h1 { "Log" } p { (view.sentence) } } span.sp {} a.btn.quiet href="/log/export" { "Export" } }
        div.bar.wrap {
            form.search role="search" action="/log" method="get" {
                label.vh for="q" { "Find a person, machine or word" }
                input type="hidden" name="kind" value=(view.kind);
                input #q type="search" name="q" value=(view.query) placeholder="Person, machine, word" autocomplete="off";
                kbd.kbd aria-hidden="true" { "/" }
            }
            div.chips {
            @for (kind, word) in KINDS {
                a.chip href={ "/log?kind=" (kind) "&q=" (segment(&view.query)) } aria-current=[(kind == view.kind).then_some("true")] { (word) }
            }
        } }
        @if view.entries.is_empty() && !(view.query.is_empty() && view.kind.is_empty()) {
            section.card.pad.empty { p { "No entry fits. " a href="/log" { "Show all" } } }
        } @else {
            (table(shell, &view.entries))
        }
    };
    shell.document("Log", "", &main)
}

/// The table; the History tab of a machine shows the same.
pub(crate) fn table(shell: &Shell, entries: &[Entry]) -> Markup {
    html! {
        @if entries.is_empty() {
            section.card.pad.empty { p { "Nothing has happened yet." } }
        } @else {
            div.card.scroll { table.cards {
                thead { tr {
                    th scope="col" { "When" } th scope="col" { "Who" } th scope="col" { "What" }
                    th.num scope="col" {}
                } }
                tbody { @for entry in entries {
                    tr {
                        td { (entry.when) }
                        td { span.name { (entry.who) } }
                        td.all {
                            (entry.what)
                            @match (entry.old.is_empty(), entry.new.is_empty()) {
                                _ if entry.old == entry.new => {}
                                (false, false) => span.sub { span.tag { (entry.old) } " to " span.tag { (entry.new) } },
                                (true, _) => span.sub { span.tag { (entry.new) } },
                                (false, true) => span.sub { "was " span.tag { (entry.old) } },
                            }
                        }
                        td.num { @if let Some(to) = &entry.undo { (Act { to, label: "Undo", class: "sm quiet", fields: &[] }.show(shell)) } }
                    }
                } }
            } }
        }
    }
}
