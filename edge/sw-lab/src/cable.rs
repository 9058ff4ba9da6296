//! A cable with delay: two TAP devices and a queue between them, for kernels without netem.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::io::{BufRead as _, BufReader};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Stdio};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use tun_rs::{DeviceBuilder, Layer, SyncDevice};

use crate::LabError;
use crate::namespace::{command_in, enter, name_of};
use crate::plan::{Cable, INTERNET_ROOM};
use crate::topology::LinkQuality;

/// Most frames under way in one direction; more are dropped, as a full buffer would.
const FRAMES_MAX: usize = 8192;

/// Largest frame: a jumbo one with its header, bytes.
const FRAME_LEN_MAX: usize = 9216;

/// Starts one process that carries all `cables`; their interfaces exist when this returns.
///
/// # Errors
/// The process could not be started or could not make its interfaces.
pub(crate) fn start(samewire: &Path, lab: &str, cables: &[&Cable]) -> Result<Option<Child>, LabError> {
    if cables.is_empty() {
        return Ok(None);
    }
    let mut command = command_in(&name_of(lab, INTERNET_ROOM), samewire)?;
    command.args(["lab", "cable", "--lab", lab]);
    for cable in cables {
        command.arg("--cable").arg(to_argument(cable));
    }
    let failed =
        |why: String| LabError::new("lab-cable", "the cables with delay could not be made.").why(why);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).process_group(0);
    let mut child = command.spawn().map_err(|e| failed(e.to_string()))?;
    let mut line = String::new();
    if let Some(out) = child.stdout.take() {
        // An empty line is handled below: then the process has ended and says why.
        let _read = BufReader::new(out).read_line(&mut line);
    }
    if line.trim() == "ready" {
        return Ok(Some(child));
    }
    let output = child.wait_with_output().map_err(|e| failed(e.to_string()))?;
    Err(failed(String::from_utf8_lossy(&output.stderr).trim().to_owned()))
}

/// `ROOM/INTERFACE,ROOM/INTERFACE,DELAY_MS,JITTER_MS,REORDER_PERCENT`.
fn to_argument(cable: &Cable) -> String {
    let [a, b] = &cable.ends;
    let q = cable.quality;
    format!(
        "{}/{},{}/{},{},{},{}",
        a.room, a.interface, b.room, b.interface, q.delay_ms, q.jitter_ms, q.reorder_percent
    )
}

/// A cable as it comes on the command line of the carrying process.
#[derive(Clone, Debug)]
pub(crate) struct CableArgument {
    ends: [(String, String); 2],
    quality: LinkQuality,
}

impl std::str::FromStr for CableArgument {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts: Vec<&str> = text.split(',').collect();
        let [a, b, delay, jitter, reorder] = parts.as_slice() else {
            return Err("must be ROOM/INTERFACE,ROOM/INTERFACE,DELAY_MS,JITTER_MS,REORDER_PERCENT".into());
        };
        let end = |text: &str| {
            text.split_once('/')
                .map(|(r, i)| (r.to_owned(), i.to_owned()))
                .ok_or("an end must be ROOM/INTERFACE")
        };
        let number = |text: &str| text.parse::<u32>().map_err(|e| e.to_string());
        Ok(Self {
            ends: [end(a)?, end(b)?],
            quality: LinkQuality {
                delay_ms: number(delay)?,
                jitter_ms: number(jitter)?,
                loss_percent: 0.0,
                reorder_percent: reorder.parse().map_err(|e: std::num::ParseFloatError| e.to_string())?,
            },
        })
    }
}

/// Makes the interfaces of `cables` and carries their frames until the process is ended.
///
/// # Errors
/// An interface could not be made; once all are there it does not return.
pub(crate) fn carry(lab: &str, cables: &[CableArgument], ready: impl FnOnce()) -> Result<(), LabError> {
    let mut threads = Vec::new();
    for cable in cables {
        let [a, b] = [open_tap(lab, &cable.ends[0])?, open_tap(lab, &cable.ends[1])?];
        threads.extend(carry_one_way(&a, &b, cable.quality));
        threads.extend(carry_one_way(&b, &a, cable.quality));
    }
    ready();
    for thread in threads {
        // A panic of one direction leaves a dead cable, which the lab's user sees; the others go on.
        let _ended = thread.join();
    }
    Ok(())
}

fn open_tap(lab: &str, (room, interface): &(String, String)) -> Result<Arc<SyncDevice>, LabError> {
    enter(&name_of(lab, room), || {
        DeviceBuilder::new()
            .name(interface.clone())
            .layer(Layer::L2)
            .enable(false)
            .build_sync()
            .map(Arc::new)
            .map_err(|e| {
                LabError::new(
                    "lab-cable",
                    format!("the interface {interface} of \"{room}\" could not be made."),
                )
                .why(e.to_string())
            })
    })
}

/// A frame and when it reaches the other end; `order` keeps equal times in the order of arrival.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Frame {
    due: Instant,
    order: u64,
    bytes: Vec<u8>,
}

