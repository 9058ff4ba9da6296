//! Company sign-in (OpenID Connect): code flow with PKCE; a person is issuer and subject, never a mail address.
//!
//! ```text
//!   /oidc/start ── state, nonce, verifier kept; state in a cookie ──▶ provider ──▶ /oidc/callback ── checked ──▶ session
//! ```

use crate::device::new_session;
use crate::http::{self, Fields, cookie};
use crate::passkey::next;
use crate::site::{Ask, Site, sign_in};
use ::http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use bytes::Bytes;
use http_body_util::{BodyExt, Full, Limited};
use hyper_rustls::HttpsConnector;
use hyper_util::client::legacy::{Client, connect::HttpConnector};
use openidconnect::core::{
    CoreAuthDisplay, CoreAuthPrompt, CoreErrorResponseType, CoreGenderClaim, CoreJsonWebKey,
    CoreJweContentEncryptionAlgorithm, CoreJwsSigningAlgorithm, CoreProviderMetadata, CoreResponseType,
    CoreRevocableToken, CoreRevocationErrorResponse, CoreTokenIntrospectionResponse, CoreTokenType,
};
use openidconnect::{
    AdditionalClaims, AuthenticationFlow, AuthorizationCode, ClientId, ClientSecret, CsrfToken,
    EmptyExtraTokenFields, EndpointMaybeSet, EndpointNotSet, EndpointSet, HttpRequest, HttpResponse,
    IdTokenClaims, IdTokenFields, IssuerUrl, Nonce, PkceCodeChallenge, PkceCodeVerifier, RedirectUrl, Scope,
    StandardErrorResponse, StandardTokenResponse, TokenResponse as _,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use sw_control::clock;
use sw_net::front::Body;
use sw_net::tls::Trust;
use sw_tailnet::{Command, Done, NewUser, ProviderIdentity, Role, User, UserChange};
use sw_types::{Instant, Secret, UserId};
use sw_web::sign;

/// Sign-ins begun and not ended live this long (threat-model.md §9).
const PENDING_S: u64 = 600;
const PENDING_MAX: usize = 256;
/// The provider's answers: time and bytes.
const PROVIDER_WAIT: Duration = Duration::from_secs(10);
const ANSWER_MAX: usize = 1 << 20;
/// Names tried for a new person before giving up.
const NAMES_TRIED: u32 = 20;
const COOKIE: &str = "sw-oidc";

/// The provider, and who of it gets in.
#[derive(Clone, Debug)]
pub struct OidcConfig {
    /// The issuer's URL, exactly as in its tokens.
    pub issuer: String,
    pub client_id: String,
    pub client_secret: Option<Secret<String>>,
    /// People unknown so far get in when their mail address is verified and of one of these domains.
    pub allow_domains: Vec<String>,
    /// … or when they are in one of these groups.
    pub allow_groups: Vec<String>,
    /// The claim that lists groups; they are `group:` in policies.
    pub groups_claim: String,
    /// Members of this group are admins, and those who leave it no longer are.
    pub admin_group: Option<String>,
}

impl OidcConfig {
    /// How people call the provider: its host.
    pub(crate) fn name(&self) -> &str {
        let host = self.issuer.split_once("://").map_or(&*self.issuer, |(_, rest)| rest);
        host.split('/').next().unwrap_or_default()
    }
}

/// All claims that the standard does not name.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
struct Claims(BTreeMap<String, serde_json::Value>);

impl AdditionalClaims for Claims {}

type TokenFields = IdTokenFields<
    Claims,
    EmptyExtraTokenFields,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJwsSigningAlgorithm,
>;
type Relying = openidconnect::Client<
    Claims,
    CoreAuthDisplay,
    CoreGenderClaim,
    CoreJweContentEncryptionAlgorithm,
    CoreJsonWebKey,
    CoreAuthPrompt,
    StandardErrorResponse<CoreErrorResponseType>,
    StandardTokenResponse<TokenFields, CoreTokenType>,
    CoreTokenIntrospectionResponse,
    CoreRevocableToken,
    CoreRevocationErrorResponse,
    EndpointSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointNotSet,
    EndpointMaybeSet,
    EndpointMaybeSet,
>;

/// Sign-ins that are at the provider just now.
#[derive(Debug, Default)]
pub(crate) struct Pending(Mutex<BTreeMap<String, Begun>>);

#[derive(Debug)]
struct Begun {
    at: Instant,
    nonce: Nonce,
    verifier: PkceCodeVerifier,
    next: String,
}

impl Pending {
    fn put(&self, state: String, begun: Begun) {
        let now = clock::now().mono;
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        all.retain(|_, begun| now.saturating_since(begun.at).as_secs() < PENDING_S);
        if all.len() >= PENDING_MAX {
            let oldest = all.iter().min_by_key(|(_, begun)| begun.at).map(|(state, _)| state.clone());
            oldest.and_then(|state| all.remove(&state));
        }
        all.insert(state, begun);
    }

    /// Given out once.
    fn take(&self, state: &str) -> Option<Begun> {
        let begun = self.0.lock().unwrap_or_else(PoisonError::into_inner).remove(state)?;
        (clock::now().mono.saturating_since(begun.at).as_secs() < PENDING_S).then_some(begun)
    }
}

/// Why nobody was signed in, as a sentence for the page.
#[derive(Debug, thiserror::Error)]
enum Refused {
    #[error("The provider does not answer: {0}")]
    Provider(String),
    #[error("That took too long, or began in another browser. Try again.")]
    Over,
    #[error("The provider's answer was not good: {0}")]
    Token(String),
    #[error("Your account is not known here. Ask an owner of the network for an invite.")]
    Stranger,
    #[error("{0}")]
    Tailnet(String),
}

#[derive(Debug, thiserror::Error)]
enum FetchError {
    #[error("{0}")]
    Client(#[from] hyper_util::client::legacy::Error),
    #[error("no answer in {} s", PROVIDER_WAIT.as_secs())]
    Slow,
    #[error("its answer breaks off or is too long")]
    Body,
}

/// `/oidc/start`: sends the browser to the provider.
pub(crate) async fn start(site: &Site, ask: &Ask) -> Response<Body> {
    let Some(config) = &site.config.oidc else {
        return http::text(StatusCode::NOT_FOUND, "there is no such page\n");
    };
    let client = match relying(site, config).await {
        Ok(client) => client,
        Err(why) => return sign_in(site, ask, &why.to_string()),
    };
    let (challenge, verifier) = PkceCodeChallenge::new_random_sha256();
    let (url, state, nonce) = client
        .authorize_url(
            AuthenticationFlow::<CoreResponseType>::AuthorizationCode,
            CsrfToken::new_random,
            Nonce::new_random,
        )
        .add_scopes(["profile", "email", "groups"].map(|scope| Scope::new(scope.into())))
        .set_pkce_challenge(challenge)
        .url();
    let begun = Begun { at: clock::now().mono, nonce, verifier, next: next(&ask.query) };
    site.oidc_pending.put(state.secret().clone(), begun);
    let mut response = http::see_other(url.as_str());
    // Lax: the provider's redirect must bring it back.
    let secure = if site.config.is_https() { "; Secure" } else { "" };
    let text = format!(
        "{COOKIE}={}; Path=/oidc; Max-Age={PENDING_S}; HttpOnly; SameSite=Lax{secure}",
        state.secret()
    );
    if let Ok(value) = HeaderValue::from_str(&text) {
        response.headers_mut().insert(header::SET_COOKIE, value);
    }
    response
}

/// `/oidc/callback`: checks the provider's answer and signs in.
pub(crate) async fn callback(site: &Site, ask: &Ask, headers: &HeaderMap) -> Response<Body> {
    let Some(config) = &site.config.oidc else {
        return http::text(StatusCode::NOT_FOUND, "there is no such page\n");
    };
    if let Some(wait) = site.failures.wait(ask.peer.ip()) {
        let why = format!("too many tries; it goes on by itself in {wait} s\n");
        return http::text(StatusCode::TOO_MANY_REQUESTS, why);
    }
    let signed_in = async {
        let state = ask.query.get("state");
        if cookie(headers, COOKIE) != Some(state) {
            return Err(Refused::Over);
        }
        let begun = site.oidc_pending.take(state).ok_or(Refused::Over)?;
        let to = begun.next.clone();
        let claims = redeem(site, config, &ask.query, begun).await?;
        let user = person(site, config, &claims).await?;
        Ok((user, to))
    };
    let (user, to) = match signed_in.await {
        Ok(signed_in) => signed_in,
        Err(why) => {
            site.failures.count(ask.peer.ip());
            tracing::warn!(%why, "a company sign-in was refused");
            return sign_in(site, ask, &why.to_string());
        }
    };
    let Some(cookie) = new_session(site, "company sign-in", user).await else {
        return sign_in(site, ask, "Signing in did not work.");
    };
    // A page and no redirect: a strict cookie does not go along with what another site began.
    let mut response = http::html(StatusCode::OK, sign::go_on(&to, ask.theme));
    response.headers_mut().insert(header::SET_COOKIE, cookie);
    if let Ok(refresh) = HeaderValue::from_str(&format!("0;url={to}")) {
        response.headers_mut().insert(header::REFRESH, refresh);
    }
    response
}

async fn fetch(request: HttpRequest) -> Result<HttpResponse, FetchError> {
    let mut connector = HttpConnector::new();
    connector.enforce_http(false);
    let tls = sw_net::tls::client_config(&Trust::Roots, &[]).map_err(|_| FetchError::Body)?;
    let connector = HttpsConnector::from((connector, tls));
    let client: Client<HttpsConnector<HttpConnector>, Full<Bytes>> =
        Client::builder(hyper_util::rt::TokioExecutor::new()).build(connector);
    let whole = async {
        let (head, body) =
            client.request(request.map(|body| Full::new(Bytes::from(body)))).await?.into_parts();
        let body = Limited::new(body, ANSWER_MAX).collect().await.map_err(|_| FetchError::Body)?;
        Ok(HttpResponse::from_parts(head, body.to_bytes().to_vec()))
    };
    tokio::time::timeout(PROVIDER_WAIT, whole).await.map_err(|_| FetchError::Slow)?
}

/// The client of the provider as it describes itself now.
async fn relying(site: &Site, config: &OidcConfig) -> Result<Relying, Refused> {
    let provider = |why: String| Refused::Provider(why);
    let issuer = IssuerUrl::new(config.issuer.clone()).map_err(|e| provider(e.to_string()))?;
    let metadata =
        CoreProviderMetadata::discover_async(issuer, &fetch).await.map_err(|e| provider(e.to_string()))?;
    let secret = config.client_secret.as_ref().map(|secret| ClientSecret::new(secret.expose().clone()));
    let redirect = RedirectUrl::new(format!("{}/oidc/callback", site.config.base_url));
    let redirect = redirect.map_err(|e| provider(e.to_string()))?;
    let client = Relying::from_provider_metadata(metadata, ClientId::new(config.client_id.clone()), secret);
    Ok(client.set_redirect_uri(redirect))
}

/// Changes the code for a token and checks it: signature, issuer, audience, time, nonce.
async fn redeem(
    site: &Site,
    config: &OidcConfig,
    query: &Fields,
    begun: Begun,
) -> Result<IdTokenClaims<Claims, CoreGenderClaim>, Refused> {
    let token = |why: String| Refused::Token(why);
    if query.has("error") {
        return Err(token(query.get("error").chars().take(80).collect()));
    }
    let client = relying(site, config).await?;
    let request = client.exchange_code(AuthorizationCode::new(query.get("code").into()));
    let request = request.map_err(|e| token(e.to_string()))?.set_pkce_verifier(begun.verifier);
    let answer = request.request_async(&fetch).await.map_err(|e| token(e.to_string()))?;
    let id = answer.id_token().ok_or_else(|| token("it holds no identity".into()))?;
    let claims = id.claims(&client.id_token_verifier(), &begun.nonce).map_err(|e| token(e.to_string()))?;
    Ok(claims.clone())
}

/// The person with this account: known, or let in by rule; groups and the role of the admin group follow the token.
async fn person(
    site: &Site,
    config: &OidcConfig,
    claims: &IdTokenClaims<Claims, CoreGenderClaim>,
) -> Result<UserId, Refused> {
    let tailnet = |error: sw_control::Failure| Refused::Tailnet(crate::acts::sentence(&error));
    let identity =
        ProviderIdentity { issuer: claims.issuer().to_string(), subject: claims.subject().to_string() };
    let groups = groups(config, claims);
    let wanted = identity.clone();
    let known = site
        .control
        .read(move |t| t.state().users().find(|user| user.provider.as_ref() == Some(&wanted)).cloned());
    let (id, old_role) = match known.await.map_err(tailnet)? {
        Some(User { suspended: true, .. }) => return Err(Refused::Stranger),
        Some(user) => (user.id, user.role),
        None if lets_in(config, claims, &groups) => (add(site, claims, identity).await?, Role::Member),
        None => return Err(Refused::Stranger),
    };
    let is_admin = config.admin_group.as_ref().map(|group| groups.contains(group));
    let role = match (old_role, is_admin) {
        (Role::Owner, _) | (_, None) => None,
        (Role::Admin | Role::Member, Some(true)) => Some(Role::Admin),
        (Role::Admin | Role::Member, Some(false)) => Some(Role::Member),
    };
    let change = UserChange { groups: Some(groups), role, ..UserChange::default() };
    site.control
        .execute("company sign-in", Command::UpdateUser { user: id, change })
        .await
        .map_err(tailnet)?;
    Ok(id)
}

fn groups(config: &OidcConfig, claims: &IdTokenClaims<Claims, CoreGenderClaim>) -> Vec<String> {
    let listed = claims.additional_claims().0.get(&config.groups_claim).and_then(|value| value.as_array());
    let names = listed.into_iter().flatten().filter_map(|name| name.as_str());
    names.take(200).map(str::to_owned).collect()
}

fn lets_in(config: &OidcConfig, claims: &IdTokenClaims<Claims, CoreGenderClaim>, groups: &[String]) -> bool {
    let is_verified = claims.email_verified() == Some(true);
    let domain = claims.email().and_then(|email| email.rsplit_once('@')).map(|(_, domain)| domain);
    let by_domain = is_verified
        && domain
            .is_some_and(|domain| config.allow_domains.iter().any(|own| own.eq_ignore_ascii_case(domain)));
    by_domain || config.allow_groups.iter().any(|group| groups.contains(group))
}

/// A new person, named as the provider does, with a number if that name is taken.
async fn add(
    site: &Site,
    claims: &IdTokenClaims<Claims, CoreGenderClaim>,
    identity: ProviderIdentity,
) -> Result<UserId, Refused> {
    let email =
        claims.email().filter(|_| claims.email_verified() == Some(true)).map(|email| email.to_string());
    let preferred = claims.preferred_username().map(|name| name.to_string());
    let base = preferred.or_else(|| email.clone()).unwrap_or_else(|| "person".into());
    let base: String =
        base.split('@').next().unwrap_or_default().chars().filter(|c| fits(*c)).take(40).collect();
    let base = if base.is_empty() { "person".to_owned() } else { base.to_ascii_lowercase() };
    let display =
        claims.name().and_then(|name| name.get(None)).map(|name| name.to_string()).unwrap_or_default();
    let mut why = String::new();
    for n in 1..=NAMES_TRIED {
        let new = NewUser {
            name: if n == 1 { base.clone() } else { format!("{base}-{n}") },
            email: email.clone(),
            display_name: display.clone(),
            role: Some(Role::Member),
            provider: Some(identity.clone()),
            groups: Vec::new(),
        };
        match site.control.execute("company sign-in", Command::CreateUser(new)).await {
            Ok(Done::User(id)) => return Ok(id),
            Ok(_) => break,
            Err(error) => why = crate::acts::sentence(&error),
        }
    }
    Err(Refused::Tailnet(why))
}

fn fits(c: char) -> bool {
    c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')
}
