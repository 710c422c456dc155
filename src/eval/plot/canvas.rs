//! A white sheet to draw on, measured in pixels, that becomes an SVG file.

use crate::file::replace;
use crate::{Error, Result};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::path::Path;

/// The size of ordinary text.
pub(super) const TEXT: i32 = 12;

/// The size of a picture's title.
pub(super) const TITLE: i32 = 16;

/// The colours of Okabe and Ito, "Color Universal Design" (2008), which people with any kind of colour vision can tell
/// apart, but for yellow, which is hard to see on white.
pub(super) const COLOURS: [RGBColor; 7] = [
    RGBColor(0, 114, 178),
    RGBColor(213, 94, 0),
    RGBColor(0, 158, 115),
    RGBColor(204, 121, 167),
    RGBColor(230, 159, 0),
    RGBColor(86, 180, 233),
    RGBColor(0, 0, 0),
];

pub(super) type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;
pub(super) type Drawn = std::result::Result<(), DrawingAreaErrorKind<std::io::Error>>;

/// Draws on a white sheet of this size and writes it to a file, in place of one that may be there.
pub(super) fn write_svg(
    path: &Path,
    (width, height): (i32, i32),
    draw: impl FnOnce(&Area) -> Drawn,
) -> Result<()> {
    let mut svg = String::new();
    let area = SVGBackend::with_string(&mut svg, (width as u32, height as u32)).into_drawing_area();
    area.fill(&WHITE).and_then(|()| draw(&area)).and_then(|()| area.present()).map_err(
        |problem| Error::Write {
            path: path.into(),
            source: std::io::Error::other(problem.to_string()),
        },
    )?;
    drop(area);
    replace(path, svg.as_bytes())
}

/// About how wide text is. Only the viewer knows its font, so this is for one of the wider.
pub(super) fn width(text: &str, size: i32) -> i32 {
    (text.chars().count() as f64 * 0.64 * f64::from(size)).ceil() as i32
}

/// Text as it can stand in a picture: of at most `longest` characters, none of which XML forbids.
pub(super) fn label(text: &str, longest: usize) -> String {
    let shown = |symbol: char| if symbol.is_control() { '\u{fffd}' } else { symbol };
    if text.chars().count() <= longest {
        return text.chars().map(shown).collect();
    }
    text.chars().take(longest - 1).map(shown).chain(['…']).collect()
}

/// A style of text: its size, its colour and which of its points `draw_text` places.
pub(super) fn style(size: i32, colour: RGBColor, h: HPos, v: VPos) -> TextStyle<'static> {
    // The backend makes a font this much smaller than it is asked for.
    let size = f64::from(size) * 1.24;
    ("sans-serif", size).into_font().color(&colour).pos(Pos::new(h, v))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_are_short_and_visible() {
        assert_eq!(label("as it is", 8), "as it is");
        assert_eq!(label("as it is not", 8), "as it i…");
        assert_eq!(label("a\0b\nλ", 8), "a\u{fffd}b\u{fffd}λ");
    }
}
