//! Pictures of results, as SVG files: heat maps, lines, bars and timelines.

mod bars;
mod canvas;
mod heat_map;
mod lines;
mod timeline;

pub use bars::{Bar, BarPlot, bars};
pub use heat_map::{HeatMap, Panel, heat_map};
pub use lines::{LinePlot, Point, Series, lines};
pub use timeline::timeline;

/// How many decimals tell values apart that lie this far from each other at most.
fn decimals(span: f64) -> usize {
    (2.0 - span.log10().floor()).clamp(0.0, 9.0) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decimals_follow_the_span() {
        for (span, expected) in [(1.0, 2), (0.5, 3), (10.0, 1), (100.0, 0), (1e9, 0), (1e-30, 9)] {
            assert_eq!(decimals(span), expected, "{span}");
        }
    }
}
