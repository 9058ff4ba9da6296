//! `/dns`: names, own records, who answers the rest.

use crate::parts::{Act, Kind, csrf, pill, section};
use crate::shell::Shell;
use maud::html;

#[derive(Clone, Debug, Default)]
pub struct DnsView {
    /// "Names end in home.internal. 2 own records."
    pub sentence: String,
    pub magic: bool,
    pub base_domain: String,
    pub records: Vec<Record>,
    /// (names, resolver, why); the last row is "everything else".
    pub resolvers: Vec<(String, String, String)>,
    pub asked: String,
    pub answer: Option<(bool, String, String)>,
}

#[derive(Clone, Debug, Default)]
pub struct Record {
    pub name: String,
    pub kind: String,
    pub value: String,
}

/// The whole page.
pub fn page(shell: &Shell, view: &DnsView) -> String {
    let main = html! {
        div.top {
            div { h1 { "DNS" } p { (view.sentence) } }
            span.sp {}
            details.menu {
                summary.btn { "Change base domain" }
                form.card.pad.pop method="post" action="/dns/domain" {
                    (csrf(shell))
                    label { "Names end in" input.field name="domain" value=(view.base_domain) required maxlength="200" autocomplete="off"; }
                    p.small.muted { "Every machine takes the new names at once; the old ones stop working." }
                    button.btn.go { "Change" }
                }
            }
        }
        div.grid2 {
            div {
                @if view.records.is_empty() {
                    section.card.pad.empty { p { "Every machine already has its name. Nothing more is needed." } }
                } @else {
                    div.card.scroll { table.cards {
                        thead { tr { th scope="col" { "Own records" } th scope="col" { "Type" } th scope="col" { "Answer" } th.num scope="col" {} } }
                        tbody { @for record in &view.records {
                            tr {
                                td { span.name { (record.name) } } td { (record.kind) } td.mono { (record.value) }
                                td.num { (Act { to: "/dns/records/remove", label: "Remove", class: "sm quiet", fields: &[("name", &record.name), ("value", &record.value)] }.show(shell)) }
                            }
                        } }
                    } }
                }
                form.card.pad.below.inline method="post" action="/dns/records" {
                    (csrf(shell))
                    label { "Name" input.field name="name" placeholder={ "printer." (view.base_domain) } required autocomplete="off"; }
                    label { "Address" input.field.mono name="value" placeholder="192.168.8.40" required autocomplete="off"; }
                    button.btn { "Add record" }
                }
                (section("Who answers the rest", ""))
                div.card.scroll { table.cards {
                    thead { tr { th scope="col" { "Names" } th scope="col" { "Go to" } th scope="col" { "Why" } } }
                    tbody { @for (names, to, why) in &view.resolvers {
                        tr { td { span.name { (names) } } td.mono { (to) } td.muted { (why) } }
                    } }
                } }
                form.card.pad.below.inline method="post" action="/dns/resolvers" {
                    (csrf(shell))
                    label { "Names under" input.field name="zone" placeholder="corp.example, or empty for all" autocomplete="off"; }
                    label { "Ask" input.field.mono name="resolver" placeholder="10.20.0.53" required autocomplete="off"; }
                    button.btn { "Add" }
                }
            }
            aside.stack {
                section.card.pad {
                    h2 { "Try a name" }
                    form.reach method="get" action="/dns" {
                        label { span.vh { "Name" } input.field.mono name="try" value=(view.asked) placeholder="wiki" autocomplete="off"; }
                        button.btn.sm { "Ask" }
                    }
                    @if let Some((found, answer, who)) = &view.answer {
                        p.ans { (pill(if *found { Kind::Direct } else { Kind::Bad }, answer)) span.small.muted { (who) } }
                    }
                }
                section.card.pad {
                    h2 { "Names" }
                    p.small.muted {
                        @if view.magic { "On. Every machine has its name, and 100.100.100.100 answers for it." }
                        @else { "Off. Machines are reached by address only." }
                    }
                    (Act { to: "/dns/magic", label: if view.magic { "Switch off" } else { "Switch on" }, class: "sm", fields: &[("on", if view.magic { "0" } else { "1" })] }.show(shell))
                }
            }
        }
    };
    shell.document("DNS", "", &main)
}
