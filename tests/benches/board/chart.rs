//! The shares as a chart: a bar each, and a line where the promise is.

use std::error::Error;
use std::path::Path;

use plotters::prelude::{IntoDrawingArea as _, PathElement, RGBColor, Rectangle, SVGBackend, Text, WHITE};
use plotters::style::{Color as _, IntoFont as _};

use super::report::{Figure, Report, Wanted};

const WIDTH: u32 = 1100;
const ROW: i32 = 30;
const TOP: i32 = 60;
/// Where bars begin, and how long one of 1.0 is, in pixels.
const LEFT: i32 = 540;
const UNIT: f64 = 180.0;

const KEPT: RGBColor = RGBColor(46, 125, 80);
const BROKEN: RGBColor = RGBColor(190, 60, 50);
const NEUTRAL: RGBColor = RGBColor(90, 110, 150);
const INK: RGBColor = RGBColor(40, 40, 40);

/// Draws every figure that is a share.
pub(crate) fn draw(report: &Report, path: &Path) -> Result<(), Box<dyn Error>> {
    let figures: Vec<&Figure> = report.figures.iter().filter(|figure| figure.share.is_some()).collect();
    let rows = i32::try_from(figures.len())?;
    let size = (WIDTH, (TOP + ROW * rows + 20).unsigned_abs());
    let area = SVGBackend::new(path, size).into_drawing_area();
    area.fill(&WHITE)?;
    let font = |points: i32| ("sans-serif", points).into_font().color(&INK);
    area.draw(&Text::new("Hearth as a share of what it stands beside", (16, 10), font(24)))?;
    area.draw(&Text::new(report.title(), (16, 36), font(15)))?;
    for (row, figure) in (0..).zip(figures) {
        let top = TOP + ROW * row;
        let share = figure.share.unwrap_or(0.0);
        area.draw(&Text::new(figure.what.clone(), (16, top + 7), font(15)))?;
        area.draw(&bar(top, share, colour(figure)))?;
        area.draw(&Text::new(format!("{share:.2}"), (length(share) + 6, top + 7), font(15)))?;
        if let Some(Wanted::ShareAtLeast(least)) = figure.wanted {
            let at = length(least);
            area.draw(&PathElement::new(vec![(at, top + 1), (at, top + ROW - 3)], INK.stroke_width(2)))?;
        }
    }
    area.present()?;
    Ok(())
}

fn bar(top: i32, share: f64, colour: RGBColor) -> Rectangle<(i32, i32)> {
    Rectangle::new([(LEFT, top + 4), (length(share), top + ROW - 6)], colour.filled())
}

/// Where a bar of this share ends.
fn length(share: f64) -> i32 {
    #[expect(clippy::cast_possible_truncation, reason = "pixels")]
    let pixels = (share.clamp(0.0, 2.4) * UNIT) as i32;
    LEFT + pixels
}

fn colour(figure: &Figure) -> RGBColor {
    match figure.holds() {
        Some(true) => KEPT,
        Some(false) => BROKEN,
        None => NEUTRAL,
    }
}
