//! Bodies of the documents and bodies recorded from other makers' clients, read and written again.

use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sw_tailcfg::{
    BODY_MAX, EndpointType, HealthChangeRequest, KEEP_ALIVE, MapRequest, MapRequestKind, MapResponse,
    PingResponse, RegisterRequest, RegisterResponse, decode_map_response, decode_request, encode,
};

const DOCUMENTS: &str = include_str!("data/documents.json");
const RECORDED: [&str; 3] = [
    include_str!("data/tsnet-1.90.9.json"),
    include_str!("data/tsnet-1.86.0.json"),
    include_str!("data/arkitekt-mesh-0.8.0.json"),
];

/// What reading `body` as `T` and writing it again gives.
fn rewritten<T: DeserializeOwned + Serialize>(body: &Value) -> Value {
    let message: T = decode_request(body.to_string().as_bytes()).expect("the body is read");
    serde_json::from_slice(&encode(&message)).expect("what we write is JSON")
}

/// `body` without what we leave out: `null`, `false` flags, the dead `HairPinning`.
fn lean(body: &Value) -> Value {
    let mut body = body.clone();
    strip(&mut body);
    body
}

fn strip(value: &mut Value) {
    if let Some(object) = value.as_object_mut() {
        object.retain(|name, value| {
            let dropped = value.is_null() || name == "HairPinning" || name == "Stream" && *value == false;
            !dropped
        });
        object.values_mut().for_each(strip);
    }
}

#[test]
fn documented_bodies_are_read_and_written_unchanged() {
    let documents: Value = serde_json::from_str(DOCUMENTS).unwrap();
    assert_eq!(rewritten::<RegisterRequest>(&documents["register_request"]), documents["register_request"]);
    assert_eq!(rewritten::<MapRequest>(&documents["map_request"]), documents["map_request"]);
    let responses = documents["map_responses"].as_array().unwrap();
    assert_eq!(responses.len(), 7);
    for response in responses {
        assert_eq!(rewritten::<MapResponse>(response), *response);
    }
    let register = &documents["least_register_response"];
    assert_eq!(rewritten::<RegisterResponse>(register), *register);
}

/// The bodies carry the keys of keys.md §5.1, in the form that each member has.
#[test]
fn the_keys_of_the_documented_bodies_are_those_of_the_key_vectors() {
    let vectors = [
        include_str!("../../sw-types/tests/data/keys.json"),
        include_str!("../../sw-lock/tests/data/lock.json"),
    ];
    let keys: Vec<&str> = DOCUMENTS
        .split('"')
        .filter_map(|text| text.split_once(':').filter(|(_, hex)| hex.len() == 64).map(|(_, hex)| hex))
        .collect();
    assert_eq!(keys.len(), 9);
    for key in keys {
        assert!(
            vectors.iter().any(|file| file.contains(key)) || key.bytes().all(|digit| digit == b'0'),
            "{key}"
        );
    }
}

/// A body that is read wrongly and written back as it came would pass the test above.
#[test]
fn documented_bodies_mean_what_they_say() {
    let documents: Value = serde_json::from_str(DOCUMENTS).unwrap();
    fn read<T: DeserializeOwned>(body: &Value) -> T {
        decode_request(body.to_string().as_bytes()).expect("the body is read")
    }
    insta::assert_debug_snapshot!(
        "register_request",
        read::<RegisterRequest>(&documents["register_request"])
    );
    insta::assert_debug_snapshot!("map_request", read::<MapRequest>(&documents["map_request"]));
    insta::assert_debug_snapshot!("map_responses", read::<Vec<MapResponse>>(&documents["map_responses"]));
    let register = read::<RegisterResponse>(&documents["least_register_response"]);
    insta::assert_debug_snapshot!("least_register_response", register);
}

#[test]
fn the_keep_alive_is_always_the_same_bytes() {
    let keep_alive = MapResponse { keep_alive: true, ..MapResponse::default() };
    assert_eq!(encode(&keep_alive), KEEP_ALIVE);
}

#[test]
fn a_register_response_always_has_the_fields_that_the_rust_client_wants() {
    let body = String::from_utf8(encode(&RegisterResponse::default())).unwrap();
    assert_eq!(
        body,
        r#"{"User":{"ID":0,"DisplayName":""},"Login":{"ID":0,"Provider":"","LoginName":"","DisplayName":""},"NodeKeyExpired":false,"MachineAuthorized":false,"AuthURL":"","Error":""}"#
    );
}

