//! One page of charts from the lines of the other commands.
//!
//! The page is a single file without scripts and without anything fetched: charts are SVG within
//! it. Each figure is a chart of horizontal bars, best first: the bar is the median of the rounds,
//! the line through its end goes from the slowest round to the fastest.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::io;

use serde_json::Value;

use crate::args::Args;
use crate::figure::as_f64;
use crate::outcome::{BoxError, Outcome, progress};

const STYLE: &str = include_str!("report.css");
const OURS: &str = "aryavarth";
/// The bar of a limit that is a number and no system.
const LIMIT: &str = "limit";
/// Systems that do only the unavoidable.
const LIMITS: [&str; 3] = ["bare loop", "do-nothing server", LIMIT];

const LABEL_WIDTH: f64 = 170.0;
const BAR_WIDTH: f64 = 360.0;
const VALUE_WIDTH: f64 = 250.0;
const ROW_HEIGHT: f64 = 26.0;
const BAR_HEIGHT: f64 = 16.0;
/// Of a line for a ratio below a bar.
const RATIO_HEIGHT: f64 = 18.0;

/// A line of another command, as it is read back.
#[derive(Clone, Debug, Default)]
struct Bar {
    system: String,
    value: f64,
    runs: Vec<f64>,
    /// The peer, and the ratio to it.
    ratios: Vec<(String, f64)>,
    limit: Option<f64>,
}

/// The bars of one figure.
#[derive(Clone, Debug, Default)]
struct Chart {
    figure: String,
    unit: String,
    bars: Vec<Bar>,
    /// The number of the run that it is of.
    run: usize,
}

/// Everything that a page shows.
#[derive(Debug, Default)]
struct Page {
    machines: Vec<String>,
    /// In the order in which the figures first came.
    charts: Vec<Chart>,
}

pub(crate) fn run(args: &mut Args) -> Outcome {
    let from: String = args.take("in", "-".to_owned())?;
    let to: String = args.take("out", "bench-report.html".to_owned())?;
    args.finish()?;
    let lines =
        if from == "-" { io::read_to_string(io::stdin())? } else { fs::read_to_string(&from)? };
    let page = Page::read(&lines)?;
    fs::write(&to, page.html())?;
    progress(&format!("{} charts in {to}", page.charts.len()));
    Ok(true)
}

impl Page {
    fn read(lines: &str) -> Result<Page, BoxError> {
        let mut page = Page::default();
        let mut run = 0;
        let mut places = BTreeMap::new();
        for (number, line) in lines.lines().enumerate().filter(|(_, line)| !line.is_empty()) {
            let wrong = |what: &str| format!("line {}: {what}", number + 1);
            let line: Value =
                serde_json::from_str(line).map_err(|error| wrong(&error.to_string()))?;
            if let Some(machine) = line.get("machine") {
                page.add_machine(machine);
                run += 1;
                continue;
            }
            let figure = line["figure"].as_str().ok_or_else(|| wrong("no figure"))?;
            let bar = Bar::read(&line).ok_or_else(|| wrong("no system or no value"))?;
            let place = *places.entry(figure.to_owned()).or_insert(page.charts.len());
            if place == page.charts.len() {
                let unit = line["unit"].as_str().unwrap_or_default().to_owned();
                page.charts.push(Chart { figure: figure.to_owned(), unit, bars: Vec::new(), run });
            }
            let chart = &mut page.charts[place];
            // A later run takes the place of an earlier one: side by side they would say nothing.
            if chart.run != run {
                (chart.run, chart.bars) = (run, Vec::new());
            }
            chart.add(bar);
        }
        page.charts.iter_mut().for_each(Chart::add_limit);
        Ok(page)
    }

    fn add_machine(&mut self, machine: &Value) {
        let text = |name: &str| machine[name].to_string().trim_matches('"').to_owned();
        let (cpus, model, kernel) = (text("cpus"), text("model"), text("kernel"));
        let machine = format!("{model}, {cpus} processors, Linux {kernel}");
        if !self.machines.contains(&machine) {
            self.machines.push(machine);
        }
    }

