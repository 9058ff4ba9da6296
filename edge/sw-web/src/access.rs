//! `/access`: the policy editor, what a change would do, who reaches what, versions.

use crate::parts::{Act, Kind, csrf, pill};
use crate::shell::Shell;
use maud::{Markup, html};

#[derive(Clone, Debug, Default)]
pub struct AccessView {
    /// "Who may reach what. Version 12, saved by Ada on 19 November."
    pub sentence: String,
    pub tab: Tab,
    /// Version shown; a save names it, so that a second editor's save is noticed.
    pub version: u64,
    pub text: String,
    pub check: CheckView,
    pub is_default: bool,
    pub matrix: Matrix,
    pub history: Vec<Version>,
    /// Seconds left of a risky version that nobody has confirmed yet.
    pub unconfirmed_s: Option<u64>,
    pub reach: ReachView,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Tab {
    #[default]
    Rules,
    Matrix,
    Tests,
    History,
}

impl Tab {
    const ALL: [Self; 4] = [Self::Rules, Self::Matrix, Self::Tests, Self::History];

    /// The value of `?tab=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Rules => "rules",
            Self::Matrix => "matrix",
            Self::Tests => "tests",
            Self::History => "history",
        }
    }

    /// Reads `?tab=`; anything unknown is the first.
    pub fn parse(text: &str) -> Self {
        Self::ALL.into_iter().find(|tab| tab.as_str() == text).unwrap_or_default()
    }

    fn title(self) -> &'static str {
        match self {
            Self::Rules => "Rules",
            Self::Matrix => "Who reaches what",
            Self::Tests => "Tests",
            Self::History => "History",
        }
    }
}

