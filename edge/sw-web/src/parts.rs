//! Small pieces that several pages share.

use crate::shell::Shell;
use maud::{Markup, html};

/// How a machine or a pair is connected; it decides word, colour and form of the line.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// A direct path.
    Direct,
    /// By a relay.
    Relayed,
    /// By a peer relay.
    PeerRelay,
    /// Online, nothing sent lately, or the path is not told by an official app.
    #[default]
    Idle,
    /// Offline.
    Offline,
    /// Forbidden or broken.
    Bad,
}

impl Kind {
    /// The CSS class of words and lines of this kind.
    pub(crate) fn class(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relay",
            Self::PeerRelay => "peer",
            Self::Idle => "idle",
            Self::Offline => "off",
            Self::Bad => "bad",
        }
    }

    /// The word that stands beside the colour.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Relayed => "relayed",
            Self::PeerRelay => "by peer relay",
            Self::Idle => "idle",
            Self::Offline => "offline",
            Self::Bad => "no",
        }
    }
}

/// The "Connected" cell: kind, words, and the reason in a second line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Connection {
    pub kind: Kind,
    /// "direct to 6", "3 of 4 relayed", "offline".
    pub text: String,
    /// "UDP is blocked at the office"; empty when nothing is to be said.
    pub why: String,
}

/// The little wire in front of a path word.
pub(crate) fn wire(kind: Kind) -> Markup {
    let dash = match kind {
        Kind::Relayed => Some("2.5 2.2"),
        Kind::PeerRelay => Some("6 2 2 2"),
        Kind::Direct | Kind::Idle | Kind::Offline | Kind::Bad => None,
    };
    html! {
        svg viewBox="0 0 22 10" aria-hidden="true" {
            @match kind {
                Kind::Offline | Kind::Idle => {
                    circle cx="3.8" cy="5" r="2.8" fill="none" stroke="currentColor" stroke-width="1.5" {}
                    circle cx="18.2" cy="5" r="2.8" fill="none" stroke="currentColor" stroke-width="1.5" {}
                }
                Kind::Bad => {
                    path d="M3 5h5M14 5h5M9.2 2.5l3.6 5M12.8 2.5l-3.6 5" stroke="currentColor" stroke-width="1.7" {}
                    circle cx="3" cy="5" r="3" fill="currentColor" {}
                    circle cx="19" cy="5" r="3" fill="currentColor" {}
                }
                Kind::Direct | Kind::Relayed | Kind::PeerRelay => {
                    path d="M3 5h16" stroke="currentColor" stroke-width="2" stroke-dasharray=[dash] {}
                    circle cx="3" cy="5" r="3" fill="currentColor" {}
                    circle cx="19" cy="5" r="3" fill="currentColor" {}
                }
            }
        }
    }
}

/// A path in words: wire, then the words in its colour.
pub(crate) fn state(kind: Kind, text: &str) -> Markup {
    html! { span class={ "st " (kind.class()) } { (wire(kind)) (text) } }
}

/// The same as a pill, for headings and answers.
pub(crate) fn pill(kind: Kind, text: &str) -> Markup {
    html! { span class={ "pill " (kind.class()) } { (wire(kind)) (text) } }
}

/// The two-line cell of the machines table.
pub(crate) fn connection(c: &Connection) -> Markup {
    html! {
        (state(c.kind, &c.text))
        @if !c.why.is_empty() { span.sub { (c.why) } }
    }
}

/// A button that posts: every change goes through one of these, so it works without a script.
pub(crate) struct Act<'a> {
    pub(crate) to: &'a str,
    pub(crate) label: &'a str,
    pub(crate) class: &'a str,
    pub(crate) fields: &'a [(&'a str, &'a str)],
}

impl Act<'_> {
    pub(crate) fn show(&self, shell: &Shell) -> Markup {
        html! {
            form.act method="post" action=(self.to) {
                (csrf(shell))
                @for (name, value) in self.fields { input type="hidden" name=(name) value=(value); }
                button class={ "btn " (self.class) } disabled[!shell.can_write] { (self.label) }
            }
        }
    }
}

/// The hidden token that every form carries.
pub(crate) fn csrf(shell: &Shell) -> Markup {
    html! { input type="hidden" name="csrf" value=(shell.csrf); }
}

/// Heading of a block below another.
pub(crate) fn section(title: &str, note: &str) -> Markup {
    html! { div.bar.secb { h2 { (title) } span.muted.small { (note) } } }
}

/// Two letters for a person's disc.
pub(crate) fn initials(name: &str) -> String {
    let mut words = name.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    let first = words.next().and_then(|w| w.chars().next());
    let second = words.next_back().and_then(|w| w.chars().next());
    first.into_iter().chain(second).flat_map(char::to_uppercase).collect()
}

/// `1 machine`, `2 machines`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{} {many}", thousands(n)) }
}

/// `1,204`.
pub(crate) fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let mut out = String::with_capacity(digits.len() + digits.len() / 3);
    for (i, c) in digits.chars().enumerate() {
        if i > 0 && (digits.len() - i).is_multiple_of(3) {
            out.push(',');
        }
        out.push(c);
    }
    out
}

/// A name as one path segment of a URL.
pub(crate) fn segment(name: &str) -> String {
    let mut out = String::with_capacity(name.len());
    for byte in name.bytes() {
        if byte.is_ascii_alphanumeric() || b"-._~".contains(&byte) {
            out.push(char::from(byte));
        } else {
            out.push_str(&format!("%{byte:02X}"));
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_and_initials_read_well() {
        assert_eq!(thousands(1_204), "1,204");
        assert_eq!(thousands(999), "999");
        assert_eq!(count(1, "machine", "machines"), "1 machine");
        assert_eq!(initials("Ada Marsh"), "AM");
        assert_eq!(initials("ada"), "A");
    }

    #[test]
    fn a_hostile_name_stays_one_segment() {
        assert_eq!(segment("a/../b?x"), "a%2F..%2Fb%3Fx");
    }
}
