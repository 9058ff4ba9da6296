//! Every form of every page works as a plain POST, and what can be undone is undone from the toast and from the log.

mod world;

use std::collections::{BTreeMap, BTreeSet};

use world::{World, between, world_with};

const PAGES: [&str; 17] = [
    "/machines",
    "/machines/add",
    "/machines/attic",
    "/machines/attic?tab=routes",
    "/machines/studio",
    "/network",
    "/access",
    "/access?tab=tests",
    "/access?tab=history",
    "/people",
    "/keys",
    "/dns",
    "/relays",
    "/log",
    "/settings",
    "/health",
    "/more",
];

/// Names and values that a person fills in.
type Filled = &'static [(&'static str, &'static str)];

/// A form: its path with what varies as `*`, the fields that a person fills in, and what is said then.
const ACTS: &[(&str, Filled, &str)] = &[
    ("/machines/add", &[], "until "),
    ("/machines/*/approve", &[], "guest is in."),
    ("/machines/*/refuse", &[], "Refused."),
    ("/machines/*/tags", &[("tags", "tag:files")], "Tags saved."),
    ("/machines/*/extend", &[], "good for 180 days more"),
    ("/machines/*/keep", &[], "does not expire"),
    ("/machines/*/expire", &[], "Its key has expired"),
    ("/machines/*/routes", &[], "192.168.8.0/24 is no longer allowed."),
    ("/machines/*/rename", &[("name", "loft")], "Renamed to loft."),
    ("/machines/*/remove", &[("confirm", "studio")], "studio was removed."),
    ("/access", &[], "is in force."),
    ("/access/rollback", &[], "is in force again."),
    ("/people/invite", &[("name", "sam")], "sam is invited"),
    ("/people/*/role", &[("role", "admin")], "jun is admin now."),
    ("/people/*/remove", &[("confirm", "jun@")], "jun was removed."),
    ("/keys", &[("user", "ada")], "swkey-"),
    ("/keys/api", &[("note", "backup")], "swapi-"),
    ("/keys/*/revoke", &[], "is revoked."),
    ("/keys/api/*/revoke", &[], "is revoked."),
    ("/dns/domain", &[("domain", "attic.internal")], "Names end in attic.internal now."),
    ("/dns/magic", &[], "Names are off."),
    ("/dns/records", &[("name", "printer.home.internal"), ("value", "192.168.8.40")], "is 192.168.8.40 now."),
    ("/dns/records/remove", &[], "was removed."),
    ("/dns/resolvers", &[("zone", "corp.example"), ("resolver", "10.20.0.53")], "The resolver is added."),
    ("/settings network", &[("value", "attic")], "The network is called attic now."),
    ("/settings approval", &[("value", "on")], "New machines wait for approval."),
    ("/settings key-expiry", &[("value", "90")], "New keys expire after 90 days."),
    ("/settings connections", &[("value", "off")], "not remembered any more"),
    ("/settings/theme", &[("theme", "dark")], "theme=dark"),
    ("/settings/backup", &[], "SQLite format 3"),
    ("/log/*/undo", &[], "Undone."),
    ("/sign-out", &[], "Max-Age=0"),
];

/// One form as it stands on a page.
struct Form {
    action: String,
    fields: Vec<(String, String)>,
}

impl Form {
    /// Its name in [`ACTS`].
    fn name(&self) -> String {
        if self.action == "/settings" {
            return format!("/settings {}", self.value("setting"));
        }
        let words = [
            "add",
            "api",
            "invite",
            "domain",
            "magic",
            "records",
            "resolvers",
            "theme",
            "backup",
            "rollback",
            "check",
            "keep",
        ];
        let pieces: Vec<&str> = self.action.trim_start_matches('/').split('/').collect();
        let varies = |at: usize, piece: &str| match pieces[0] {
            "machines" | "people" | "keys" | "undo" | "log" => {
                at > 0
                    && at + 1 < pieces.len().max(2 + usize::from(pieces[0] == "undo"))
                    && !words.contains(&piece)
            }
            _ => false,
        };
        let named = pieces.iter().enumerate().map(|(at, piece)| if varies(at, piece) { "*" } else { piece });
        format!("/{}", named.collect::<Vec<_>>().join("/"))
    }

