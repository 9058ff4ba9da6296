//! One map request: stored, answered once, or a stream until either side ends it (control.md §4, §5.1).

use std::cell::RefCell;
use std::collections::VecDeque;
use std::future::poll_fn;
use std::pin::pin;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use bytes::{BufMut, Bytes, BytesMut};
use h2::server::SendResponse;
use h2::{RecvStream, SendStream};
use http::{Response, StatusCode};
use sw_tailcfg::{KEEP_ALIVE, MapRequest};
use sw_tailnet::{EndReason, Ended, MapMessage, MapRefused, StreamId};
use tokio::sync::mpsc;
use tokio::time::Instant;

use crate::clock;
use crate::inner::{ConnEnd, Peer, Refused, check_version, read_json, send};
use crate::server::Shared;
use crate::task::{MapAnswer, StreamItem};

/// A stream hears at least this often, up to 4 s later (control.md §4.2).
const KEEP_ALIVE_AFTER: Duration = Duration::from_secs(50);
const KEEP_ALIVE_SPREAD_MS: u64 = 4_000;

/// A reader that takes nothing for this long is cut off (threat-model.md §4).
const STALL_MAX: Duration = Duration::from_secs(60);

/// What is handed to HTTP/2 at once, the size of its frames. WHY copied: small parts are not frames of their own, and
/// the library never gives back the room in which it queues frames, so few of them must wait there.
const PIECE_MAX: usize = 16 * 1024;

/// Level of compression: shared parts are compressed once, so it may cost a little.
const ZSTD_LEVEL: i32 = 3;

/// How frames of a stream are packed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Packing {
    Zstd,
    Plain,
}

/// A stream that has begun.
pub(crate) struct MapStream {
    id: StreamId,
    items: mpsc::Receiver<StreamItem>,
    send: SendStream<Bytes>,
    packing: Packing,
    keep_alive: bool,
}

/// Takes a map request. `Some`: its stream is to be run.
pub(crate) async fn begin(
    shared: &Shared,
    peer: &Peer,
    body: RecvStream,
    respond: &mut SendResponse<Bytes>,
) -> Result<Option<MapStream>, Refused> {
    let request: MapRequest = read_json(body).await?;
    check_version(request.version)?;
    let packing = if request.compress == "zstd" { Packing::Zstd } else { Packing::Plain };
    let keep_alive = request.keep_alive;
    let answer = shared.control.map(peer.machine, request).await?;
    let answer = answer.map_err(|refused| match refused {
        MapRefused::UnknownNode => Refused::Status(StatusCode::NOT_FOUND, refused.to_string()),
    })?;
    peer.conn.authenticated();
    match answer {
        MapAnswer::Stored => {
            send(respond, StatusCode::OK, "application/json", Bytes::new())?;
            Ok(None)
        }
        MapAnswer::Once(message) => {
            let mut stream = respond.send_response(Response::new(()), false)?;
            for piece in pieces(&message, packing) {
                write(&mut stream, piece).await?;
            }
            stream.send_data(Bytes::new(), true)?;
            Ok(None)
        }
        MapAnswer::Streaming { id, items } => match respond.send_response(stream_head(), false) {
            Ok(send) => Ok(Some(MapStream { id, items, send, packing, keep_alive })),
            Err(error) => {
                shared.control.stream_closed(id, Ended::Broken).await;
                Err(error.into())
            }
        },
    }
}

/// Official clients pass over the headers; ours then tell their paths, and compare versions.
fn stream_head() -> Response<()> {
    let mut head = Response::new(());
    head.headers_mut().insert(sw_tailcfg::PATHS_WANTED, http::HeaderValue::from_static("1"));
    let server = http::HeaderValue::from_static(sw_tailcfg::ServerIs::OWN);
    head.headers_mut().insert(sw_tailcfg::ServerIs::HEADER, server);
    head
}

impl MapStream {
    /// Runs the stream to its end and says how it ended.
    pub(crate) async fn run(mut self, shared: Arc<Shared>, mut ended: ConnEnd) {
        shared.metrics.map_streams.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let how = self.pump(&shared, &mut ended).await;
        shared.metrics.map_streams.fetch_sub(1, std::sync::atomic::Ordering::Relaxed);
        if let Some(how) = how {
            shared.control.stream_closed(self.id, how).await;
        }
    }

