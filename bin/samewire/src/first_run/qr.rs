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

    /// The theme of a terminal: lightness of its text and of its ground.
    const DARK: (u8, u8) = (210, 20);
    const LIGHT: (u8, u8) = (40, 250);

    /// What a camera sees of the code on a terminal's screen: turned by an angle, blurred by its optics, unevenly lit.
    /// A cell of the terminal is twice as high as wide.
    fn photograph(lines: &[String], (text, ground): (u8, u8), angle: f64) -> (usize, Vec<u8>) {
        const CELL: f64 = 10.0;
        const SIZE: usize = 480;
        let is_colored = lines[0].starts_with("\x1b[30;107m");
        let (ink, paper) = if is_colored { (0, 255) } else { (text, ground) };
        let modules = seen(lines, true);
        let side = modules[0].len() as f64 * CELL;
        let (sin, cos) = angle.sin_cos();
        let lightness = |x: f64, y: f64| {
            let (x, y) = (x - SIZE as f64 / 2.0, y - SIZE as f64 / 2.0);
            let (x, y) = (x * cos - y * sin + side / 2.0, x * sin + y * cos + side / 2.0);
            if x < 0.0 || y < 0.0 || x >= side {
                return f64::from(ground);
            }
            let module = modules.get((y / CELL) as usize).and_then(|row| row.get((x / CELL) as usize));
            module.map_or(f64::from(ground), |has_ink| f64::from(if *has_ink { ink } else { paper }))
        };
        let pixel = |x: usize, y: usize| {
            let around = [-1.5, 0.0, 1.5];
            let sum: f64 = around
                .iter()
                .flat_map(|dy| around.iter().map(move |dx| (dx, dy)))
                .map(|(dx, dy)| lightness(x as f64 + dx, y as f64 + dy))
                .sum();
            // The lower right corner gets two thirds of the light.
            (sum / 9.0 * (1.0 - (x + y) as f64 / SIZE as f64 / 6.0)) as u8
        };
        (SIZE, (0..SIZE * SIZE).map(|at| pixel(at % SIZE, at / SIZE)).collect())
    }

    fn scan((size, pixels): &(usize, Vec<u8>)) -> Option<String> {
        let mut image =
            rqrr::PreparedImage::prepare_from_greyscale(*size, *size, |x, y| pixels[y * size + x]);
        image.detect_grids().first()?.decode().ok().map(|(_, text)| text)
    }

    /// As phones do: one frame after the other until one can be read.
    fn reads(code: &[String], theme: (u8, u8), is_negative: bool) -> Option<String> {
        [0.2, 0.16, 0.24, 0.28, 0.12].into_iter().find_map(|angle| {
            let (size, mut pixels) = photograph(code, theme, angle);
            if is_negative {
                pixels.iter_mut().for_each(|lightness| *lightness = 255 - *lightness);
            }
            scan(&(size, pixels))
        })
    }

    #[test]
    fn a_camera_reads_it_from_dark_and_light_terminals() {
        let url = "https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy";
        let (colored, plain) = (lines(url, true).expect("fits"), lines(url, false).expect("fits"));
        for theme in [DARK, LIGHT] {
            assert_eq!(reads(&colored, theme, false).as_deref(), Some(url), "{theme:?}");
        }
        assert_eq!(reads(&plain, DARK, false).as_deref(), Some(url));
        // Without colour a light terminal shows the negative.
        assert_eq!(reads(&plain, LIGHT, true).as_deref(), Some(url));
        assert_eq!(reads(&plain, LIGHT, false), None);
    }
}
