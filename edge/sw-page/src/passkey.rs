//! Passkeys (WebAuthn): registered by somebody who is signed in, used instead of a link.
//!
//! Browsers tie a passkey to a name and refuse bare addresses and plain http, but for `localhost`; so they are offered
//! only where the page stands at its own URL and that is https with a name, or `localhost` (ux.md §3.2).

use crate::acts::{done, refuse, sentence};
use crate::device::new_session;
use crate::guard::Visitor;
use crate::http::{self, Fields};
use crate::site::{Ask, Site};
use crate::undo::Outcome;
use crate::words;
use ::http::{Response, StatusCode, header};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use sw_control::clock;
use sw_net::front::Body;
use sw_tailnet::{Command, Passkey as Stored, UserChange};
use sw_types::{Instant, UserId};
use sw_web::settings::Passkeys as Shown;
use webauthn_rs::prelude::{
    DiscoverableAuthentication, Passkey, PasskeyRegistration, PublicKeyCredential,
    RegisterPublicKeyCredential, Url, Uuid, Webauthn, WebauthnBuilder,
};

/// Seconds between the two halves of a ceremony; browsers give up at five minutes.
const CEREMONY_S: u64 = 300;
/// Ceremonies begun and not ended; the oldest give way.
const CEREMONIES_MAX: usize = 256;

/// The server's side of ceremonies that browsers are in the middle of.
#[derive(Debug, Default)]
pub(crate) struct Ceremonies(Mutex<BTreeMap<String, (Instant, Half)>>);

#[derive(Debug)]
enum Half {
    Add(UserId, PasskeyRegistration),
    Use(DiscoverableAuthentication),
}

impl Ceremonies {
    fn begin(&self, half: Half) -> String {
        let now = clock::now().mono;
        let id = hex(&clock::random::<16>());
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, (begun, _)| now.saturating_since(*begun).as_secs() < CEREMONY_S);
        if all.len() >= CEREMONIES_MAX {
            let oldest = all.iter().min_by_key(|(_, (begun, _))| *begun).map(|(id, _)| id.clone());
            oldest.and_then(|id| all.remove(&id));
        }
        all.insert(id.clone(), (now, half));
        id
    }

    /// The half is given out once.
    fn end(&self, id: &str) -> Option<Half> {
        let (begun, half) = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(id)?;
        (clock::now().mono.saturating_since(begun).as_secs() < CEREMONY_S).then_some(half)
    }
}

/// The relying party that this URL can be, if browsers let it be one.
pub(crate) fn relying_party(base_url: &str) -> Option<Webauthn> {
    let url = Url::parse(base_url).ok()?;
    let name = url.domain()?;
    if url.scheme() != "https" && name != "localhost" {
        return None;
    }
    WebauthnBuilder::new(name, &url).ok()?.rp_name("samewire").build().ok()
}

impl Site {
    /// The relying party, when this request came to the page's own URL.
    fn party(&self, ask: &Ask) -> Option<Webauthn> {
        relying_party(&self.config.base_url).filter(|_| ask.at_own_url)
    }

    pub(crate) fn offers_passkeys(&self, at_own_url: bool) -> bool {
        at_own_url && relying_party(&self.config.base_url).is_some()
    }

    /// What Settings say of them.
    pub(crate) async fn passkeys_of(&self, ask: &Ask, visitor: &Visitor) -> Shown {
        if relying_party(&self.config.base_url).is_none() {
            return Shown::NeedsName;
        }
        if !ask.at_own_url {
            return Shown::AtUrl(self.config.base_url.clone());
        }
        let keys = self.stored(visitor.user).await;
        Shown::Offered(
            keys.into_iter().map(|key| (key.id, format!("added {}", words::date(key.created)))).collect(),
        )
    }

    async fn stored(&self, user: UserId) -> Vec<Stored> {
        let read = self.control.read(move |t| t.state().user(user).map(|user| user.passkeys.clone()));
        read.await.ok().flatten().unwrap_or_default()
    }

    async fn keep(&self, actor: &str, user: UserId, keys: Vec<Stored>) -> Result<(), String> {
        let change = UserChange { passkeys: Some(keys), ..UserChange::default() };
        let command = Command::UpdateUser { user, change };
        self.control.execute(actor, command).await.map(drop).map_err(|error| sentence(&error))
    }
}