    /// `None`: the tailnet ended the stream, it needs no telling.
    async fn pump(&mut self, shared: &Shared, ended: &mut ConnEnd) -> Option<Ended> {
        let silence = keep_alive_after();
        // WHY the timer is not set anew with each message: a thousand streams hear of each change, and this way a
        // message costs them the reading of a clock.
        let mut last = Instant::now();
        let mut alarm = pin!(tokio::time::sleep_until(last + silence));
        loop {
            let item = tokio::select! {
                item = self.items.recv() => item,
                () = alarm.as_mut(), if self.keep_alive => {
                    let now = Instant::now();
                    let due = last + silence;
                    if due > now {
                        alarm.as_mut().reset(due);
                        continue;
                    }
                    last = now;
                    alarm.as_mut().reset(now + silence);
                    let frame = keep_alive_frame(self.packing);
                    if self.write_in_time(std::iter::once(frame)).await.is_err() {
                        return Some(self.how(ended).await);
                    }
                    continue;
                }
                reset = poll_fn(|cx| self.send.poll_reset(cx)) => {
                    return Some(match reset {
                        Ok(reason) => how_reset(reason),
                        Err(_) => how_connection(ended).await,
                    });
                }
            };
            match item {
                Some(StreamItem::Message(message)) => {
                    let pieces = pieces(&message, self.packing);
                    drop(message);
                    if self.write_in_time(pieces).await.is_err() {
                        return Some(self.how(ended).await);
                    }
                    last = Instant::now();
                    shared.control.stream_ready(self.id).await;
                }
                Some(StreamItem::End(reason)) => {
                    if reason == EndReason::Removed {
                        drop(self.write_in_time(std::iter::once(expired_frame(self.packing))).await);
                    }
                    drop(self.send.send_data(Bytes::new(), true));
                    return None;
                }
                None => {
                    drop(self.send.send_data(Bytes::new(), true));
                    return None;
                }
            }
        }
    }

    /// How the stream ended, when a write failed.
    async fn how(&mut self, ended: &mut ConnEnd) -> Ended {
        let reset = poll_fn(|cx| std::task::Poll::Ready(self.send.poll_reset(cx))).await;
        match reset {
            std::task::Poll::Ready(Ok(reason)) => how_reset(reason),
            std::task::Poll::Ready(Err(_)) | std::task::Poll::Pending => how_connection(ended).await,
        }
    }

    async fn write_in_time(&mut self, pieces: impl Iterator<Item = Bytes>) -> Result<(), Refused> {
        for piece in pieces {
            let Some(rest) = write_at_once(&mut self.send, piece)? else { continue };
            match tokio::time::timeout(STALL_MAX, write(&mut self.send, rest)).await {
                Ok(written) => written?,
                Err(_) => {
                    self.send.send_reset(h2::Reason::ENHANCE_YOUR_CALM);
                    return Err(Refused::Gone);
                }
            }
        }
        Ok(())
    }
}

/// A client that stops, or that asks anew, gives its stream up by CANCEL (control.md §1.7). A machine that crashed or
/// lost its network says nothing of the kind.
fn how_reset(reason: h2::Reason) -> Ended {
    match reason {
        h2::Reason::CANCEL | h2::Reason::NO_ERROR => Ended::Orderly,
        _ => Ended::Broken,
    }
}

/// How the connection ended; it may be about to say so.
async fn how_connection(ended: &mut ConnEnd) -> Ended {
    let said = tokio::time::timeout(Duration::from_secs(1), ended.wait_for(Option::is_some)).await;
    match said {
        Ok(Ok(how)) => how.unwrap_or(Ended::Broken),
        Ok(Err(_)) | Err(_) => Ended::Broken,
    }
}

/// How long a stream is silent before a keep-alive, spread over the streams.
fn keep_alive_after() -> Duration {
    let [a, b] = clock::random();
    let spread = u64::from(u16::from_be_bytes([a, b])) % KEEP_ALIVE_SPREAD_MS;
    KEEP_ALIVE_AFTER + Duration::from_millis(spread)
}

/// Writes a piece for which the client's windows have room already; gives it back if they have not.
fn write_at_once(stream: &mut SendStream<Bytes>, piece: Bytes) -> Result<Option<Bytes>, Refused> {
    stream.reserve_capacity(piece.len());
    if stream.capacity() < piece.len() {
        return Ok(Some(piece));
    }
    stream.send_data(piece, false)?;
    Ok(None)
}

