//! `/machines`: everything in the network, and what waits for you.

use crate::parts::{Act, Connection, connection, count, segment};
use crate::shell::Shell;
use maud::{Markup, html};

/// Rows shown at once; more come by `?page=`.
pub const PAGE_LEN: usize = 200;

#[derive(Clone, Debug, Default)]
pub struct MachinesView {
    /// "9 machines, 8 online. 6 of 8 reach all others directly."
    pub sentence: String,
    pub waiting: Vec<Waiting>,
    /// Already filtered, sorted and cut to one page.
    pub rows: Vec<Row>,
    /// Machines that match the filter, all pages together.
    pub matching: usize,
    /// Page from 0.
    pub page: usize,
    pub query: String,
    pub filter: Filter,
    pub counts: Counts,
}

/// Numbers on the filter chips.
#[derive(Clone, Copy, Debug, Default)]
pub struct Counts {
    pub all: usize,
    pub online: usize,
    pub relayed: usize,
    pub update: usize,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Filter {
    #[default]
    All,
    Online,
    Relayed,
    Update,
}

impl Filter {
    /// The value of `?show=`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Online => "online",
            Self::Relayed => "relayed",
            Self::Update => "update",
        }
    }

    /// Reads `?show=`; anything unknown is `All`.
    pub fn parse(text: &str) -> Self {
        [Self::Online, Self::Relayed, Self::Update]
            .into_iter()
            .find(|f| f.as_str() == text)
            .unwrap_or_default()
    }
}

/// Something that waits for a decision.
#[derive(Clone, Debug)]
pub enum Waiting {
    /// A device that asks to join.
    Join { id: String, name: String, person: String, facts: String, key: String },
    /// A machine that offers a subnet or wants to be an exit node.
    Route { machine: String, route: String, facts: String },
}

#[derive(Clone, Debug, Default)]
pub struct Row {
    pub name: String,
    pub os: String,
    /// "first machine", "exit node", tags, subnets.
    pub chips: Vec<String>,
    pub address: String,
    pub connection: Connection,
    /// Empty for a tagged machine.
    pub person: String,
    pub software: String,
    /// "now", "3 days ago".
    pub seen: String,
    pub online: bool,
}

/// The whole page.
pub fn page(shell: &Shell, view: &MachinesView) -> String {
    let main = html! {
        div.top {
            div { h1 { "Machines" } p #machines-sentence { (view.sentence) } }
            span.sp {}
            a.btn.go href="/machines/add" { "Add a machine" }
        }
        (waiting(shell, &view.waiting))
        @if view.counts.all > 0 { (bar(view)) }
        @if view.counts.all <= 1 && view.query.is_empty() {
            section.card.pad.empty {
                p {
                    @if view.counts.all == 0 { "No machine yet. Add the first one; it takes a minute." }
                    @else { "Only this machine so far. Add the second one; it takes a minute." }
                }
                p.below { a.btn href="/machines/add" { "Add a machine" } }
            }
        }
        @if view.rows.is_empty() {
            @if view.counts.all > 1 { section.card.pad.empty { p { "No machine fits. " a href="/machines" { "Show all" } } } }
        } @else {
            (table(&view.rows))
        }
        (foot(view))
    };
    shell.document("Machines", "", &main)
}

/// What waits for the viewer; swapped as one fragment.
pub fn waiting(shell: &Shell, items: &[Waiting]) -> Markup {
    html! {
        section #waiting .need aria-label="Waiting for you" hidden[items.is_empty()] {
            @for item in items {
                div.row {
                    span.dot.wait {}
                    @match item {
                        Waiting::Join { id, name, person, facts, key } => {
                            div.t {
                                b { (name) } " asks to join"
                                @if !person.is_empty() { " as " (person) }
                                ". " span.muted { (facts) ", words " b { (key) } }
                            }
                            (Act { to: &format!("/machines/{}/approve", segment(id)), label: "Approve", class: "sm", fields: &[] }.show(shell))
                            (Act { to: &format!("/machines/{}/refuse", segment(id)), label: "Refuse", class: "sm quiet", fields: &[] }.show(shell))
                        }
                        Waiting::Route { machine, route, facts } => {
                            div.t {
                                b { (machine) } " offers a way to " code { (route) } ". " span.muted { (facts) }
                            }
                            (Act { to: &format!("/machines/{}/routes", segment(machine)), label: "Allow", class: "sm", fields: &[("route", route), ("allow", "1")] }.show(shell))
                        }
                    }
                }
            }
        }
    }
}

