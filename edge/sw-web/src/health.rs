//! `/health`: one sentence and one button per problem; below, what is watched.

use crate::parts::Act;
use crate::shell::Shell;
use maud::html;

#[derive(Clone, Debug, Default)]
pub struct HealthView {
    pub problems: Vec<Problem>,
    pub watched: Vec<Watched>,
    /// "8 s ago".
    pub checked: String,
}

#[derive(Clone, Debug, Default)]
pub struct Problem {
    /// Whose it is; none where it is the server's.
    pub machine: Option<String>,
    pub what: String,
    pub why: String,
    /// The command that says more.
    pub help: Option<String>,
    pub button: Option<Button>,
}

/// Either a link (`post` false) or an act.
#[derive(Clone, Debug, Default)]
pub struct Button {
    pub label: String,
    pub to: String,
    pub post: bool,
}

#[derive(Clone, Debug, Default)]
pub struct Watched {
    pub what: String,
    pub state: String,
    pub is_well: bool,
}

/// The sentence under the title.
pub fn sentence(view: &HealthView) -> String {
    match view.problems.len() {
        0 => format!("All well. {} things are watched; last check {}.", view.watched.len(), view.checked),
        1 => "1 thing needs you. Everything else is well.".into(),
        n => format!("{n} things need you. Everything else is well."),
    }
}

/// The whole page.
pub fn page(shell: &Shell, view: &HealthView) -> String {
    let main = html! {
        div.top { div { h1 { "Health" } p { (sentence(view)) } } }
        div.stack {
            @for problem in &view.problems {
                section.card.hc {
                    div.t {
                        @if let Some(machine) = &problem.machine { p.small { a href={ "/machines/" (machine) } { (machine) } } }
                        h2 { (problem.what) } p.muted { (problem.why) }
                        @if let Some(help) = &problem.help { p.small.muted { "More: " code { (help) } } }
                    }
                    @if let Some(button) = &problem.button {
                        @if button.post { (Act { to: &button.to, label: &button.label, class: "", fields: &[] }.show(shell)) }
                        @else { a.btn href=(button.to) { (button.label) } }
                    }
                }
            }
            section.card.pad {
                h2 { "Watched" }
                div.oks { @for item in &view.watched {
                    div.okrow {
                        @if item.is_well { span.tick { "✓" } } @else { span.warnc { "!" } }
                        span { (item.what) } span.muted { (item.state) }
                    }
                } }
                p.small.muted.below { "Last check " (view.checked) ". The same in a terminal: " code { "samewire check" } }
            }
        }
    };
    shell.document("Health", "", &main)
}