/// Writes within the client's windows: what it does not take stays here, in one shared buffer.
pub(crate) async fn write(stream: &mut SendStream<Bytes>, mut piece: Bytes) -> Result<(), Refused> {
    while !piece.is_empty() {
        stream.reserve_capacity(piece.len().min(64 * 1024));
        let capacity = poll_fn(|cx| stream.poll_capacity(cx)).await.ok_or(Refused::Gone)??;
        let now = piece.split_to(capacity.min(piece.len()));
        if !now.is_empty() {
            stream.send_data(now, false)?;
        }
    }
    Ok(())
}

/// The frame of a message: 4 bytes of length, little-endian, then the parts (control.md §5.1).
fn pieces(message: &MapMessage, packing: Packing) -> impl Iterator<Item = Bytes> + use<> {
    let packed = message.parts().iter().map(|part| match packing {
        Packing::Zstd => part.zstd(compress).clone(),
        Packing::Plain => part.json().clone(),
    });
    let mut parts: VecDeque<Bytes> = packed.collect();
    let mut length: usize = parts.iter().map(Bytes::len).sum();
    let prefix = u32::try_from(length).unwrap_or(u32::MAX).to_le_bytes();
    parts.push_front(Bytes::copy_from_slice(&prefix));
    length += prefix.len();
    std::iter::from_fn(move || {
        let mut piece = BytesMut::with_capacity(length.min(PIECE_MAX));
        while let Some(part) = parts.front_mut().filter(|_| piece.len() < PIECE_MAX) {
            piece.put(part.split_to(part.len().min(PIECE_MAX - piece.len())));
            if part.is_empty() {
                parts.pop_front();
            }
        }
        length -= piece.len();
        (!piece.is_empty()).then(|| piece.freeze())
    })
}

fn compress(json: &[u8]) -> Vec<u8> {
    thread_local! {
        static ZSTD: RefCell<Option<zstd::bulk::Compressor<'static>>> = const { RefCell::new(None) };
    }
    ZSTD.with_borrow_mut(|kept| {
        if kept.is_none() {
            *kept = zstd::bulk::Compressor::new(ZSTD_LEVEL).ok();
        }
        let packed = kept.as_mut().and_then(|zstd| zstd.compress(json).ok());
        packed.expect("compression into memory that grows cannot fail")
    })
}

fn frame(json: &[u8], packing: Packing) -> Bytes {
    let content = match packing {
        Packing::Zstd => compress(json),
        Packing::Plain => json.to_vec(),
    };
    let mut framed = BytesMut::with_capacity(4 + content.len());
    framed.put_u32_le(u32::try_from(content.len()).unwrap_or(u32::MAX));
    framed.put_slice(&content);
    framed.freeze()
}

/// Always the same bytes: clients compare them.
fn keep_alive_frame(packing: Packing) -> Bytes {
    static FRAMES: [OnceLock<Bytes>; 2] = [const { OnceLock::new() }; 2];
    let slot = match packing {
        Packing::Zstd => 0,
        Packing::Plain => 1,
    };
    FRAMES.get(slot).map_or_else(Bytes::new, |slot| slot.get_or_init(|| frame(KEEP_ALIVE, packing)).clone())
}

/// The last message to a machine that was removed: its key expired (control.md §3.6).
fn expired_frame(packing: Packing) -> Bytes {
    frame(br#"{"Node":{"KeyExpiry":"1970-01-01T00:00:01Z","MachineAuthorized":true}}"#, packing)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_keep_alive_is_the_same_bytes_each_time_and_comes_between_50_and_54_seconds() {
        for packing in [Packing::Plain, Packing::Zstd] {
            let first = keep_alive_frame(packing);
            assert_eq!(first, keep_alive_frame(packing));
            let (length, content) = first.split_first_chunk::<4>().unwrap();
            assert_eq!(u32::from_le_bytes(*length) as usize, content.len());
            let json = match packing {
                Packing::Plain => content.to_vec(),
                Packing::Zstd => zstd::decode_all(content).unwrap(),
            };
            assert_eq!(json, KEEP_ALIVE);
        }
        let limits = Duration::from_secs(50)..Duration::from_secs(54);
        assert!((0..100).all(|_| limits.contains(&keep_alive_after())));
    }
}