fn carry_one_way(
    from: &Arc<SyncDevice>,
    to: &Arc<SyncDevice>,
    quality: LinkQuality,
) -> [std::thread::JoinHandle<()>; 2] {
    let (sender, receiver) = sync_channel(FRAMES_MAX);
    let (from, to) = (Arc::clone(from), Arc::clone(to));
    [
        std::thread::spawn(move || read_frames(&from, &sender, quality)),
        std::thread::spawn(move || write_frames(&to, &receiver)),
    ]
}

fn read_frames(from: &SyncDevice, sender: &SyncSender<Frame>, quality: LinkQuality) {
    let mut buffer = vec![0; FRAME_LEN_MAX];
    let mut dues = Dues::new(quality);
    loop {
        match from.recv(&mut buffer) {
            Ok(len) => {
                let frame = dues.stamp(buffer.get(..len).unwrap_or_default().to_vec(), Instant::now());
                // A full queue drops the frame.
                let _full = sender.try_send(frame);
            }
            // The interface is down, which is what an unplugged cable looks like.
            Err(_) => std::thread::sleep(Duration::from_millis(20)),
        }
    }
}

fn write_frames(to: &SyncDevice, receiver: &Receiver<Frame>) {
    let mut waiting: BinaryHeap<Reverse<Frame>> = BinaryHeap::new();
    loop {
        let wait = waiting
            .peek()
            .map_or(Duration::from_secs(3600), |f| f.0.due.saturating_duration_since(Instant::now()));
        match receiver.recv_timeout(wait) {
            Ok(frame) => waiting.push(Reverse(frame)),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
        while waiting.peek().is_some_and(|f| f.0.due <= Instant::now()) {
            if let Some(Reverse(frame)) = waiting.pop() {
                // An interface that is down loses the frame.
                let _lost = to.send(&frame.bytes);
            }
        }
    }
}

/// Decides when each frame of one direction arrives.
struct Dues {
    quality: LinkQuality,
    last: Option<Instant>,
    count: u64,
    random: u64,
}

impl Dues {
    fn new(quality: LinkQuality) -> Self {
        Self { quality, last: None, count: 0, random: 0x9e37_79b9_7f4a_7c15 }
    }

    fn stamp(&mut self, bytes: Vec<u8>, now: Instant) -> Frame {
        self.count += 1;
        let overtakes = self.quality.reorder_percent > 0.0
            && f64::from(self.next_of(10_000)) < self.quality.reorder_percent * 100.0;
        let due = if overtakes {
            now
        } else {
            let jitter_us = self.next_of(self.quality.jitter_ms.saturating_mul(1000).saturating_add(1));
            let due = now
                + Duration::from_millis(self.quality.delay_ms.into())
                + Duration::from_micros(jitter_us.into());
            // INVARIANT: jitter alone never reorders.
            self.last.map_or(due, |last| last.max(due))
        };
        if !overtakes {
            self.last = Some(due);
        }
        Frame { due, order: self.count, bytes }
    }

    /// Returns a number below `bound` (xorshift: a lab needs no better).
    fn next_of(&mut self, bound: u32) -> u32 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        u32::try_from((self.random >> 32) % u64::from(bound.max(1))).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn orders(quality: LinkQuality) -> (Vec<u64>, Duration) {
        let mut dues = Dues::new(quality);
        let start = Instant::now();
        let mut frames: Vec<Frame> =
            (0..1000).map(|i| dues.stamp(Vec::new(), start + Duration::from_micros(i * 100))).collect();
        let shortest = frames
            .iter()
            .zip(0..)
            .map(|(f, i)| f.due - (start + Duration::from_micros(i * 100)))
            .min()
            .unwrap_or_default();
        frames.sort();
        (frames.iter().map(|f| f.order).collect(), shortest)
    }

    #[test]
    fn jitter_delays_and_keeps_the_order() {
        let (orders, shortest) = orders(LinkQuality { delay_ms: 20, jitter_ms: 5, ..LinkQuality::default() });
        assert!(orders.is_sorted());
        assert!(shortest >= Duration::from_millis(20));
    }

    #[test]
    fn reordering_lets_some_overtake() {
        let (orders, shortest) =
            orders(LinkQuality { delay_ms: 20, reorder_percent: 2.0, ..LinkQuality::default() });
        assert!(!orders.is_sorted());
        assert_eq!(shortest, Duration::ZERO);
    }

    #[test]
    fn a_cable_survives_its_way_through_the_command_line() {
        let text = "internet/p1,home/wan0,20,3,1.5";
        let cable: CableArgument = text.parse().expect("well formed");
        assert_eq!(cable.ends[1], ("home".to_owned(), "wan0".to_owned()));
        assert_eq!(
            cable.quality,
            LinkQuality { delay_ms: 20, jitter_ms: 3, loss_percent: 0.0, reorder_percent: 1.5 }
        );
        assert!("home/wan0".parse::<CableArgument>().is_err());
    }
}
