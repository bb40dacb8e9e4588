//! Size against quality, one curve per method, light and dark.

use super::name;
use crate::html::element::escape;
use crate::units::{bytes, short};
use moepress_pipeline::{PointReport, PointResult, SweepReport};
use std::fmt::Write;

const WIDTH: f64 = 760.0;
/// Of the plotting area of a panel.
const LEFT: f64 = 72.0;
const RIGHT: f64 = WIDTH - 24.0;
const HEIGHT: f64 = 300.0;
/// From the top of one panel to the top of the next.
const PANEL: f64 = HEIGHT + 92.0;
const LEGEND_ROW: f64 = 22.0;
/// Values below are drawn at the lower edge: on a logarithmic scale there is no zero.
const LEAST: f64 = 1e-4;
/// Ticks of sizes keep so far apart.
const APART: f64 = 44.0;

/// Hues that are told apart with any kind of sight (Okabe and Ito), for light and dark pages; more methods take up the
/// first again, with another mark.
const COLOURS: [(&str, &str); 7] = [
    ("#0072b2", "#56b4e9"),
    ("#d55e00", "#f0874a"),
    ("#009e73", "#35c79c"),
    ("#b0508c", "#e39cc8"),
    ("#9a7d00", "#e6c84f"),
    ("#5b4fa0", "#a79df0"),
    ("#5a636c", "#a3adb5"),
];

type Quality = fn(&PointResult) -> (f64, bool);

/// A drawing of two panels: increase of the negative log-likelihood, and divergence from the original, both against
/// size on logarithmic scales. Points of the Pareto front are filled and joined by a line of steps.
pub fn sweep_svg(report: &SweepReport) -> String {
    let methods = methods(report);
    let rows = methods.len().div_ceil(3);
    let top = 64.0 + LEGEND_ROW * rows as f64;
    let height = top + 2.0 * PANEL - 24.0;
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         role=\"img\" aria-labelledby=\"title\">\n<title id=\"title\">Size and quality of all points</title>\n{}\
         <rect width=\"100%\" height=\"100%\" class=\"page\"/>\n",
        style()
    );
    for (index, method) in methods.iter().enumerate() {
        let (x, y) = (LEFT + 230.0 * (index % 3) as f64, 28.0 + LEGEND_ROW * (index / 3) as f64);
        let (mark, text) = (mark(index, x, y, true, ""), escape(method));
        line(&mut out, format_args!("{mark}<text x=\"{}\" y=\"{}\">{text}</text>", x + 12.0, y + 4.0));
    }
    let panels: [(&str, Quality); 2] = [
        ("increase of the negative log-likelihood, nats per token", |r| (r.nll_increase, r.best_nll)),
        ("Kullback-Leibler divergence from the original, nats per token", |r| (r.kld, r.best_kld)),
    ];
    for (index, (title, quality)) in panels.into_iter().enumerate() {
        panel(&mut out, report, &methods, top + PANEL * index as f64, title, quality);
    }
    out + "</svg>\n"
}

fn style() -> String {
    let (mut light, mut dark) = (String::new(), String::new());
    for (index, (on_light, on_dark)) in COLOURS.iter().enumerate() {
        let _ = write!(light, " --m{index}: {on_light};");
        let _ = write!(dark, " --m{index}: {on_dark};");
    }
    let classes: String = (0..COLOURS.len())
        .map(|index| {
            format!(".m{index} {{ stroke: var(--m{index}); }} .f{index} {{ fill: var(--m{index}); }}\n")
        })
        .collect();
    format!(
        "<style>\nsvg {{ color-scheme: light dark; --page: #fcfcfa; --ink: #1c2126; --soft: #5a636c; --line: #e3e5e4;{light} \
         font: 12px ui-sans-serif, system-ui, -apple-system, \"Segoe UI\", Roboto, sans-serif; font-variant-numeric: tabular-nums; }}\n\
         @media (prefers-color-scheme: dark) {{ svg {{ --page: #15191c; --ink: #e7e9ea; --soft: #a3adb5; --line: #2c3338;{dark} }} }}\n\
         .page, .open {{ fill: var(--page); }}\ntext {{ fill: var(--ink); }}\n.soft {{ fill: var(--soft); }}\n\
         .name {{ font-weight: 600; }}\n.grid {{ stroke: var(--line); }}\n.curve {{ fill: none; stroke-width: 1.5; }}\n\
         .mark {{ stroke-width: 1.75; }}\n.front {{ fill: none; stroke: var(--soft); stroke-width: 5; stroke-opacity: .3; }}\n\
         {classes}</style>\n"
    )
}

