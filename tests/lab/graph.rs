//! The lab's book: a graph for each scenario and a page with the table of all, in `target/lab/`.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Mutex;

use crate::world::Sample;

/// One number that was demanded, and what was measured.
#[derive(Debug, Clone)]
pub struct Check {
    pub what: String,
    pub measured: String,
    pub holds: bool,
}

/// One subscriber's part of a graph.
pub struct Track<'a> {
    pub name: &'a str,
    pub samples: &'a [Sample],
}

/// Where the book is: beside what cargo builds.
fn folder() -> PathBuf {
    Path::new(env!("CARGO_TARGET_TMPDIR")).with_file_name("lab")
}

/// Writes a scenario's graph and its rows, and the table anew.
pub fn write(name: &str, title: &str, tracks: &[Track<'_>], checks: &[Check]) {
    static BOOK: Mutex<()> = Mutex::new(());
    let _writing = BOOK.lock().unwrap_or_else(|broken| broken.into_inner());
    let folder = folder();
    fs::create_dir_all(&folder).expect("target can be written");
    fs::write(folder.join(format!("{name}.svg")), svg(title, tracks))
        .expect("target can be written");
    let rows = rows(name, title, checks);
    fs::write(folder.join(format!("{name}.rows")), rows).expect("target can be written");
    let mut names: Vec<PathBuf> = fs::read_dir(&folder)
        .expect("it was just made")
        .filter_map(|entry| Some(entry.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "rows"))
        .collect();
    names.sort();
    let rows: String = names
        .iter()
        .filter_map(|path| fs::read_to_string(path).ok())
        .collect();
    let page = format!(
        "<!doctype html><meta charset=\"utf-8\"><title>shardcast lab</title>\n<style>{STYLE}</style>\n\
         <h1>Impairment lab</h1>\n<table><tr><th>scenario<th>demanded<th>measured<th></tr>\n{rows}</table>\n{}",
        names
            .iter()
            .filter_map(|path| path.file_stem()?.to_str())
            .map(|name| format!("<p id=\"{name}\"><img src=\"{name}.svg\" alt=\"{name}\"></p>\n"))
            .collect::<String>()
    );
    fs::write(folder.join("index.html"), page).expect("target can be written");
}

fn rows(name: &str, title: &str, checks: &[Check]) -> String {
    checks.iter().fold(String::new(), |mut rows, check| {
        let (class, word) = if check.holds {
            ("pass", "pass")
        } else {
            ("fail", "FAIL")
        };
        let _ = writeln!(
            rows,
            "<tr class=\"{class}\"><td><a href=\"#{name}\">{title}</a><td>{}<td>{}<td>{word}</tr>",
            check.what, check.measured
        );
        rows
    })
}

const STYLE: &str = "body{font:14px sans-serif;margin:2em;max-width:70em}table{border-collapse:collapse}\
    td,th{border:1px solid #ccc;padding:.3em .6em;text-align:left}.pass td:last-child{color:#070}\
    .fail td{background:#fdd}img{max-width:100%}";

const WIDTH: f64 = 900.0;
const LEFT: f64 = 70.0;
const PANEL: f64 = 160.0;
const GAP: f64 = 40.0;
const COLOURS: [&str; 4] = ["#1565c0", "#c62828", "#2e7d32", "#6a1b9a"];

fn svg(title: &str, tracks: &[Track<'_>]) -> String {
    let end = tracks
        .iter()
        .filter_map(|track| track.samples.last())
        .map(|sample| sample.at_s)
        .fold(1.0, f64::max);
    let height = 50.0 + 3.0 * (PANEL + GAP);
    let mut out = format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 {} {height}\" width=\"{}\" font-family=\"sans-serif\" \
         font-size=\"11\">\n<rect width=\"100%\" height=\"100%\" fill=\"#fff\"/>\n\
         <text x=\"{LEFT}\" y=\"20\" font-size=\"15\">{title}</text>\n",
        WIDTH + LEFT + 20.0,
        WIDTH + LEFT + 20.0,
    );
    let rates = tracks.iter().flat_map(|track| track.samples);
    let most = rates
        .clone()
        .flat_map(|s| [s.sent_bps, s.estimate_bps.unwrap_or(0.0)])
        .fold(100_000.0, f64::max);
    let capacity = rates.clone().map(|s| s.capacity_bps).fold(0.0, f64::max);
    // A wide link would flatten what is on it.
    let top = most.max(capacity.min(2.0 * most)) / 1000.0;
    let mut rate = Panel::new(40.0, end, top, "kbit/s");
    let worst = rates.clone().map(|s| s.queue_ms).fold(20.0, f64::max);
    let mut queue = Panel::new(40.0 + PANEL + GAP, end, worst, "queue delay, ms");
    let mut layer = Panel::new(
        40.0 + 2.0 * (PANEL + GAP),
        end,
        4.0,
        "layer: encoding + temporal/4 (0 is none)",
    );
    for (track, colour) in tracks.iter().zip(COLOURS) {
        let points = |value: &dyn Fn(&Sample) -> Option<f64>| -> Vec<(f64, Option<f64>)> {
            let samples = track.samples.iter();
            samples.map(|sample| (sample.at_s, value(sample))).collect()
        };
        let capacity = points(&|s| (s.capacity_bps > 0.0).then_some(s.capacity_bps / 1000.0));
        rate.line(&capacity, "#999", "stroke-dasharray=\"6 3\"");
        let sent: Vec<_> = smooth(track.samples);
        rate.line(&sent, colour, "stroke-opacity=\"0.45\"");
        rate.line(
            &points(&|s| s.estimate_bps.map(|e| e / 1000.0)),
            colour,
            "stroke-width=\"2\"",
        );
        queue.line(&points(&|s| Some(s.queue_ms)), colour, "");
        let layers = points(&|s| {
            s.layer.map_or(Some(0.0), |(e, t)| {
                Some(1.0 + f64::from(e) + f64::from(t) / 4.0)
            })
        });
        layer.line(&layers, colour, "");
    }
    for panel in [&rate, &queue, &layer] {
        out += &panel.text;
    }
    for (index, (track, colour)) in tracks.iter().zip(COLOURS).enumerate() {
        let x = LEFT + 420.0 + 140.0 * index as f64;
        let _ = writeln!(
            out,
            "<text x=\"{x}\" y=\"20\" fill=\"{colour}\">{}</text>",
            track.name
        );
    }
    let _ = writeln!(
        out,
        "<text x=\"{LEFT}\" y=\"{}\" fill=\"#555\">bold: estimate; pale: sent (mean of 0.5 s, with headers); dashed: capacity</text>\n</svg>",
        height - 8.0
    );
    out
}

/// The mean of half a second: single frames are of no interest.
fn smooth(samples: &[Sample]) -> Vec<(f64, Option<f64>)> {
    samples
        .windows(5)
        .map(|five| {
            let mean = five.iter().map(|s| s.sent_bps).sum::<f64>() / 5.0;
            (five[4].at_s, Some(mean / 1000.0))
        })
        .collect()
}

/// One diagram with its axes.
struct Panel {
    y: f64,
    end: f64,
    top: f64,
    text: String,
}

impl Panel {
    fn new(y: f64, end: f64, most: f64, label: &str) -> Self {
        let top = most * 1.05;
        let mut text = format!(
            "<text x=\"{LEFT}\" y=\"{}\" fill=\"#333\">{label}</text>\n",
            y - 4.0
        );
        let step = nice(top / 4.0);
        for line in 0..=(top / step) as u32 {
            let value = f64::from(line) * step;
            let at = y + PANEL * (1.0 - value / top);
            let _ = writeln!(
                text,
                "<path d=\"M{LEFT} {at:.1}h{WIDTH}\" stroke=\"#eee\"/><text x=\"{}\" y=\"{:.1}\" text-anchor=\"end\">{value}</text>",
                LEFT - 6.0,
                at + 4.0
            );
        }
        let step = nice(end / 10.0);
        for line in 0..=(end / step) as u32 {
            let value = f64::from(line) * step;
            let x = LEFT + WIDTH * value / end;
            let _ = writeln!(
                text,
                "<path d=\"M{x:.1} {y}v{PANEL}\" stroke=\"#eee\"/><text x=\"{x:.1}\" y=\"{}\" text-anchor=\"middle\">{value} s</text>",
                y + PANEL + 13.0
            );
        }
        Self { y, end, top, text }
    }

    fn line(&mut self, points: &[(f64, Option<f64>)], colour: &str, more: &str) {
        let mut path = String::new();
        let mut is_down = false;
        for (at, value) in points {
            let Some(value) = value else {
                is_down = false;
                continue;
            };
            let x = LEFT + WIDTH * at / self.end;
            let y = self.y + PANEL * (1.0 - (value / self.top).min(1.0));
            let _ = write!(path, "{}{x:.1} {y:.1}", if is_down { 'L' } else { 'M' });
            is_down = true;
        }
        let _ = writeln!(
            self.text,
            "<path d=\"{path}\" fill=\"none\" stroke=\"{colour}\" {more}/>"
        );
    }
}

/// A round number about as large.
fn nice(about: f64) -> f64 {
    let magnitude = 10f64.powf(about.max(1e-3).log10().floor());
    let factor = [1.0, 2.0, 5.0, 10.0]
        .into_iter()
        .find(|f| f * magnitude >= about);
    factor.unwrap_or(10.0) * magnitude
}
