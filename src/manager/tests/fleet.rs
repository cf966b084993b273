//! Many managers over one shared database.

use std::time::Duration;

use futures_util::future::join_all;
use tokio::time::{Instant, advance, sleep};

use super::memory::Memory;
use super::stores::Way;
use super::world::{Behaviour, LIFETIME, World, app, call, fails_with, traffic};
use crate::{
    AccessToken, Credentials, Error, FetchRequest, FetchedToken, SharedStore, TokenManager,
    TokenSource, TokenStore,
};

const SECOND: Duration = Duration::from_secs(1);

pub(super) fn millis(millis: u64) -> Duration {
    Duration::from_millis(millis)
}

/// A member that reaches the database this way.
pub(super) fn member(world: &World, database: &Memory) -> TokenManager {
    let store = SharedStore::new(database.clone());
    world.builder().store(store).build()
}

fn members(world: &World, database: &Memory, number: usize) -> Vec<TokenManager> {
    (0..number).map(|_| member(world, database)).collect()
}

/// A source with an own way to the issuer, which is broken.
struct Broken(Error);

#[crate::async_trait]
impl TokenSource for Broken {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        sleep(millis(10)).await;
        Err(self.0.clone())
    }
}

/// A member whose own way to the issuer is broken.
fn broken(world: &World, database: &Memory, error: Error) -> TokenManager {
    let builder = crate::TokenManagerBuilder {
        source: std::sync::Arc::new(Broken(error)),
        ..world.builder()
    };
    builder.store(SharedStore::new(database.clone())).build()
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_members_makes_one_fetch() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(100));
    let members = members(&world, &database, 32);
    let app = app();
    let began = Instant::now();
    let tokens = join_all(members.iter().map(|it| it.token(&app))).await;
    let first = tokens[0].as_ref().unwrap();
    assert!(tokens.iter().all(|it| it.as_ref().unwrap() == first));
    assert_eq!(world.issuer.fetch_count(), 1);
    assert!(
        began.elapsed() <= millis(100 + 250),
        "{:?}",
        began.elapsed()
    );
    for member in &members {
        assert_eq!(&member.token(&app).await.unwrap(), first);
    }
}

#[tokio::test(start_paused = true)]
async fn a_crowd_of_members_heals_a_revocation_with_one_fetch() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(100));
    let members = members(&world, &database, 32);
    let clients: Vec<_> = members.iter().map(|it| world.client(it)).collect();
    for round in 1..4 {
        let answers = join_all(clients.iter().map(|it| call(it, "user/get"))).await;
        assert!(answers.iter().all(|it| matches!(it, Ok(0))), "{answers:?}");
        assert_eq!(world.issuer.fetch_count(), round);
        advance(SECOND).await;
        world.issuer.end(&app(), 40014);
    }
}

#[tokio::test(start_paused = true)]
async fn a_slow_database_costs_no_second_fetch() {
    for latency in [100, 300, 400] {
        let (world, database) = (World::new(), Memory::new());
        world.issuer.takes(millis(100));
        // There and back.
        database.takes(millis(latency));
        let members = members(&world, &database, 8);
        let app = app();
        let tokens = join_all(members.iter().map(|it| it.token(&app))).await;
        assert!(tokens.iter().all(Result::is_ok), "{latency}: {tokens:?}");
        assert_eq!(world.issuer.fetch_count(), 1, "{latency} ms each way");
    }
}

#[tokio::test(start_paused = true)]
async fn a_dead_owner_is_replaced_soon() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.next(Behaviour::Hang);
    let [first, second] = [(); 2].map(|()| member(&world, &database));
    let app = app();
    {
        let waiting = first.token(&app);
        tokio::select! {
            _ = waiting => panic!("it hangs"),
            () = world.issuer.asked(1) => {}
        }
    }
    let began = Instant::now();
    second.token(&app).await.unwrap();
    assert!(began.elapsed() <= 3 * SECOND, "{:?}", began.elapsed());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[test]
