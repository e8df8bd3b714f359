//! The plots: ratios to the best per workload for time and peak memory, and the
//! geometric means of both against each other.

use super::Result;
use super::statistics::normalised;
use super::tables::Table;
use super::workloads::{Kind, Workload};
use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};
use std::error::Error;
use std::path::Path;

type Drawn = std::result::Result<(), Box<dyn Error>>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

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
    // Ours first, in red; the rest told apart by hue, lightness and shape.
    const COLOURS: [(u8, u8, u8); 10] = [
        (214, 39, 40),
        (80, 80, 80),
        (31, 119, 180),
        (44, 160, 44),
        (255, 127, 14),
        (148, 103, 189),
        (180, 150, 215),
        (140, 86, 75),
        (23, 170, 190),
        (160, 160, 20),
    ];
    let (r, g, b) = COLOURS[i % COLOURS.len()];
    RGBColor(r, g, b)
}

/// A mark of its own for each allocator: shapes in turn, ours the largest.
fn mark(area: &Area, i: usize, at: (i32, i32)) -> Drawn {
    let around = |points: &[(i32, i32)]| -> Vec<(i32, i32)> {
        points.iter().map(|(x, y)| (at.0 + x, at.1 + y)).collect()
    };
    let fill = colour(i).filled();
    match i {
        0 => {
            let diamond = around(&[(-7, 0), (0, -7), (7, 0), (0, 7)]);
            area.draw(&Polygon::new(diamond.clone(), fill))?;
            area.draw(&PathElement::new([&diamond[..], &diamond[..1]].concat(), BLACK))?;
        }
        i if i % 4 == 1 => area.draw(&Circle::new(at, 4, fill))?,
        i if i % 4 == 2 => area.draw(&Polygon::new(around(&[(-5, 4), (5, 4), (0, -5)]), fill))?,
        i if i % 4 == 3 => {
            area.draw(&Rectangle::new([(at.0 - 4, at.1 - 4), (at.0 + 4, at.1 + 4)], fill))?
        }
        _ => area.draw(&Polygon::new(around(&[(-5, -4), (5, -4), (0, 5)]), fill))?,
    }
    Ok(())
}

fn text(area: &Area, words: &str, at: (i32, i32), size: u32, to: HPos) -> Drawn {
    let style = ("sans-serif", size).into_text_style(area).pos(Pos::new(to, VPos::Center));
    area.draw(&Text::new(words.to_owned(), at, style))?;
    Ok(())
}

/// One line of the plot of ratios: a workload, or a mean.
struct Line {
    label: String,
    ratios: Vec<Option<f64>>,
    /// A rule above it.
    begins: bool,
}

