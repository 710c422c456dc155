//! Lines: a value against a number, one line a series.

use super::canvas::{Area, COLOURS, Drawn, TEXT, TITLE, label, style, width, write_svg};
use super::decimals;
use crate::{Error, Result};
use plotters::coord::ranged1d::{DefaultFormatting, KeyPointHint, Ranged};
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, VPos};
use std::ops::Range;
use std::path::Path;

/// Series of points over a common axis.
#[derive(Debug, Clone, PartialEq)]
pub struct LinePlot {
    /// The picture's title.
    pub title: String,
    /// The name of the points, with the unit.
    pub x_label: String,
    /// The name of the values, with the unit.
    pub y_label: String,
    /// Whether equal distances are equal factors, as for lengths of 1k, 2k and 4k tokens.
    pub is_log_x: bool,
    /// The lines.
    pub series: Vec<Series>,
}

/// One line.
#[derive(Debug, Clone, PartialEq)]
pub struct Series {
    /// The name that sets it apart from the others.
    pub name: String,
    /// Its points from left to right.
    pub points: Vec<Point>,
}

/// One point of a line.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Where it was measured.
    pub x: f64,
    /// The value.
    pub y: f64,
    /// The ends of its error bar.
    pub error: Option<(f64, f64)>,
}

impl Point {
    /// The value and the ends of the error bar.
    fn heights(&self) -> impl Iterator<Item = f64> {
        [self.y].into_iter().chain(self.error.into_iter().flat_map(|(low, high)| [low, high]))
    }
}

/// Draws lines and writes them as SVG, in place of a file that may be there.
pub fn lines(path: &Path, plot: &LinePlot) -> Result<()> {
    plot.check()?;
    let names = plot.series.iter().map(|series| width(&name(series), TEXT)).max().unwrap_or(0);
    let legend = LEGEND_LINE + 2 * GAP + names;
    let chart_height = CHART.1.max(plot.series.len() as i32 * LINE + 2 * LINE);
    let wide = (CHART.0 + legend).max(width(&title(plot), TITLE)) + 2 * MARGIN;
    let size = (wide, TITLE + chart_height + 3 * MARGIN);
    write_svg(path, size, |area| {
        let heading = style(TITLE, BLACK, HPos::Left, VPos::Top);
        area.draw_text(&title(plot), &heading, (MARGIN, MARGIN))?;
        let top = MARGIN + TITLE + MARGIN;
        let sheet = area.clone().shrink((MARGIN, top), (CHART.0, chart_height));
        plot.draw_chart(&sheet)?;
        plot.draw_legend(area, (MARGIN + CHART.0 + GAP, top + GAP))
    })
}

/// The width and the least height of the axes with their labels.
const CHART: (i32, i32) = (640, 400);
const MARGIN: i32 = 24;
const GAP: i32 = 8;
const LINE: i32 = TEXT + GAP;
const LEGEND_LINE: i32 = 28;

/// Numbers beyond this leave no room to compute an axis with.
const LARGEST: f64 = 1e30;

impl LinePlot {
    fn check(&self) -> Result<()> {
        if self.points().next().is_none() {
            return Err(Error::argument("the number of points to draw", 0, "a plot needs some"));
        }
        for Series { name, points } in &self.series {
            for point in points {
                let mut numbers = point.heights().chain([point.x]);
                let is_drawable = |number: f64| number.abs() <= LARGEST;
                if let Some(number) = numbers.find(|&number| !is_drawable(number)) {
                    let what = format!("a point of {name}");
                    return Err(Error::argument(
                        what,
                        number,
                        format!("{LARGEST:e} is the most that can be drawn"),
                    ));
                }
                if self.is_log_x && point.x <= 0.0 {
                    let what = format!("the place of a point of {name}");
                    return Err(Error::argument(
                        what,
                        point.x,
                        "a logarithmic axis begins above 0",
                    ));
                }
            }
        }
        Ok(())
    }

    fn points(&self) -> impl Iterator<Item = &Point> {
        self.series.iter().flat_map(|series| &series.points)
    }

    /// A place along the axis.
    fn place(&self, point: &Point) -> f64 {
        if self.is_log_x { point.x.log2() } else { point.x }
    }