fn a_lease_that_was_lost_with_its_runtime_is_taken_over_at_once() {
    let runtime = || {
        let mut builder = tokio::runtime::Builder::new_current_thread();
        builder.enable_all().start_paused(true).build().unwrap()
    };
    let first = runtime();
    let (world, manager) = first.block_on(async {
        let (world, database) = (World::new(), Memory::new());
        world.issuer.next(Behaviour::Hang);
        let manager = member(&world, &database);
        let other = manager.clone();
        tokio::spawn(async move { other.token(&app()).await });
        world.issuer.asked(1).await;
        (world, manager)
    });
    drop(first);
    runtime().block_on(async {
        let began = Instant::now();
        manager.token(&app()).await.unwrap();
        assert_eq!(began.elapsed(), Duration::ZERO);
    });
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_wrong_secret_costs_a_fleet_as_many_fetches_as_one_process() {
    let (world, database) = (World::new(), Memory::new());
    world
        .issuer
        .usually(Behaviour::Fail(Error::api(40001, "no")));
    let members = members(&world, &database, 8);
    let (app, began) = (app(), Instant::now());
    while began.elapsed() < Duration::from_secs(600) {
        for member in &members {
            assert!(fails_with(&member.token(&app).await, 40001));
        }
        sleep(millis(500)).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!((5..=8).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_broken_member_does_not_starve_a_healthy_one() {
    for error in [
        Error::transient("no route"),
        Error::api(60020, "not trusted"),
        Error::api(45009, "too often"),
        Error::refused("a proxy says no"),
    ] {
        let (world, database) = (World::new(), Memory::new());
        let broken = broken(&world, &database, error);
        let healthy = member(&world, &database);
        let asking = tokio::spawn({
            let app = app();
            async move {
                loop {
                    let _ = broken.token(&app).await;
                    sleep(millis(10)).await;
                }
            }
        });
        for n in 0..75 {
            sleep(2 * SECOND).await;
            let began = Instant::now();
            let token = healthy.token(&app()).await;
            assert!(began.elapsed() <= 3 * SECOND, "{n}: {:?}", began.elapsed());
            token.unwrap();
            // Both need another one next time.
            world.issuer.end(&app(), 40014);
            database.clear();
            let value = healthy.token(&app()).await.unwrap();
            let _ = healthy
                .refresh_rejected(&app(), value.expose_secret())
                .await;
            world.issuer.end(&app(), 40014);
            database.clear();
        }
        asking.abort();
    }
}

#[tokio::test(start_paused = true)]
async fn an_outage_causes_no_flood_and_ends_soon() {
    let (world, database) = (World::new(), Memory::new());
    world
        .issuer
        .usually(Behaviour::Fail(Error::transient("no route")));
    world.issuer.takes(millis(10));
    let members = members(&world, &database, 8);
    let asking: Vec<_> = members
        .into_iter()
        .map(|member| {
            tokio::spawn(async move {
                let app = app();
                while member.token(&app).await.is_err() {
                    sleep(millis(100)).await;
                }
                Instant::now()
            })
        })
        .collect();
    sleep(60 * SECOND).await;
    let tries = world.issuer.fetch_count();
    assert!(tries <= 40, "{tries} tries");
    world.issuer.usually(Behaviour::Issue);
    let mended = Instant::now();
    for served in join_all(asking).await {
        let after = served.unwrap() - mended;
        assert!(after <= 5 * SECOND, "{after:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_failure_is_told_before_the_lease_ends_even_if_the_issuer_is_slow() {
    for latency in [50, 200, 400] {
        let (world, database) = (World::new(), Memory::new());
        let failure = Error::transient("busy");
        world.issuer.usually(Behaviour::Fail(failure));
        world.issuer.takes(millis(latency));
        let members = members(&world, &database, 100);
        let app = app();
        let asking = members.iter().map(|member| member.token(&app));
        let answers = join_all(asking).await;
        assert!(answers.iter().all(Result::is_err));
        let tries = world.issuer.fetch_count();
        assert!(tries <= 10, "{latency}: {tries} tries");
    }
}

#[tokio::test(start_paused = true)]
async fn tokens_that_were_fetched_without_the_database_are_written_when_it_is_back() {
    for way in [Way::Fails, Way::Hangs, Way::Panics] {
        let (world, database) = (World::new(), Memory::new());
        database.goes(way);
        let member = member(&world, &database);
        let began = Instant::now();
        let token = member.token(&app()).await.unwrap();
        assert!(
            began.elapsed() <= millis(2250),
            "{way:?}: {:?}",
            began.elapsed()
        );
        database.goes(Way::Works);
        sleep(5 * SECOND).await;
        let key = member.key(&app());
        let (text, _) = database.text(key.as_str()).unwrap();
        assert!(text.contains(token.expose_secret()), "{way:?}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unwritten_token_is_written_even_if_its_manager_is_gone() {
    let (world, database) = (World::new(), Memory::new());
    database.goes(Way::Fails);
    let member = member(&world, &database);
    let key = member.key(&app());
    let token = member.token(&app()).await.unwrap();
    drop(member);
    sleep(SECOND).await;
    database.goes(Way::Works);
    sleep(5 * SECOND).await;
    let (text, _) = database.text(key.as_str()).unwrap();
    assert!(text.contains(token.expose_secret()), "{text}");
}

#[tokio::test(start_paused = true)]
async fn a_stopped_owner_does_not_put_its_token_over_a_newer_one() {
    let (world, database) = (World::new(), Memory::new());
    let way = database.another_way();
    let stopped = member(&world, &way);
    let other = member(&world, &database);
    world.issuer.takes(millis(10));
    let (app, began) = (app(), Instant::now());
    let (first, second) = tokio::join!(stopped.token(&app), async {
        world.issuer.asked(1).await;
        // What it sends from now on arrives when its lease has run out.
        way.takes(10 * SECOND);
        sleep(3 * SECOND).await;
        other.token(&app).await.unwrap()
    });
    assert_ne!(first.unwrap(), second);
    sleep(60 * SECOND).await;
    let key = other.key(&app);
    let (text, _) = database.text(key.as_str()).unwrap();
    assert!(text.contains(second.expose_secret()), "{text}");
    assert!(world.issuer.takes_token(&second));
    assert!(began.elapsed() > 60 * SECOND);
}

#[tokio::test(start_paused = true)]
async fn clocks_need_not_agree() {
    for hours in [-3, 3] {
        let (world, database) = (World::new(), Memory::new());
        let ahead = {
            let other = world.clone_with_clock();
            other.clock.jump(hours * 3600);
            member(&other, &database)
        };
        let member = member(&world, &database);
        for round in 1..5 {
            let (one, two) = (
                ahead.token(&app()).await.unwrap(),
                member.token(&app()).await.unwrap(),
            );
            assert_eq!(one.expose_secret(), two.expose_secret());
            assert_eq!(world.issuer.fetch_count(), round);
            world.issuer.end(&app(), 40014);
            let rejecter = if round % 2 == 0 { &ahead } else { &member };
            let (next, late) = (
                rejecter.refresh_rejected(&app(), one.expose_secret()).await,
                async {
                    let other = if round % 2 == 0 { &member } else { &ahead };
                    other.refresh_rejected(&app(), one.expose_secret()).await
                }
                .await,
            );
            assert_eq!(next.unwrap().expose_secret(), late.unwrap().expose_secret());
            assert_eq!(world.issuer.fetch_count(), round + 1);
            advance(SECOND).await;
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_clock_that_is_ahead_does_not_make_a_short_lived_token_look_old() {
    for hours in [-3, 3] {
        let (world, database) = (World::new(), Memory::new());
        world.issuer.lives(100 * SECOND);
        let ahead = {
            let other = world.clone_with_clock();
            other.clock.jump(hours * 3600);
            member(&other, &database)
        };
        let member = member(&world, &database);
        member.token(&app()).await.unwrap();
        for _ in 0..89 {
            sleep(SECOND).await;
            ahead.token(&app()).await.unwrap();
        }
        assert_eq!(world.issuer.fetch_count(), 1);
        // In the last tenth of its life, it is refreshed ahead.
        sleep(2 * SECOND).await;
        ahead.token(&app()).await.unwrap();
        sleep(SECOND).await;
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn members_whose_clocks_differ_make_one_fetch_when_a_token_is_about_to_expire() {
    let (world, database) = (World::new(), Memory::new());
    let mut members = [3, 0, -3, 1, -1, 2].map(|hours| {
        let other = world.clone_with_clock();
        other.clock.jump(hours * 3600);
        member(&other, &database)
    });
    for round in 1..5 {
        for member in &members {
            member.token(&app()).await.unwrap();
            sleep(SECOND).await;
        }
        assert_eq!(world.issuer.fetch_count(), round);
        advance(LIFETIME - 60 * SECOND).await;
        // Another one is the first to fetch.
        members.rotate_left(1);
    }
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_written_late_gives_way_to_one_that_was_fetched_later() {
    for hours in [-3, 3] {
        let (world, database) = (World::new(), Memory::new());
        let way = database.another_way();
        let late = {
            let other = world.clone_with_clock();
            other.clock.jump(hours * 3600);
            member(&other, &way)
        };
        let other = member(&world, &database);
        way.goes(Way::Fails);
        late.token(&app()).await.unwrap();
        sleep(millis(10)).await;
        let newer = other.token(&app()).await.unwrap();
        way.goes(Way::Works);
        sleep(60 * SECOND).await;
        let (text, _) = database.text(other.key(&app()).as_str()).unwrap();
        assert!(text.contains(newer.expose_secret()), "{hours}: {text}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_unreadable_document_is_replaced() {
    for text in [
        "garbage",
        "{\"value\":\"v\"}",
        "[]",
        "{\"access_token\":\"v\"}",
    ] {
        let (world, database) = (World::new(), Memory::new());
        let member = member(&world, &database);
        let key = member.key(&app());
        database.set(key.as_str(), text, LIFETIME);
        let token = member.token(&app()).await.unwrap();
        let (text, _) = database.text(key.as_str()).unwrap();
        assert!(text.contains(token.expose_secret()), "{text}");
    }
}

#[tokio::test(start_paused = true)]
async fn a_flushed_database_costs_at_most_one_round_of_calls() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(20));
    let members = members(&world, &database, 3);
    let clients: Vec<_> = members.iter().map(|it| world.client(it)).collect();
    for client in &clients {
        assert!(matches!(call(client, "user/get").await, Ok(0)));
    }
    let traffic = join_all(clients.iter().map(|it| traffic(it, "user/get", 2 * SECOND)));
    let (bad, ()) = tokio::join!(traffic, async {
        sleep(millis(500)).await;
        world.issuer.end(&app(), 40014);
        sleep(millis(15)).await;
        database.clear();
    });
    for bad in bad {
        assert!(bad.len() <= 1, "{bad:?}");
    }
}

/// How many commands a fleet of so many members needs for one token.
async fn commands(number: usize) -> usize {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(100));
    let members = members(&world, &database, number);
    let app = app();
    let tokens = join_all(members.iter().map(|it| it.token(&app))).await;
    assert!(
        tokens
            .into_iter()
            .all(|it: Result<AccessToken, Error>| it.is_ok())
    );
    database.calls()
}

#[tokio::test(start_paused = true)]
async fn commands_grow_with_the_number_of_members() {
    assert_eq!(commands(1).await, 3);
    for number in [8, 32, 128] {
        let commands = commands(number).await;
        assert!(commands <= 5 * number, "{commands} for {number}");
    }
}

#[tokio::test(start_paused = true)]
async fn an_issuer_that_hangs_is_not_asked_by_all_members_at_once() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.usually(Behaviour::Hang);
    let members = members(&world, &database, 40);
    for member in members {
        tokio::spawn(async move {
            let app = app();
            while member.token(&app).await.is_err() {
                sleep(millis(100)).await;
            }
        });
    }
    sleep(60 * SECOND).await;
    let tries = world.issuer.fetch_count();
    assert!(tries <= 60, "{tries} tries");
}

#[tokio::test(start_paused = true)]
async fn a_database_without_write_rights_is_left_alone() {
    let (world, database) = (World::new(), Memory::new());
    database.is_read_only(true);
    let member = member(&world, &database);
    let apps: Vec<_> = (0..1000)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    for app in &apps {
        member.token(app).await.unwrap();
    }
    sleep(60 * SECOND).await;
    let before = database.calls();
    for _ in 0..60 {
        for app in &apps {
            member.token(app).await.unwrap();
        }
        sleep(SECOND).await;
    }
    let commands = database.calls() - before;
    assert!(commands <= 60, "{commands} commands in 60 s");

    database.is_read_only(false);
    sleep(120 * SECOND).await;
    let kept = apps.iter().filter(|app| {
        let key = member.key(app);
        database.text(key.as_str()).is_some()
    });
    assert_eq!(kept.count(), 1000, "all are written in the end");
    assert_eq!(world.issuer.fetch_count(), 1000);
}

#[tokio::test(start_paused = true)]
async fn a_token_that_is_put_there_ends_a_failure() {
    let (world, database) = (World::new(), Memory::new());
    let [first, second] = [(); 2].map(|()| member(&world, &database));
    world.issuer.next(Behaviour::Fail(Error::api(40001, "no")));
    assert!(first.token(&app()).await.is_err());
    assert!(second.token(&app()).await.is_err());
    let by_hand = world.issuer.issue(&app());
    let store = SharedStore::new(database.clone());
    store.put(&first.key(&app()), &by_hand).await.unwrap();
    for member in [&first, &second] {
        assert_eq!(member.token(&app()).await.unwrap(), by_hand);
    }
    world.issuer.end(&app(), 40014);
    let began = Instant::now();
    let app = app();
    let next = first.refresh_rejected(&app, by_hand.expose_secret());
    assert_ne!(next.await.unwrap(), by_hand);
    assert_eq!(began.elapsed(), Duration::ZERO);
}

#[tokio::test(start_paused = true)]
async fn a_cold_start_of_many_apps_makes_one_fetch_for_each() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(300));
    let members = members(&world, &database, 2);
    let apps: Vec<_> = (0..300)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    let pairs = apps
        .iter()
        .flat_map(|app| members.iter().map(move |member| member.token(app)));
    let tokens = join_all(pairs).await;
    assert!(tokens.iter().all(Result::is_ok));
    assert_eq!(world.issuer.fetch_count(), 300);
}

#[tokio::test(start_paused = true)]
async fn one_load_that_fails_costs_no_second_fetch_of_other_apps() {
    let (world, database) = (World::new(), Memory::new());
    world.issuer.takes(millis(20));
    let other_way = database.another_way();
    other_way.goes(Way::Fails);
    let members = [member(&world, &database), member(&world, &other_way)];
    let apps: Vec<_> = (0..20)
        .map(|n| Credentials::new("corp", n.to_string()))
        .collect();
    let first = members[1].token(&apps[0]);
    let (first, rest) = tokio::join!(first, async {
        sleep(millis(1)).await;
        other_way.goes(Way::Works);
        let rest = apps.iter().skip(1);
        let pairs = rest.flat_map(|app| members.iter().map(move |member| member.token(app)));
        join_all(pairs).await
    });
    assert!(first.is_ok() && rest.iter().all(Result::is_ok));
    assert_eq!(world.issuer.fetch_count(), 20);
}

#[tokio::test(start_paused = true)]
async fn many_broken_members_do_not_starve_a_healthy_one() {
    let (world, database) = (World::new(), Memory::new());
    for n in 0..20 {
        let broken = broken(&world, &database, Error::api(60020, "not trusted"));
        tokio::spawn(async move {
            sleep(millis(n)).await;
            loop {
                let _ = broken.token(&app()).await;
                sleep(millis(200)).await;
            }
        });
    }
    // Long enough for each of them to have tried.
    sleep(3000 * SECOND).await;
    let (healthy, began) = (member(&world, &database), Instant::now());
    while healthy.token(&app()).await.is_err() {
        assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
        sleep(2 * SECOND).await;
    }
    assert!(began.elapsed() <= 10 * SECOND, "{:?}", began.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_few_broken_members_hold_a_healthy_one_back_for_4_s_at_most() {
    for error in [
        Error::transient("no route"),
        Error::api(60020, "not trusted"),
        Error::api(45009, "too often"),
        Error::refused("a proxy says no"),
    ] {
        for (number, since) in [(3, 2), (3, 500), (6, 0), (6, 30)] {
            let (world, database) = (World::new(), Memory::new());
            let asking = (0..number).map(|n| {
                let broken = broken(&world, &database, error.clone());
                tokio::spawn(async move {
                    sleep(millis(n)).await;
                    loop {
                        let _ = broken.token(&app()).await;
                        sleep(millis(200)).await;
                    }
                })
            });
            let asking: Vec<_> = asking.collect();
            sleep(millis(since * 1000 + 120)).await;
            let (healthy, began) = (member(&world, &database), Instant::now());
            while healthy.token(&app()).await.is_err() {
                let waited = began.elapsed();
                assert!(waited <= 4 * SECOND, "{number} for {since} s, {error:?}");
                sleep(millis(10)).await;
            }
            let waited = began.elapsed();
            assert!(
                waited <= 4 * SECOND,
                "{number} for {since} s: {waited:?}, {error:?}"
            );
            for task in asking {
                task.abort();
            }
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_pause_does_not_outlast_the_token_that_made_up_for_it() {
    for error in [Error::api(40001, "no"), Error::refused("no")] {
        let (world, database) = (World::new(), Memory::new());
        let client = world.client(&member(&world, &database));
        assert!(matches!(call(&client, "user/get").await, Ok(0)));
        let ahead = Duration::from_secs(155);
        sleep(LIFETIME - ahead).await;
        world.issuer.usually(Behaviour::Fail(error));
        assert!(traffic(&client, "user/get", ahead).await.is_empty());
        traffic(&client, "user/get", 3 * SECOND).await;
        world.issuer.usually(Behaviour::Issue);
        let bad = traffic(&client, "user/get", 60 * SECOND).await;
        let last = bad.last().map(|(at, _)| *at).unwrap_or_default();
        assert!(last <= 20 * SECOND, "{last:?}");
    }
}

#[tokio::test(start_paused = true)]
async fn odd_times_and_turns_of_another_program_do_no_harm() {
    let (world, database) = (World::new(), Memory::new());
    let member = member(&world, &database);
    let key = member.key(&app());
    let good = world.issuer.issue(&app());
    let json = serde_json::to_string(&good).unwrap();
    for turn in ["7", "\"x\"", "[]", "{\"other\":1}", "null"] {
        let with_turn = json.replace('}', &format!(",\"turn\":{turn}}}"));
        database.set(key.as_str(), &with_turn, LIFETIME);
        assert_eq!(member.token(&app()).await.unwrap(), good, "{turn}");
    }
    // Somebody has extended the life of a lease.
    let other = Credentials::new("corp", "other");
    let key = member.key(&other);
    let lease = "{\"turn\":{\"owner\":\"somebody\"}}";
    database.set(key.as_str(), lease, LIFETIME * 1000);
    let began = Instant::now();
    member.token(&other).await.unwrap();
    assert!(began.elapsed() <= 9 * SECOND, "{:?}", began.elapsed());
}