fn lines(workloads: &[&'static Workload], table: &Table) -> Vec<Line> {
    let mut lines = Vec::new();
    for (kind, label) in [(Kind::Real, "real programs, mean"), (Kind::Synthetic, "synthetic, mean")]
    {
        let (ratios, count) = table.geometric_means(|w| workloads[w].kind == kind);
        if count > 1 {
            lines.push(Line { label: label.into(), ratios, begins: false });
        }
    }
    let mut family = "";
    for (w, values) in workloads.iter().zip(&table.values).filter(|(w, _)| w.kind != Kind::Goal) {
        let ratios = normalised(values);
        lines.push(Line { label: w.name.into(), ratios, begins: w.family != family });
        family = w.family;
    }
    lines
}

/// A row for each workload, a mark for each allocator.
fn ratios(
    file: &Path,
    title: &str,
    names: &[&str],
    workloads: &[&'static Workload],
    table: &Table,
) -> Drawn {
    const LEFT: i32 = 150;
    const RIGHT: i32 = 770;
    const ROW: i32 = 20;
    const IN_A_ROW: usize = 5;
    let lines = lines(workloads, table);
    let legend = names.len().div_ceil(IN_A_ROW) as i32;
    let top = 50 + 20 * legend + 22;
    let bottom = top + ROW * lines.len() as i32;
    let area = SVGBackend::new(file, (820, bottom as u32 + 20)).into_drawing_area();
    area.fill(&WHITE)?;
    text(&area, title, (LEFT, 20), 19, HPos::Left)?;
    for (a, name) in names.iter().enumerate() {
        let x = LEFT + 7 + 130 * (a % IN_A_ROW) as i32;
        let y = 48 + 20 * (a / IN_A_ROW) as i32;
        mark(&area, a, (x, y))?;
        text(&area, name, (x + 12, y), 14, HPos::Left)?;
    }

    // Ratios are ratios: the axis is logarithmic.
    let x = |ratio: f64| {
        let share = ratio.clamp(1.0, MOST).ln() / MOST.ln();
        LEFT + (share * f64::from(RIGHT - LEFT)).round() as i32
    };
    let faint = RGBColor(215, 215, 215);
    for tick in [1.0, 1.1, 1.25, 1.5, 2.0, 3.0, MOST] {
        area.draw(&PathElement::new(vec![(x(tick), top - 4), (x(tick), bottom)], faint))?;
        let label = if tick == MOST { format!("{tick} and more") } else { format!("{tick}") };
        text(&area, &label, (x(tick), top - 12), 13, HPos::Center)?;
    }
    for (i, line) in lines.iter().enumerate() {
        let y = top + ROW * i as i32 + ROW / 2;
        if i % 2 == 1 {
            let band = [(LEFT, y - ROW / 2), (RIGHT, y + ROW / 2)];
            area.draw(&Rectangle::new(band, RGBColor(150, 150, 150).mix(0.1).filled()))?;
        }
        if line.begins {
            let rule = vec![(10, y - ROW / 2), (RIGHT, y - ROW / 2)];
            area.draw(&PathElement::new(rule, RGBColor(150, 150, 150)))?;
        }
        text(&area, &line.label, (LEFT - 12, y), 14, HPos::Right)?;
        // Ours last, on top of the others.
        for (a, ratio) in line.ratios.iter().enumerate().rev() {
            if let Some(ratio) = ratio {
                mark(&area, a, (x(*ratio), y))?;
            }
        }
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
    const SIZE: (u32, u32) = (560, 460);
    let kinds = [(Kind::Real, "Real programs"), (Kind::Synthetic, "Synthetic workloads")];
    let kinds: Vec<_> =
        kinds.iter().filter(|(k, _)| workloads.iter().any(|w| w.kind == *k)).collect();
    let size = (SIZE.0 * kinds.len().max(1) as u32, SIZE.1);
    let area = SVGBackend::new(file, size).into_drawing_area();
    area.fill(&WHITE)?;
    for (part, (kind, title)) in area.split_evenly((1, kinds.len().max(1))).iter().zip(&kinds) {
        let chosen = |w: usize| workloads[w].kind == *kind;
        let (times, peaks) = (time.geometric_means(chosen).0, peak.geometric_means(chosen).0);
        let points: Vec<(usize, f64, f64)> =
            (0..names.len()).filter_map(|a| Some((a, times[a]?, peaks[a]?))).collect();
        let most = |value: fn(&(usize, f64, f64)) -> f64| {
            1.0 + (points.iter().map(value).fold(1.1, f64::max) - 1.0) * 1.15
        };
        let mut chart = ChartBuilder::on(part)
            .caption(format!("{title} (left and low is better)"), ("sans-serif", 17))
            .margin(12)
            .x_label_area_size(45)
            .y_label_area_size(55)
            .build_cartesian_2d(1.0..most(|p| p.1), 1.0..most(|p| p.2))?;
        chart
            .configure_mesh()
            .x_desc("time, geometric mean of the ratios to the best")
            .y_desc("peak memory, likewise")
            .axis_desc_style(("sans-serif", 14))
            .label_style(("sans-serif", 13))
            .x_labels(6)
            .y_labels(6)
            .x_label_formatter(&|x| format!("{x:.2}"))
            .y_label_formatter(&|y| format!("{y:.2}"))
            .light_line_style(TRANSPARENT)
            .bold_line_style(RGBColor(225, 225, 225))
            .draw()?;
        let base = part.get_base_pixel();
        let spots: Vec<(usize, (i32, i32))> = points
            .iter()
            .map(|(a, x, y)| (*a, chart.backend_coord(&(*x, *y))))
            .map(|(a, (x, y))| (a, (x - base.0, y - base.1)))
            .collect();
        for (a, spot) in spots.iter().rev() {
            mark(part, *a, *spot)?;
        }
        for (a, at) in labels(names, &spots, SIZE.0 as i32) {
            text(part, names[a], at, 13, HPos::Left)?;
        }
    }
    area.present()?;
    Ok(())
}

/// Where each name goes, beside its mark and beside no other mark or name.
fn labels(names: &[&str], spots: &[(usize, (i32, i32))], right: i32) -> Vec<(usize, (i32, i32))> {
    const WIDTH: i32 = 7;
    const HALF: i32 = 7;
    let mut taken: Vec<[i32; 4]> =
        spots.iter().map(|(_, (x, y))| [x - 6, y - 6, x + 6, y + 6]).collect();
    let mut placed = Vec::new();
    for (i, (a, (x, y))) in spots.iter().enumerate() {
        let width = WIDTH * names[*a].len() as i32;
        let across = [10, -10 - width, -width / 2];
        let options =
            [0, -14, 14, -24, 24, -36, 36].iter().flat_map(|dy| across.map(|dx| (x + dx, y + dy)));
        let is_free = |(left, y): &(i32, i32)| {
            let own = [*left, y - HALF, left + width, y + HALF];
            let free_of = |(j, [l, t, r, b]): (usize, &[i32; 4])| {
                j == i || own[2] <= *l || *r <= own[0] || own[3] <= *t || *b <= own[1]
            };
            *left > 60 && own[2] < right && taken.iter().enumerate().all(free_of)
        };
        // Its own mark is in the way of none but the one across it.
        let at = options.filter(|o| o.1 != *y || o.0 != x - width / 2).find(is_free);
        let at = at.unwrap_or((x + 10, *y));
        taken.push([at.0, at.1 - HALF, at.0 + width, at.1 + HALF]);
        placed.push((*a, at));
    }
    placed
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_do_not_cover_each_other() {
        let names = ["cidalloc", "tcmalloc", "tcmalloc-rseq-on", "glibc"];
        let spots = [(0, (200, 200)), (1, (203, 202)), (2, (206, 199)), (3, (400, 100))];
        let placed = labels(&names, &spots, 560);
        for (i, (a, (x, y))) in placed.iter().enumerate() {
            for (b, (u, v)) in &placed[..i] {
                let (width, other) = (7 * names[*a].len() as i32, 7 * names[*b].len() as i32);
                let apart = x + width <= *u || u + other <= *x || (y - v).abs() >= 14;
                assert!(apart, "{} and {}: {placed:?}", names[*a], names[*b]);
            }
        }
    }
}
