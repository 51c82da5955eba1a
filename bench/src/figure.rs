//! Figures: each measurement as one JSON object per line.

use std::fmt;
use std::fs;
use std::io::{self, Write};
use std::thread;
use std::time::Duration;

/// One measured figure.
#[derive(Clone, Debug, Default)]
pub(crate) struct Figure {
    /// The name of the measurement.
    pub(crate) name: String,
    /// The system.
    pub(crate) system: &'static str,
    /// In which unit.
    pub(crate) unit: &'static str,
    /// One value per round; the figure's value is their median.
    pub(crate) runs: Vec<f64>,
    /// The system beside it.
    pub(crate) peer: Option<&'static str>,
    /// The median, over the rounds, of this value over the peer's.
    pub(crate) ratio: Option<f64>,
    /// The bound that cannot, or must not, be exceeded, in the same unit.
    pub(crate) limit: Option<f64>,
}

impl Figure {
    /// The same figure with a peer that ran in the same rounds.
    pub(crate) fn beside(mut self, peer: &Figure) -> Figure {
        let ratios = self.runs.iter().zip(&peer.runs).map(|(ours, theirs)| ours / theirs);
        self.ratio = Some(median(ratios.collect()));
        self.peer = Some(peer.system);
        self
    }

    /// The median of the rounds.
    pub(crate) fn value(&self) -> f64 {
        median(self.runs.clone())
    }

    /// Whether a larger value is the better one: of rates it is, of times and bytes it is not.
    pub(crate) fn more_is_better(&self) -> bool {
        self.unit == "1/s"
    }

    /// Writes the figure's line to standard output.
    pub(crate) fn print(&self) -> io::Result<()> {
        writeln!(io::stdout().lock(), "{self}")
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let runs: Vec<String> = self.runs.iter().map(|run| number(*run)).collect();
        write!(
            f,
            "{{\"figure\":{:?},\"system\":{:?},\"value\":{},\"unit\":{:?},\"runs\":[{}],\
             \"peer\":{},\"ratio\":{},\"limit\":{}}}",
            self.name,
            self.system,
            number(self.value()),
            self.unit,
            runs.join(","),
            self.peer.map_or("null".to_owned(), |peer| format!("{peer:?}")),
            self.ratio.map_or("null".to_owned(), number),
            self.limit.map_or("null".to_owned(), number),
        )
    }
}

/// A number in JSON, which has no infinities: six decimals tell small ratios apart.
fn number(value: f64) -> String {
    if value.is_finite() { format!("{}", (value * 1e6).round() / 1e6) } else { "null".to_owned() }
}

/// The middle value, or the mean of the middle two; not a number if there is none.
pub(crate) fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    let middle = values.len() / 2;
    match values.len() {
        0 => f64::NAN,
        odd if odd % 2 == 1 => values[middle],
        _ => f64::midpoint(values[middle - 1], values[middle]),
    }
}

/// How often per second.
pub(crate) fn per_second(count: u64, elapsed: Duration) -> f64 {
    as_f64(count) / elapsed.as_secs_f64()
}

/// A count as a figure.
#[expect(clippy::cast_precision_loss, reason = "figures are rounded far above the last bit")]
pub(crate) fn as_f64(count: u64) -> f64 {
    count as f64
}

/// Writes one line that names the machine, without which a figure says nothing.
pub(crate) fn print_machine() -> io::Result<()> {
    let cpus = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name"));
    let model = model.unwrap_or_default().trim_matches([':', ' ', '\t']);
    let kernel = fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    let count = thread::available_parallelism().map_or(0, usize::from);
    writeln!(
        io::stdout().lock(),
        "{{\"machine\":{{\"cpus\":{count},\"model\":{model:?},\"kernel\":{:?}}}}}",
        kernel.trim()
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_is_one_line_of_json() {
        let bare =
            Figure { system: "bare loop", runs: vec![100.0, 400.0, 200.0], ..Figure::default() };
        let ours = Figure {
            name: "durable sets".to_owned(),
            system: "aryavarth",
            unit: "1/s",
            runs: vec![90.0, 200.0, 190.0],
            ..Figure::default()
        };
        let ours = Figure { limit: Some(bare.value()), ..ours.beside(&bare) };
        // Round by round 0.9, 0.5, 0.95: the median of the ratios, not the ratio of the medians.
        assert_eq!(
            ours.to_string(),
            r#"{"figure":"durable sets","system":"aryavarth","value":190,"unit":"1/s","runs":[90,200,190],"peer":"bare loop","ratio":0.9,"limit":200}"#
        );
    }

    #[test]
    fn medians_of_few_values() {
        assert!(median(vec![]).is_nan());
        assert!((median(vec![3.0]) - 3.0).abs() < f64::EPSILON);
        assert!((median(vec![4.0, 1.0]) - 2.5).abs() < f64::EPSILON);
    }
}