/// Adds a line. Writing to text cannot fail.
fn line(out: &mut String, what: std::fmt::Arguments<'_>) {
    let _ = writeln!(out, "{what}");
}

fn methods(report: &SweepReport) -> Vec<&str> {
    let mut methods: Vec<&str> = vec![];
    for point in &report.points {
        if !methods.contains(&point.method.as_str()) {
            methods.push(&point.method);
        }
    }
    methods
}

/// The mark of a method: circle, square or diamond, in its colour; filled on the front.
fn mark(method: usize, x: f64, y: f64, filled: bool, title: &str) -> String {
    let colour = method % COLOURS.len();
    let fill = if filled { format!("f{colour}") } else { "open".to_owned() };
    let title = if title.is_empty() { String::new() } else { format!("<title>{}</title>", escape(title)) };
    let shape = match method / COLOURS.len() % 3 {
        0 => "a4.5 4.5 0 1 0 9 0a4.5 4.5 0 1 0 -9 0z",
        1 => "v-4h9v8h-9z",
        _ => "l4.5 -5.5l4.5 5.5l-4.5 5.5z",
    };
    format!("<path class=\"mark m{colour} {fill}\" d=\"M{:.1} {y:.1}{shape}\">{title}</path>", x - 4.5)
}

/// Where values are drawn.
struct Scales {
    top: f64,
    /// Natural logarithms of the least and the largest share.
    shares: (f64, f64),
    /// Decimal logarithms of the lowest and the highest value.
    values: (f64, f64),
}

impl Scales {
    fn of(done: &[(&PointReport, &PointResult)], top: f64, quality: Quality) -> Self {
        let shares = || done.iter().map(|(_, result)| result.share.max(1e-6));
        let low = shares().fold(1.0, f64::min) * 0.9;
        let high = shares().fold(low * 1.5, f64::max) * 1.1;
        let values = || done.iter().map(|(_, result)| quality(result).0.max(LEAST).log10());
        let lowest = values().fold(0.0, f64::min).floor();
        let highest = values().fold(lowest + 1.0, f64::max).ceil();
        Self { top, shares: (low.ln(), high.ln()), values: (lowest, highest) }
    }

    fn x(&self, share: f64) -> f64 {
        let (low, high) = self.shares;
        LEFT + (RIGHT - LEFT) * (share.max(1e-6).ln() - low) / (high - low)
    }

    fn y(&self, value: f64) -> f64 {
        let (low, high) = self.values;
        self.top + HEIGHT * (high - value.max(LEAST).log10()) / (high - low)
    }

    /// Shares worth a tick, from the largest down.
    fn ticks(&self) -> Vec<f64> {
        let mut ticks: Vec<f64> = vec![];
        let percents = [
            100.0, 80.0, 60.0, 50.0, 40.0, 30.0, 25.0, 20.0, 15.0, 12.0, 10.0, 8.0, 6.0, 5.0, 4.0, 3.0, 2.0,
            1.0,
        ];
        for share in percents.map(|percent| percent / 100.0) {
            let inside = (LEFT..=RIGHT).contains(&self.x(share));
            if inside && ticks.last().is_none_or(|&last| self.x(last) - self.x(share) >= APART) {
                ticks.push(share);
            }
        }
        ticks
    }
}