/// What checking the text gave: errors under their lines, and the effect compared with the stored version.
#[derive(Clone, Debug, Default)]
pub struct CheckView {
    pub errors: Vec<PolicyError>,
    /// Failing tests of the policy itself, one sentence each.
    pub failing_tests: Vec<String>,
    pub tests_total: usize,
    pub gains: Vec<Effect>,
    pub losses: Vec<Effect>,
    /// Connections of the last 30 days that would be refused.
    pub cuts: Vec<Effect>,
    /// "birch stays reachable from ada-laptop", or why it does not.
    pub way_in: Option<(bool, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct PolicyError {
    /// From 1.
    pub line: usize,
    /// From 1, in characters.
    pub column: usize,
    /// Characters underlined; 0 underlines to the end of the word.
    pub len: usize,
    pub what: String,
    pub fix: String,
}

#[derive(Clone, Debug, Default)]
pub struct Effect {
    pub what: String,
    pub note: String,
}

#[derive(Clone, Debug, Default)]
pub struct Version {
    pub number: u64,
    pub author: String,
    pub when: String,
    pub note: String,
    pub is_current: bool,
}

/// People and tags down, machines and tags across.
#[derive(Clone, Debug, Default)]
pub struct Matrix {
    pub columns: Vec<String>,
    /// Row name and, for each column, the ports ("all", "22, 443", empty).
    pub rows: Vec<(String, Vec<String>)>,
}

#[derive(Clone, Debug, Default)]
pub struct ReachView {
    pub src: String,
    pub dst: String,
    pub port: String,
    pub answer: Option<(bool, String)>,
}

/// Three ways to narrow the default, for those who do not want to write rules.
pub const PRESETS: [(&str, &str, &str); 3] = [
    (
        "own",
        "Everyone reaches their own machines",
        "{\n  \"grants\": [\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},\n  ],\n}\n",
    ),
    (
        "own-shared",
        "… and shared ones marked tag:shared",
        "{\n  \"tagOwners\": {\"tag:shared\": [\"autogroup:admin\"]},\n  \"grants\": [\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"tag:shared\"], \"ip\": [\"*\"]},\n  ],\n}\n",
    ),
    (
        "office",
        "… and members reach only web and printing on them",
        "{\n  \"tagOwners\": {\"tag:shared\": [\"autogroup:admin\"]},\n  \"grants\": [\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"autogroup:self\"], \"ip\": [\"*\"]},\n    {\"src\": [\"autogroup:member\"], \"dst\": [\"tag:shared\"], \"ip\": [\"80\", \"443\", \"631\"]},\n    {\"src\": [\"autogroup:admin\"], \"dst\": [\"*\"], \"ip\": [\"*\"]},\n  ],\n}\n",
    ),
];

/// The whole page.
pub fn page(shell: &Shell, view: &AccessView) -> String {
    let main = html! {
        @if let Some(seconds) = view.unconfirmed_s { (confirm_band(shell, view.version, seconds)) }
        div.top { div { h1 { "Access" } p { (view.sentence) } } }
        nav.tabs aria-label="Parts of this page" {
            @for tab in Tab::ALL {
                a href={ "/access?tab=" (tab.as_str()) } aria-current=[(tab == view.tab).then_some("page")] {
                    (tab.title())
                    @if tab == Tab::Tests && view.check.tests_total > 0 {
                        ", " (view.check.tests_total - view.check.failing_tests.len()) " hold"
                    }
                }
            }
        }
        @match view.tab {
            Tab::Rules => (rules(shell, view)),
            Tab::Matrix => (matrix(&view.matrix)),
            Tab::Tests => (tests(&view.check)),
            Tab::History => (history(shell, &view.history)),
        }
    };
    shell.document("Access", "", &main)
}

fn rules(shell: &Shell, view: &AccessView) -> Markup {
    html! {
        @if view.is_default {
            section.card.pad.presets {
                p { "Everyone reaches everything. Fine for a family; narrow it when others join." }
                div.chips { @for (id, title, _) in PRESETS { a.chip href={ "/access?preset=" (id) } { (title) } } }
            }
        }
        div.ed {
            form #policy .card method="post" action="/access" {
                (csrf(shell))
                input type="hidden" name="base" value=(view.version);
                div.edhead {
                    label for="text" { b { "policy.hujson" } }
                    span.sp {}
                    span #errors-count .small { (error_count(&view.check)) }
                    button #save .btn.go.sm disabled[!may_save(shell, &view.check)] { "Save version " (view.version + 1) }
                }
                div.edbody {
                    div #marks .marks aria-hidden="true" { (marks(&view.text, &view.check)) }
                    textarea #text name="text" spellcheck="false" autocapitalize="off" autocomplete="off" wrap="off"
                        rows=(view.text.lines().count().clamp(18, 60) + 1) { (view.text) }
                }
                (error_list(&view.check))
            }
            aside.stack {
                (effects(&view.check))
                (reach(&view.reach))
                section.card.pad { h2 { "When you save" } p #whynot .small.muted { (why_not(&view.check)) } }
            }
        }
    }
}

fn may_save(shell: &Shell, check: &CheckView) -> bool {
    shell.can_write && check.errors.is_empty() && check.failing_tests.is_empty()
}

/// "1 error", swapped by the script after each check.
pub fn error_count(check: &CheckView) -> Markup {
    html! {
        @match check.errors.len() {
            0 => span.plus { "no error" },
            1 => span.minus { "1 error" },
            n => span.minus { (n) " errors" },
        }
    }
}

/// Why Save is off, or what it will do.
pub fn why_not(check: &CheckView) -> String {
    if let Some(error) = check.errors.first() {
        return format!("Saving waits for line {}.", error.line);
    }
    if let Some(test) = check.failing_tests.first() {
        return format!("Saving waits for a test of this policy: {test}.");
    }
    "Every machine has it within a second. A change that could cut you off is undone after 60 seconds unless you confirm it from here.".into()
}

/// Line backgrounds and underlines behind the text area, one element per line that has something to say.
pub fn marks(text: &str, check: &CheckView) -> Markup {
    html! {
        @for (index, line) in text.lines().enumerate() {
            @let error = check.errors.iter().find(|e| e.line == index + 1);
            span.l.err[error.is_some()] {
                @if let Some(error) = error {
                    @let before: String = line.chars().take(error.column.saturating_sub(1)).collect();
                    @let wrong: String = line.chars().skip(error.column.saturating_sub(1)).take(error.len.max(1)).collect();
                    (before) u { (wrong) }
                }
            }
        }
    }
}

/// The errors as a list; each is a link that puts the cursor there.
pub fn error_list(check: &CheckView) -> Markup {
    html! {
        ol #errors .errors role=[(!check.errors.is_empty()).then_some("alert")] hidden[check.errors.is_empty() && check.failing_tests.is_empty()] {
            @for error in &check.errors {
                li data-line=(error.line) data-column=(error.column) {
                    b { "Line " (error.line) ", column " (error.column) ": " (error.what) }
                    @if !error.fix.is_empty() { " " span { (error.fix) } }
                }
            }
            @for test in &check.failing_tests { li { b { "A test fails: " } span { (test) } } }
        }
    }
}

/// What the change gives and takes.
pub fn effects(check: &CheckView) -> Markup {
    html! {
        section #effects .card {
            div.effhead {
                h2 { "What this would change" }
                p.small.muted {
                    @if check.errors.is_empty() { "Compared with the version in use." }
                    @else { "Known once line " (check.errors[0].line) " is right." }
                }
            }
            @if check.errors.is_empty() {
                div.eff {
                    @for gain in &check.gains { (effect("plus", "+", gain)) }
                    @if check.gains.is_empty() { (effect("plus", "+", &Effect { what: "Nobody gains anything".into(), note: String::new() })) }
                    @for loss in &check.losses { (effect("minus", "−", loss)) }
                    @if check.losses.is_empty() { (effect("minus", "−", &Effect { what: "Nobody loses anything".into(), note: String::new() })) }
                    @for cut in &check.cuts { (effect("minus", "✗", cut)) }
                    @if let Some((stays, note)) = &check.way_in {
                        @let what = if *stays { "You keep your way in" } else { "You would lose your way in" };
                        (effect(if *stays { "plus" } else { "minus" }, if *stays { "✓" } else { "✗" }, &Effect { what: what.into(), note: note.clone() }))
                    }
                }
                p.small.muted.pad { "Real connections: those of the last 30 days that samewire machines answered. The Tailscale app tells none." }
            }
        }
    }
}

