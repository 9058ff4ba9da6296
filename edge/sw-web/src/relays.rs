//! `/relays`: the relays, their load, and who is relayed and why.

use crate::parts::section;
use crate::shell::Shell;
use maud::html;

#[derive(Clone, Debug, Default)]
pub struct RelaysView {
    /// "1 relay, birch. 3 machines use it now, 2.1 Mbit/s."
    pub sentence: String,
    pub relays: Vec<Relay>,
    pub relayed: Vec<RelayedPair>,
}

#[derive(Clone, Debug, Default)]
pub struct Relay {
    pub name: String,
    /// "203.0.113.7, TCP 443 and UDP 443".
    pub ways: String,
    pub kind: String,
    pub used_by: String,
}

#[derive(Clone, Debug, Default)]
pub struct RelayedPair {
    pub pair: String,
    pub why: String,
    pub help: String,
}

/// The whole page.
pub fn page(shell: &Shell, view: &RelaysView) -> String {
    let main = html! {
        div.top { div { h1 { "Relays" } p { (view.sentence) } } }
        div.card.scroll { table.cards {
            thead { tr {
                th scope="col" { "Relay" } th scope="col" { "Kind" } th scope="col" { "Used by" }
            } }
            tbody { @for relay in &view.relays {
                tr {
                    td { span.name { (relay.name) } span.sub { (relay.ways) } }
                    td.muted { (relay.kind) } td { (relay.used_by) }
                }
            } }
        } }
        (section("Who is relayed, and why", ""))
        @if view.relayed.is_empty() {
            section.card.pad.empty { p { "Nobody. Every live connection is direct." } }
        } @else {
            div.card.scroll { table.cards {
                thead { tr { th scope="col" { "Pair" } th scope="col" { "Why" } th scope="col" { "Would help" } } }
                tbody { @for pair in &view.relayed {
                    tr { td { span.name { (pair.pair) } } td.muted { (pair.why) } td { (pair.help) } }
                } }
            } }
        }
        section.card.pad.below {
            h2 { "Another relay" }
            p.small.muted { "On any machine with a public address; then add what it prints to the file of --derp-map." }
            div.cmd.mono { "samewire relay --listen 0.0.0.0:443 --stun-listen 0.0.0.0:3478 --hostname NAME_OR_IP --state /var/lib/samewire/relay" }
        }
    };
    shell.document("Relays", "", &main)
}
