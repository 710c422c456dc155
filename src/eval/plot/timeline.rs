//! A timeline: what CPU and GPU did at the same time.

use super::canvas::{COLOURS, Drawn, TEXT, TITLE, label, style, width, write_svg};
use super::decimals;
use crate::gpu::TimeSpan;
use crate::{Error, Result};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::path::Path;

const MARGIN: i32 = 24;
const GAP: i32 = 8;
const LINE: i32 = 2 * TEXT;
const WIDE: i32 = 960;

/// Draws spans, a row for each kind, and writes them as SVG, in place of a file that may be there. Spans of the same
/// `layers` consecutive layers have one colour.
///
/// # Errors
/// [`Error::Argument`] where there is nothing to draw, or [`Error::Write`].
pub fn timeline(path: &Path, title: &str, spans: &[TimeSpan], layers: usize) -> Result<()> {
    let begin = spans.iter().map(|span| span.begin).fold(f64::INFINITY, f64::min);
    let end = spans.iter().map(|span| span.end).fold(f64::NEG_INFINITY, f64::max);
    let length = end - begin;
    if !(length > 0.0 && length.is_finite()) {
        return Err(Error::argument("the spans to draw", spans.len(), "some that take time"));
    }
    // The CPU's first.
    let mut rows: Vec<(bool, &str)> = spans.iter().map(|span| (span.is_gpu, span.what)).collect();
    rows.sort_by_key(|row| row.0);
    let mut kinds: Vec<(bool, &str)> = Vec::new();
    for row in rows {
        if !kinds.contains(&row) {
            kinds.push(row);
        }
    }
    let name =
        |&(is_gpu, what): &(bool, &str)| format!("{}: {what}", if is_gpu { "GPU" } else { "CPU" });
    let left = MARGIN + GAP + kinds.iter().map(|kind| width(&name(kind), TEXT)).max().unwrap_or(0);
    let title = label(title, 120);
    let wide = (left + WIDE).max(MARGIN + width(&title, TITLE)) + MARGIN;
    let top = 2 * MARGIN + TITLE;
    let bottom = top + kinds.len() as i32 * LINE;
    let x = |time: f64| left + ((time - begin) / length * f64::from(WIDE)).round() as i32;
    // Ticks of 1, 2 or 5, at most ten of them.
    let rough = 10f64.powf((length / 10.0).log10().floor());
    let tick = [1.0, 2.0, 5.0, 10.0].map(|factor| factor * rough);
    let tick = tick.into_iter().find(|tick| length / tick <= 10.0).unwrap_or(length);
    let digits = decimals(tick * 1e5);
    write_svg(path, (wide, bottom + LINE + MARGIN), |area| -> Drawn {
        area.draw_text(&title, &style(TITLE, BLACK, HPos::Left, VPos::Top), (MARGIN, MARGIN))?;
        let below = style(TEXT, BLACK, HPos::Center, VPos::Top);
        for number in (0..).take_while(|&number| f64::from(number) * tick <= length) {
            let at = f64::from(number) * tick;
            let place = x(begin + at);
            let ends = [(place, top), (place, bottom + GAP / 2)];
            area.draw(&PathElement::new(ends, RGBColor(225, 225, 225)))?;
            let text = format!("{:.digits$} ms", at * 1e3);
            area.draw_text(&text, &below, (place, bottom + GAP))?;
        }
        let before = style(TEXT, BLACK, HPos::Right, VPos::Center);
        for (number, kind) in kinds.iter().enumerate() {
            let y = top + number as i32 * LINE;
            area.draw_text(&name(kind), &before, (left - GAP, y + LINE / 2))?;
            for span in spans.iter().filter(|span| (span.is_gpu, span.what) == *kind) {
                let colour = COLOURS[span.layer / layers.max(1) % COLOURS.len()].filled();
                // A span that is too short to see is shown as a line.
                let right = x(span.end).max(x(span.begin) + 1);
                area.draw(&Rectangle::new(
                    [(x(span.begin), y + 4), (right, y + LINE - 4)],
                    colour,
                ))?;
            }
        }
        Ok(())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_a_kind_the_cpu_first() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("timeline.svg");
        let span = |what, is_gpu, begin, end| TimeSpan { what, layer: 6, is_gpu, begin, end };
        let spans = [
            span("layers", true, 0.001, 0.002),
            span("gather", false, 0.0015, 0.003),
            span("layers", true, 0.002, 0.0025),
        ];
        timeline(&path, "a step", &spans, 6).unwrap();
        let svg = std::fs::read_to_string(&path).unwrap();
        let at = |text: &str| svg.find(text).unwrap_or_else(|| panic!("{text}: {svg}"));
        assert!(at("CPU: gather") < at("GPU: layers"), "{svg}");
        assert_eq!(svg.matches("GPU: layers").count(), 1, "{svg}");
        assert!(svg.contains("0.2 ms"), "{svg}");
        assert!(timeline(&path, "nothing", &[], 6).is_err());
    }
}
