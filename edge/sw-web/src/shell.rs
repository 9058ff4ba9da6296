//! What stands around every page: head, rail, phone bar, toast.

use crate::assets;
use crate::parts::{csrf, initials};
use maud::{DOCTYPE, Markup, PreEscaped, html};

/// The pages of the rail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    Machines,
    Network,
    Access,
    People,
    Keys,
    Dns,
    Relays,
    Log,
    Settings,
    Health,
}

impl Page {
    const RAIL: [Self; 9] = [
        Self::Machines,
        Self::Network,
        Self::Access,
        Self::People,
        Self::Keys,
        Self::Dns,
        Self::Relays,
        Self::Log,
        Self::Settings,
    ];

    /// The page's path.
    pub fn url(self) -> &'static str {
        match self {
            Self::Machines => "/machines",
            Self::Network => "/network",
            Self::Access => "/access",
            Self::People => "/people",
            Self::Keys => "/keys",
            Self::Dns => "/dns",
            Self::Relays => "/relays",
            Self::Log => "/log",
            Self::Settings => "/settings",
            Self::Health => "/health",
        }
    }

    fn title(self) -> &'static str {
        match self {
            Self::Machines => "Machines",
            Self::Network => "Network",
            Self::Access => "Access",
            Self::People => "People",
            Self::Keys => "Keys",
            Self::Dns => "DNS",
            Self::Relays => "Relays",
            Self::Log => "Log",
            Self::Settings => "Settings",
            Self::Health => "Health",
        }
    }

    /// Inner SVG of the 18 × 18 icon.
    fn icon(self) -> &'static str {
        match self {
            Self::Machines => {
                r#"<rect x="2.5" y="3.5" width="13" height="8.5" rx="1.6"/><path d="M6.5 15h5"/>"#
            }
            Self::Network => {
                r#"<circle cx="4" cy="12.5" r="2"/><circle cx="14" cy="12.5" r="2"/><circle cx="9" cy="4" r="2"/><path d="M5 10.8 8 5.8M13 10.8 10 5.8M6 12.5h6"/>"#
            }
            Self::Access => {
                r#"<rect x="3.5" y="8" width="11" height="7.5" rx="1.6"/><path d="M6 8V5.8a3 3 0 0 1 6 0V8"/>"#
            }
            Self::People => {
                r#"<circle cx="9" cy="6" r="2.7"/><path d="M3.6 15.2c.7-2.9 2.8-4.2 5.4-4.2s4.7 1.3 5.4 4.2"/>"#
            }
            Self::Keys => r#"<circle cx="5.8" cy="12.2" r="2.8"/><path d="M8 10 14.5 3.5M12 6l2 2"/>"#,
            Self::Dns => {
                r#"<circle cx="9" cy="9" r="6.5"/><path d="M2.5 9h13M9 2.5c2.4 2.2 2.4 10.8 0 13M9 2.5c-2.4 2.2-2.4 10.8 0 13"/>"#
            }
            Self::Relays => r#"<path d="M3 6.5h9.5L10 4M15 11.5H5.5L8 14"/>"#,
            Self::Log => r#"<path d="M4 4.5h10M4 9h10M4 13.5h6"/>"#,
            Self::Settings => {
                r#"<path d="M3 5.5h6M13 5.5h2M3 12.5h2M9 12.5h6"/><circle cx="11" cy="5.5" r="1.9"/><circle cx="7" cy="12.5" r="1.9"/>"#
            }
            Self::Health => r#"<path d="M2.5 9.5h3l2-5 3 9 2-4h3"/>"#,
        }
    }
}

/// Light and dark; `System` follows the browser.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Theme {
    #[default]
    System,
    Light,
    Dark,
}

/// Who looks at the page.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Viewer {
    pub name: String,
    /// "owner", "admin", "member".
    pub role: String,
    /// "from birch" (signed in by a machine), "by link", "by passkey".
    pub way: String,
}

/// What just happened, with the way back.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Toast {
    pub text: String,
    /// Where a POST undoes it; `None` when nothing can.
    pub undo: Option<String>,
    /// True for a refusal: it stays and is read out at once.
    pub is_error: bool,
}

/// What every page needs besides its own view.
#[derive(Clone, Debug)]
pub struct Shell {
    pub page: Page,
    pub machines: usize,
    pub people: usize,
    /// Problems that need the viewer; 0 is "All well".
    pub problems: usize,
    pub viewer: Option<Viewer>,
    pub theme: Theme,
    /// Token of this session, put into every form.
    pub csrf: String,
    pub toast: Option<Toast>,
    /// False when this viewer or this connection may only read.
    pub can_write: bool,
    /// Said on top when `can_write` is false.
    pub read_only_why: String,
}

impl Shell {
    /// A signed-in owner, for tests and examples.
    pub fn for_tests(page: Page) -> Self {
        Self {
            page,
            machines: 9,
            people: 4,
            problems: 0,
            viewer: Some(Viewer { name: "Ada Marsh".into(), role: "owner".into(), way: "from birch".into() }),
            theme: Theme::System,
            csrf: "token".into(),
            toast: None,
            can_write: true,
            read_only_why: String::new(),
        }
    }

