//! Company sign-in against a small provider: discovery, keys, PKCE and signed tokens as the standard has them.

mod world;

use openidconnect::core::{
    CoreEdDsaPrivateSigningKey, CoreIdToken, CoreIdTokenClaims, CoreJsonWebKeySet, CoreJwsSigningAlgorithm,
};
use openidconnect::{JsonWebKeyId, PkceCodeChallenge, PkceCodeVerifier, PrivateSigningKey as _};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};
use sw_page::OidcConfig;
use sw_tailnet::{Role, User};
use sw_types::Secret;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;
use world::{World, between, world};

/// Code → challenge and claims, as long as nobody came for them.
type Codes = Arc<Mutex<BTreeMap<String, (String, Value)>>>;

struct Provider {
    issuer: String,
    codes: Codes,
}

impl Provider {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let issuer = format!("http://{}", listener.local_addr().expect("bound"));
        let codes = Codes::default();
        let pem = rcgen::KeyPair::generate_for(&rcgen::PKCS_ED25519).expect("a key").serialize_pem();
        let (url, kept) = (issuer.clone(), Arc::clone(&codes));
        tokio::spawn(async move {
            loop {
                let (mut io, _) = listener.accept().await.expect("accepts");
                let mut request = Vec::new();
                let mut piece = [0; 4_096];
                while !is_whole(&request) {
                    let n = io.read(&mut piece).await.expect("reads");
                    request.extend_from_slice(&piece[..n]);
                    assert!(n > 0, "the request breaks off");
                }
                let text = String::from_utf8(request).expect("text");
                let body = answer(&url, &pem, &kept, &text);
                let status = if body.get("error").is_some() { "400 Bad Request" } else { "200 OK" };
                let body = body.to_string();
                let head = format!(
                    "HTTP/1.1 {status}\r\nContent-Type: application/json\r\nConnection: close\r\nContent-Length: {}\r\n\r\n",
                    body.len()
                );
                io.write_all(format!("{head}{body}").as_bytes()).await.expect("writes");
            }
        });
        Self { issuer, codes }
    }

    fn config(&self) -> OidcConfig {
        OidcConfig {
            issuer: self.issuer.clone(),
            client_id: "samewire".into(),
            client_secret: Some(Secret::new("hush".into())),
            allow_domains: vec!["example.org".into()],
            allow_groups: vec![],
            groups_claim: "groups".into(),
            admin_group: Some("it".into()),
        }
    }
}

fn is_whole(request: &[u8]) -> bool {
    let text = String::from_utf8_lossy(request).to_ascii_lowercase();
    let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
    let len = head.split("content-length: ").nth(1).and_then(|rest| rest.lines().next()?.trim().parse().ok());
    body.len() >= len.unwrap_or(0)
}

fn answer(url: &str, pem: &str, codes: &Codes, request: &str) -> Value {
    let key = CoreEdDsaPrivateSigningKey::from_ed25519_pem(pem, Some(JsonWebKeyId::new("k".into())))
        .expect("a key");
    match request.split(' ').nth(1).expect("a path") {
        "/.well-known/openid-configuration" => json!({
            "issuer": url, "authorization_endpoint": format!("{url}/authorize"),
            "token_endpoint": format!("{url}/token"), "jwks_uri": format!("{url}/keys"),
            "response_types_supported": ["code"], "subject_types_supported": ["public"],
            "id_token_signing_alg_values_supported": ["EdDSA"],
        }),
        "/keys" => {
            serde_json::to_value(CoreJsonWebKeySet::new(vec![key.as_verification_key()])).expect("keys")
        }
        "/token" => {
            assert!(
                request.to_ascii_lowercase().contains("authorization: basic"),
                "the client proves itself"
            );
            let form: BTreeMap<String, String> =
                form_urlencoded::parse(request.split("\r\n\r\n").nth(1).expect("a form").as_bytes())
                    .into_owned()
                    .collect();
            let Some((challenge, claims)) = codes.lock().expect("codes").remove(&form["code"]) else {
                return json!({ "error": "invalid_grant" });
            };
            let verifier = PkceCodeVerifier::new(form["code_verifier"].clone());
            if PkceCodeChallenge::from_code_verifier_sha256(&verifier).as_str() != challenge {
                return json!({ "error": "invalid_grant" });
            }
            json!({ "access_token": "a", "token_type": "bearer", "id_token": token(&claims, &key) })
        }
        other => panic!("nobody asks for {other}"),
    }
}

/// Signs claims that the standard's types do not know (`groups`) too.
fn token(claims: &Value, key: &CoreEdDsaPrivateSigningKey) -> String {
    use base64::Engine as _;
    use base64::engine::general_purpose::URL_SAFE_NO_PAD as B64;
    // The library's own writer checks that the standard part is whole.
    let standard: CoreIdTokenClaims = serde_json::from_value(claims.clone()).expect("claims");
    CoreIdToken::new(standard, key, CoreJwsSigningAlgorithm::EdDsa, None, None).expect("a token");
    let head = B64.encode(json!({ "alg": "EdDSA", "kid": "k" }).to_string());
    let signed = format!("{head}.{}", B64.encode(claims.to_string()));
    let signature = key.sign(&CoreJwsSigningAlgorithm::EdDsa, signed.as_bytes()).expect("signs");
    format!("{signed}.{}", B64.encode(signature))
}