    fn html(&self) -> String {
        let mut html = format!(
            "<!doctype html>\n<html lang=\"en\">\n<meta charset=\"utf-8\">\n\
             <meta name=\"viewport\" content=\"width=device-width\">\n\
             <title>Aryavarth, measured</title>\n<style>\n{STYLE}</style>\n\
             <h1>Aryavarth, measured</h1>\n<p>{}</p>\n\
             <p>A bar is the median of the rounds; the thin line spans the slowest and the fastest \
             round. All systems of a chart ran in turns. Hatched is the limit: what only does the \
             unavoidable, or must not be exceeded. Ratios are medians over the rounds.</p>\n<main>\n",
            escape(&self.machines.join("; ")),
        );
        for chart in &self.charts {
            html.push_str(&chart.svg());
        }
        html.push_str("</main>\n");
        html
    }
}

impl Bar {
    fn read(line: &Value) -> Option<Bar> {
        let runs = line["runs"].as_array().into_iter().flatten();
        let ratio = line["peer"].as_str().map(str::to_owned).zip(line["ratio"].as_f64());
        Some(Bar {
            system: line["system"].as_str()?.to_owned(),
            value: line["value"].as_f64()?,
            runs: runs.filter_map(Value::as_f64).collect(),
            ratios: ratio.into_iter().collect(),
            limit: line["limit"].as_f64(),
        })
    }

    fn is_limit(&self) -> bool {
        LIMITS.contains(&self.system.as_str())
    }

    /// The ratios that have no place beside the bar's value.
    fn further_ratios(&self) -> &[(String, f64)] {
        self.ratios.get(1..).unwrap_or_default()
    }

    fn range(&self) -> (f64, f64) {
        let span = |(low, high): (f64, f64), run: &f64| (low.min(*run), high.max(*run));
        self.runs.iter().fold((self.value, self.value), span)
    }
}

impl Chart {
    /// Adds a bar. A system that has one gets its further ratios there: it has a line for each.
    fn add(&mut self, bar: Bar) {
        match self.bars.iter_mut().find(|there| there.system == bar.system) {
            None => self.bars.push(bar),
            Some(there) => there.ratios.extend(bar.ratios),
        }
    }

    /// A bar for a limit that none of the systems stands for.
    fn add_limit(&mut self) {
        let limit = self.bars.iter().find_map(|bar| bar.limit);
        if let Some(value) = limit.filter(|_| !self.bars.iter().any(Bar::is_limit)) {
            self.bars.push(Bar { system: LIMIT.to_owned(), value, ..Bar::default() });
        }
    }

    /// The value of the longest bar. A limit that is far away would make all others small; it is
    /// cut instead.
    fn full(&self) -> f64 {
        let (limits, compared): (Vec<_>, Vec<_>) = self.bars.iter().partition(|bar| bar.is_limit());
        let highest = |bars: &[&Bar]| bars.iter().map(|bar| bar.range().1).fold(0.0, f64::max);
        let (limit, full) = (highest(&limits), highest(&compared));
        let full = if limit <= 2.0 * full { full.max(limit) } else { full };
        if full > 0.0 { full } else { 1.0 }
    }

    fn more_is_better(&self) -> bool {
        self.unit == "1/s"
    }

    /// Limits first, then the best.
    fn sorted(&self) -> Vec<&Bar> {
        let mut bars: Vec<_> = self.bars.iter().collect();
        bars.sort_by(|one, other| {
            let order = one.value.total_cmp(&other.value);
            let order = if self.more_is_better() { order.reverse() } else { order };
            other.is_limit().cmp(&one.is_limit()).then(order)
        });
        bars
    }

    fn svg(&self) -> String {
        let bars = self.sorted();
        let full = self.full();
        let (width, mut y) = (LABEL_WIDTH + BAR_WIDTH + VALUE_WIDTH, 0.0);
        let mut rows = String::new();
        for bar in &bars {
            self.row(&mut rows, bar, y, full);
            y += ROW_HEIGHT + RATIO_HEIGHT * as_f64(bar.further_ratios().len() as u64);
        }
        let better = if self.more_is_better() { "more is better" } else { "less is better" };
        format!(
            "<figure><figcaption>{} <small>{better}</small></figcaption>\n\
             <svg viewBox=\"0 0 {width} {y}\" role=\"img\" aria-label=\"{}\">\n\
             <defs><pattern id=\"hatch\" width=\"6\" height=\"6\" \
             patternUnits=\"userSpaceOnUse\" patternTransform=\"rotate(45)\">\
             <rect class=\"hatch\" width=\"2\" height=\"6\"/></pattern></defs>\n\
             {rows}</svg></figure>\n",
            escape(&self.figure),
            escape(&self.figure),
        )
    }