#[test]
fn recorded_requests_of_three_clients_are_read_whole() {
    let mut read = 0;
    for file in RECORDED {
        let file: Value = serde_json::from_str(file).unwrap();
        for request in file["requests"].as_array().unwrap() {
            let (what, body) = (request["what"].as_str().unwrap(), &request["body"]);
            let written = if body.is_null() {
                continue;
            } else if what.starts_with("register") {
                let request: RegisterRequest = decode_request(body.to_string().as_bytes()).unwrap();
                // The signature is written as null when there is none, and the rest of what we always write is zero.
                let mut expected = body.clone();
                for (name, zero) in [
                    ("NLKey", format!("nlpub:{}", "0".repeat(64)).into()),
                    ("Expiry", "0001-01-01T00:00:00Z".into()),
                    ("Followup", "".into()),
                ] {
                    expected.as_object_mut().unwrap().entry(name).or_insert(zero);
                }
                assert_eq!(
                    lean(&serde_json::from_slice(&encode(&request)).unwrap()),
                    lean(&expected),
                    "{what}"
                );
                read += 1;
                continue;
            } else if what.starts_with("map") {
                rewritten::<MapRequest>(body)
            } else if what.starts_with("update-health") {
                rewritten::<HealthChangeRequest>(body)
            } else {
                rewritten::<PingResponse>(body)
            };
            assert_eq!(lean(&written), lean(body), "{what}");
            read += 1;
        }
    }
    assert_eq!(read, 28, "every recorded body");
}

#[test]
fn the_kinds_of_map_requests_are_told_apart() {
    let kind = |body: &str| decode_request::<MapRequest>(body.as_bytes()).unwrap().kind();
    assert_eq!(kind(r#"{"Stream":true}"#), MapRequestKind::Stream);
    assert_eq!(kind(r#"{"OmitPeers":true}"#), MapRequestKind::LiteUpdate);
    assert_eq!(kind("{}"), MapRequestKind::OneShot);
}

#[test]
fn endpoints_keep_their_types_when_one_cannot_be_read() {
    let body =
        r#"{"Endpoints":["a:1","1.2.3.4:5","1.2.3.4:5","[::1]:7","5.6.7.8:9"],"EndpointTypes":[1,2,1,1]}"#;
    let request: MapRequest = decode_request(body.as_bytes()).unwrap();
    assert_eq!(
        request.usable_endpoints(),
        [
            ("1.2.3.4:5".parse().unwrap(), EndpointType::STUN),
            ("5.6.7.8:9".parse().unwrap(), EndpointType::UNKNOWN)
        ]
    );
}

#[test]
fn names_of_the_official_rust_client_are_understood() {
    let body = br#"{"Version":130,"NodeKey":"nodekey:7b4e909bbe7ffe44c465a220037d608ee35897d31ef972f07f74892cb0f73f13",
        "HostInfo":{"IpnVersion":"0.5","FrontendLogId":"f","BackendLogId":"b","Os":"linux","OsVersion":"6",
        "RoutableIps":["10.0.0.0/8"],"WolMacs":["00:00"],"SshHostKeys":["k"],"ExitNodeId":"n","Tpm":{"Vendor":"v"},
        "NetInfo":{"MappingVariesByDestIp":true,"WorkingIpv6":true,"OsHasIpv6":true,"WorkingUdp":true,
        "WorkingIcmpv4":true,"Upnp":true,"Pmp":true,"Pcp":true,"PreferredDerp":900,"DerpLatency":{"900-v4":0.5}}}}"#;
    let request: MapRequest = decode_request(body).unwrap();
    let written: Value = serde_json::from_slice(&encode(&request)).unwrap();
    let hostinfo = written["Hostinfo"].as_object().unwrap();
    let names: Vec<&str> = hostinfo.keys().map(String::as_str).collect();
    assert_eq!(
        names,
        [
            "BackendLogID",
            "ExitNodeID",
            "FrontendLogID",
            "IPNVersion",
            "NetInfo",
            "OS",
            "OSVersion",
            "RoutableIPs",
            "TPM",
            "WoLMACs",
            "sshHostKeys"
        ]
    );
    assert_eq!(hostinfo["NetInfo"].as_object().unwrap().len(), 10);
}

#[test]
fn one_bad_peer_does_not_cost_the_others() {
    let message =
        br#"{"Peers":[{"ID":1,"Name":"a."},{"ID":2,"Addresses":"100.64.0.1/32"},{"ID":"x"},{"ID":3}],
        "PeersChanged":[{"ID":4},7],"Domain":"d"}"#;
    let decoded = decode_map_response(message).unwrap();
    let ids: Vec<i64> = decoded.response.peers.iter().map(|peer| peer.id.0).collect();
    assert_eq!(ids, [1, 3]);
    assert_eq!(decoded.response.peers_changed.len(), 1);
    assert_eq!(decoded.response.domain, "d");
    assert_eq!(
        decoded.rejected.iter().map(|r| r.id.map(|id| id.0)).collect::<Vec<_>>(),
        [Some(2), None, None]
    );
    // Anything else that is wrong is an error, as for the official client.
    assert!(decode_map_response(br#"{"Node":{"ID":"x"}}"#).is_err());
}

#[test]
fn requests_are_read_up_to_their_limit() {
    let body = |len: usize| format!("{{}}{}", " ".repeat(len - 2));
    assert!(decode_request::<MapRequest>(body(BODY_MAX).as_bytes()).is_ok());
    assert!(decode_request::<MapRequest>(body(BODY_MAX + 1).as_bytes()).is_err());
}
