//! Times and numbers as people read them.

use sw_types::UnixTime;
use time::OffsetDateTime;
use time::macros::format_description;

/// `1 machine`, `2 machines`.
pub(crate) fn count(n: usize, one: &str, many: &str) -> String {
    if n == 1 { format!("1 {one}") } else { format!("{n} {many}") }
}

/// "now", "4 s ago", "3 min ago", "5 h ago", "3 days ago".
pub(crate) fn ago(then: UnixTime, now: UnixTime) -> String {
    let seconds = now.saturating_since(then).as_secs();
    if seconds < 2 { "now".into() } else { format!("{} ago", span(seconds)) }
}

/// A text of the table of messages as a sentence of the page.
pub(crate) fn sentence(text: &str) -> String {
    let mut letters = text.chars();
    let first = letters.next().map(|first| first.to_uppercase().to_string()).unwrap_or_default();
    let end = if text.ends_with(['.', '?', ':']) { "" } else { "." };
    format!("{first}{}{end}", letters.as_str())
}

/// "in 4 days"; "over" when it is past.
pub(crate) fn until(then: UnixTime, now: UnixTime) -> String {
    let seconds = then.saturating_since(now).as_secs();
    if seconds == 0 { "over".into() } else { format!("in {}", span(seconds)) }
}

/// What somebody else wrote, without the signs that move a cursor or turn text around (they could make one name look
/// like another); markup is escaped where a page is made.
pub(crate) fn foreign(text: &str) -> String {
    let is_sly = |c: char| {
        c.is_control()
            || matches!(c, '\u{61c}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
    };
    text.chars().map(|c| if is_sly(c) { char::REPLACEMENT_CHARACTER } else { c }).collect()
}

/// "0.4 ms", "11 ms", "1.3 s".
pub(crate) fn delay(micros: u32) -> String {
    let millis = f64::from(micros) / 1_000.0;
    match micros {
        0..10_000 => format!("{millis:.1} ms"),
        10_000..1_000_000 => format!("{millis:.0} ms"),
        _ => format!("{:.1} s", millis / 1_000.0),
    }
}

/// A span in its largest unit.
pub(crate) fn span(seconds: u64) -> String {
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3_600 => format!("{} min", seconds / 60),
        3_600..172_800 => format!("{} h", seconds / 3_600),
        _ => format!("{} days", seconds / 86_400),
    }
}

/// `12 October 2026`.
pub(crate) fn date(at: UnixTime) -> String {
    let format = format_description!("[day padding:none] [month repr:long] [year]");
    moment(at).format(&format).unwrap_or_default()
}

/// `12 October, 15:12` in UTC.
pub(crate) fn date_time(at: UnixTime) -> String {
    let format = format_description!("[day padding:none] [month repr:long], [hour]:[minute]");
    moment(at).format(&format).unwrap_or_default()
}

fn moment(at: UnixTime) -> OffsetDateTime {
    OffsetDateTime::from_unix_timestamp(at.as_secs()).unwrap_or(OffsetDateTime::UNIX_EPOCH)
}

/// Three words for a login request, the same on both screens; made from the request's id.
pub(crate) fn three_words(id: &str) -> String {
    let hash =
        id.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    let pick = |shift: u32| WORDS[(hash >> shift) as usize % WORDS.len()];
    format!("{} {} {}", pick(8), pick(24), pick(40))
}

/// Short, concrete, not easily taken for one another.
const WORDS: [&str; 64] = [
    "acorn", "amber", "anchor", "apple", "arrow", "basin", "beacon", "birch", "bottle", "brick", "bridge",
    "button", "candle", "canoe", "cedar", "cloud", "copper", "coral", "daisy", "dune", "eagle", "ember",
    "falcon", "fern", "fiddle", "flint", "garden", "ginger", "glove", "harbor", "hazel", "island", "ivory",
    "jacket", "kettle", "ladder", "lamp", "lemon", "linen", "maple", "marble", "meadow", "mirror", "nutmeg",
    "oak", "olive", "onion", "paper", "pebble", "pepper", "pillow", "planet", "quartz", "raven", "ribbon",
    "river", "rocket", "saddle", "silver", "tulip", "velvet", "walnut", "willow", "yarrow",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn spans_read_in_one_unit() {
        let now = UnixTime::from_secs(1_000_000);
        let at = |back: i64| ago(UnixTime::from_secs(1_000_000 - back), now);
        assert_eq!(
            [at(1), at(4), at(200), at(7_300), at(260_000)],
            ["now", "4 s ago", "3 min ago", "2 h ago", "3 days ago"]
        );
        assert_eq!(until(UnixTime::from_secs(1_345_700), now), "in 4 days");
    }

    #[test]
    fn names_of_others_cannot_turn_the_text_around() {
        assert_eq!(foreign("a\u{202e}gnp.exe\u{1b}[31m\n"), "a\u{fffd}gnp.exe\u{fffd}[31m\u{fffd}");
        assert_eq!(foreign("<b>Zo\u{eb} \u{754c}</b>"), "<b>Zo\u{eb} \u{754c}</b>", "other letters stay");
        assert_eq!([delay(420), delay(11_300), delay(1_320_000)], ["0.4 ms", "11 ms", "1.3 s"]);
    }

    #[test]
    fn words_are_the_same_for_the_same_request() {
        assert_eq!(three_words("abc"), three_words("abc"));
        assert_ne!(three_words("abc"), three_words("abd"));
    }
}