    fn row(&self, rows: &mut String, bar: &Bar, y: f64, full: f64) {
        let scale = |value: f64| (value / full).min(1.0) * BAR_WIDTH;
        let class = match bar.system.as_str() {
            OURS => "ours",
            _ if bar.is_limit() => "limit",
            _ => "peer",
        };
        let (middle, top) = (y + ROW_HEIGHT / 2.0, y + (ROW_HEIGHT - BAR_HEIGHT) / 2.0);
        let (low, high) = bar.range();
        let (length, end) = (scale(bar.value), LABEL_WIDTH + scale(high));
        let cut = if bar.value > full { " \u{2192}" } else { "" };
        let ratio = bar.ratios.first().map(ratio_text).unwrap_or_default();
        // Writing to a string cannot fail.
        let _ = writeln!(
            rows,
            "<text class=\"name {class}\" x=\"{:.1}\" y=\"{middle:.1}\">{}</text>\
             <rect class=\"{class}\" x=\"{LABEL_WIDTH}\" y=\"{top:.1}\" width=\"{length:.1}\" \
             height=\"{BAR_HEIGHT}\" rx=\"2\"/>\
             <line class=\"span\" x1=\"{:.1}\" y1=\"{middle:.1}\" x2=\"{end:.1}\" \
             y2=\"{middle:.1}\"/>\
             <text class=\"value\" x=\"{:.1}\" y=\"{middle:.1}\">{}{cut} \
             <tspan class=\"ratio\">{}</tspan></text>",
            LABEL_WIDTH - 8.0,
            escape(&bar.system),
            LABEL_WIDTH + scale(low),
            end.max(LABEL_WIDTH + length) + 6.0,
            amount(bar.value, &self.unit),
            escape(&ratio),
        );
        let mut below = middle;
        for ratio in bar.further_ratios() {
            below += RATIO_HEIGHT;
            let _ = writeln!(
                rows,
                "<text class=\"ratio\" x=\"{LABEL_WIDTH}\" y=\"{below:.1}\">{}</text>",
                escape(&ratio_text(ratio)),
            );
        }
    }
}

/// A ratio with as many digits as are meaningful, and its peer.
fn ratio_text((peer, ratio): &(String, f64)) -> String {
    match *ratio {
        small if small < 0.1 => format!("{small:.4} \u{d7} {peer}"),
        large if large >= 10.0 => format!("{large:.0} \u{d7} {peer}"),
        ratio => format!("{ratio:.2} \u{d7} {peer}"),
    }
}

/// A value as a person reads it.
fn amount(value: f64, unit: &str) -> String {
    let scaled = |steps: [(f64, &str); 3]| {
        let step = steps.iter().find(|(size, _)| value >= *size).unwrap_or(&steps[2]);
        let value = value / step.0;
        let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
        format!("{value:.digits$} {}", step.1)
    };
    match unit {
        "1/s" => scaled([(1e6, "M/s"), (1e3, "k/s"), (1.0, "/s")]),
        "B" => scaled([(1e9, "GB"), (1e6, "MB"), (1e3, "kB")]),
        "ms" => scaled([(1e3, "s"), (1.0, "ms"), (1e-3, "\u{b5}s")]),
        "us" => scaled([(1e6, "s"), (1e3, "ms"), (1.0, "\u{b5}s")]),
        _ => format!("{value:.1} {unit}"),
    }
}

