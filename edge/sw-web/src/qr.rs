//! QR codes as SVG.

use maud::{Markup, html};
use qrcode::{Color, EcLevel, QrCode};

/// Draws `text` black on white with a quiet zone of two modules; `None` when it is too long for a code.
pub fn svg(text: &str) -> Option<Markup> {
    let code = QrCode::with_error_correction_level(text, EcLevel::L).ok()?;
    let width = code.width();
    let colors = code.to_colors();
    let mut path = String::new();
    for (row, line) in colors.chunks(width).enumerate() {
        let mut column = 0;
        while column < width {
            let run = line[column..].iter().take_while(|c| **c == Color::Dark).count();
            if run > 0 {
                path.push_str(&format!("M{} {}h{run}v1h-{run}z", column + 2, row + 2));
            }
            column += run.max(1);
        }
    }
    let side = width + 4;
    Some(html! {
        svg.qrc viewBox={ "0 0 " (side) " " (side) } role="img" aria-label="QR code" shape-rendering="crispEdges" {
            rect width=(side) height=(side) fill="#fff" {}
            path d=(path) fill="#000" {}
        }
    })
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_join_url_fits_a_small_code() {
        let svg = super::svg("https://203.0.113.7/j/7QmX2vKd9sT4bN8cLw5eRy").expect("fits").into_string();
        assert!(svg.contains("viewBox=\"0 0 33 33\""), "{}", &svg[..80]);
        assert!(super::svg(&"x".repeat(5_000)).is_none());
    }
}