    fn value(&self, name: &str) -> &str {
        self.fields.iter().find(|(own, _)| own == name).map_or("", |(_, value)| value)
    }

    fn body(&self, filled: &[(&str, &str)]) -> String {
        let mut values: BTreeMap<&str, &str> =
            self.fields.iter().map(|(name, value)| (name.as_str(), value.as_str())).collect();
        values.extend(filled.iter().copied());
        let escape = |text: &str| text.bytes().map(|b| format!("%{b:02x}")).collect::<String>();
        values.iter().map(|(name, value)| format!("{name}={}", escape(value))).collect::<Vec<_>>().join("&")
    }
}

fn attribute<'a>(tag: &'a str, name: &str) -> Option<&'a str> {
    tag.split(&format!(" {name}=\"")).nth(1)?.split('"').next()
}

fn plain(text: &str) -> String {
    text.replace("&quot;", "\"").replace("&lt;", "<").replace("&gt;", ">").replace("&amp;", "&")
}

/// The forms that change something.
fn forms(page: &str) -> Vec<Form> {
    let all = page.split("<form").skip(1).map(|rest| rest.split("</form>").next().unwrap_or_default());
    let posts =
        all.filter(|form| form.split('>').next().is_some_and(|head| head.contains("method=\"post\"")));
    posts
        .map(|form| {
            let head = form.split('>').next().expect("a tag");
            let mut fields = Vec::new();
            for tag in form.split('<').skip(1) {
                let Some(name) = attribute(tag, "name") else { continue };
                let value = if tag.starts_with("select") {
                    let options = form
                        .split(tag)
                        .nth(1)
                        .unwrap_or_default()
                        .split("</select>")
                        .next()
                        .unwrap_or_default();
                    let chosen = options.split("<option").find(|option| {
                        option.split('>').next().is_some_and(|head| head.contains(" selected"))
                    });
                    let first = options.split("<option").nth(1);
                    chosen.or(first).and_then(|option| attribute(option, "value")).unwrap_or_default()
                } else if tag.starts_with("textarea") {
                    tag.split_once('>').map_or("", |(_, text)| text)
                } else if tag.contains("type=\"checkbox\"") {
                    continue;
                } else {
                    attribute(tag, "value").unwrap_or_default()
                };
                fields.push((plain(name), plain(value)));
            }
            Form { action: plain(attribute(head, "action").expect("an action")), fields }
        })
        .collect()
}

/// Submits a form as a browser without scripts does; what comes then, with the page it leads to.
async fn submit(world: &World, cookie: &str, form: &Form, filled: &[(&str, &str)]) -> String {
    let answer = world.post(&form.action, cookie, &form.body(filled)).await;
    if !answer.starts_with("HTTP/1.1 303") {
        return answer;
    }
    let to = between(&answer, "location: ", "\r\n").to_owned();
    let page = world.get(&to, cookie).await;
    assert!(!page.contains("toast bad"), "{}: {}", form.action, between(&page, "toast bad", "</div>"));
    answer + &page
}

async fn find(world: &World, cookie: &str, page: &str, action: &str) -> Form {
    let found = forms(&world.get(page, cookie).await).into_iter().find(|form| form.action == action);
    found.unwrap_or_else(|| panic!("{page} has no form {action}"))
}

