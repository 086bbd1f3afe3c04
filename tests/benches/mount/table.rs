//! Figures and how they are printed: medians, with the range they come from.

use std::time::Duration;

/// What was measured several times.
#[derive(Debug, Default)]
pub struct Series {
    values: Vec<f64>,
}

impl Series {
    pub fn push(&mut self, value: f64) {
        self.values.push(value);
    }

    pub fn push_ms(&mut self, time: Duration) {
        self.push(time.as_secs_f64() * 1e3);
    }

    pub fn median(&self) -> f64 {
        let mut sorted = self.values.clone();
        sorted.sort_by(f64::total_cmp);
        sorted.get(sorted.len() / 2).copied().unwrap_or(f64::NAN)
    }

    fn range(&self) -> (f64, f64) {
        let least = self.values.iter().copied().fold(f64::INFINITY, f64::min);
        (least, self.values.iter().copied().fold(f64::NEG_INFINITY, f64::max))
    }

    /// `median [least, most]`.
    pub fn shown(&self, digits: usize) -> String {
        let (least, most) = self.range();
        format!("{:.digits$} [{least:.digits$}, {most:.digits$}]", self.median())
    }
}

/// One kind of work done by the bare file system and by ours in turn, as something per second.
#[derive(Debug)]
pub struct Versus {
    what: &'static str,
    unit: &'static str,
    bare: Series,
    ours: Series,
    /// Ours by bare, pass by pass.
    ratio: Series,
}

impl Versus {
    pub fn new(what: &'static str, unit: &'static str) -> Self {
        Self { what, unit, bare: Series::default(), ours: Series::default(), ratio: Series::default() }
    }

    /// One pass of both, right after one another.
    pub fn push(&mut self, bare: f64, ours: f64) {
        self.bare.push(bare);
        self.ours.push(ours);
        self.ratio.push(ours / bare);
    }

    pub fn print(&self, placement: &str) {
        println!(
            "{:<34} {placement:<9} {:>9.1} {:>9.1} {:<8} {}",
            self.what,
            self.bare.median(),
            self.ours.median(),
            self.unit,
            self.ratio.shown(2)
        );
    }
}

pub fn versus_header() {
    println!("{:<34} {:<9} {:>9} {:>9} {:<8} ours / bare", "", "", "bare", "ours", "");
}

/// Prints a row with a bar to reach.
pub fn row(what: &str, figure: &str, bar: &str) {
    println!("{what:<58} {figure:<28} {bar}");
}
