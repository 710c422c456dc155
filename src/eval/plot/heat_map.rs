//! Heat maps: a value for each pair of a column and a row, one panel beside the other.

mod layout;

use super::canvas::write_svg;
use crate::{Error, Result};
use layout::Layout;
use std::path::Path;

/// Panels of coloured cells, comparable with each other: they share the axes and the scale of colours.
#[derive(Debug, Clone, PartialEq)]
pub struct HeatMap {
    /// The picture's title.
    pub title: String,
    /// The name of the columns.
    pub x_label: String,
    /// The name of the rows.
    pub y_label: String,
    /// The columns, from the left.
    pub x: Vec<String>,
    /// The rows, from the top.
    pub y: Vec<String>,
    /// The values with the first and the last colour; those beyond have these colours too.
    pub range: (f64, f64),
    /// The values' unit, such as "correct in %".
    pub unit: String,
    /// The values, such as those of one method each.
    pub panels: Vec<Panel>,
}

/// The values of one panel.
#[derive(Debug, Clone, PartialEq)]
pub struct Panel {
    /// The name that sets it apart from the others.
    pub title: String,
    /// Row after row; none where nothing was measured.
    pub values: Vec<Vec<Option<f64>>>,
}

/// Draws a heat map and writes it as SVG, in place of a file that may be there.
///
/// Panels of up to 400 cells have the values printed in them, unless a row of them would be too wide.
pub fn heat_map(path: &Path, map: &HeatMap) -> Result<()> {
    map.check()?;
    let layout = Layout::new(map);
    write_svg(path, layout.size, |area| layout.draw(area))
}

/// More cells than this are slow to show.
const MOST_CELLS: usize = 100_000;

impl HeatMap {
    fn check(&self) -> Result<()> {
        let (low, high) = self.range;
        if !(low < high && (high - low).is_finite()) {
            let limit = "it must go from a number to a higher one";
            return Err(Error::argument("the range of colours", format!("{low} to {high}"), limit));
        }
        let per_panel = self.x.len().saturating_mul(self.y.len());
        let cells = per_panel.saturating_mul(self.panels.len());
        if cells == 0 || cells > MOST_CELLS {
            let limit = format!("a heat map has 1 to {MOST_CELLS}");
            return Err(Error::argument("the number of cells to draw", cells, limit));
        }
        for Panel { title, values } in &self.panels {
            if values.len() != self.y.len() {
                let limit = format!("the heat map has {}", self.y.len());
                let what = format!("the number of rows of {title}");
                return Err(Error::argument(what, values.len(), limit));
            }
            if let Some(row) = values.iter().find(|row| row.len() != self.x.len()) {
                let limit = format!("the heat map has {}", self.x.len());
                let what = format!("the number of columns of {title}");
                return Err(Error::argument(what, row.len(), limit));
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
