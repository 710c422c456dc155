use super::*;

fn sample() -> LinePlot {
    let series = |name: &str, factor: f64| Series {
        name: name.into(),
        points: (0..6)
            .map(|step| {
                let y = factor * f64::from(step);
                let error = (step != 3).then_some((y - 0.4, y + 0.3));
                Point { x: f64::from(1024 << step), y, error }
            })
            .collect(),
    };
    LinePlot {
        title: "Perplexity & context".into(),
        x_label: "context (tokens)".into(),
        y_label: "difference (%)".into(),
        is_log_x: true,
        series: vec![series("two-level, 25% of blocks", 0.5), series("blocks only", 1.5)],
    }
}

fn draw(plot: &LinePlot) -> Result<String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("lines.svg");
    let result = lines(&path, plot);
    assert_eq!(path.exists(), result.is_ok());
    result.map(|()| std::fs::read_to_string(path).unwrap())
}

/// The places of the circles of a colour.
fn circles(svg: &str, fill: &str) -> Vec<(i32, i32)> {
    let circles = svg.lines().filter(|line| line.starts_with("<circle") && line.contains(fill));
    let number = |line: &str, name: &str| {
        let value = line.split_once(&format!(" {name}=\"")).unwrap().1;
        value.split('"').next().unwrap().parse().unwrap()
    };
    circles.map(|line| (number(line, "cx"), number(line, "cy"))).collect()
}

#[test]
fn points_are_where_their_numbers_are() {
    let svg = draw(&sample()).unwrap();
    let series = &sample().series[0];
    // The last is the sign in the legend.
    let places: Vec<(i32, i32)> = circles(&svg, "fill=\"#0072B2\"");
    assert_eq!(places.len(), series.points.len() + 1);
    let steps = |pick: fn(&(i32, i32)) -> i32| -> Vec<i32> {
        let numbers: Vec<i32> = places[..series.points.len()].iter().map(pick).collect();
        numbers.windows(2).map(|pair| pair[1] - pair[0]).collect()
    };
    // Equal factors along one axis and equal differences along the other, but for whole pixels.
    for steps in [steps(|place| place.0), steps(|place| -place.1)] {
        assert!(steps.iter().all(|step| (step - steps[0]).abs() <= 1 && *step > 5), "{steps:?}");
    }
}

#[test]
fn words_and_measured_places_are_there() {
    let svg = draw(&sample()).unwrap();
    for text in [
        "Perplexity &amp; context",
        "two-level, 25% of blocks",
        "blocks only",
        "1024",
        "32768",
        "difference (%)",
    ] {
        assert!(svg.lines().any(|line| line.trim() == text), "{text}");
    }
}

#[test]
fn narrow_and_extreme_numbers_are_drawn() {
    let of = |numbers: &[f64], is_log_x| {
        let mut plot = sample();
        plot.is_log_x = is_log_x;
        let points = numbers.iter().map(|&number| Point { x: number, y: number, error: None });
        plot.series = vec![Series { name: String::new(), points: points.collect() }];
        plot
    };
    for numbers in [
        &[0.0][..],
        &[5.0],
        &[-5.0, -5.0],
        &[1.0, 1.0 + f64::EPSILON],
        &[f64::MIN_POSITIVE, 5e-324],
        &[-LARGEST, LARGEST],
        &[1e-30, LARGEST],
    ] {
        draw(&of(numbers, false)).unwrap();
        if numbers.iter().all(|&number| number > 0.0) {
            draw(&of(numbers, true)).unwrap();
        }
    }
}

#[test]
fn many_series_make_the_picture_higher() {
    let mut plot = sample();
    plot.series = vec![plot.series[0].clone(); 40];
    let svg = draw(&plot).unwrap();
    let height: i32 =
        svg.split_once(" height=\"").unwrap().1.split('"').next().unwrap().parse().unwrap();
    let names: Vec<i32> = svg
        .lines()
        .filter(|line| line.starts_with("<text") && line.contains("text-anchor=\"start\""))
        .filter_map(|line| line.split_once(" y=\"")?.1.split('"').next()?.parse().ok())
        .collect();
    assert_eq!(names.len(), 1 + 40);
    assert!(names.iter().all(|&y| y < height - TEXT), "{names:?}");
}

#[test]
fn plots_that_cannot_be_drawn_are_refused() {
    let changed = |change: fn(&mut LinePlot)| {
        let mut plot = sample();
        change(&mut plot);
        draw(&plot).unwrap_err().to_string()
    };
    for (error, expected) in [
        (
            changed(|plot| plot.series.clear()),
            "the number of points to draw is 0, but a plot needs some",
        ),
        (
            changed(|plot| plot.series[1].points[2].y = f64::NAN),
            "a point of blocks only is NaN, but 1e30 is the most that can be drawn",
        ),
        (
            changed(|plot| plot.series[1].points[2].error = Some((0.0, f64::INFINITY))),
            "a point of blocks only is inf, but 1e30 is the most that can be drawn",
        ),
        (
            changed(|plot| plot.series[1].points[0].x = 0.0),
            "the place of a point of blocks only is 0, but a logarithmic axis begins above 0",
        ),
    ] {
        assert_eq!(error, expected);
    }
}
