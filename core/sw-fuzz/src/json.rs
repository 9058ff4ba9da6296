//! JSON of the control protocol and of the local API.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sw_tailcfg::{
    AppConnectorRoutes, AuditLogRequest, BODY_MAX, C2nUpdate, DerpAdmitRequest, DerpAdmitResponse,
    EarlyNoise, HealthChangeRequest, LOCK_BODY_MAX, MapRequest, OverTlsPublicKeyResponse, PingResponse,
    PostureIdentity, QueryFeatureRequest, QueryFeatureResponse, RegisterRequest, RegisterResponse,
    SetDeviceAttributesRequest, SetDnsRequest, SshAction, SshEventNotifyRequest, SshPolicy,
    TkaBootstrapResponse, TkaInitBeginResponse, TkaInitFinishRequest, TkaSyncOfferResponse,
    TkaSyncSendRequest, TokenRequest, TokenResponse, VipServices, WebClientAuthResponse, decode_answer,
    decode_map_response, decode_request, encode,
};
use sw_types::local;

/// Equal but for the last bits of a fraction, which the JSON library does not promise to keep.
fn same(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Number(a), Value::Number(b)) => {
            a == b || a.as_f64().zip(b.as_f64()).is_some_and(|(a, b)| (a - b).abs() <= a.abs() * 1e-12)
        }
        (Value::Array(a), Value::Array(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Object(a), Value::Object(b)) => {
            a.len() == b.len() && a.iter().zip(b).all(|((ka, a), (kb, b))| ka == kb && same(a, b))
        }
        (left, right) => left == right,
    }
}

/// What we write must be read again, and then be written alike.
fn survives<T: Serialize + DeserializeOwned>(message: &T) {
    let written = encode(message);
    let again: T = decode_answer(&written, LOCK_BODY_MAX).expect("our own message");
    let value = |bytes: &[u8]| serde_json::from_slice::<Value>(bytes).expect("our own JSON");
    assert!(same(&value(&written), &value(&encode(&again))), "{}", String::from_utf8_lossy(&written));
}

fn answer<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(message) = decode_answer::<T>(data, BODY_MAX) {
        survives(&message);
    }
}

pub(crate) fn register_request(data: &[u8]) {
    if let Ok(request) = decode_request::<RegisterRequest>(data) {
        survives(&request);
    }
    answer::<RegisterResponse>(data);
}

pub(crate) fn map_request(data: &[u8]) {
    if let Ok(request) = decode_request::<MapRequest>(data) {
        assert!(request.usable_endpoints().len() <= request.endpoints.len());
        survives(&request);
    }
}

pub(crate) fn map_response(data: &[u8]) {
    let Ok(decoded) = decode_map_response(data) else { return };
    survives(&decoded.response);
    let peers = decoded.response.peers.iter().map(AsRef::as_ref);
    for node in peers.chain(decoded.response.node.as_deref()) {
        let _ = (node.home_region(), node.effective_allowed_ips().len());
    }
    if let Some(map) = &decoded.response.derp_map {
        let (checked, _) = map.check();
        assert!(checked.regions.iter().all(|(id, region)| *id == region.id && !id.is_zero()));
        let mut folded = map.clone();
        folded.apply(map.clone());
        assert_eq!(folded.check().0.regions, checked.regions);
    }
}

pub(crate) fn rpc(data: &[u8]) {
    answer::<OverTlsPublicKeyResponse>(data);
    answer::<EarlyNoise>(data);
    answer::<SetDnsRequest>(data);
    answer::<HealthChangeRequest>(data);
    answer::<SetDeviceAttributesRequest>(data);
    answer::<AuditLogRequest>(data);
    answer::<TokenRequest>(data);
    answer::<TokenResponse>(data);
    answer::<QueryFeatureRequest>(data);
    answer::<QueryFeatureResponse>(data);
    answer::<WebClientAuthResponse>(data);
    answer::<DerpAdmitRequest>(data);
    answer::<DerpAdmitResponse>(data);
    answer::<SshPolicy>(data);
    answer::<SshAction>(data);
    answer::<SshEventNotifyRequest>(data);
    answer::<PingResponse>(data);
    answer::<VipServices>(data);
    answer::<C2nUpdate>(data);
    answer::<PostureIdentity>(data);
    answer::<AppConnectorRoutes>(data);
    answer::<TkaInitBeginResponse>(data);
    answer::<TkaInitFinishRequest>(data);
    answer::<TkaBootstrapResponse>(data);
    answer::<TkaSyncOfferResponse>(data);
    answer::<TkaSyncSendRequest>(data);
}

/// The same for the local API, whose objects are plain serde.
fn local<T: Serialize + DeserializeOwned>(data: &[u8]) {
    if let Ok(object) = serde_json::from_slice::<T>(data) {
        let written = serde_json::to_vec(&object).expect("an object of ours");
        let again: T = serde_json::from_slice(&written).expect("our own JSON");
        let value = |object: &T| serde_json::to_value(object).expect("an object of ours");
        assert!(same(&value(&object), &value(&again)), "{}", String::from_utf8_lossy(&written));
    }
}

pub(crate) fn local_api(data: &[u8]) {
    local::<local::Prefs>(data);
    local::<local::StartOptions>(data);
    local::<local::Status>(data);
    local::<local::PingResult>(data);
    local::<local::Notify>(data);
    local::<local::Persist>(data);
    local::<local::LoginProfile>(data);
    local::<local::Problem>(data);
}
