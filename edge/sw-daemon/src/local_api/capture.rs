//! `debug-capture`: inner packets as a pcap stream, for as long as the client reads.

use std::convert::Infallible;

use bytes::Bytes;
use http::{Response, header};
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Frame;
use sw_dataplane::PCAP_HEADER;
use tokio_stream::StreamExt as _;
use tokio_stream::wrappers::ReceiverStream;

use super::ResponseBody;
use crate::core::{CoreHandle, Stopped};

/// Begins a capture; a former one ends. It ends when the client goes, and costs nothing while there is none.
pub(super) async fn capture(core: &CoreHandle) -> Result<Response<ResponseBody>, Stopped> {
    let packets = core.call(|core| core.device.capture()).await?;
    let head = tokio_stream::once(Bytes::from_static(&PCAP_HEADER));
    let records = ReceiverStream::new(packets).map(|packet| Bytes::from(packet.pcap_record()));
    let stream = head.chain(records).map(|bytes| Ok::<_, Infallible>(Frame::data(bytes)));
    let mut response = Response::new(StreamBody::new(stream).boxed_unsync());
    let kind = http::HeaderValue::from_static("application/vnd.tcpdump.pcap");
    response.headers_mut().insert(header::CONTENT_TYPE, kind);
    Ok(response)
}
