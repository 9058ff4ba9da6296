//! `/check/ID`: SSH sessions that wait for their person (policy.md §12).

use crate::guard::{Visitor, Way, has_token};
use crate::http::{self, Fields};
use crate::site::{Ask, Site, sign_in};
use crate::words;
use ::http::{Response, StatusCode};
use sw_net::front::Body;
use sw_tailnet::{Check, CheckAnswer, Command};
use sw_web::sign::{self, SshCheckView};

/// The question, for the person behind the session.
pub(crate) async fn page(site: &Site, ask: &Ask, id: &str) -> Response<Body> {
    let Some(visitor) = present(ask) else {
        return sign_in(site, ask, "Sign in, so that we know that it is you.");
    };
    let (wanted, person) = (id.to_owned(), visitor.user);
    let look = move |tailnet: &sw_tailnet::Tailnet| {
        // A page of somebody else's session is no page.
        let check = tailnet.check(&wanted).filter(|check| check.person == person)?.clone();
        let label = |node| tailnet.state().node(node).map(|n| n.label.clone()).unwrap_or_default();
        let (from, to) = (label(check.session.src), label(check.session.dst));
        Some((check, from, to))
    };
    match site.control.read(look).await {
        Ok(Some((check, from, to))) => {
            http::html(StatusCode::OK, sign::ssh_check(&view(ask, visitor, check, from, to)))
        }
        Ok(None) => http::html(StatusCode::NOT_FOUND, sign::ssh_check_gone(ask.theme)),
        Err(error) => http::text(StatusCode::SERVICE_UNAVAILABLE, format!("{error}\n")),
    }
}

/// Allow or refuse.
pub(crate) async fn decide(site: &Site, ask: &Ask, form: &Fields, id: &str) -> Response<Body> {
    let Some(visitor) = present(ask) else {
        return sign_in(site, ask, "Sign in first; then open the session's page again.");
    };
    if !has_token(visitor, form) {
        return http::text(StatusCode::FORBIDDEN, "the form is too old: load the page again\n");
    }
    let allowed = form.get("answer") == "allow";
    let answer = CheckAnswer { check: id.to_owned(), by: Some(visitor.user), allowed };
    match site.control.execute(&visitor.login, Command::AnswerCheck(answer)).await {
        Ok(_) => page(site, ask, id).await,
        Err(error) => http::text(StatusCode::CONFLICT, format!("{error}\n")),
    }
}

/// A visitor who has signed in. WHY not one whom the network vouches for: whoever sits at the machine from which the
/// session comes is vouched for too, and the question is whether that is the person.
fn present(ask: &Ask) -> Option<&Visitor> {
    ask.visitor.as_ref().filter(|visitor| matches!(visitor.way, Way::Session { .. }))
}

fn view(ask: &Ask, visitor: &Visitor, check: Check, from: String, to: String) -> SshCheckView {
    SshCheckView {
        asked: words::ago(check.created, sw_control::clock::now().wall),
        id: check.id,
        from,
        to,
        login: check.session.login,
        csrf: visitor.csrf.clone(),
        viewer: visitor.name.clone(),
        allowed: check.allowed,
        theme: ask.theme,
    }
}
