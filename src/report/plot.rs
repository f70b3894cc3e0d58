//! A line chart as SVG.
//!
//! Its colours are those of the light scheme; the page's style knows them and gives them others in the dark.

use std::ops::Range;

use plotters::coord::Shift;
use plotters::prelude::*;

pub const SIZE: (u32, u32) = (520, 300);
pub const BLUE: RGBColor = RGBColor(9, 105, 218);
pub const ORANGE: RGBColor = RGBColor(188, 76, 0);
const TEXT: RGBColor = RGBColor(89, 99, 110);
const GRID: RGBColor = RGBColor(218, 223, 228);
const FONT: u32 = 15;
/// Beyond, a difference of values would not be a number.
const LARGEST: f64 = 1e100;

pub struct Plot<'a> {
    /// What the horizontal axis counts; only whole numbers are marked.
    pub x: &'a str,
    pub lines: Vec<Line>,
    /// A point that stands out.
    pub kept: Option<(f64, f64)>,
}

pub struct Line {
    pub name: &'static str,
    pub colour: RGBColor,
    pub dashed: bool,
    /// Whether each point is marked.
    pub dots: bool,
    pub points: Vec<(f64, f64)>,
}

impl Plot<'_> {
    /// The SVG; `None` where there is nothing to draw.
    pub fn svg(&self) -> Option<String> {
        let drawn = |&(x, y): &(f64, f64)| x.abs() < LARGEST && y.abs() < LARGEST;
        let points = || self.lines.iter().flat_map(|l| l.points.iter().copied().filter(drawn));
        let x = range(points().map(|(x, _)| x), 0.0)?;
        let y = range(points().map(|(_, y)| y), 0.05)?;
        let mut svg = String::new();
        self.draw(SVGBackend::with_string(&mut svg, SIZE).into_drawing_area(), x, y, drawn)
            .expect("a string takes everything");
        Some(svg)
    }

    fn draw<'s>(
        &self,
        area: DrawingArea<SVGBackend<'s>, Shift>,
        x: Range<f64>,
        y: Range<f64>,
        drawn: impl Fn(&(f64, f64)) -> bool,
    ) -> Result<(), DrawingAreaErrorKind<<SVGBackend<'s> as DrawingBackend>::ErrorType>> {
        let font = ("sans-serif", FONT).into_font().color(&TEXT);
        let step = (y.end - y.start) / 5.0;
        let mut chart = ChartBuilder::on(&area)
            .margin(6)
            .margin_right(14)
            .x_label_area_size(48)
            .y_label_area_size(66)
            .build_cartesian_2d(x, y)?;
        chart
            .configure_mesh()
            .disable_x_mesh()
            .bold_line_style(GRID)
            .light_line_style(TRANSPARENT)
            .axis_style(GRID)
            .label_style(font.clone())
            .axis_desc_style(font)
            .x_desc(self.x)
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| if x.fract() == 0.0 { format!("{x:.0}") } else { String::new() })
            .y_label_formatter(&|y| label(*y, step))
            .draw()?;
        for line in &self.lines {
            let points: Vec<(f64, f64)> = line.points.iter().copied().filter(&drawn).collect();
            if line.dots || points.len() == 1 {
                chart.draw_series(points.iter().map(|&p| Circle::new(p, 3, line.colour.filled())))?;
            }
            let style = line.colour.stroke_width(2);
            match line.dashed {
                true => chart.draw_series(DashedLineSeries::new(points, 6, 5, style))?,
                false => chart.draw_series(LineSeries::new(points, style))?,
            };
        }
        if let Some(point) = self.kept.filter(&drawn) {
            chart.draw_series([Circle::new(point, 8, BLUE.stroke_width(2))])?;
        }
        area.present()
    }
}

/// From the least to the largest, and `margin` of that on both sides; `None` without values.
fn range(values: impl Iterator<Item = f64>, margin: f64) -> Option<Range<f64>> {
    let (low, high) = values.fold((f64::INFINITY, f64::NEG_INFINITY), |(l, h), v| (l.min(v), h.max(v)));
    if low > high {
        return None;
    }
    // A single value is drawn in the middle of something.
    let around =
        if high - low > 1e-9 * high.abs() { margin * (high - low) } else { (0.1 * high.abs()).max(1.0) };
    Some(low - around..high + around)
}

/// With as many decimals as tell values apart that differ by `step`.
fn label(value: f64, step: f64) -> String {
    match -step.log10() {
        digits if digits > -5.0 && digits <= 4.0 => format!("{value:.*}", digits.ceil().max(0.0) as usize),
        _ => format!("{value:.1e}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plot(points: Vec<(f64, f64)>) -> Option<String> {
        let line = |dashed| Line { name: "", colour: BLUE, dashed, dots: false, points: points.clone() };
        let kept = points.first().copied();
        Plot { x: "step", lines: vec![line(false), line(true)], kept }.svg()
    }

    #[test]
    fn any_numbers_can_be_drawn() {
        let huge = [f64::MAX, -f64::MAX, 1e99, -1e99, 0.0, 1e-300];
        for a in huge {
            for b in huge {
                plot(vec![(a, b), (b, a)]);
                let some = a.abs() < LARGEST || b.abs() < LARGEST;
                assert_eq!(plot(vec![(1.0, a), (2.0, b)]).is_some(), some, "{a} {b}");
            }
        }
        assert_eq!(plot(vec![]), None);
        assert_eq!(plot(vec![(1.0, f64::NAN), (f64::INFINITY, 2.0)]), None);
    }

    #[test]
    fn a_line_goes_through_its_points() {
        let svg = plot(vec![(0.0, 0.0), (50.0, 1.0), (100.0, 0.0)]).unwrap();
        let points_of = |line: &str| -> Vec<(i32, i32)> {
            let (_, points) = line.split_once("points=\"").unwrap();
            let point = |point: &str| {
                let (x, y) = point.split_once(',').unwrap();
                (x.parse().unwrap(), y.parse().unwrap())
            };
            points.split_once('"').unwrap().0.split_whitespace().map(point).collect()
        };
        // Axes and dashes have two points each.
        let points = svg.split("<polyline").skip(1).map(points_of).find(|points| points.len() == 3).unwrap();
        let [first, middle, last] = points[..] else { panic!("{points:?}") };
        assert_eq!(first.1, last.1);
        assert!(middle.1 < first.1 && (middle.0 - first.0 - (last.0 - middle.0)).abs() <= 1, "{points:?}");
        assert!(svg.contains("\n40\n") && svg.contains("\n0.4\n"), "{svg}");
    }

    #[test]
    fn labels_tell_neighbours_apart() {
        assert_eq!(label(0.00025, 0.00005), "2.5e-4");
        assert_eq!(label(0.0025, 0.0005), "0.0025");
        assert_eq!(label(-0.75, 0.05), "-0.75");
        assert_eq!(label(120.0, 20.0), "120");
        assert_eq!(label(1.5e9, 2e8), "1.5e9");
    }
}