fn effect(class: &str, sign: &str, effect: &Effect) -> Markup {
    html! {
        div.e {
            i class=(class) { (sign) }
            div { (effect.what) @if !effect.note.is_empty() { br; span.small.muted { (effect.note) } } }
        }
    }
}

fn reach(reach: &ReachView) -> Markup {
    html! {
        section.card.pad {
            h2 { "Can it reach?" }
            form.reach method="get" action="/access" {
                label { span.vh { "From" } input.field name="src" value=(reach.src) placeholder="ada" autocomplete="off"; }
                span.muted { "to" }
                label { span.vh { "To" } input.field name="dst" value=(reach.dst) placeholder="attic-nas" autocomplete="off"; }
                label { span.vh { "Port" } input.field.port.mono name="port" value=(reach.port) placeholder="22" inputmode="numeric"; }
                button.btn.sm { "Ask" }
            }
            @if let Some((allowed, sentence)) = &reach.answer {
                p.ans { (pill(if *allowed { Kind::Direct } else { Kind::Bad }, if *allowed { "yes" } else { "no" })) span.small.muted { (sentence) } }
            }
        }
    }
}

fn matrix(matrix: &Matrix) -> Markup {
    html! {
        div.card.scroll { table {
            thead { tr { th scope="col" { "From" } @for column in &matrix.columns { th scope="col" { (column) } } } }
            tbody { @for (name, cells) in &matrix.rows {
                tr { th scope="row" { (name) } @for cell in cells { td.mono { @if cell.is_empty() { span.muted { "no" } } @else { (cell) } } } }
            } }
        } }
    }
}

fn tests(check: &CheckView) -> Markup {
    html! {
        section.card.pad {
            @if check.tests_total == 0 {
                p { "The policy has no tests yet. Add a section \"tests\": what it says must hold, or nothing is saved." }
            } @else {
                p { (check.tests_total - check.failing_tests.len()) " of " (check.tests_total) " hold." }
                ul { @for test in &check.failing_tests { li { (test) } } }
            }
        }
    }
}

fn history(shell: &Shell, versions: &[Version]) -> Markup {
    html! {
        div.card.scroll { table.cards {
            thead { tr { th scope="col" { "Version" } th scope="col" { "Saved by" } th scope="col" { "When" } th scope="col" { "What" } th.num scope="col" {} } }
            tbody {
                @for version in versions {
                    tr {
                        td { (version.number) @if version.is_current { " " span.tag { "in use" } } }
                        td { (version.author) }
                        td { (version.when) }
                        td.muted { (version.note) }
                        td.num {
                            a.btn.sm.quiet href={ "/access?version=" (version.number) } { "Show" }
                            @if !version.is_current {
                                (Act { to: "/access/rollback", label: "Put back", class: "sm", fields: &[("version", &version.number.to_string())] }.show(shell))
                            }
                        }
                    }
                }
                @if versions.is_empty() { tr { td colspan="5" { "No version was saved yet; everyone reaches everything." } } }
            }
        } }
    }
}

fn confirm_band(shell: &Shell, version: u64, seconds: u64) -> Markup {
    html! {
        section.need.band role="alert" data-seconds=(seconds) {
            div.row {
                div.t {
                    b { "Version " (version) " could cut off your way in. " }
                    "It is taken back in " span #band-seconds { (seconds) } " seconds."
                }
                (Act { to: "/access/keep", label: "Keep", class: "sm", fields: &[("version", &version.to_string())] }.show(shell))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Page;

    fn with_error() -> AccessView {
        let error = PolicyError {
            line: 2,
            column: 11,
            len: 9,
            what: "No tag is called tag:bulid.".into(),
            fix: "Did you mean tag:build?".into(),
        };
        AccessView {
            text: "{\n  \"dst\": \"tag:bulid\"\n}".into(),
            version: 12,
            check: CheckView { errors: vec![error], ..CheckView::default() },
            ..AccessView::default()
        }
    }

    #[test]
    fn an_error_stands_in_the_list_and_save_is_off_and_says_why() {
        let html = page(&Shell::for_tests(Page::Access), &with_error());
        assert!(html.contains("Line 2, column 11: No tag is called tag:bulid."));
        assert!(html.contains("Saving waits for line 2."));
        assert!(html.contains("id=\"save\" disabled"));
        assert!(html.contains("<u>tag:bulid</u>"), "the wrong word is underlined");
    }

    #[test]
    fn a_good_policy_can_be_saved_as_the_next_version() {
        let mut view = with_error();
        view.check = CheckView::default();
        let html = page(&Shell::for_tests(Page::Access), &view);
        assert!(html.contains("Save version 13") && !html.contains("id=\"save\" disabled"));
    }
}