/// A browser at the provider: begins a sign-in, and comes back with a code for these claims.
struct Trip {
    state: String,
    cookie: String,
    code: String,
}

async fn trip(world: &World, provider: &Provider, mut claims: Value) -> Trip {
    let answer = world.get("/oidc/start?next=/network", "").await;
    assert!(answer.starts_with("HTTP/1.1 303"), "{answer}");
    let cookie = between(&answer, "set-cookie: ", ";").to_owned();
    assert!(answer.contains("HttpOnly; SameSite=Lax"), "{answer}");
    let to = between(&answer, "location: ", "\r\n");
    let (_, query) = to.split_once('?').expect("a query");
    let query: BTreeMap<String, String> = form_urlencoded::parse(query.as_bytes()).into_owned().collect();
    assert_eq!((&*query["code_challenge_method"], &*query["response_type"]), ("S256", "code"));
    assert_eq!(query["redirect_uri"], "http://127.0.0.1/oidc/callback");
    let now = sw_control::clock::now().wall.as_secs();
    for (name, value) in [
        ("iss", json!(provider.issuer)),
        ("aud", json!("samewire")),
        ("iat", json!(now)),
        ("exp", json!(now + 60)),
        ("nonce", json!(query["nonce"])),
    ] {
        claims.as_object_mut().expect("an object").entry(name).or_insert(value);
    }
    let code = format!("code-{}", query["state"]);
    provider.codes.lock().expect("codes").insert(code.clone(), (query["code_challenge"].clone(), claims));
    Trip { state: query["state"].clone(), cookie, code }
}

impl Trip {
    async fn come_back(&self, world: &World) -> String {
        self.come_back_with(world, &self.cookie).await
    }

    async fn come_back_with(&self, world: &World, cookie: &str) -> String {
        world.get(&format!("/oidc/callback?code={}&state={}", self.code, self.state), cookie).await
    }
}

fn jun() -> Value {
    json!({
        "sub": "j-1", "email": "jun@example.org", "email_verified": true, "preferred_username": "jun",
        "name": "Jun Oda", "groups": ["it", "people"],
    })
}

async fn people(world: &World) -> Vec<User> {
    world.control.read(|t| t.state().users().cloned().collect()).await.expect("runs")
}

#[tokio::test]
async fn a_verified_person_of_the_company_gets_in_with_groups_and_role() {
    let provider = Provider::start().await;
    let world = world(Some(provider.config())).await;
    assert!(world.get("/machines", "").await.contains("Sign in with 127.0.0.1"));
    let back = trip(&world, &provider, jun()).await;
    let answer = back.come_back(&world).await;
    assert!(answer.contains("refresh: 0;url=/network") && answer.contains("SameSite=Strict"), "{answer}");
    let session = between(&answer, "set-cookie: ", ";").to_owned();
    assert!(world.get("/machines", &session).await.contains("Jun Oda"));
    let all = people(&world).await;
    let jun_now = all.iter().find(|user| user.name == "jun").expect("jun");
    assert_eq!((jun_now.role, &jun_now.groups[..]), (Role::Admin, &["it".to_owned(), "people".into()][..]));
    // The second time it is the same person by issuer and subject, whatever the mail address; the role follows the group.
    let mut moved = jun();
    moved["email"] = json!("jun.oda@example.net");
    moved["groups"] = json!(["people"]);
    let answer = trip(&world, &provider, moved).await.come_back(&world).await;
    assert!(answer.contains("SameSite=Strict"), "{answer}");
    let all = people(&world).await;
    assert_eq!(all.len(), 2);
    let jun_now = all.iter().find(|user| user.name == "jun").expect("jun");
    assert_eq!((jun_now.role, &jun_now.groups[..]), (Role::Member, &["people".to_owned()][..]));
    assert!(world.get("/machines", &session).await.contains("Only an owner or admin"));
}

#[tokio::test]
async fn strangers_and_forged_answers_are_refused() {
    let provider = Provider::start().await;
    let world = world(Some(provider.config())).await;
    let with = |name: &str, value: Value| {
        let mut claims = jun();
        claims[name] = value;
        claims
    };
    for (claims, why) in [
        (with("email_verified", json!(false)), "not known here"),
        (with("email", json!("jun@example.net")), "not known here"),
        (with("nonce", json!("another")), "was not good"),
        (with("aud", json!("another")), "was not good"),
        (with("iss", json!("http://evil.example")), "was not good"),
        (with("exp", json!(1_000)), "was not good"),
    ] {
        let answer = trip(&world, &provider, claims.clone()).await.come_back(&world).await;
        assert!(answer.contains(why) && !answer.contains("set-cookie"), "{claims}: {answer}");
    }
    let good = trip(&world, &provider, jun()).await;
    assert!(
        good.come_back_with(&world, "").await.contains("another browser"),
        "a callback that nobody here began"
    );
    assert!(good.come_back(&world).await.contains("SameSite=Strict"));
    assert!(good.come_back(&world).await.contains("took too long"), "an answer is used once");
    let mut swapped = trip(&world, &provider, jun()).await;
    swapped.code = trip(&world, &provider, jun()).await.code;
    assert!(
        swapped.come_back(&world).await.contains("was not good"),
        "another sign-in's code has another challenge"
    );
    assert_eq!(people(&world).await.len(), 2);
}
