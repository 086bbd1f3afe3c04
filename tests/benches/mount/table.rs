//! Figures and how they are printed: medians, with the range they come from.

use crate::process::Spent;
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

/// One kind of work done by the bare file system and by ours in turn.
#[derive(Debug)]
pub struct Versus {
    what: &'static str,
    unit: &'static str,
    /// How much of the unit one pass is.
    amount: f64,
    bare: Series,
    ours: Series,
    /// Ours by bare, pass by pass: speed by the clock, and by time on CPUs.
    wall: Series,
    cpu: Series,
}

impl Versus {
    pub fn new(what: &'static str, amount: f64, unit: &'static str) -> Self {
        let none = Series::default;
        Self { what, unit, amount, bare: none(), ours: none(), wall: none(), cpu: none() }
    }

    /// One pass of both, right after one another.
    pub fn push(&mut self, bare: Spent, ours: Spent) {
        self.bare.push(self.amount / bare.wall.as_secs_f64());
        self.ours.push(self.amount / ours.wall.as_secs_f64());
        self.wall.push(bare.wall.as_secs_f64() / ours.wall.as_secs_f64());
        self.cpu.push(bare.cpu.as_secs_f64() / ours.cpu.as_secs_f64());
    }

    pub fn print(&self, placement: &str) {
        let (what, unit) = (self.what, self.unit);
        let (bare, ours) = (self.bare.median(), self.ours.median());
        let (wall, cpu) = (self.wall.shown(2), self.cpu.shown(2));
        println!("{what:<36} {placement:<9} {bare:>8.1} {ours:>8.1} {unit:<5} {wall:<20} {cpu}");
    }
}

pub fn versus_header() {
    println!("{:<46} {:>8} {:>8} {:<5} {:<20} by CPU time", "", "bare", "ours", "", "ours / bare");
}

/// Prints a row with a bar to reach.
pub fn row(what: &str, figure: &str, bar: &str) {
    println!("{what:<58} {figure:<28} {bar}");
}