#[tokio::test]
async fn every_form_of_every_page_works_without_scripts() {
    let world = world_with(None, &["attic", "studio", "stranger", "guest"]).await;
    let (cookie, _) = world.sign_in().await;
    // What gives the pages their other forms.
    for (page, action, filled) in [
        ("/people", "/people/invite", &[("name", "jun")][..]),
        ("/keys", "/keys/api", &[("note", "watch")]),
        ("/dns", "/dns/records", &[("name", "nas.home.internal"), ("value", "192.168.8.41")]),
    ] {
        let form = find(&world, &cookie, page, action).await;
        submit(&world, &cookie, &form, filled).await;
    }
    for text in [
        r#"{"tagOwners": {"tag:files": ["ada@"]}}"#,
        r#"{"tagOwners": {"tag:files": ["ada@"]}, "grants": []}"#,
    ] {
        let form = find(&world, &cookie, "/access", "/access").await;
        submit(&world, &cookie, &form, &[("text", text)]).await;
    }
    let mut tried = BTreeSet::new();
    // What takes away the ground for others comes last.
    let last = ["rename", "remove", "revoke", "sign-out"];
    for round in 0..=last.len() {
        for page in PAGES {
            for form in forms(&world.get(page, &cookie).await) {
                let name = form.name();
                let is_late = last.iter().position(|word| name.ends_with(word)).map_or(0, |at| at + 1);
                // Nobody takes their own rights away here, and each form is tried once.
                let is_own = ["/people/1/", "/people/ada/"].iter().any(|own| form.action.starts_with(own));
                let is_other = name.ends_with("/remove") && form.action == "/machines/attic/remove"
                    || name == "/machines/*/rename" && form.action != "/machines/attic/rename"
                    || name == "/machines/*/approve" && form.action != "/machines/guest/approve"
                    || name == "/machines/*/refuse" && form.action != "/machines/stranger/refuse";
                if is_late != round || is_own || is_other || !tried.insert(name.clone()) {
                    continue;
                }
                let Some((_, filled, said)) = ACTS.iter().find(|(own, ..)| *own == name) else {
                    panic!("{page} has a form that is not tried: {name} ({})", form.action);
                };
                let answer = submit(&world, &cookie, &form, filled).await;
                assert!(answer.contains(said), "{name}: {answer}");
            }
        }
    }
    let all: BTreeSet<String> = ACTS.iter().map(|(name, ..)| (*name).to_owned()).collect();
    assert_eq!(all.difference(&tried).collect::<Vec<_>>(), Vec::<&String>::new(), "forms that no page shows");
}

#[tokio::test]
async fn acts_are_undone_from_the_toast_and_again_from_the_log() {
    let world = world_with(None, &["attic", "studio"]).await;
    let (cookie, _) = world.sign_in().await;
    let form = find(&world, &cookie, "/access", "/access").await;
    submit(&world, &cookie, &form, &[("text", r#"{"tagOwners": {"tag:files": ["ada@"]}}"#)]).await;
    let studio = async || {
        let node =
            world.control.read(|tailnet| tailnet.state().node_by_v4([100, 64, 0, 2].into()).cloned()).await;
        node.expect("runs").expect("studio")
    };
    for (act, filled) in [
        ("approve", &[][..]),
        ("tags", &[("tags", "tag:files")]),
        ("routes", &[]),
        ("rename", &[("name", "loft")]),
        ("expire", &[]),
    ] {
        let before = studio().await;
        for way in ["toast", "log"] {
            let page = if act == "routes" { "/machines/studio?tab=routes" } else { "/machines/studio" };
            let form = find(&world, &cookie, page, &format!("/machines/studio/{act}")).await;
            let shown = submit(&world, &cookie, &form, filled).await;
            assert_ne!(studio().await, before, "{act} does something");
            let page = if way == "toast" { shown } else { world.get("/log", &cookie).await };
            let start = if way == "toast" { "/undo/" } else { "/log/" };
            let undo = forms(&page).into_iter().find(|form| form.action.starts_with(start));
            let undo = undo.unwrap_or_else(|| panic!("{act}: no Undo in the {way}"));
            submit(&world, &cookie, &undo, &[]).await;
            assert_eq!(studio().await, before, "{act}, undone from the {way}");
        }
    }
}
