//! QR codes in half blocks.

use qrcode::{Color, EcLevel, QrCode};

/// Modules of margin on every side.
const QUIET: usize = 2;

/// Draws `text`; one string per line, all equally wide in characters. `None` when it does not fit a code.
///
/// Two modules stand in one character. With `color` the code is black on white whatever the terminal's theme;
/// without, plain blocks on the terminal's own background, light modules drawn, which scanners read inverted.
pub fn lines(text: &str, color: bool) -> Option<Vec<String>> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let width = code.width();
    let modules = code.to_colors();
    let is_dark = |x: usize, y: usize| {
        let inside = (QUIET..QUIET + width).contains(&x) && (QUIET..QUIET + width).contains(&y);
        inside && modules[(y - QUIET) * width + (x - QUIET)] == Color::Dark
    };
    let side = width + 2 * QUIET;
    // Ink is dark with colour (black on white) and light without (blocks on a dark terminal).
    let has_ink = |x: usize, y: usize| y < side && is_dark(x, y) == color;
    let row = |y: usize| {
        let blocks = (0..side).map(|x| match (has_ink(x, y), has_ink(x, y + 1)) {
            (false, false) => ' ',
            (false, true) => '▄',
            (true, false) => '▀',
            (true, true) => '█',
        });
        blocks.collect::<String>()
    };
    let rows = (0..side).step_by(2).map(row);
    Some(if color { rows.map(|line| format!("\x1b[30;107m{line}\x1b[0m")).collect() } else { rows.collect() })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Reads the drawing back into modules (true = dark) as a camera would see it.
    fn seen(lines: &[String], ink_is_dark: bool) -> Vec<Vec<bool>> {
        let mut out = Vec::new();
        for line in lines {
            let bare = line.trim_start_matches("\x1b[30;107m").trim_end_matches("\x1b[0m");
            let halves = |top: bool| {
                let drawn = move |c: char| if top { "█▀".contains(c) } else { "█▄".contains(c) };
                bare.chars().map(|c| drawn(c) == ink_is_dark).collect::<Vec<bool>>()
            };
            out.push(halves(true));
            out.push(halves(false));
        }
        out
    }

    #[test]
    fn a_join_url_takes_33_by_17_characters() {
        let url = "https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy";
        let plain = lines(url, false).expect("fits");
        assert_eq!((plain.len(), plain[0].chars().count()), (17, 33));
    }

    #[test]
    fn both_drawings_show_the_same_code_with_a_light_margin() {
        let url = "https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy";
        // Black ink on white: ink is dark. Plain: the ink is the light part.
        let (colored, plain) =
            (seen(&lines(url, true).expect("fits"), true), seen(&lines(url, false).expect("fits"), false));
        assert_eq!(colored[..33], plain[..33]);
        assert!(colored[0].iter().all(|dark| !dark), "quiet zone");
        assert!(colored[2][2..9].iter().all(|dark| *dark), "top edge of the first finder");
    }
}
