//! Where the parts of a heat map are on the sheet, and how they are drawn there.

use super::{HeatMap, Panel};
use crate::eval::plot::canvas::{Area, Drawn, TEXT, TITLE, label, style, width};
use crate::eval::plot::decimals;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};

/// Panels of more cells than this, or too wide for that, have no values printed in them.
const MOST_PRINTED: usize = 400;

/// Between what is drawn and what is beside it.
const GAP: i32 = 8;

/// The height of a line of text with its distance from the next.
const LINE: i32 = TEXT + GAP;

/// Between panels, around them, and before the legend.
const MARGIN: i32 = 24;

/// The width of the bar of colours, and the height from which its ends can be told apart.
pub(super) const BAR: (i32, i32) = (16, 160);

/// Panels stand in more than one row when they are wider together, or more than three; and so wide may printed values be.
const WIDEST: i32 = 1_600;

/// The legend's name of a missing value.
pub(super) const NO_VALUE: &str = "not measured";

const MISSING: RGBColor = RGBColor(222, 222, 222);
const HATCH: RGBColor = RGBColor(170, 170, 170);

/// Where everything is, in pixels.
pub(super) struct Layout<'a> {
    map: &'a HeatMap,
    x: Vec<String>,
    y: Vec<String>,
    x_label: String,
    y_label: String,
    /// Decimals of the values.
    digits: usize,
    is_printed: bool,
    /// The width and height of a cell.
    cell: (i32, i32),
    /// From a panel's upper left corner to that of its cells.
    origin: (i32, i32),
    /// The width and height of a panel.
    panel: (i32, i32),
    /// How many panels stand side by side.
    across: i32,
    /// The left side of the legend.
    legend: i32,
    pub(super) size: (i32, i32),
}

impl<'a> Layout<'a> {
    pub(super) fn new(map: &'a HeatMap) -> Self {
        let labels = |texts: &[String]| texts.iter().map(|text| label(text, 24)).collect();
        let (x, y): (Vec<String>, Vec<String>) = (labels(&map.x), labels(&map.y));
        let (x_label, y_label) = (label(&map.x_label, 60), label(&map.y_label, 40));
        let (columns, rows) = (x.len() as i32, y.len() as i32);
        let digits = decimals(map.range.1 - map.range.0);
        let values = map.panels.iter().flat_map(|panel| panel.values.iter().flatten().flatten());
        let printed = values.map(|value| width(&format!("{value:.digits$}"), TEXT)).max();
        let fitting = printed.unwrap_or(0) + GAP;
        let is_printed = x.len() * y.len() <= MOST_PRINTED && columns * fitting <= WIDEST;
        let cell = if is_printed {
            let narrowest = fitting.max((widest(&x) + GAP).min(64));
            ((420 / columns).clamp(narrowest, narrowest.max(64)), (300 / rows).clamp(LINE, 48))
        } else {
            ((420 / columns).clamp(2, 24), (300 / rows).clamp(2, 24))
        };
        let origin = (LINE + widest(&y) + GAP, LINE);
        let cells = (columns * cell.0, rows * cell.1);
        let titles = map.panels.iter().map(|panel| width(&panel_title(panel), TEXT));
        let titles = titles.max().unwrap_or(0);
        let panel = (
            origin.0 + cells.0.max(titles).max(width(&x_label, TEXT)),
            origin.1 + cells.1.max(width(&y_label, TEXT)) + 2 * LINE,
        );

        let panels = map.panels.len() as i32;
        let square = if panels <= 3 { panels } else { f64::from(panels).sqrt().ceil() as i32 };
        let across = square.min(WIDEST / panel.0).max(1);
        let down = (panels + across - 1) / across;
        let legend = MARGIN + across * (panel.0 + MARGIN);
        let ends = [map.range.0, map.range.1].map(|end| width(&format!("{end:.digits$}"), TEXT));
        let legend_width = (BAR.0 + GAP + ends[0].max(ends[1]))
            .max(width(&unit(map), TEXT))
            .max(width(NO_VALUE, TEXT) + BAR.0 + GAP);
        let wide = (legend + legend_width).max(MARGIN + width(&title(map), TITLE));
        let high = TITLE + MARGIN + (down * (panel.1 + MARGIN)).max(BAR.1 + 4 * LINE);
        Self {
            map,
            x,
            y,
            x_label,
            y_label,
            digits,
            is_printed,
            cell,
            origin,
            panel,
            across,
            legend,
            size: (wide + MARGIN, high + MARGIN),
        }
    }

    pub(super) fn draw(&self, area: &Area) -> Drawn {
        let heading = style(TITLE, BLACK, HPos::Left, VPos::Top);
        area.draw_text(&title(self.map), &heading, (MARGIN, MARGIN))?;
        for (number, panel) in (0..).zip(&self.map.panels) {
            let x = MARGIN + number % self.across * (self.panel.0 + MARGIN);
            let y = self.top() + number / self.across * (self.panel.1 + MARGIN);
            self.draw_axes(area, panel, (x, y))?;
            self.draw_cells(area, panel, (x + self.origin.0, y + self.origin.1))?;
        }
        self.draw_legend(area, self.top())
    }

    /// Where the panels begin.
    fn top(&self) -> i32 {
        MARGIN + TITLE + MARGIN
    }

