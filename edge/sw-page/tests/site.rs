//! The page over a real control server, as a browser and as those who forge one.

mod world;

use std::time::Duration;
use sw_control::clock;
use sw_tailnet::{Command, Done, NewUser, Role, SessionKind, UserChange};
use world::{between, world};

#[tokio::test]
async fn a_link_signs_in_once_and_a_get_does_not_use_it_up() {
    let world = world(None).await;
    let link = world.link().await;
    for _ in 0..3 {
        assert!(world.get(&format!("/admin/{link}"), "").await.contains("Sign in as owner on this browser"));
    }
    let answer = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(answer.starts_with("HTTP/1.1 303") && answer.contains("HttpOnly; SameSite=Strict"), "{answer}");
    let cookie = between(&answer, "set-cookie: ", ";");
    let page = world.get("/machines", cookie).await;
    assert!(page.contains("Ada Marsh") && page.contains("No machine yet."), "{page}");
    let again = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(again.starts_with("HTTP/1.1 410") && again.contains("samewire admin"), "{again}");
}

#[tokio::test]
async fn every_page_is_there_and_hardened() {
    let world = world(None).await;
    let (cookie, _) = world.sign_in().await;
    for path in [
        "/machines",
        "/machines/add",
        "/network",
        "/network?as=table",
        "/access",
        "/access?tab=matrix",
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
    ] {
        let page = world.get(path, &cookie).await;
        assert!(page.starts_with("HTTP/1.1 200"), "{path}: {page}");
        let head = page.split("\r\n\r\n").next().expect("a head").to_ascii_lowercase();
        for header in [
            "content-security-policy: default-src 'none'",
            "x-content-type-options: nosniff",
            "referrer-policy: no-referrer",
            "frame-ancestors 'none'",
        ] {
            assert!(head.contains(header), "{path} lacks {header}");
        }
        assert!(!page.contains(" style=\"") && !page.contains("<script>"), "{path}: nothing is inline");
        assert_eq!(page.matches("<h1").count(), 1, "{path}");
    }
}

#[tokio::test]
async fn strangers_see_the_sign_in_page_only() {
    let world = world(None).await;
    for path in ["/machines", "/keys", "/log", "/settings", "/access"] {
        let page = world.get(path, "").await;
        assert!(page.contains("<h1>Sign in</h1>") && !page.contains("Ada"), "{path}");
    }
    assert!(
        world.get("/machines", "sw=7QmX2vKd9sT4bN8cLw5eRy").await.contains("<h1>Sign in</h1>"),
        "a made-up cookie"
    );
}

#[tokio::test]
async fn forged_changes_are_refused() {
    let world = world(None).await;
    let (cookie, token) = world.sign_in().await;
    let body = format!("csrf={token}&name=sam&role=member");
    let elsewhere = format!(
        "POST /people/invite HTTP/1.1\r\nHost: 127.0.0.1\r\nSec-Fetch-Site: cross-site\r\nCookie: {cookie}"
    );
    assert!(world.ask(&elsewhere, &body).await.starts_with("HTTP/1.1 403"));
    let origin = format!(
        "POST /people/invite HTTP/1.1\r\nHost: 127.0.0.1\r\nOrigin: http://evil.example\r\nCookie: {cookie}"
    );
    assert!(world.ask(&origin, &body).await.starts_with("HTTP/1.1 403"));
    assert!(
        world
            .post("/people/invite", &cookie, "csrf=0&name=sam&role=member")
            .await
            .starts_with("HTTP/1.1 403")
    );
    let rebound = format!("GET /machines HTTP/1.1\r\nHost: evil.example\r\nCookie: {cookie}");
    assert!(world.ask(&rebound, "").await.starts_with("HTTP/1.1 421"));
    let people = world.control.read(|t| t.state().users().count()).await.expect("runs");
    assert_eq!(people, 1, "nothing was changed");
}

#[tokio::test]
async fn an_act_shows_its_undo_and_the_undo_works() {
    let world = world(None).await;
    let (cookie, token) = world.sign_in().await;
    let answer = world.post("/settings", &cookie, &format!("csrf={token}&setting=network&value=attic")).await;
    let to = between(&answer, "location: ", "\r\n").to_owned();
    let page = world.get(&to, &cookie).await;
    assert!(page.contains("The network is called attic now.") && page.contains(">Undo</button>"), "{page}");
    let undo = between(&page, "action=\"/undo/", "\"").to_owned();
    let answer = world.post(&format!("/undo/{undo}"), &cookie, &format!("csrf={token}")).await;
    assert!(answer.starts_with("HTTP/1.1 303"));
    let name = world.control.read(|t| t.state().settings().name.clone()).await.expect("runs");
    assert_eq!(name, "home.internal");
}

