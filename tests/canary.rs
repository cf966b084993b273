//! No token and no secret gets out: not in an error or its sources, not in what can be formatted, not in what is logged,
//! whatever fails and whenever.
//!
//! The tokens and secrets of these tests occur nowhere else. Each [`Failure`] is made at each [`Stage`], and all that the crate
//! gives back is searched for them, in every form that a text may have taken on its way.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::print_stdout,
    reason = "a test fails by panicking, and this one tells where it looked"
)]

#[path = "support/mod.rs"]
mod support;

#[path = "canary/failure.rs"]
mod failure;
#[path = "canary/search.rs"]
mod search;
#[path = "canary/ticket.rs"]
mod ticket;
#[path = "canary/world.rs"]
mod world;

use std::collections::BTreeMap;
use std::sync::{Mutex, mpsc};
use std::time::Duration;

use failure::{Failure, Stage};
use search::Places;
use world::{Canaries, ODD, PLAIN, World};

/// In how many places the canaries were looked for when this was last changed. There may be more, never fewer.
const PLACES: usize = 43_500;

const WORKERS: usize = 24;
const LONGEST_SCENE: Duration = Duration::from_secs(60);

#[derive(Clone, Copy, Debug)]
struct Scene {
    stage: Stage,
    failure: Failure,
    canaries: &'static Canaries,
    has_layers: bool,
}

impl Scene {
    fn all() -> Vec<Self> {
        let mut scenes = Vec::new();
        for failure in Failure::all() {
            for stage in Stage::ALL {
                for canaries in [&PLAIN, &ODD] {
                    for has_layers in [false, true] {
                        scenes.push(Self {
                            stage,
                            failure,
                            canaries,
                            has_layers,
                        });
                    }
                }
            }
        }
        scenes
    }

    /// Plays it on a runtime of its own, so that its log is its own.
    fn play(self) -> Places {
        let mut places = Places::new(format!("{self:?}"));
        let log = search::Log::default();
        let _listening = log.listen();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(async {
            let world = World::new(self).await;
            let play = world.play(&mut places);
            let ended = tokio::time::timeout(LONGEST_SCENE, play).await;
            assert!(ended.is_ok(), "{self:?} takes too long");
        });
        drop(runtime);
        places.look("log", &log.text());
        places
    }
}

#[test]
fn no_token_and_no_secret_gets_out_whatever_fails_and_whenever() {
    let scenes = Mutex::new(Scene::all().into_iter());
    let (found, results) = mpsc::channel();
    std::thread::scope(|scope| {
        for _ in 0..WORKERS {
            let (scenes, found) = (&scenes, found.clone());
            scope.spawn(move || {
                loop {
                    let Some(scene) = scenes.lock().unwrap().next() else {
                        break;
                    };
                    found.send(scene.play()).unwrap();
                }
            });
        }
        drop(found);
    });
    let (mut leaks, mut places) = (Vec::new(), BTreeMap::<String, usize>::new());
    for of_scene in results {
        leaks.extend(of_scene.leaks);
        for place in of_scene.looked_in {
            *places.entry(place).or_default() += 1;
        }
    }
    let total: usize = places.values().sum();
    for (place, times) in &places {
        println!("{times:5} × {place}");
    }
    println!("{total:5} places in all");
    assert!(
        leaks.is_empty(),
        "{} leaks:\n{}",
        leaks.len(),
        leaks.join("\n")
    );
    assert!(
        total >= PLACES,
        "looked in {total} places, it were {PLACES} once"
    );
}

#[test]
fn no_ticket_gets_out_either() {
    for canaries in [&PLAIN, &ODD] {
        let mut places = Places::new(String::new());
        let log = search::Log::default();
        let _listening = log.listen();
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .unwrap();
        runtime.block_on(ticket::play(canaries, &mut places));
        places.look("log of tickets", &log.text());
        assert!(places.leaks.is_empty(), "{}", places.leaks.join("\n"));
        assert!(places.looked_in.len() > 1000, "{}", places.looked_in.len());
    }
}