fn panel(out: &mut String, report: &SweepReport, methods: &[&str], top: f64, title: &str, quality: Quality) {
    let done: Vec<(&PointReport, &PointResult)> =
        report.points.iter().filter_map(|point| Some((point, point.result.as_ref()?))).collect();
    let scales = Scales::of(&done, top, quality);
    let bottom = top + HEIGHT;
    line(out, format_args!("<text x=\"{LEFT}\" y=\"{}\" class=\"name\">{title}</text>", top - 14.0));
    for exponent in scales.values.0 as i32..=scales.values.1 as i32 {
        let (value, y) = (10f64.powi(exponent), scales.y(10f64.powi(exponent)));
        line(out, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{RIGHT}\"/>"));
        let label = format!("{}{value}", if value <= LEAST { "≤ " } else { "" });
        let (x, y) = (LEFT - 8.0, y + 4.0);
        line(
            out,
            format_args!("<text x=\"{x}\" y=\"{y:.1}\" text-anchor=\"end\" class=\"soft\">{label}</text>"),
        );
    }
    for share in scales.ticks() {
        let (x, y) = (scales.x(share), bottom + 18.0);
        line(out, format_args!("<path class=\"grid\" d=\"M{x:.1} {top}V{bottom}\"/>"));
        let label = format!("{:.0}%", 100.0 * share);
        line(
            out,
            format_args!("<text x=\"{x:.1}\" y=\"{y}\" text-anchor=\"middle\" class=\"soft\">{label}</text>"),
        );
    }
    line(
        out,
        format_args!(
            "<text x=\"{RIGHT}\" y=\"{}\" text-anchor=\"end\" class=\"soft\">bytes of all tensors, of the original's {}</text>",
            bottom + 38.0,
            bytes(report.original.total.bytes)
        ),
    );
    let key = "grey: the Pareto front, filled: points on it";
    line(out, format_args!("<text x=\"{LEFT}\" y=\"{}\" class=\"soft\">{key}</text>", bottom + 38.0));
    front(out, &done, quality, &scales);
    for (index, method) in methods.iter().enumerate() {
        let mut of_method: Vec<_> = done.iter().filter(|(point, _)| point.method == *method).collect();
        of_method.sort_by_key(|(_, result)| result.bytes);
        let place = |result: &PointResult| (scales.x(result.share), scales.y(quality(result).0));
        let line_through: Vec<String> = of_method
            .iter()
            .map(|(_, result)| place(result))
            .map(|(x, y)| format!("{x:.1},{y:.1}"))
            .collect();
        if line_through.len() > 1 {
            let (colour, points) = (index % COLOURS.len(), line_through.join(" "));
            line(out, format_args!("<polyline class=\"curve m{colour}\" points=\"{points}\"/>"));
        }
        for (point, result) in of_method {
            let ((value, best), (x, y)) = (quality(result), place(result));
            let front = if best { ", on the Pareto front" } else { "" };
            let title = format!("{}: {}, {}{front}", name(point), bytes(result.bytes), short(value));
            line(out, format_args!("{}", mark(index, x, y, best, &title)));
        }
    }
}

/// The best value that each size allows.
fn front(out: &mut String, done: &[(&PointReport, &PointResult)], quality: Quality, scales: &Scales) {
    let mut points: Vec<&PointResult> =
        done.iter().map(|(_, result)| *result).filter(|result| quality(result).1).collect();
    points.sort_by_key(|result| result.bytes);
    let mut path = String::new();
    for result in points {
        let (x, y) = (scales.x(result.share), scales.y(quality(result).0));
        path += &match path.is_empty() {
            true => format!("M{x:.1} {y:.1}"),
            false => format!("H{x:.1}V{y:.1}"),
        };
    }
    if !path.is_empty() {
        line(
            out,
            format_args!("<path class=\"front\" d=\"{path}H{RIGHT}\"><title>Pareto front</title></path>"),
        );
    }
}
