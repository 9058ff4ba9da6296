//! The hosted service's API over a running tailnet.

use std::sync::Arc;

use bytes::Bytes;
use http::{Method, Request, StatusCode};
use http_body_util::BodyExt;
use serde_json::{Value, json};
use sw_store::MemoryStore;
use sw_tailcfg::{Hostinfo, RegisterAuth, RegisterRequest};
use sw_types::{CapVer, MachineKey, NodeKey, Secret};

use super::{TABLE, document, route};
use crate::api::{Caller, handle};
use crate::{Server, ServerConfig};

struct Api {
    server: Server,
    _state: tempfile::TempDir,
}

impl Api {
    fn new() -> Self {
        let state = tempfile::tempdir().unwrap();
        let url = "http://192.0.2.1".to_owned();
        let engine = Arc::new(sw_tailnet::PolicyEngine::new(&url));
        let config = ServerConfig { url, state: state.path().to_owned(), engine };
        let server = Server::start_with(config, Box::new(MemoryStore::default())).unwrap();
        Self { server, _state: state }
    }

    async fn send(&self, request: Request<()>, body: String) -> (StatusCode, http::HeaderMap, String) {
        let (parts, ()) = request.into_parts();
        let answer = handle(self.server.shared(), &Caller::local(), &parts, Bytes::from(body)).await;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let text = answer.into_body().collect().await.unwrap().to_bytes();
        (status, headers, String::from_utf8(text.to_vec()).unwrap())
    }

    async fn ask(&self, method: Method, path: &str, body: Value) -> (StatusCode, Value) {
        let request = Request::builder().method(method).uri(path).body(()).unwrap();
        let body = if body.is_null() { String::new() } else { body.to_string() };
        let (status, _, text) = self.send(request, body).await;
        (status, serde_json::from_str(&text).unwrap_or(Value::String(text)))
    }

