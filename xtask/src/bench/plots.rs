//! The plots: ratios to the best per workload for time and peak memory, and the
//! geometric means of both against each other.

use super::Result;
use super::statistics::normalised;
use super::tables::Table;
use super::workloads::{Kind, Workload};
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::path::Path;

type Drawn = std::result::Result<(), Box<dyn Error>>;

/// What lies beyond is drawn at the edge: one outlier must not flatten the rest.
const MOST: f64 = 4.0;

pub fn write(
    out: &Path,
    names: &[&str],
    workloads: &[&'static Workload],
    time: &Table,
    peak: &Table,
) -> Result<()> {
    ratios(&out.join("time.svg"), "Time, ratio to the best", names, workloads, time)
        .and_then(|()| {
            let title = "Peak memory, ratio to the leanest";
            ratios(&out.join("memory.svg"), title, names, workloads, peak)
        })
        .and_then(|()| scatter(&out.join("scatter.svg"), names, workloads, time, peak))
        .map_err(|e| format!("plots: {e}"))
}

fn colour(i: usize) -> RGBColor {
    // Ours first, in red; the rest told apart by hue and lightness.
    const COLOURS: [(u8, u8, u8); 10] = [
        (214, 39, 40),
        (90, 90, 90),
        (31, 119, 180),
        (44, 160, 44),
        (255, 127, 14),
        (148, 103, 189),
        (197, 176, 213),
        (140, 86, 75),
        (23, 190, 207),
        (188, 189, 34),
    ];
    let (r, g, b) = COLOURS[i % COLOURS.len()];
    RGBColor(r, g, b)
}

/// A row for each workload, a dot for each allocator.
fn ratios(
    file: &Path,
    title: &str,
    names: &[&str],
    workloads: &[&'static Workload],
    table: &Table,
) -> Drawn {
    let rows = workloads.len();
    let area =
        SVGBackend::new(file, (900, (90 + 22 * rows as u32).max(70 + 18 * names.len() as u32)))
            .into_drawing_area();
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(&area)
        .caption(title, ("sans-serif", 18))
        .margin(10)
        .set_label_area_size(LabelAreaPosition::Left, 130)
        .set_label_area_size(LabelAreaPosition::Bottom, 30)
        .margin_right(150)
        .build_cartesian_2d(1.0..MOST, -0.5..rows as f64 - 0.5)?;
    chart
        .configure_mesh()
        .y_labels(0)
        .x_labels(7)
        .x_label_formatter(&|x| format!("{x:.1}"))
        .disable_y_mesh()
        .light_line_style(WHITE.mix(0.0))
        .draw()?;
    let font = ("sans-serif", 13);
    for (w, workload) in workloads.iter().enumerate() {
        let (x, y) = chart.backend_coord(&(1.0, (rows - 1 - w) as f64));
        let name = font.into_text_style(&area).pos(Pos::new(HPos::Right, VPos::Center));
        area.draw(&Text::new(workload.name, (x - 8, y), name))?;
    }
    // Ours last, on top of the others.
    for (a, name) in names.iter().enumerate().rev() {
        let dots = table.values.iter().enumerate().filter_map(|(w, values)| {
            let ratio = normalised(values)[a]?;
            let size = if a == 0 { 5 } else { 4 };
            Some(Circle::new((ratio.min(MOST), (rows - 1 - w) as f64), size, colour(a).filled()))
        });
        chart.draw_series(dots)?;
        let y = 50 + 18 * a as i32;
        area.draw(&Circle::new((770, y), 5, colour(a).filled()))?;
        area.draw(&Text::new(*name, (782, y - 7), font))?;
    }
    area.present()?;
    Ok(())
}

/// Both geometric means: left and low is better.
fn scatter(
    file: &Path,
    names: &[&str],
    workloads: &[&'static Workload],
    time: &Table,
    peak: &Table,
) -> Drawn {
    let kinds = [(Kind::Real, "Real programs"), (Kind::Synthetic, "Synthetic workloads")];
    let kinds: Vec<_> =
        kinds.iter().filter(|(k, _)| workloads.iter().any(|w| w.kind == *k)).collect();
    let area = SVGBackend::new(file, (520 * kinds.len() as u32, 420)).into_drawing_area();
    area.fill(&WHITE)?;
    for (part, (kind, title)) in area.split_evenly((1, kinds.len())).iter().zip(&kinds) {
        let chosen = |w: usize| workloads[w].kind == *kind;
        let (times, peaks) = (time.geometric_means(chosen).0, peak.geometric_means(chosen).0);
        let points: Vec<(usize, f64, f64)> =
            (0..names.len()).filter_map(|a| Some((a, times[a]?, peaks[a]?))).collect();
        let most = |value: fn(&(usize, f64, f64)) -> f64| {
            1.0 + (points.iter().map(value).fold(1.05, f64::max) - 1.0) * 1.25
        };
        let mut chart = ChartBuilder::on(part)
            .caption(*title, ("sans-serif", 18))
            .margin(10)
            .x_label_area_size(40)
            .y_label_area_size(50)
            .build_cartesian_2d(1.0..most(|p| p.1), 1.0..most(|p| p.2))?;
        chart
            .configure_mesh()
            .x_desc("time, geometric mean of the ratios to the best")
            .y_desc("peak memory, likewise")
            .light_line_style(WHITE.mix(0.0))
            .draw()?;
        chart.draw_series(points.iter().map(|(a, x, y)| {
            EmptyElement::at((*x, *y))
                + Circle::new((0, 0), 5, colour(*a).filled())
                + Text::new(names[*a].to_owned(), (8, -6), ("sans-serif", 13))
        }))?;
    }
    area.present()?;
    Ok(())
}