fn escape(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINES: &str = r#"{"machine":{"cpus":2,"model":"A & B","kernel":"6.1"}}
{"figure":"get","system":"bare loop","value":900,"unit":"1/s","runs":[900],"peer":null,"ratio":null,"limit":null}
{"figure":"get","system":"fjall","value":150,"unit":"1/s","runs":[100,200],"peer":"aryavarth","ratio":0.5,"limit":900}
{"figure":"get","system":"aryavarth","value":300,"unit":"1/s","runs":[300],"peer":"fjall","ratio":2,"limit":900}
{"figure":"disk","system":"aryavarth","value":2000,"unit":"B","runs":[2000],"peer":null,"ratio":null,"limit":null}
"#;

    #[test]
    fn charts_are_in_the_order_of_the_lines_and_bars_in_the_order_of_merit() {
        let page = Page::read(LINES).unwrap();
        let figures: Vec<_> = page.charts.iter().map(|chart| chart.figure.as_str()).collect();
        assert_eq!(figures, ["get", "disk"]);
        let systems = page.charts[0].sorted();
        let systems: Vec<_> = systems.iter().map(|bar| bar.system.as_str()).collect();
        assert_eq!(systems, ["bare loop", "aryavarth", "fjall"]);
    }

    #[test]
    fn a_page_needs_nothing_else() {
        let html = Page::read(LINES).unwrap().html();
        assert!(html.contains("A &amp; B, 2 processors"));
        assert!(html.contains("2.00 \u{d7} fjall"));
        assert_eq!(html.matches("<svg").count(), 2);
        for outside in ["<script", "src=", "href=", "http"] {
            assert!(!html.contains(outside), "{outside}");
        }
    }

    #[test]
    fn a_repeated_measurement_replaces_the_earlier_one() {
        let again = LINES.replace("\"value\":150", "\"value\":175");
        let page = Page::read(&format!("{LINES}{again}")).unwrap();
        assert_eq!(page.charts[0].bars.len(), 3);
        assert!(page.html().contains("175 /s"));
    }

    #[test]
    fn a_system_with_several_peers_has_one_bar_and_all_its_ratios() {
        let ours = LINES.lines().find(|line| line.contains("aryavarth\",\"value\":300")).unwrap();
        let beside = |peer: &str| ours.replace("\"fjall\",\"ratio\":2", peer);
        let (redb, sled) = (beside("\"redb\",\"ratio\":0.7"), beside("\"sled\",\"ratio\":30"));
        let page = Page::read(&format!("{LINES}{redb}\n{sled}\n")).unwrap();
        assert_eq!(page.charts[0].bars.len(), 3);
        let svg = page.charts[0].svg();
        for ratio in ["2.00 \u{d7} fjall", "0.70 \u{d7} redb", "30 \u{d7} sled"] {
            assert!(svg.contains(ratio), "{ratio}: {svg}");
        }
    }

    #[test]
    fn a_later_run_of_fewer_systems_stands_alone() {
        let (machine, lines) = LINES.split_once('\n').unwrap();
        let again = lines.lines().find(|line| line.contains("fjall\",\"value")).unwrap();
        let page = Page::read(&format!("{LINES}{machine}\n{again}")).unwrap();
        let systems: Vec<_> = page.charts[0].bars.iter().map(|bar| bar.system.as_str()).collect();
        assert_eq!(systems, ["fjall", LIMIT]);
        assert_eq!(page.charts[1].bars.len(), 1);
    }

    #[test]
    fn a_near_limit_is_shown_whole_and_a_far_one_is_cut() {
        let page = Page::read(LINES).unwrap();
        assert!(page.charts[0].svg().contains("900 /s \u{2192}"));
        let near = LINES.replace("\"value\":900", "\"value\":500").replace("[900]", "[500]");
        let svg = Page::read(&near).unwrap().charts[0].svg();
        assert!(svg.contains("500 /s") && !svg.contains('\u{2192}'), "{svg}");
    }

    #[test]
    fn a_wrong_line_is_named() {
        let error = Page::read("\n{\"figure\":\"get\"}").unwrap_err().to_string();
        assert_eq!(error, "line 2: no system or no value");
    }

    #[test]
    fn amounts_are_readable() {
        assert_eq!(amount(1_234_567.0, "1/s"), "1.23 M/s");
        assert_eq!(amount(250.0, "1/s"), "250 /s");
        assert_eq!(amount(32.1, "ms"), "32.1 ms");
        assert_eq!(amount(126e6, "B"), "126 MB");
    }
}
