//! Invites: the join line's page and script, the binary, and the page "Add a machine".

use crate::http;
use crate::site::{Ask, Site};
use crate::words;
use ::http::{Response, StatusCode};
use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use sw_net::front::Body;
use sw_tailnet::{AuthKey, Command, Done, NewAuthKey};
use sw_types::local::Problem;
use sw_types::problem::Slug;
use sw_types::{InviteToken, UnixTime, UserId};
use sw_web::sign::{self, Platform};

/// What the script is made of.
#[derive(Clone, Copy, Debug)]
pub struct ScriptFacts<'a> {
    pub base_url: &'a str,
    pub token: &'a str,
    pub join_string: &'a str,
    pub binary: Option<&'a BinaryOffer>,
    pub pin: Option<&'a str>,
}

/// The running executable, when it runs elsewhere too.
#[derive(Clone, Debug)]
pub struct BinaryOffer {
    pub path: PathBuf,
    /// Hexadecimal.
    pub sha256: String,
    /// As `uname -m` says it.
    pub arch: String,
}

/// Lifetime and uses of an invite made without wishes (architecture.md §10.1).
pub(crate) const INVITE_S: u64 = 3_600;
pub(crate) const INVITE_USES: u32 = 10;

/// Invites whose texts may be shown again on the page: those made here, while they are good.
#[derive(Debug, Default)]
pub(crate) struct Kept(Mutex<BTreeMap<UserId, Invite>>);

/// An invite with its texts.
#[derive(Clone, Debug)]
pub(crate) struct Invite {
    pub(crate) id: String,
    pub(crate) token: String,
    pub(crate) auth_key: String,
    pub(crate) expires: UnixTime,
    pub(crate) made: UnixTime,
}

impl Kept {
    pub(crate) fn put(&self, user: UserId, invite: Invite) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(user, invite);
    }

    pub(crate) fn get(&self, user: UserId, now: UnixTime) -> Option<Invite> {
        let kept = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        kept.get(&user).filter(|invite| invite.expires > now).cloned()
    }

    pub(crate) fn forget(&self, id: &str) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).retain(|_, invite| invite.id != id);
    }
}

impl Site {
    /// Makes an invite for one person's machines.
    pub(crate) async fn make_invite(&self, actor: &str, user: UserId) -> Result<Invite, sw_control::Failure> {
        let made = sw_control::clock::now().wall;
        let expires = made + Duration::from_secs(INVITE_S);
        let new = NewAuthKey {
            user: Some(user),
            uses_max: Some(INVITE_USES),
            preapproved: true,
            expires: Some(expires),
            invite: true,
            ..NewAuthKey::default()
        };
        match self.control.execute(actor, Command::CreateAuthKey(new)).await? {
            Done::Secret { id, text, invite } => {
                let token = invite.map(|token| token.expose().clone()).unwrap_or_default();
                let invite = Invite { id, token, auth_key: text.expose().clone(), expires, made };
                self.invites.put(user, invite.clone());
                Ok(invite)
            }
            Done::Changed | Done::User(_) | Done::Node(_) => unreachable!("making a key gives a secret"),
        }
    }
}

/// Where another invite comes from.
const ANOTHER: &str = "on a machine in the network: samewire invite";

/// Whether an invite is good, or why not.
async fn check(site: &Site, token: &str) -> Result<AuthKey, Problem> {
    let refused = |what: &str| Problem {
        fix: ANOTHER.into(),
        what: what.into(),
        ..Slug::KeyRefused.problem(&[("reason", "")])
    };
    let unknown = move || refused("this invite is not known here.");
    let characters = token.chars().count().to_string();
    let token: InviteToken = token.parse().map_err(|_| Slug::InviteCut.problem(&[("len", &characters)]))?;
    let now = sw_control::clock::now().wall;
    let read = site.control.read(move |tailnet| {
        let key = tailnet.state().auth_key(&token.id().to_string()).ok_or_else(unknown)?;
        let text = token.to_auth_key();
        if !key.invite || !key.hashes.iter().any(|hash| hash.matches(text.expose())) {
            return Err(unknown());
        }
        if key.revoked.is_some() {
            return Err(refused("this invite was taken back."));
        }
        if let Some(at) = key.expires.filter(|at| *at <= now) {
            let (time, now) = (words::date_time(at), words::date_time(now));
            return Err(Slug::InviteExpired.problem(&[("time", &time), ("now", &now)]));
        }
        if key.uses_max.is_some_and(|max| key.used >= max) {
            let last = tailnet.last_use(key, now).unwrap_or_default();
            return Err(Slug::InviteUsedUp.problem(&[("n", &key.used.to_string()), ("last", &last)]));
        }
        Ok(key.clone())
    });
    let stopping = || Problem::other("the server is stopping.", "", "paste the line again in a moment");
    read.await.unwrap_or_else(|_| Err(stopping()))
}