#[tokio::test]
async fn an_invite_gives_a_line_a_page_for_phones_and_no_script_over_plain_http() {
    let world = world(None).await;
    let (cookie, token) = world.sign_in().await;
    assert!(world.get("/machines/add", &cookie).await.contains("Make an invite"));
    world.post("/machines/add", &cookie, &format!("csrf={token}")).await;
    let page = world.get("/machines/add", &cookie).await;
    let line = between(&page, "curl -fssl http://127.0.0.1/j/", " ").to_owned();
    let phone = world.get(&format!("/j/{line}"), "").await;
    assert!(phone.contains("Join this network"), "{phone}");
    let script = world.ask(&format!("GET /j/{line} HTTP/1.1\r\nHost: 127.0.0.1\r\nAccept: */*"), "").await;
    let is_refusal =
        script.contains("over TLS alone") && script.contains("exit 1") && !script.contains("sw1.");
    assert!(is_refusal, "{script}");
    assert!(world.get("/j/7QmX2vKd9sT4bN8cLw5eRy", "").await.contains("not known here"));
}

#[tokio::test]
async fn a_session_ends_when_its_time_is_over_and_when_its_person_is_suspended() {
    let world = world(None).await;
    let ada =
        world.control.read(|t| t.state().find_user("ada").map(|u| u.id)).await.expect("runs").expect("ada");
    let now = clock::now().wall;
    let session = async |expires| {
        let make = Command::CreateSession { kind: SessionKind::Cookie, user: ada, expires };
        let Ok(Done::Secret { text, .. }) = world.control.execute("root", make).await else {
            panic!("a session has a token")
        };
        format!("sw={}", text.expose())
    };
    let (over, good) =
        (session(now - Duration::from_secs(1)).await, session(now + Duration::from_secs(60)).await);
    assert!(world.get("/machines", &over).await.contains("<h1>Sign in</h1>"), "its time is over");
    assert!(world.get("/machines", &good).await.contains("<h1>Machines</h1>"));
    let (cookie, _) = world.sign_in().await;
    let answer = world.post(&format!("/admin/{}", world.link().await), "", "").await;
    let age: i64 = between(&answer, "max-age=", ";").parse().expect("seconds");
    assert_eq!(age, 14 * 86_400, "the browser forgets it when the server does");

    let old_link = {
        let make = Command::CreateSession {
            kind: SessionKind::Link,
            user: ada,
            expires: now - Duration::from_secs(1),
        };
        let Ok(Done::Secret { text, .. }) = world.control.execute("root", make).await else {
            panic!("a link has a token")
        };
        format!("/admin/{}", text.expose())
    };
    assert!(!world.post(&old_link, "", "").await.starts_with("HTTP/1.1 303"), "a link whose time is over");

    // Somebody else, who is suspended while signed in.
    let jun = NewUser { name: "jun".into(), role: Some(Role::Admin), ..NewUser::default() };
    let Ok(Done::User(jun)) = world.control.execute("root", Command::CreateUser(jun)).await else {
        panic!("a person has an id")
    };
    let of_jun = async |kind| {
        let expires = clock::now().wall + Duration::from_secs(60);
        let make = Command::CreateSession { kind, user: jun, expires };
        let Ok(Done::Secret { text, .. }) = world.control.execute("root", make).await else {
            panic!("a session has a token")
        };
        text.expose().clone()
    };
    let (session, link) =
        (format!("sw={}", of_jun(SessionKind::Cookie).await), of_jun(SessionKind::Link).await);
    assert!(world.get("/machines", &session).await.contains("<h1>Machines</h1>"));
    let change = UserChange { suspended: Some(true), ..UserChange::default() };
    world.control.execute("root", Command::UpdateUser { user: jun, change }).await.expect("suspended");
    assert!(
        world.get("/machines", &session).await.contains("<h1>Sign in</h1>"),
        "the session of a suspended person"
    );
    let answer = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(!answer.starts_with("HTTP/1.1 303"), "the link of a suspended person: {answer}");

    let token = between(&world.get("/settings", &cookie).await, "name=\"csrf\" value=\"", "\"").to_owned();
    let answer = world.post("/sign-out", &cookie, &format!("csrf={token}")).await;
    assert!(answer.contains("Max-Age=0"), "{answer}");
    assert!(world.get("/machines", &cookie).await.contains("<h1>Sign in</h1>"), "the server forgot it too");
    assert!(
        world.get("/machines", &good).await.contains("<h1>Machines</h1>"),
        "the other browser stays signed in"
    );
}

#[tokio::test]
async fn who_guesses_links_has_to_wait_and_nobody_else_is_told_apart() {
    let world = world(None).await;
    let (cookie, _) = world.sign_in().await;
    let link = world.link().await;
    let guess = "/admin/7QmX2vKd9sT4bN8cLw5eRy";
    let mut refusals = 0;
    for _ in 0..60 {
        let answer = world.post(guess, "", "").await;
        assert!(!answer.starts_with("HTTP/1.1 303"));
        refusals += usize::from(answer.starts_with("HTTP/1.1 429"));
    }
    assert_eq!(refusals, 0, "sixty a minute are looked at");
    let answer = world.post(guess, "", "").await;
    assert!(answer.starts_with("HTTP/1.1 429") && answer.contains("goes on by itself"), "{answer}");
    let answer = world.post(&format!("/admin/{link}"), "", "").await;
    assert!(
        answer.starts_with("HTTP/1.1 429"),
        "not even the right one is told from the wrong ones: {answer}"
    );
    assert!(world.get("/machines", &cookie).await.contains("<h1>Machines</h1>"), "who is signed in works on");
}