/// `/passkey/add/…` of somebody signed in.
pub(crate) async fn add(
    site: &Site,
    ask: &Ask,
    visitor: &Visitor,
    form: &Fields,
    half: &str,
) -> Response<Body> {
    let Some(party) = site.party(ask) else { return refused("Passkeys need the page's own name and https.") };
    match half {
        "start" => begin_add(site, &party, visitor).await,
        "finish" => finish_add(site, &party, visitor, form).await,
        _ => http::text(StatusCode::NOT_FOUND, "there is no such page\n"),
    }
}

async fn begin_add(site: &Site, party: &Webauthn, visitor: &Visitor) -> Response<Body> {
    let keys = site.stored(visitor.user).await;
    let known = keys.iter().filter_map(|key| Some(parse(key)?.cred_id().clone())).collect();
    let begun =
        party.start_passkey_registration(uuid(visitor.user), &visitor.login, &visitor.name, Some(known));
    let Ok((challenge, state)) = begun else { return refused("A passkey cannot be made here.") };
    let mut options = serde_json::to_value(challenge.public_key).unwrap_or_default();
    // The person is found by the passkey alone: the sign-in page names nobody.
    let selection = &mut options["authenticatorSelection"];
    selection["residentKey"] = "required".into();
    selection["requireResidentKey"] = true.into();
    let ceremony = site.ceremonies.begin(Half::Add(visitor.user, state));
    http::json(&serde_json::json!({ "ceremony": ceremony, "publicKey": options }))
}

async fn finish_add(site: &Site, party: &Webauthn, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let Some(Half::Add(user, state)) = site.ceremonies.end(form.get("ceremony")) else { return over() };
    let Ok(answer) = serde_json::from_str::<RegisterPublicKeyCredential>(form.get("credential")) else {
        return refused("The browser's answer could not be read.");
    };
    let made = party.finish_passkey_registration(&answer, &state);
    let (Ok(made), true) = (made, user == visitor.user) else { return refused("The passkey was not good.") };
    let mut keys = site.stored(user).await;
    let before = keys.clone();
    keys.push(Stored {
        id: answer.id.clone(),
        credential: serde_json::to_string(&made).unwrap_or_default(),
        created: clock::now().wall,
    });
    if let Err(why) = site.keep(&visitor.login, user, keys).await {
        return refused(&why);
    }
    let back = UserChange { passkeys: Some(before), ..UserChange::default() };
    let back = vec![Command::UpdateUser { user, change: back }];
    let outcome = Outcome { back, ..Outcome::default() };
    go_on(&done(site, visitor, "The passkey is added.".into(), outcome, "/settings"))
}

/// `/settings/passkeys/remove`.
pub(crate) async fn remove(site: &Site, visitor: &Visitor, form: &Fields) -> Response<Body> {
    let before = site.stored(visitor.user).await;
    let keys: Vec<Stored> = before.iter().filter(|key| key.id != form.get("id")).cloned().collect();
    if let Err(why) = site.keep(&visitor.login, visitor.user, keys).await {
        return refuse(site, visitor, &why, "/settings");
    }
    let back = UserChange { passkeys: Some(before), ..UserChange::default() };
    let back = vec![Command::UpdateUser { user: visitor.user, change: back }];
    done(site, visitor, "The passkey is removed.".into(), Outcome { back, ..Outcome::default() }, "/settings")
}

/// `/passkey/use/…` of somebody who is not signed in.
pub(crate) async fn sign_in(site: &Site, ask: &Ask, form: &Fields, half: &str) -> Response<Body> {
    let Some(party) = site.party(ask) else { return refused("Passkeys need the page's own name and https.") };
    if half == "start" {
        let Ok((challenge, state)) = party.start_discoverable_authentication() else {
            return refused("Passkeys cannot be used here.");
        };
        let ceremony = site.ceremonies.begin(Half::Use(state));
        return http::json(&serde_json::json!({ "ceremony": ceremony, "publicKey": challenge.public_key }));
    }
    match finish_use(site, &party, form).await {
        Ok(user) => match new_session(site, "passkey", user).await {
            Some(cookie) => {
                let mut response = to_json(&next(form));
                response.headers_mut().insert(header::SET_COOKIE, cookie);
                response
            }
            None => refused("Signing in did not work. A link does: samewire admin"),
        },
        Err(answer) => {
            site.failures.count(ask.peer.ip());
            answer
        }
    }
}