fn bar(view: &MachinesView) -> Markup {
    let chips = [
        (Filter::All, "All", view.counts.all),
        (Filter::Online, "Online", view.counts.online),
        (Filter::Relayed, "Relayed", view.counts.relayed),
        (Filter::Update, "Update", view.counts.update),
    ];
    html! {
        div.bar.wrap {
            form.search role="search" action="/machines" method="get" {
                label.vh for="q" { "Find a machine" }
                input #q type="search" name="q" value=(view.query) placeholder="Name, address, person, tag" autocomplete="off";
                kbd.kbd aria-hidden="true" { "/" }
            }
            div.chips {
                // A filter that no machine fits is left out.
                @for (filter, word, n) in chips.into_iter().filter(|(f, _, n)| *n > 0 || *f == Filter::All || *f == view.filter) {
                    a.chip href={ "/machines?show=" (filter.as_str()) } aria-current=[(filter == view.filter).then_some("true")] {
                        (word) " " (n)
                    }
                }
            }
        }
    }
}

fn table(rows: &[Row]) -> Markup {
    html! {
        div.card.scroll {
            table.cards.machines {
                caption.vh { "Machines" }
                thead { tr {
                    th scope="col" aria-sort="ascending" { "Machine" }
                    th scope="col" { "Address" }
                    th scope="col" { "Connected" }
                    th scope="col" { "Person" }
                    th scope="col" { "Software" }
                    th.num scope="col" { "Seen" }
                } }
                (self::rows(rows))
            }
        }
    }
}

/// The table's body; swapped under the id `machine-rows`.
pub fn rows(rows: &[Row]) -> Markup {
    html! { tbody #machine-rows { @for row in rows { (self::row(row)) } } }
}

/// One machine.
fn row(row: &Row) -> Markup {
    html! {
        tr id={ "m-" (row.name) } {
            td {
                div.nm {
                    span.dot.off[!row.online] {}
                    span {
                        a.name href={ "/machines/" (segment(&row.name)) } { (row.name) }
                        @for chip in &row.chips { " " span.tag { (chip) } }
                        span.sub { (row.os) }
                    }
                }
            }
            td.mono { (row.address) }
            td { (connection(&row.connection)) }
            td { @if row.person.is_empty() { span.muted { "none, tagged" } } @else { (row.person) } }
            td { (row.software) }
            td.num.muted { (row.seen) }
        }
    }
}

fn foot(view: &MachinesView) -> Markup {
    let pages = view.matching.div_ceil(PAGE_LEN);
    let link = |page: usize| {
        format!("/machines?show={}&q={}&page={page}", view.filter.as_str(), segment(&view.query))
    };
    html! {
        div.foot {
            span { (count(view.matching, "machine", "machines")) }
            @if pages > 1 {
                span { "page " (view.page + 1) " of " (pages) }
                @if view.page > 0 { a href=(link(view.page - 1)) { "Earlier" } }
                @if view.page + 1 < pages { a href=(link(view.page + 1)) { "Later" } }
            }
            span.live-word {}
            span.sp {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Page;

    #[test]
    fn a_hostile_host_name_is_text() {
        let name = "<img src=x onerror=alert(1)>".to_owned();
        let view = MachinesView {
            rows: vec![Row { name, ..Row::default() }],
            counts: Counts { all: 2, ..Counts::default() },
            ..MachinesView::default()
        };
        let html = page(&Shell::for_tests(Page::Machines), &view);
        assert!(!html.contains("<img"));
        assert!(html.contains("&lt;img src=x onerror=alert(1)&gt;"));
    }

    #[test]
    fn a_thousand_machines_stay_within_the_budget_of_a_page() {
        let rows = (0..PAGE_LEN).map(|i| Row {
            name: format!("machine-{i}"),
            os: "Debian 13".into(),
            ..Row::default()
        });
        let view = MachinesView {
            rows: rows.collect(),
            matching: 1_000,
            counts: Counts { all: 1_000, ..Counts::default() },
            ..MachinesView::default()
        };
        let html = page(&Shell::for_tests(Page::Machines), &view);
        assert!(html.len() < 200_000, "{} bytes before compression", html.len());
        assert!(html.contains("page 1 of 5"));
    }
}