/// `/j/TOKEN`: the phone's page, or the script. Nothing is used up.
pub(crate) async fn page(site: &Site, ask: &Ask, token: &str) -> Response<Body> {
    let key = match check(site, token).await {
        Ok(key) => key,
        Err(why) if ask.accepts_html => {
            return http::html(StatusCode::GONE, sign::invite_gone(&why.what, &why.why, ask.theme));
        }
        Err(why) => return script(refusal_script(&why)),
    };
    let now = sw_control::clock::now().wall;
    let expires = key.expires.unwrap_or(now);
    if ask.accepts_html {
        let ends = format!("until {} UTC", words::date_time(expires));
        let platform = Platform::from_user_agent(&ask.user_agent);
        let html =
            sign::phone(platform, &site.config.base_url, &site.config.join.line(token), &ends, ask.theme);
        return http::html(StatusCode::OK, html);
    }
    if !ask.is_tls {
        return script(refusal_script(&Problem::other(
            "this server hands out its script over TLS alone.",
            "",
            "paste the whole line that samewire invite shows",
        )));
    }
    let Some(join_string) = site.config.join.string(token, expires) else {
        return script(refusal_script(&Problem::other(
            "this server has no address to join by.",
            "",
            "on the first machine: samewire check",
        )));
    };
    let pin = site.config.join.pin();
    let facts = ScriptFacts {
        base_url: &site.config.join.page_url,
        token,
        join_string: &join_string,
        binary: offer(site).await,
        pin: pin.as_deref(),
    };
    script((site.config.script)(&facts))
}

/// WHY a refusal is 200 too: the line's curl passes on nothing else, and a shell that reads nothing says that all is well.
fn script(text: String) -> Response<Body> {
    http::with_type(StatusCode::OK, "text/x-shellscript", text)
}

/// The binary; a server that has just started is still making its checksum.
async fn offer(site: &Site) -> Option<&BinaryOffer> {
    const LIMIT: Duration = Duration::from_secs(20);
    const LOOK_AGAIN: Duration = Duration::from_millis(20);
    let made = async {
        loop {
            match site.config.binary.get() {
                Some(offer) => return offer.as_ref(),
                None => tokio::time::sleep(LOOK_AGAIN).await,
            }
        }
    };
    tokio::time::timeout(LIMIT, made).await.ok().flatten()
}

/// A script that only says why, since its reader is a shell.
fn refusal_script(problem: &Problem) -> String {
    let said = problem.render().replace('\'', "");
    format!("#!/bin/sh\nprintf '%s' '{said}' >&2\nexit {}\n", problem.exit_code())
}

/// `/j/TOKEN/bin/ARCH`: the binary, to holders of a good invite, over TLS alone.
pub(crate) async fn binary(site: &Site, ask: &Ask, token: &str, arch: &str) -> Response<Body> {
    if !ask.is_tls || check(site, token).await.is_err() {
        return http::text(StatusCode::FORBIDDEN, "only for a good invite, and over TLS\n");
    }
    let Some(offer) = offer(site).await.filter(|offer| offer.arch == arch) else {
        return http::text(StatusCode::NOT_FOUND, "this server has no binary for that machine\n");
    };
    match tokio::fs::read(&offer.path).await {
        Ok(bytes) => http::with_type(StatusCode::OK, "application/octet-stream", bytes),
        Err(error) => {
            tracing::warn!(%error, path = %offer.path.display(), "the binary cannot be read");
            http::text(StatusCode::NOT_FOUND, "the binary cannot be read\n")
        }
    }
}