    fn draw_chart(&self, sheet: &Area) -> Drawn {
        let x = around(self.points().map(|point| self.place(point)));
        let y = around(self.points().flat_map(Point::heights));
        // Ticks are a tenth of the axis apart at least.
        let [x_digits, y_digits] = [&x, &y].map(|axis| decimals(10.0 * (axis.end - axis.start)));
        let y_label = |value: &f64| format!("{value:.y_digits$}");
        let x_label = |place: &f64| match self.is_log_x {
            true => format!("{}", (place.exp2() * 1e6).round() / 1e6),
            false => format!("{place:.x_digits$}"),
        };
        let ticks = if self.is_log_x {
            self.measured()
        } else {
            RangedCoordf64::from(x.clone()).key_points(10)
        };
        let text = style(TEXT, BLACK, HPos::Center, VPos::Top);
        let numbers = [y.start, y.end].map(|end| width(&y_label(&end), TEXT));
        let mut chart = ChartBuilder::on(sheet)
            .x_label_area_size(2 * LINE + GAP)
            .y_label_area_size(2 * LINE + numbers[0].max(numbers[1]))
            .build_cartesian_2d(Axis { range: x.into(), ticks }, y)?;
        chart
            .configure_mesh()
            .label_style(text.clone())
            .axis_desc_style(text)
            .x_label_formatter(&x_label)
            .y_label_formatter(&y_label)
            .y_labels(8)
            .x_desc(label(&self.x_label, 80))
            .y_desc(label(&self.y_label, 50))
            .bold_line_style(RGBColor(225, 225, 225))
            .light_line_style(TRANSPARENT)
            .draw()?;
        for (number, series) in self.series.iter().enumerate() {
            let colour = COLOURS[number % COLOURS.len()];
            let places = series.points.iter().map(|point| (self.place(point), point.y));
            chart.draw_series(LineSeries::new(places, colour.stroke_width(2)))?;
            let (columns, rows) = sheet.get_pixel_range();
            for point in &series.points {
                let pixel = |height: f64| {
                    let (x, y) = chart.backend_coord(&(self.place(point), height));
                    (x - columns.start, y - rows.start)
                };
                if let Some((low, high)) = point.error {
                    draw_bar(sheet, colour, pixel(low), pixel(high))?;
                }
                draw_marker(sheet, number, pixel(point.y))?;
            }
        }
        Ok(())
    }

    /// Where points are, as many as there is room to label.
    fn measured(&self) -> Vec<f64> {
        let mut places: Vec<f64> = self.points().map(|point| self.place(point)).collect();
        places.sort_unstable_by(f64::total_cmp);
        places.dedup();
        let step = places.len().div_ceil(10);
        places.into_iter().step_by(step).collect()
    }

    fn draw_legend(&self, area: &Area, (left, top): (i32, i32)) -> Drawn {
        for (number, series) in self.series.iter().enumerate() {
            let y = top + LINE * number as i32 + TEXT / 2;
            let colour = COLOURS[number % COLOURS.len()];
            let ends = [(left, y), (left + LEGEND_LINE, y)];
            area.draw(&PathElement::new(ends, colour.stroke_width(2)))?;
            draw_marker(area, number, (left + LEGEND_LINE / 2, y))?;
            let text = style(TEXT, BLACK, HPos::Left, VPos::Center);
            area.draw_text(&name(series), &text, (left + LEGEND_LINE + GAP, y))?;
        }
        Ok(())
    }
}

/// A linear axis with ticks of its own choice.
struct Axis {
    range: RangedCoordf64,
    ticks: Vec<f64>,
}

impl Ranged for Axis {
    type FormatOption = DefaultFormatting;
    type ValueType = f64;

    fn map(&self, value: &f64, limit: (i32, i32)) -> i32 {
        self.range.map(value, limit)
    }

    fn key_points<Hint: KeyPointHint>(&self, _: Hint) -> Vec<f64> {
        self.ticks.clone()
    }

    fn range(&self) -> Range<f64> {
        self.range.range()
    }
}

fn title(plot: &LinePlot) -> String {
    label(&plot.title, 100)
}

fn name(series: &Series) -> String {
    label(&series.name, 40)
}

/// An error bar from one end to the other.
fn draw_bar(area: &Area, colour: RGBColor, low: (i32, i32), high: (i32, i32)) -> Drawn {
    area.draw(&PathElement::new([low, high], colour))?;
    [low, high]
        .into_iter()
        .try_for_each(|(x, y)| area.draw(&PathElement::new([(x - 4, y), (x + 4, y)], colour)))
}

/// A point's sign: with the colour, 21 series can be told apart, three of a colour.
fn draw_marker(area: &Area, number: usize, place: (i32, i32)) -> Drawn {
    let colour = COLOURS[number % COLOURS.len()].filled();
    match number % 3 {
        0 => area.draw(&Circle::new(place, 4, colour)),
        1 => area.draw(&TriangleMarker::new(place, 6, colour)),
        _ => {
            let corners = [(place.0 - 4, place.1 - 4), (place.0 + 4, place.1 + 4)];
            area.draw(&Rectangle::new(corners, colour))
        }
    }
}

/// The range of an axis: a little more than the numbers on it, and wide enough to have different ticks.
fn around(numbers: impl Iterator<Item = f64>) -> Range<f64> {
    let (low, high) = numbers.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), number| {
        (low.min(number), high.max(number))
    });
    let size = low.abs().max(high.abs());
    let span = match high - low {
        0.0 if size == 0.0 => 1.0,
        0.0 => size,
        span => span.max(1e-6 * size),
    };
    let span = span.max(1e-20);
    (low - 0.05 * span)..(high + 0.05 * span)
}

#[cfg(test)]
mod tests;