    /// The whole document around `main`; `title` is the page's own, before "· samewire".
    pub(crate) fn document(&self, title: &str, main_class: &str, main: &Markup) -> String {
        let body = html! {
            a.skip href="#main" { "Skip to the page" }
            div.app {
                (self.rail())
                main #main class=(main_class) {
                    @if !self.can_write && !self.read_only_why.is_empty() {
                        p.note { (self.read_only_why) }
                    }
                    (main)
                }
            }
            (self.tabbar())
            (self.toast())
            div #offline hidden { "Not live. Trying again." }
        };
        document(title, self.theme, "", &body, true)
    }

    fn rail(&self) -> Markup {
        html! {
            nav.side aria-label="Main" {
                (brand())
                @for page in Page::RAIL {
                    a.nav href=(page.url()) aria-current=[(page == self.page).then_some("page")] {
                        (icon(page)) (page.title())
                        @match page {
                            Page::Machines => span.n #count-machines { (self.machines) },
                            Page::People => span.n { (self.people) },
                            _ => {}
                        }
                    }
                }
                span.gap {}
                a.nav href="/health" aria-current=[(self.page == Page::Health).then_some("page")] {
                    (icon(Page::Health)) "Health" (self.health_word())
                }
                @if let Some(viewer) = &self.viewer {
                    div.who {
                        span.av aria-hidden="true" { (initials(&viewer.name)) }
                        span.small { b { (viewer.name) } br; span.muted { (viewer.role) ", " (viewer.way) } }
                    }
                }
            }
        }
    }

    /// The word beside Health; the event stream swaps it by id.
    fn health_word(&self) -> Markup {
        html! {
            @match self.problems {
                0 => span #health-word .n.st.direct { "All well" },
                1 => span #health-word .n.st.relay { "1 thing" },
                n => span #health-word .n.st.relay { (n) " things" },
            }
        }
    }

    fn tabbar(&self) -> Markup {
        let shown = [Page::Machines, Page::Network, Page::Access, Page::Health];
        html! {
            nav.tabbar aria-label="Main" {
                @for page in shown {
                    a href=(page.url()) aria-current=[(page == self.page).then_some("page")] {
                        (icon(page)) span { (page.title()) }
                    }
                }
                a href="/more" aria-current=[(!shown.contains(&self.page)).then_some("page")] {
                    (icon(Page::Log)) span { "More" }
                }
            }
        }
    }

    fn toast(&self) -> Markup {
        html! {
            div #toast aria-live=(if self.toast.as_ref().is_some_and(|t| t.is_error) { "assertive" } else { "polite" }) {
                @if let Some(toast) = &self.toast {
                    div.toast.bad[toast.is_error] {
                        span { (toast.text) }
                        @if let Some(undo) = &toast.undo {
                            form method="post" action=(undo) { (csrf(self)) button.btn.sm.quiet { "Undo" } }
                        }
                    }
                }
            }
        }
    }
}

/// The page behind "More" on a phone: the rest of the rail as a list.
pub fn more(shell: &Shell) -> String {
    let main = html! {
        h1 { "More" }
        div.card.mrows.below {
            @for page in [Page::People, Page::Keys, Page::Dns, Page::Relays, Page::Log, Page::Settings] {
                a.mrow href=(page.url()) { (icon(page)) b { (page.title()) } }
            }
        }
    };
    shell.document("More", "", &main)
}

/// A page without the rail: sign-in, approval, the phone's steps. `class` is the body's.
pub(crate) fn bare(title: &str, theme: Theme, class: &str, main: &Markup) -> String {
    let body = html! { main #main { (brand()) (main) } };
    document(title, theme, class, &body, false)
}

fn document(title: &str, theme: Theme, class: &str, body: &Markup, live: bool) -> String {
    let theme = match theme {
        Theme::System => None,
        Theme::Light => Some("light"),
        Theme::Dark => Some("dark"),
    };
    html! {
        (DOCTYPE)
        html lang="en" data-theme=[theme] {
            head {
                meta charset="utf-8";
                meta name="viewport" content="width=device-width,initial-scale=1";
                meta name="color-scheme" content="light dark";
                title { (title) " · samewire" }
                link rel="icon" href=(assets::ICON.url()) type="image/svg+xml";
                link rel="stylesheet" href=(assets::CSS.url());
                script src=(assets::JS.url()) defer {}
            }
            body class=(class) data-live=[live.then_some("1")] { (body) }
        }
    }
    .into_string()
}

fn brand() -> Markup {
    html! {
        a.brand href="/" {
            svg viewBox="0 0 34 16" aria-hidden="true" {
                path d="M6 8C12 14.5 22 14.5 28 8" fill="none" stroke="currentColor" stroke-width="2" {}
                circle cx="5" cy="7" r="4" fill="currentColor" {}
                circle cx="29" cy="7" r="4" fill="currentColor" {}
            }
            "samewire"
        }
    }
}

fn icon(page: Page) -> Markup {
    html! {
        svg viewBox="0 0 18 18" fill="none" stroke="currentColor" stroke-width="1.5" stroke-linecap="round" stroke-linejoin="round" aria-hidden="true" {
            (PreEscaped(page.icon()))
        }
    }
}
