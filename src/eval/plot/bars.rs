//! Bars: one value each, one below the other.

use super::canvas::{COLOURS, Drawn, TEXT, TITLE, label, style, width, write_svg};
use super::decimals;
use crate::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::path::Path;

/// Values to compare.
#[derive(Debug, Clone, PartialEq)]
pub struct BarPlot {
    /// The picture's title.
    pub title: String,
    /// The name of the values, with the unit.
    pub x_label: String,
    /// The bars, from the top.
    pub bars: Vec<Bar>,
}

/// One bar.
#[derive(Debug, Clone, PartialEq)]
pub struct Bar {
    /// The name at its side.
    pub name: String,
    /// Its length, at least 0.
    pub value: f64,
    /// Bars of one number have one colour.
    pub colour: usize,
    /// The text behind the value.
    pub note: String,
}

const MARGIN: i32 = 24;
const GAP: i32 = 8;
const LINE: i32 = TEXT + GAP;
const LONGEST: i32 = 480;

/// Draws bars and writes them as SVG, in place of a file that may be there.
///
/// # Errors
/// [`Error::Argument`] where there is nothing to draw, or [`Error::Write`].
pub fn bars(path: &Path, plot: &BarPlot) -> Result<()> {
    let most = plot.bars.iter().map(|bar| bar.value).fold(0.0, f64::max);
    let is_drawable = |bar: &Bar| bar.value.is_finite() && bar.value >= 0.0;
    if most == 0.0 || !plot.bars.iter().all(is_drawable) {
        return Err(Error::argument("the bars to draw", most, "values from 0, some above it"));
    }
    let digits = decimals(most);
    let notes: Vec<String> =
        plot.bars.iter().map(|bar| format!("{:.digits$}  {}", bar.value, bar.note)).collect();
    let names: Vec<String> = plot.bars.iter().map(|bar| label(&bar.name, 60)).collect();
    let left = MARGIN + GAP + names.iter().map(|name| width(name, TEXT)).max().unwrap_or(0);
    let right = GAP + notes.iter().map(|note| width(note, TEXT)).max().unwrap_or(0);
    let title = label(&plot.title, 120);
    let wide = (left + LONGEST + right).max(MARGIN + width(&title, TITLE)) + MARGIN;
    let top = 2 * MARGIN + TITLE;
    let high = top + plot.bars.len() as i32 * LINE + LINE + MARGIN;
    write_svg(path, (wide, high), |area| -> Drawn {
        area.draw_text(&title, &style(TITLE, BLACK, HPos::Left, VPos::Top), (MARGIN, MARGIN))?;
        let before = style(TEXT, BLACK, HPos::Right, VPos::Center);
        let behind = style(TEXT, BLACK, HPos::Left, VPos::Center);
        for (number, (bar, (name, note))) in
            plot.bars.iter().zip(names.iter().zip(&notes)).enumerate()
        {
            let y = top + number as i32 * LINE;
            let end = left + (bar.value / most * f64::from(LONGEST)).round() as i32;
            let colour = COLOURS[bar.colour % COLOURS.len()].filled();
            area.draw(&Rectangle::new([(left, y + 2), (end, y + LINE - 2)], colour))?;
            area.draw_text(name, &before, (left - GAP, y + LINE / 2))?;
            area.draw_text(note, &behind, (end + GAP, y + LINE / 2))?;
        }
        let below = style(TEXT, BLACK, HPos::Left, VPos::Top);
        area.draw_text(&label(&plot.x_label, 80), &below, (left, high - MARGIN - TEXT))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bars_are_as_long_as_their_values() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("bars.svg");
        let bar = |name: &str, value| Bar { name: name.into(), value, colour: 0, note: "n".into() };
        let mut plot = BarPlot {
            title: "times".into(),
            x_label: "ms".into(),
            bars: vec![bar("one & two", 1.0), bar("b", 4.0)],
        };
        bars(&path, &plot).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        assert!(svg.contains("one &amp; two") && svg.contains("4.00"), "{svg}");
        assert!(svg.contains(r#"width="480""#) && svg.contains(r#"width="120""#), "{svg}");
        plot.bars[0].value = f64::NAN;
        assert!(bars(&path, &plot).is_err());
        plot.bars.clear();
        assert!(bars(&path, &plot).is_err());
    }
}
