//! JSON types of the control protocol (control.md §2 to §5), for server and client alike.
//!
//! Serde types and nothing else: what a field means stands at the field, what to do about it elsewhere.
//!
//! * **Reading** goes through [`decode_request`], [`decode_answer`] and [`decode_map_response`]. They keep the limits
//!   of threat-model.md §4 and read as Go's decoder does: names in any letter case, unknown names skipped, `null`
//!   as the zero value, the last of two equal names wins.
//! * **Writing** goes through [`encode`]. A field at its zero value is left out where official programs leave it out,
//!   `null` is not written for lists, and strings hold no needless escapes, so that the strict official Rust client
//!   reads what we write (control.md §8.3).
//!
//! ```
//! use sw_tailcfg::{MapRequest, decode_request};
//!
//! let body = br#"{"version":145,"KeepAlive":true,"HostInfo":{"Os":"linux"},"Endpoints":null,"New":[1]}"#;
//! let request: MapRequest = decode_request(body)?;
//! assert_eq!(request.hostinfo.map(|h| h.os.clone()).as_deref(), Some("linux"));
//! # Ok::<(), sw_tailcfg::DecodeError>(())
//! ```
#![forbid(unsafe_code)]
#![warn(clippy::iter_over_hash_type)]

mod c2n;
mod decode;
mod derp_map;
mod dns;
mod filter;
mod go;
mod hostinfo;
mod map_request;
mod map_response;
mod node;
mod paths;
mod register;
mod rpc;
mod server_is;
mod ssh;
mod tka;
mod wire;

pub use c2n::{
    AppConnectorRoutes, C2nUpdate, PingRequest, PingResponse, PostureIdentity, VipService, VipServices,
};
pub use decode::{
    BODY_MAX, DEPTH_MAX, DecodeError, DecodedMap, KEEP_ALIVE, LOCK_BODY_MAX, MAP_MESSAGE_MAX, RejectedPeer,
    STRING_MAX, decode_answer, decode_map_response, decode_request, encode,
};
pub use derp_map::{DerpMap, DerpMapProblem, DerpNode, DerpRegion, HomeParams};
pub use dns::{DnsConfig, DnsRecord, Resolver};
pub use filter::{CapGrant, CapMap, FilterRule, NetPortRange, PortRange};
pub use hostinfo::{Hostinfo, Location, NetInfo, Service, TpmInfo};
pub use map_request::{EndpointType, MapRequest, MapRequestKind};
pub use map_response::{
    ClientVersion, ControlDialPlan, ControlIpCandidate, Debug, DisplayMessage, DisplayMessageAction,
    MapResponse, PeerChange, Severity, TkaInfo, UserProfile,
};
pub use node::Node;
pub use paths::{ACCEPTED_MAX, AcceptedReport, LINKS_MAX, LinkPath, LinkReport, PATHS_WANTED, PathsReport};
pub use register::{
    EarlyNoise, Login, OverTlsPublicKeyResponse, RegisterAuth, RegisterRequest, RegisterResponse,
    SignatureType, User,
};
pub use rpc::{
    AuditLogRequest, DerpAdmitRequest, DerpAdmitResponse, HealthChangeRequest, QueryFeatureRequest,
    QueryFeatureResponse, SetDeviceAttributesRequest, SetDnsRequest, SetDnsResponse, TokenRequest,
    TokenResponse, WebClientAuthResponse,
};
pub use server_is::ServerIs;
pub use ssh::{
    SshAction, SshEventNotifyRequest, SshPolicy, SshPrincipal, SshRecordingAttempt, SshRecordingFailure,
    SshRule,
};
pub use tka::{
    TkaAffectedSigsRequest, TkaAffectedSigsResponse, TkaBootstrapRequest, TkaBootstrapResponse,
    TkaDisableRequest, TkaEmptyResponse, TkaInitBeginRequest, TkaInitBeginResponse, TkaInitFinishRequest,
    TkaSignInfo, TkaSignRequest, TkaSyncOfferRequest, TkaSyncOfferResponse, TkaSyncSendRequest,
    TkaSyncSendResponse,
};
pub use wire::Base64;
