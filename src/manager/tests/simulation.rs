//! A simulated fleet: the real manager and the real protocol, on a network and with an issuer that fail.
//!
//! Each run is drawn from its seed, and a run with the same seed is the same. `cargo test --lib simulation` makes 100 runs. To make others, or
//! many more, set the first seed, the number of runs and the number of members:
//!
//! ```sh
//! SEED=1000 RUNS=10000 MEMBERS=50 cargo test --lib --release simulation::on_demand -- --ignored --nocapture
//! ```

mod checks;
mod log;
mod member;
mod network;
mod scene;

use std::time::Duration;

use tokio::runtime::Builder;
use tokio::time::{Instant, sleep, sleep_until};

use self::checks::Summary;
use self::log::Entry;
use self::member::Member;
use self::network::{Network, happens};
use self::scene::{Event, Fault, Scene};

type Entries = Vec<(Duration, Entry)>;

/// What has happened in one run of this scene.
fn run(scene: &Scene) -> Entries {
    // For the code under test.
    fastrand::seed(scene.seed);
    let mut builder = Builder::new_current_thread();
    let runtime = builder.enable_all().start_paused(true).build().unwrap();
    runtime.block_on(play(scene.clone()))
}

async fn play(scene: Scene) -> Entries {
    let (began, network) = (Instant::now(), Network::new(scene));
    let members = (0..network.scene.members).map(|index| Member::start(&network, index));
    let mut members: Vec<_> = members.collect();
    let mut events = network.scene.events.clone();
    for (at, event) in &network.scene.events {
        if let Event::Faulty(member, Fault::Killed, time) = *event {
            events.push((*at + time, Event::Started(member)));
        }
    }
    events.sort_by_key(|(at, _)| *at);
    for (times, (at, event)) in events.into_iter().enumerate() {
        sleep_until(began + at).await;
        network.log.add(Entry::Happened(event));
        happens(&network, event);
        match event {
            Event::Started(member) if members[member].is_killed() => {
                members[member].start_again(times as u64);
            }
            Event::Faulty(member, ..) | Event::Jumped(member, _) => {
                members[member].suffers(event);
            }
            _ => {}
        }
    }
    sleep(network.scene.lasts.saturating_sub(began.elapsed())).await;
    network.log.entries()
}

/// Runs the scenes of these seeds, and checks each.
fn check(seeds: std::ops::Range<u64>, members: impl Fn(u64) -> usize) -> Summary {
    let (mut all, mut bad) = (Summary::default(), Vec::new());
    for seed in seeds {
        let scene = Scene::draw(seed, members(seed));
        let entries = run(&scene);
        match checks::check(&scene, &entries) {
            Ok(summary) => all.add(summary),
            Err(what) => bad.push(what),
        }
    }
    let first: Vec<_> = bad.iter().take(5).collect();
    assert!(bad.is_empty(), "{} bad runs: {first:#?}", bad.len());
    all
}

#[test]
fn a_run_with_the_same_seed_is_the_same() {
    for seed in 0..5 {
        let scene = Scene::draw(seed, 20);
        let (one, two) = (run(&scene), run(&scene));
        assert!(one.len() > 20);
        for (one, two) in one.iter().zip(&two) {
            assert_eq!(one, two, "seed {seed}");
        }
        assert_eq!(one.len(), two.len());
    }
}

#[test]
fn small_fleets() {
    check(0..90, |seed| 10 + seed as usize);
}

#[test]
fn large_fleets() {
    check(90..100, |_| 1000);
}

#[test]
#[ignore = "it takes as long as you want"]
#[allow(clippy::print_stdout, reason = "it is called by hand")]
fn on_demand() {
    let of = |name, otherwise| std::env::var(name).map_or(otherwise, |it| it.parse().unwrap());
    let (first, runs, members) = (of("SEED", 0), of("RUNS", 100), of("MEMBERS", 50));
    let summary = check(first..first + runs, |_| members as usize);
    println!("{summary:#?}");
}

/// Prints the log of the run with this seed.
#[test]
#[ignore = "it is for finding out what has happened in one run"]
#[allow(clippy::print_stdout, reason = "it is called by hand")]
fn log_of_one_run() {
    let of = |name, otherwise| std::env::var(name).map_or(otherwise, |it| it.parse().unwrap());
    let (first, members) = (of("SEED", 0), of("MEMBERS", 50));
    let scene = Scene::draw(first, members as usize);
    let entries = run(&scene);
    for (at, entry) in &entries {
        if !matches!(entry, Entry::Command { .. }) {
            println!("{at:?} {entry:?}");
        }
    }
    println!("{scene:?} {:#?}", checks::check(&scene, &entries));
}
