//! Ways to do one thing, measured with `criterion` in turn, round after round, and told with their ratios and allocations.
//!
//! Each is compared with another of the same round, so that a machine whose speed changes changes it for both.

#![allow(dead_code, reason = "each bench uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the benches")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

use std::{env, fmt::Write, fs, path::Path, time::Duration};

use criterion::{
    BatchSize, Bencher, BenchmarkGroup, BenchmarkId, Criterion, measurement::WallTime,
};

const ROUNDS: usize = 15;

pub fn criterion() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(50))
        .measurement_time(Duration::from_millis(200))
        .nresamples(1_000)
        .configure_from_args()
}

/// Whether all is to be run only for a moment, to see that it works.
pub fn is_test() -> bool {
    env::args().any(|argument| argument == "--test")
}

pub fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<_> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Several ways to do one thing; each is compared with the first.
pub struct Comparison<'a> {
    name: &'static str,
    group: BenchmarkGroup<'a, WallTime>,
    ways: Vec<Way<'a>>,
}

struct Way<'a> {
    name: &'static str,
    allocations: Option<u64>,
    run: Box<dyn FnMut(&mut Bencher<'_>) + 'a>,
    /// What it took in each round, in ns.
    times: Vec<f64>,
}

impl<'a> Comparison<'a> {
    pub fn new(criterion: &'a mut Criterion, name: &'static str) -> Self {
        Self {
            name,
            group: criterion.benchmark_group(name),
            ways: Vec::new(),
        }
    }

    /// Adds a way whose time and allocations are measured. What is prepared for it, and what it gives, is not counted.
    pub fn way<I, O>(
        &mut self,
        name: &'static str,
        mut prepare: impl FnMut() -> I + 'a,
        mut run: impl FnMut(I) -> O + 'a,
    ) {
        drop(run(prepare()));
        let prepared = prepare();
        let counted = allocation_counter::measure(|| {
            let given = run(prepared);
            allocation_counter::opt_out(|| drop(given));
        });
        self.timed_way(name, move |bencher| {
            bencher.iter_batched(&mut prepare, &mut run, BatchSize::SmallInput);
        });
        self.ways.last_mut().unwrap().allocations = Some(counted.count_total);
    }

    /// Adds one that takes its time by itself.
    pub fn timed_way(&mut self, name: &'static str, run: impl FnMut(&mut Bencher<'_>) + 'a) {
        self.ways.push(Way {
            name,
            allocations: None,
            run: Box::new(run),
            times: Vec::new(),
        });
    }

    /// Measures all ways and gives a table of what they took, to be told when criterion has said all it has to say.
    pub fn measured(mut self) -> String {
        if is_test() {
            self.run(0);
            return String::new();
        }
        for round in 0..ROUNDS {
            self.run(round);
            for way in &mut self.ways {
                way.times.push(nanos(self.name, way.name, round));
            }
        }
        let Self { name, group, ways } = self;
        group.finish();
        let mut table = format!(
            "\n{name:<44}{:>12}{:>12}{:>8}{:>14}\n",
            "time", "more", "ratio", "allocations"
        );
        for way in &ways {
            let rounds = || way.times.iter().zip(&ways[0].times);
            let time = median(way.times.iter().copied());
            let more = median(rounds().map(|(time, first)| time - first));
            let ratio = median(rounds().map(|(time, first)| time / first));
            let allocations = way.allocations.map(|count| count.to_string());
            writeln!(
                table,
                "{:<44}{:>12}{:>12}{ratio:>8.2}{:>14}",
                way.name,
                told(time),
                told(more),
                allocations.unwrap_or_default()
            )
            .unwrap();
        }
        table
    }

    fn run(&mut self, round: usize) {
        for way in &mut self.ways {
            self.group
                .bench_function(BenchmarkId::new(way.name, round), &mut way.run);
        }
    }
}

/// The median that criterion has written down.
fn nanos(group: &str, way: &str, round: usize) -> f64 {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let estimates = target
        .join("criterion")
        .join(group)
        .join(way)
        .join(round.to_string())
        .join("new/estimates.json");
    let estimates = fs::read(estimates).unwrap();
    let estimates: serde_json::Value = serde_json::from_slice(&estimates).unwrap();
    estimates["median"]["point_estimate"].as_f64().unwrap()
}

/// A time in ns, to be read by people.
fn told(nanos: f64) -> String {
    match nanos.abs() {
        0.0..1e3 => format!("{nanos:.0} ns"),
        1e3..1e6 => format!("{:.2} µs", nanos / 1e3),
        _ => format!("{:.2} ms", nanos / 1e6),
    }
}