    async fn get(&self, path: &str) -> Value {
        let (status, value) = self.ask(Method::GET, path, Value::Null).await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    async fn post(&self, path: &str, body: Value) -> Value {
        let (status, value) = self.ask(Method::POST, path, body).await;
        assert_eq!(status, StatusCode::OK, "{path}: {value}");
        value
    }

    /// A machine that joined with a key of this API.
    async fn join(&self, name: &str) -> Value {
        let create = json!({ "reusable": false, "preauthorized": true });
        let key = self
            .post("/api/v2/tailnet/-/keys", json!({ "capabilities": { "devices": { "create": create } } }))
            .await;
        let request = RegisterRequest {
            version: CapVer(130),
            node_key: NodeKey::from_bytes([7; 32]),
            auth: Some(RegisterAuth { auth_key: Secret::new(key["key"].as_str().unwrap().to_owned()) }),
            hostinfo: Some(Arc::new(Hostinfo {
                os: "linux".to_owned(),
                hostname: name.to_owned(),
                routable_ips: vec!["10.0.0.0/8".parse().unwrap()],
                ..Hostinfo::default()
            })),
            ..RegisterRequest::default()
        };
        let machine = MachineKey::from_bytes([8; 32]);
        let answer = self.server.control().register(machine, request).await.unwrap();
        assert!(answer.machine_authorized, "{answer:?}");
        key
    }
}

#[test]
fn every_line_of_the_table_is_reached_and_stands_in_the_document() {
    let document = document();
    for line in TABLE {
        let path: Vec<&str> = line.path.split('/').map(|part| part.trim_matches(['{', '}'])).collect();
        let (found, _) = route(&line.method, &path).unwrap();
        assert_eq!(found.act, line.act, "{} {} is hidden by another line", line.method, line.path);
        let operation =
            &document["paths"][format!("/api/v2/{}", line.path)][line.method.as_str().to_ascii_lowercase()];
        assert_eq!(operation["operationId"], format!("{:?}", line.act));
        assert_eq!(TABLE.iter().filter(|other| other.act == line.act).count(), 1, "{:?} twice", line.act);
    }
    assert!(route(&Method::GET, &["tailnet", "-", "nothing"]).is_none());
    assert!(route(&Method::GET, &["device"]).is_none());
}

#[tokio::test]
async fn no_line_of_the_table_is_a_dead_end() {
    let api = Api::new();
    for line in TABLE {
        let path = line.path.replace("{tailnet}", "-").replace("{device}", "9").replace("{key}", "none");
        let path = format!("/api/v2/{}", path.replace("{user}", "nobody"));
        let (status, answer) = api.ask(line.method.clone(), &path, Value::Null).await;
        let is_missing_thing = answer["message"].as_str().is_some_and(|text| !text.contains("at this path"));
        assert!(status == StatusCode::OK || is_missing_thing, "{} {path}: {status} {answer}", line.method);
    }
}

#[tokio::test]
async fn a_device_lives_its_life() {
    let api = Api::new();
    let key = api.join("laptop").await;
    assert_eq!(key["keyType"], "auth");
    let id = key["id"].as_str().unwrap();
    let used = api.get(&format!("/api/v2/tailnet/-/keys/{id}")).await;
    assert_eq!((&used["invalid"], &used["key"]), (&json!(true), &Value::Null));

    let devices = api.get("/api/v2/tailnet/-/devices?fields=all").await;
    let device = &devices["devices"][0];
    assert_eq!(device["hostname"], "laptop");
    assert_eq!(device["advertisedRoutes"], json!(["10.0.0.0/8"]));
    assert_eq!(device["authorized"], true);
    let (number, stable) = (device["id"].as_str().unwrap(), device["nodeId"].as_str().unwrap());
    assert_eq!(api.get(&format!("/api/v2/device/{stable}")).await["id"], *number);

    api.post(&format!("/api/v2/device/{number}/name"), json!({ "name": "desk.home.internal" })).await;
    api.post(&format!("/api/v2/device/{number}/key"), json!({ "keyExpiryDisabled": true })).await;
    let routes =
        api.post(&format!("/api/v2/device/{stable}/routes"), json!({ "routes": ["10.0.0.0/8"] })).await;
    assert_eq!(routes, json!({ "advertisedRoutes": ["10.0.0.0/8"], "enabledRoutes": ["10.0.0.0/8"] }));
    let device = api.get(&format!("/api/v2/device/{number}")).await;
    assert_eq!(device["name"], "desk.home.internal");
    assert_eq!((&device["keyExpiryDisabled"], &device["lastSeen"]), (&json!(true), &device["lastSeen"]));

    let users = api.get("/api/v2/tailnet/-/users").await;
    assert_eq!((&users["users"][0]["role"], &users["users"][0]["deviceCount"]), (&json!("owner"), &json!(1)));
    let (status, _) = api.ask(Method::DELETE, &format!("/api/v2/device/{number}"), Value::Null).await;
    assert_eq!(status, StatusCode::OK);
    let (status, gone) = api.ask(Method::GET, &format!("/api/v2/device/{number}"), Value::Null).await;
    assert_eq!((status, &gone["status"]), (StatusCode::NOT_FOUND, &json!(404)));
}

#[tokio::test]
async fn the_policy_is_guarded_by_what_the_writer_saw() {
    let api = Api::new();
    let path = "/api/v2/tailnet/-/acl";
    let set = |etag: &str, text: &str| {
        let request = Request::post(path).header("if-match", etag).body(()).unwrap();
        api.send(request, text.to_owned())
    };
    let policy = r#"{ /* people */ "grants": [{"src": ["*"], "dst": ["*"], "ip": ["*"]}] }"#;
    let (status, headers, _) = set("ts-default", policy).await;
    assert_eq!(status, StatusCode::OK);
    let etag = headers["etag"].to_str().unwrap().to_owned();
    let (status, _, _) = set("ts-default", "{}").await;
    assert_eq!(status, StatusCode::PRECONDITION_FAILED);
    assert_eq!(api.get(path).await, Value::String(policy.to_owned()));
    let (status, _, _) = set(&etag, r#"{"grants": []}"#).await;
    assert_eq!(status, StatusCode::OK);

    let bad = api.post("/api/v2/tailnet/-/acl/validate", json!({ "grants": [{ "src": ["group:x"] }] })).await;
    assert!(bad["data"][0]["errors"][0].as_str().is_some_and(|text| !text.is_empty()), "{bad}");
    assert_eq!(api.post("/api/v2/tailnet/-/acl/validate", json!({ "grants": [] })).await, json!({}));
}

#[tokio::test]
async fn dns_and_settings_are_changed_in_parts() {
    let api = Api::new();
    let base = "/api/v2/tailnet/-/dns";
    let set = api.post(&format!("{base}/nameservers"), json!({ "dns": ["9.9.9.9"] })).await;
    assert_eq!(set, json!({ "dns": ["9.9.9.9"], "magicDNS": true }));
    api.post(&format!("{base}/searchpaths"), json!({ "searchPaths": ["corp.example"] })).await;
    let (_, split) = api
        .ask(
            Method::PATCH,
            &format!("{base}/split-dns"),
            json!({ "a.example": ["10.0.0.1"], "b.example": null }),
        )
        .await;
    assert_eq!(split, json!({ "a.example": ["10.0.0.1"] }));
    let (_, split) = api.ask(Method::PUT, &format!("{base}/split-dns"), json!({})).await;
    assert_eq!(split, json!({}));
    let whole = api.get(&format!("{base}/configuration")).await;
    assert_eq!(whole["nameservers"][0], json!({ "address": "9.9.9.9", "useWithExitNode": false }));
    assert_eq!(whole["searchPaths"], json!(["corp.example"]));

    let (status, settings) =
        api.ask(Method::PATCH, "/api/v2/tailnet/-/settings", json!({ "devicesApprovalOn": true })).await;
    assert_eq!((status, &settings["devicesApprovalOn"]), (StatusCode::OK, &json!(true)));
    let (status, refused) =
        api.ask(Method::PATCH, "/api/v2/tailnet/-/settings", json!({ "networkFlowLoggingOn": true })).await;
    assert_eq!(status, StatusCode::BAD_REQUEST, "{refused}");
    let (status, _) = api.ask(Method::GET, "/api/v2/tailnet/another.example/devices", Value::Null).await;
    assert_eq!(status, StatusCode::NOT_FOUND);
}

#[tokio::test]
async fn a_key_is_made_for_the_obvious_person() {
    let api = Api::new();
    let key = api.post("/api/samewire/v1/keys", json!({})).await;
    assert_eq!(key["user"], "owner", "a network without people gets its owner");
    api.post("/api/samewire/v1/users", json!({ "name": "bea" })).await;
    let key = api.post("/api/samewire/v1/keys", json!({})).await;
    assert_eq!(key["user"], "owner", "among several it is the owner");
}
