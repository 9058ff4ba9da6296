//! Signing in by link, and the login pages of devices.

use crate::guard::{SESSION_S, Visitor, Way, has_token};
use crate::http::{self, Fields};
use crate::site::{Ask, Site, sign_in};
use crate::words;
use ::http::{HeaderValue, Response, StatusCode, header};
use std::time::Duration;
use sw_net::front::Body;
use sw_tailnet::{Command, Done, Login, LoginStatus, SessionKind};
use sw_types::{InviteToken, UserId};
use sw_web::sign::{self, DeviceView};

/// The GET changes nothing: link scanners and chat previews burn nothing.
pub(crate) fn admin_link(ask: &Ask, token: &str) -> Response<Body> {
    match token.parse::<InviteToken>() {
        Ok(_) => http::html(StatusCode::OK, sign::admin_link(token, ask.theme)),
        Err(_) => http::html(StatusCode::NOT_FOUND, sign::admin_link_gone(ask.theme)),
    }
}

/// Uses the link up and signs in.
pub(crate) async fn use_admin_link(site: &Site, ask: &Ask, token: &str) -> Response<Body> {
    let gone = || {
        site.failures.count(ask.peer.ip());
        http::html(StatusCode::GONE, sign::admin_link_gone(ask.theme))
    };
    let Ok(token) = token.parse::<InviteToken>() else { return gone() };
    let now = sw_control::clock::now().wall;
    let id = token.id().to_string();
    let wanted = id.clone();
    let user = site.control.read(move |tailnet| {
        let session = tailnet.state().session(&wanted)?;
        let is_good = session.kind == SessionKind::Link
            && session.expires > now
            && session.hash.matches(token.to_text().expose())
            && tailnet.state().user(session.user).is_some_and(|user| !user.suspended);
        is_good.then_some(session.user)
    });
    let Ok(Some(user)) = user.await else { return gone() };
    // Whoever removes the link first has used it.
    if site.control.execute("admin link", Command::DeleteSession(id)).await.is_err() {
        return gone();
    }
    match new_session(site, "admin link", user).await {
        Some(cookie) => {
            let mut response = http::see_other("/machines");
            response.headers_mut().insert(header::SET_COOKIE, cookie);
            response
        }
        None => http::text(StatusCode::SERVICE_UNAVAILABLE, "signing in did not work; run: samewire admin\n"),
    }
}

/// A new session's cookie.
pub(crate) async fn new_session(site: &Site, actor: &str, user: UserId) -> Option<HeaderValue> {
    let expires = sw_control::clock::now().wall + Duration::from_secs(SESSION_S.unsigned_abs());
    let make = Command::CreateSession { kind: SessionKind::Cookie, user, expires };
    match site.control.execute(actor, make).await {
        Ok(Done::Secret { text, .. }) => HeaderValue::from_str(&site.session_cookie(text.expose())).ok(),
        Ok(_) => None,
        Err(error) => {
            tracing::warn!(%error, "no session was made");
            None
        }
    }
}

/// Ends the session on both sides.
pub(crate) async fn sign_out(site: &Site, visitor: &Visitor) -> Response<Body> {
    if let Way::Session { id } = &visitor.way {
        // Gone already is signed out too.
        if let Err(error) = site.control.execute(&visitor.login, Command::DeleteSession(id.clone())).await {
            tracing::debug!(%error, "session was not there to end");
        }
    }
    let mut response = http::see_other("/sign-in");
    let cookie = HeaderValue::from_str(&site.session_cookie("")).expect("no token, so fixed words");
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    response
}

/// `/register/ID` for the device's owner and for approvers.
pub(crate) async fn page(site: &Site, ask: &Ask, id: &str) -> Response<Body> {
    let Some(login) = find(site, id).await else {
        return http::html(StatusCode::NOT_FOUND, sign::device_gone(ask.theme));
    };
    match &login.status {
        LoginStatus::Waiting => {}
        LoginStatus::Approved(_) | LoginStatus::Refused => return done(site, ask, &login).await,
    }
    let view = view(ask, &login);
    let html = if ask.visitor.is_some() { sign::approve(&view) } else { sign::device_waits(&view) };
    http::html(StatusCode::OK, html)
}

