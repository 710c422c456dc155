use super::layout::{BAR, NO_VALUE, is_dark};
use super::*;
use plotters::prelude::ViridisRGB;

/// Values that rise along the rows and fall along the columns, one of them missing.
fn sample(columns: usize, rows: usize, panels: usize) -> HeatMap {
    let value = |x: usize, y: usize| (x + 2 * y) as f64 / (columns + 2 * rows) as f64;
    let panel = |number: usize| Panel {
        title: format!("method {number}"),
        values: (0..rows)
            .map(|y| (0..columns).map(|x| (x != number || y != 0).then(|| value(x, y))).collect())
            .collect(),
    };
    HeatMap {
        title: "Retrieval of a needle".into(),
        x_label: "context (tokens)".into(),
        y_label: "depth of the needle (%)".into(),
        x: (0..columns).map(|x| (1024 * (x + 1)).to_string()).collect(),
        y: (0..rows).map(|y| (100 * y / rows).to_string()).collect(),
        range: (0.0, 1.0),
        unit: "share found".into(),
        panels: (0..panels).map(panel).collect(),
    }
}

fn drawn(map: &HeatMap) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("map.svg");
    heat_map(&path, map).unwrap();
    std::fs::read_to_string(path).unwrap()
}

fn message(map: &HeatMap) -> String {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("map.svg");
    let error = heat_map(&path, map).unwrap_err().to_string();
    assert!(!path.exists());
    error
}

/// The values of an attribute of the elements of a kind, in order.
fn attributes<'a>(svg: &'a str, element: &str, attribute: &str) -> Vec<&'a str> {
    let elements = svg.split('<').filter(|text| text.starts_with(&format!("{element} ")));
    let value = |text: &'a str| text.split_once(&format!(" {attribute}=\""))?.1.split('"').next();
    elements.filter_map(value).collect()
}

fn texts(svg: &str) -> Vec<&str> {
    let elements = svg.split("<text ").skip(1);
    elements.filter_map(|text| text.split(['>', '<']).nth(1)).map(str::trim).collect()
}

#[test]
fn a_small_map_prints_its_values_and_says_what_is_missing() {
    let svg = drawn(&sample(3, 2, 2));
    for text in ["Retrieval of a needle", "method 0", "method 1", "share found", NO_VALUE] {
        assert_eq!(texts(&svg).iter().filter(|&&found| found == text).count(), 1, "{text}");
    }
    // Both panels have 3/7 at (1, 1) and 4/7 at (2, 1).
    for text in ["0.43", "0.57", "3072", "context (tokens)", "depth of the needle (%)"] {
        assert_eq!(texts(&svg).iter().filter(|&&found| found == text).count(), 2, "{text}");
    }
}

#[test]
fn colours_follow_the_values() {
    let mut map = sample(4, 1, 1);
    map.panels[0].values = vec![vec![Some(-3.0), Some(0.0), Some(9.0), Some(f64::NAN)]];
    let svg = drawn(&map);
    // The sheet, the cells, the bar of colours and the sign of what is missing.
    let fills = attributes(&svg, "rect", "fill");
    assert_eq!(fills.len(), 1 + 4 + BAR.1 as usize + 1);
    let (first, last, missing) = ("#440154", "#FEE825", "#DEDEDE");
    assert_eq!(fills[1..5], [first, first, last, missing]);
    assert_eq!((fills[5], fills[4 + BAR.1 as usize]), (last, first));
    assert!(is_dark(ViridisRGB::get_color(0.0)) && !is_dark(ViridisRGB::get_color(1.0)));
}

#[test]
fn a_large_map_prints_no_values_and_thins_its_labels() {
    let svg = drawn(&sample(200, 100, 1));
    assert!(!texts(&svg).contains(&"0.01"));
    let labels = texts(&svg).iter().filter(|text| text.parse::<u32>().is_ok()).count();
    assert!((10..60).contains(&labels), "{labels}");
}

#[test]
fn everything_is_on_the_sheet() {
    for map in [sample(1, 1, 1), sample(2, 1, 3), sample(9, 6, 5), sample(300, 20, 2)] {
        let svg = drawn(&map);
        let size = |name| attributes(&svg, "svg", name)[0].parse::<i32>().unwrap();
        for (name, limit) in [("x", size("width")), ("y", size("height"))] {
            for element in ["rect", "text"] {
                for value in attributes(&svg, element, name) {
                    assert!(
                        (0..limit).contains(&value.parse().unwrap()),
                        "{element} {name}: {value}"
                    );
                }
            }
        }
    }
}

#[test]
fn text_from_elsewhere_cannot_break_the_file() {
    let mut map = sample(1, 1, 1);
    map.title = "<script>&\"\u{1b}".into();
    let svg = drawn(&map);
    assert!(svg.contains("&lt;script&gt;&amp;"), "{svg}");
    assert!(!svg.contains('\u{1b}'));
}

#[test]
fn maps_that_cannot_be_drawn_are_refused() {
    let changed = |change: fn(&mut HeatMap)| {
        let mut map = sample(3, 2, 2);
        change(&mut map);
        message(&map)
    };
    for (error, expected) in [
        (changed(|map| map.range = (1.0, 1.0)), "the range of colours is 1 to 1, but"),
        (changed(|map| map.range.1 = f64::NAN), "the range of colours is 0 to NaN, but"),
        (changed(|map| map.range.1 = f64::INFINITY), "the range of colours is 0 to inf, but"),
        (changed(|map| map.panels.clear()), "the number of cells to draw is 0, but"),
        (changed(|map| map.x.clear()), "the number of cells to draw is 0, but"),
        (
            changed(|map| map.panels[1].values.truncate(1)),
            "the number of rows of method 1 is 1, but the heat map has 2",
        ),
        (
            changed(|map| map.panels[1].values[1].push(None)),
            "the number of columns of method 1 is 4, but the heat map has 3",
        ),
    ] {
        assert!(error.starts_with(expected), "{error}");
    }
    let error = message(&sample(1000, 101, 1));
    assert_eq!(error, "the number of cells to draw is 101000, but a heat map has 1 to 100000");
}
