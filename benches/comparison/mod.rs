//! Ways to do one thing, measured with `criterion` one after the other, and told with their ratios and allocations.

#![allow(dead_code, reason = "each bench uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the benches")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

use std::{env, fs, path::Path, time::Duration};

use criterion::{BatchSize, Bencher, BenchmarkGroup, Criterion, measurement::WallTime};

pub fn criterion() -> Criterion {
    Criterion::default()
        .warm_up_time(Duration::from_secs(1))
        .measurement_time(Duration::from_secs(3))
        .configure_from_args()
}

/// Whether all is to be run only for a moment, to see that it works.
pub fn is_test() -> bool {
    env::args().any(|argument| argument == "--test")
}

/// Several ways to do one thing, measured one after the other; each is compared with the first.
pub struct Comparison<'a> {
    name: &'static str,
    group: BenchmarkGroup<'a, WallTime>,
    ways: Vec<Way>,
}

struct Way {
    name: &'static str,
    allocations: Option<u64>,
}

impl<'a> Comparison<'a> {
    pub fn new(criterion: &'a mut Criterion, name: &'static str) -> Self {
        Self {
            name,
            group: criterion.benchmark_group(name),
            ways: Vec::new(),
        }
    }

    /// Measures the time and the allocations of one way. What is prepared for it, and what it gives, is not counted.
    pub fn way<I, O>(
        &mut self,
        name: &'static str,
        mut prepare: impl FnMut() -> I,
        mut run: impl FnMut(I) -> O,
    ) {
        drop(run(prepare()));
        let prepared = prepare();
        let counted = allocation_counter::measure(|| {
            let given = run(prepared);
            allocation_counter::opt_out(|| drop(given));
        });
        self.ways.push(Way {
            name,
            allocations: Some(counted.count_total),
        });
        self.group.bench_function(name, |bencher| {
            bencher.iter_batched(&mut prepare, &mut run, BatchSize::SmallInput);
        });
    }

    /// One whose time is taken by itself.
    pub fn timed_way(&mut self, name: &'static str, run: impl FnMut(&mut Bencher<'_>)) {
        self.ways.push(Way {
            name,
            allocations: None,
        });
        self.group.bench_function(name, run);
    }

    /// Prints all that was measured, as a table.
    pub fn tell(self) {
        let Self { name, group, ways } = self;
        group.finish();
        if is_test() {
            return;
        }
        let times: Vec<_> = ways.iter().map(|way| nanos(name, way.name)).collect();
        println!(
            "\n{name:<44}{:>12}{:>12}{:>8}{:>14}",
            "time", "more", "ratio", "allocations"
        );
        for (way, time) in ways.iter().zip(&times) {
            let more = time - times[0];
            let ratio = time / times[0];
            let allocations = way.allocations.map(|count| count.to_string());
            println!(
                "{:<44}{:>12}{:>12}{ratio:>8.2}{:>14}",
                way.name,
                told(*time),
                told(more),
                allocations.unwrap_or_default()
            );
        }
        println!();
    }
}

/// The median that criterion has written down.
fn nanos(group: &str, way: &str) -> f64 {
    let target = Path::new(env!("CARGO_TARGET_TMPDIR")).parent().unwrap();
    let estimates = target
        .join("criterion")
        .join(group)
        .join(way)
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