/// One word for the page that waits.
pub(crate) async fn state(site: &Site, id: &str) -> Response<Body> {
    let word = match find(site, id).await.map(|login| login.status) {
        Some(LoginStatus::Waiting) => "waiting",
        Some(LoginStatus::Approved(_)) => "approved",
        Some(LoginStatus::Refused) => "refused",
        None => "over",
    };
    http::text(StatusCode::OK, word)
}

/// Approve or refuse.
pub(crate) async fn decide(site: &Site, ask: &Ask, form: &Fields, id: &str) -> Response<Body> {
    let Some(visitor) = &ask.visitor else {
        return sign_in(site, ask, "Sign in first; then open the device's page again.");
    };
    if !has_token(visitor, form) {
        return http::text(StatusCode::FORBIDDEN, "the form is too old: load the page again\n");
    }
    let login = id.to_owned();
    let command = match form.get("answer") {
        "approve" => Command::ApproveLogin { login, user: visitor.user, by_admin: visitor.administers() },
        _ => Command::RefuseLogin(login),
    };
    match site.control.execute(&visitor.login, command).await {
        Ok(_) => page(site, ask, id).await,
        Err(error) => http::text(StatusCode::CONFLICT, format!("{error}\n")),
    }
}

async fn find(site: &Site, id: &str) -> Option<Login> {
    let id = id.to_owned();
    site.control.read(move |tailnet| tailnet.login(&id).cloned()).await.ok().flatten()
}

async fn done(site: &Site, ask: &Ask, login: &Login) -> Response<Body> {
    let LoginStatus::Approved(node) = login.status else {
        return http::html(
            StatusCode::OK,
            sign::device_done(&words::foreign(&login.host.hostname), "", false, ask.theme),
        );
    };
    let node = site.control.read(move |tailnet| tailnet.state().node(node).cloned()).await.ok().flatten();
    match node {
        Some(node) => http::html(
            StatusCode::OK,
            sign::device_done(&node.label, &node.ipv4.to_string(), true, ask.theme),
        ),
        None => http::html(StatusCode::NOT_FOUND, sign::device_gone(ask.theme)),
    }
}

fn view(ask: &Ask, login: &Login) -> DeviceView {
    let host = &login.host;
    let name = if host.hostname.is_empty() { "A device".to_owned() } else { words::foreign(&host.hostname) };
    let who = ask.visitor.as_ref();
    DeviceView {
        id: login.id.clone(),
        device: device_words(host),
        from: ask.peer.ip().to_string(),
        from_note: String::new(),
        words: words::three_words(&login.id),
        key: short_key(&login.machine_key.to_string()),
        asked: words::ago(login.created, sw_control::clock::now().wall),
        csrf: who.map(|v| v.csrf.clone()).unwrap_or_default(),
        viewer: who.map(|v| v.name.clone()),
        will_be: who
            .map(|v| format!("It will be one of {}'s machines and reach what {} may reach.", v.name, v.name))
            .unwrap_or_default(),
        theme: ask.theme,
        name,
    }
}

/// "Pixel 10, Android 16".
pub(crate) fn device_words(host: &sw_tailcfg::Hostinfo) -> String {
    let system = if host.distro.is_empty() {
        format!("{} {}", system_name(&host.os), host.os_version)
    } else {
        format!("{} {}", system_name(&host.distro), host.distro_version)
    };
    let parts = [host.device_model.trim(), system.trim()];
    words::foreign(&parts.into_iter().filter(|part| !part.is_empty()).collect::<Vec<_>>().join(", "))
}

/// `debian` as its makers write it.
fn system_name(id: &str) -> String {
    match id {
        "macOS" | "iOS" | "tvOS" => id.into(),
        "nixos" => "NixOS".into(),
        "opensuse" => "openSUSE".into(),
        "rhel" => "RHEL".into(),
        other => {
            let mut chars = other.chars();
            chars.next().map(|first| first.to_uppercase().chain(chars).collect()).unwrap_or_default()
        }
    }
}

/// First ten digits in two groups, enough to compare by eye.
fn short_key(text: &str) -> String {
    let digits: String = text.rsplit(':').next().unwrap_or_default().chars().take(10).collect();
    let (a, b) = digits.split_at(digits.len().min(5));
    format!("{a} {b}")
}