/// Whose passkey it was.
async fn finish_use(site: &Site, party: &Webauthn, form: &Fields) -> Result<UserId, Response<Body>> {
    let Some(Half::Use(state)) = site.ceremonies.end(form.get("ceremony")) else { return Err(over()) };
    let unknown = || refused("This passkey is not known here. Sign in by a link: samewire admin");
    let answer: PublicKeyCredential = serde_json::from_str(form.get("credential")).map_err(|_| unknown())?;
    let (person, _) = party.identify_discoverable_authentication(&answer).map_err(|_| unknown())?;
    let user = i64::try_from(person.as_u128()).map(UserId).map_err(|_| unknown())?;
    let mut keys = site.stored(user).await;
    let at = keys.iter().position(|key| key.id == answer.id).ok_or_else(unknown)?;
    let mut key = parse(&keys[at]).ok_or_else(unknown)?;
    let result = party.finish_discoverable_authentication_v2(&answer, state, &key).map_err(|error| {
        tracing::warn!(%error, %user, "a passkey was refused");
        unknown()
    })?;
    if key.update_credential(&result) == Some(true) {
        keys[at].credential = serde_json::to_string(&key).unwrap_or_default();
        site.keep("passkey", user, keys).await.map_err(|why| refused(&why))?;
    }
    Ok(user)
}

fn parse(key: &Stored) -> Option<Passkey> {
    serde_json::from_str(&key.credential).ok()
}

/// Authenticators keep this beside the passkey and give it back; it says nothing outside this network.
fn uuid(user: UserId) -> Uuid {
    Uuid::from_u128(u128::from(user.0.unsigned_abs()))
}

/// The page that somebody wanted before signing in; only one of this server.
pub(crate) fn next(form: &Fields) -> String {
    let wanted = form.get("next");
    let is_own = wanted.starts_with('/') && !wanted.starts_with("//") && !wanted.contains(['\\', '\r', '\n']);
    if is_own { wanted.to_owned() } else { "/machines".into() }
}

/// A redirect as JSON, since a script asked.
fn go_on(redirect: &Response<Body>) -> Response<Body> {
    let to = redirect.headers().get(header::LOCATION).and_then(|to| to.to_str().ok()).unwrap_or("/settings");
    to_json(to)
}

fn to_json(to: &str) -> Response<Body> {
    http::json(&serde_json::json!({ "to": to }))
}

fn over() -> Response<Body> {
    refused("That took too long. Try again.")
}

fn refused(why: &str) -> Response<Body> {
    http::text(StatusCode::FORBIDDEN, why.to_owned())
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_passkey_needs_a_name_and_https_or_localhost() {
        for (url, offered) in [
            ("https://net.example.org", true),
            ("https://net.example.org:8443", true),
            ("http://localhost:8080", true),
            ("http://net.example.org", false),
            ("https://203.0.113.7", false),
            ("https://[2001:db8::7]", false),
            ("http://192.168.1.5", false),
        ] {
            assert_eq!(relying_party(url).is_some(), offered, "{url}");
        }
    }

    #[test]
    fn the_way_on_stays_on_this_server() {
        let to = |next: &str| super::next(&Fields::parse(format!("next={next}").as_bytes()));
        assert_eq!(to("/register/abc"), "/register/abc");
        for elsewhere in
            ["//evil.example", "https://evil.example", "javascript:alert(1)", "/\\evil.example", ""]
        {
            assert_eq!(to(elsewhere), "/machines", "{elsewhere}");
        }
    }

    #[test]
    fn a_ceremony_ends_once() {
        let party = relying_party("http://localhost:8080").expect("a party");
        let (_, state) = party.start_discoverable_authentication().expect("begins");
        let ceremonies = Ceremonies::default();
        let id = ceremonies.begin(Half::Use(state));
        assert!(ceremonies.end("another").is_none());
        assert!(ceremonies.end(&id).is_some());
        assert!(ceremonies.end(&id).is_none());
    }
}