    fn draw_axes(&self, area: &Area, panel: &Panel, (left, top): (i32, i32)) -> Drawn {
        let (x, y) = (left + self.origin.0, top + self.origin.1);
        let (wide, high) = (self.x.len() as i32 * self.cell.0, self.y.len() as i32 * self.cell.1);
        let bottom = y + high;
        let centred = style(TEXT, BLACK, HPos::Center, VPos::Top);
        area.draw_text(&panel_title(panel), &style(TEXT, BLACK, HPos::Left, VPos::Top), (x, top))?;
        // A label longer than its axis begins where the axis does.
        let centre = x + wide.max(width(&self.x_label, TEXT)) / 2;
        area.draw_text(&self.x_label, &centred, (centre, bottom + LINE + GAP))?;
        let upright = centred.transform(FontTransform::Rotate270);
        let centre = y + high.max(width(&self.y_label, TEXT)) / 2;
        area.draw_text(&self.y_label, &upright, (left, centre))?;

        // As many labels as there is room for.
        let step = (widest(&self.x) + GAP + self.cell.0 - 1) / self.cell.0;
        for (column, text) in (0..).zip(&self.x).step_by(step as usize) {
            let place = (x + column * self.cell.0 + self.cell.0 / 2, bottom + GAP);
            area.draw_text(text, &style(TEXT, BLACK, HPos::Center, VPos::Top), place)?;
        }
        let step = (TEXT + 2 + self.cell.1 - 1) / self.cell.1;
        for (row, text) in (0..).zip(&self.y).step_by(step as usize) {
            let place = (x - GAP, y + row * self.cell.1 + self.cell.1 / 2);
            area.draw_text(text, &style(TEXT, BLACK, HPos::Right, VPos::Center), place)?;
        }
        Ok(())
    }

    fn draw_cells(&self, area: &Area, panel: &Panel, (left, top): (i32, i32)) -> Drawn {
        for (row, values) in (0..).zip(&panel.values) {
            for (column, value) in (0..).zip(values) {
                let corner = (left + column * self.cell.0, top + row * self.cell.1);
                match value.filter(|value| !value.is_nan()) {
                    Some(value) => self.draw_value(area, value, corner)?,
                    None => draw_missing(area, corner, self.cell)?,
                }
            }
        }
        Ok(())
    }

    fn draw_value(&self, area: &Area, value: f64, (left, top): (i32, i32)) -> Drawn {
        let (low, high) = self.map.range;
        let colour = ViridisRGB::get_color(((value - low) / (high - low)).clamp(0.0, 1.0));
        let corners = [(left, top), (left + self.cell.0, top + self.cell.1)];
        area.draw(&Rectangle::new(corners, colour.filled()))?;
        if !self.is_printed {
            return Ok(());
        }
        let ink = if is_dark(colour) { WHITE } else { BLACK };
        let centre = (left + self.cell.0 / 2, top + self.cell.1 / 2);
        let text = format!("{value:.*}", self.digits);
        area.draw_text(&text, &style(TEXT, ink, HPos::Center, VPos::Center), centre)
    }

    fn draw_legend(&self, area: &Area, top: i32) -> Drawn {
        let left_middle = style(TEXT, BLACK, HPos::Left, VPos::Center);
        area.draw_text(
            &unit(self.map),
            &style(TEXT, BLACK, HPos::Left, VPos::Top),
            (self.legend, top),
        )?;
        let top = top + LINE + GAP / 2;
        let (low, high) = self.map.range;
        for y in 0..BAR.1 {
            let colour = ViridisRGB::get_color(1.0 - f64::from(y) / f64::from(BAR.1 - 1));
            let corners = [(self.legend, top + y), (self.legend + BAR.0, top + y + 1)];
            area.draw(&Rectangle::new(corners, colour.filled()))?;
        }
        for quarter in 0..=4 {
            let value = low + (high - low) * f64::from(quarter) / 4.0;
            let place = (self.legend + BAR.0 + GAP, top + BAR.1 - BAR.1 * quarter / 4);
            area.draw_text(&format!("{value:.*}", self.digits), &left_middle, place)?;
        }
        let mut values = self.map.panels.iter().flat_map(|panel| panel.values.iter().flatten());
        if values.any(|value| value.is_none_or(f64::is_nan)) {
            let corner = (self.legend, top + BAR.1 + LINE);
            draw_missing(area, corner, (BAR.0, BAR.0))?;
            let place = (self.legend + BAR.0 + GAP, corner.1 + BAR.0 / 2);
            area.draw_text(NO_VALUE, &left_middle, place)?;
        }
        Ok(())
    }
}

fn title(map: &HeatMap) -> String {
    label(&map.title, 120)
}

fn unit(map: &HeatMap) -> String {
    label(&map.unit, 32)
}

fn panel_title(panel: &Panel) -> String {
    label(&panel.title, 48)
}

fn widest(labels: &[String]) -> i32 {
    labels.iter().map(|text| width(text, TEXT)).max().unwrap_or(0)
}

/// A grey cell with a stroke through it, which no value has.
fn draw_missing(area: &Area, (left, top): (i32, i32), (wide, high): (i32, i32)) -> Drawn {
    let (right, bottom) = (left + wide, top + high);
    area.draw(&Rectangle::new([(left, top), (right, bottom)], MISSING.filled()))?;
    area.draw(&PathElement::new([(left, bottom), (right, top)], HATCH))
}

/// Whether white is easier to read on it than black: by the luma of ITU-R BT.601.
pub(super) fn is_dark(RGBColor(red, green, blue): RGBColor) -> bool {
    299 * u32::from(red) + 587 * u32::from(green) + 114 * u32::from(blue) < 128_000
}
