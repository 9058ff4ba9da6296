//! Every interval and limit of path choice, with its source.

use std::time::Duration;

/// A ping without answer is forgotten after this long (disco.md §5).
pub(crate) const PING_TIMEOUT: Duration = Duration::from_secs(5);
/// How long one pong lets a path carry traffic alone (disco.md §5).
pub(crate) const TRUST: Duration = Duration::from_millis(6500);
/// Pings of the best path while traffic flows; the official client waits 3 s
/// (path-selection.md §15 item 2).
pub(crate) const HEARTBEAT_BUSY: Duration = Duration::from_secs(1);
/// Pings of the best path in a session that is open but quiet (disco.md §5).
pub(crate) const HEARTBEAT: Duration = Duration::from_secs(3);
/// Traffic within this time makes a session busy.
pub(crate) const BUSY: Duration = Duration::from_secs(5);
/// Traffic within this time keeps a session active (disco.md §5).
pub(crate) const SESSION_ACTIVE: Duration = Duration::from_secs(45);
/// Pings that only keep a NAT mapping alive, below the usual 30 s expiry
/// (path-selection.md §15 item 3).
pub(crate) const KEEPALIVE: Duration = Duration::from_secs(25);
/// A peer unused for this long gets no more keepalives
/// (nat-traversal-beyond.md §4 item 12).
pub(crate) const KEEPALIVE_FOR: Duration = Duration::from_secs(600);
/// All candidates are tried again this often although a direct path works
/// (disco.md §5).
pub(crate) const UPGRADE: Duration = Duration::from_secs(60);
/// A path this fast is not worth improving (disco.md §5).
pub(crate) const GOOD_ENOUGH: Duration = Duration::from_millis(5);
/// Own endpoints older than this are measured again before they are told to
/// a peer (disco.md §5).
pub(crate) const ENDPOINTS_FRESH: Duration = Duration::from_secs(27);
/// When the pings of one discovery go out, after its start
/// (nat-traversal-beyond.md §4 item 1).
pub(crate) const PUNCHES: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(40),
    Duration::from_millis(120),
    Duration::from_millis(300),
    Duration::from_millis(700),
];
/// Later rounds of a discovery that found nothing yet.
pub(crate) const LATER_PUNCH: Duration = Duration::from_millis(1800);
/// Pause between discoveries while traffic has to use a relay (disco.md §5).
pub(crate) const DISCOVERY_PAUSE: Duration = Duration::from_secs(5);
/// The same after ten fruitless discoveries.
pub(crate) const DISCOVERY_PAUSE_LONG: Duration = Duration::from_secs(20);
/// Fruitless discoveries before the longer pause.
pub(crate) const DISCOVERIES_EAGER: u32 = 10;
/// A direct path that worked lately is tried this often while it is lost.
pub(crate) const HEAL_PROBE: Duration = Duration::from_secs(1);
/// How long a lost path keeps its faster probing.
pub(crate) const HEAL_FOR: Duration = Duration::from_secs(120);
/// Pings of a closer look at a path that missed one.
pub(crate) const LOOK_PINGS: u8 = 6;
/// Distance of the pings of a closer look.
pub(crate) const LOOK_PAUSE: Duration = Duration::from_millis(200);
/// Consecutive lost pings after which a path no longer carries traffic alone.
pub(crate) const MISSED_DOUBT: u8 = 2;
/// Consecutive lost pings after which a path is given up.
pub(crate) const MISSED_LOST: u8 = 7;
/// A path in doubt that misses pings is given up after this long.
pub(crate) const GIVE_UP: Duration = Duration::from_secs(3);
/// Delay above the relay's that is no reason to leave a path.
pub(crate) const SLOW_SLACK: Duration = Duration::from_millis(50);
/// A ping by relay without answer for this long: nothing can be expected of the relay.
pub(crate) const RELAY_SILENT: Duration = Duration::from_secs(1);
/// Lost pings of the last eight that make a path worse than a relay.
pub(crate) const LOSSY_OF_8: u32 = 3;
/// Consecutive pongs that bring a lossy path back; doubles with each relapse.
pub(crate) const CLEAN_PONGS: u8 = 8;
/// Upper bound of that number.
pub(crate) const CLEAN_PONGS_MAX: u8 = 64;
/// Candidates kept for one peer (path-selection.md §4).
pub(crate) const CANDIDATES_MAX: usize = 100;
/// A candidate learnt from a ping dies this long after the last one
/// (disco.md §5).
pub(crate) const LEARNT_IDLE: Duration = Duration::from_secs(45);
/// Candidates that get all pings of a burst; the rest gets one ping a burst.
pub(crate) const BURST_CANDIDATES: usize = 12;
/// Addresses taken from one CallMeMaybe (threat-model.md §4).
pub(crate) const CALL_ME_MAYBE_MAX: usize = 100;
/// Unanswered pings remembered for one peer; the oldest is forgotten.
pub(crate) const IN_FLIGHT_MAX: usize = 256;
/// Disco messages over a relay answered or acted upon per second and peer
/// (threat-model.md §4).
pub(crate) const RELAYED_DISCO_PER_S: u32 = 20;
/// Disco from unknown keys that is opened, per second in all (threat-model.md §4).
pub(crate) const PINGS_HEARD_PER_S: u32 = 100;
