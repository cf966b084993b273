//! What rejections by the API cost.

use std::sync::Mutex;
use std::time::Duration;

use futures_util::future::join_all;
use futures_util::poll;
use tokio::task::{JoinSet, yield_now};
use tokio::time::{Instant, advance, sleep};

use super::world::{Behaviour, LIFETIME, Repeat, World, app, call, errcode_of, fails_as, traffic};
use crate::{
    AccessToken, Error, ErrorKind, FetchRequest, FetchedToken, RejectionScope, TokenManager,
    TokenSource,
};

const HOUR: Duration = Duration::from_secs(3600);
const REQUESTS: u32 = 20_000;

#[tokio::test(start_paused = true)]
async fn a_path_that_rejects_everything_causes_no_flood() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let client = world.client(&manager);
    for _ in 0..REQUESTS {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        advance(HOUR / REQUESTS).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!((5..=25).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_real_revocation_heals_at_once_beside_a_path_that_rejects_everything() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let manager = world.manager();
    let client = world.client(&manager);
    for n in 0..REQUESTS {
        if n == REQUESTS / 3 || n == REQUESTS / 2 {
            world.issuer.end(&app(), 40014);
        }
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
        advance(HOUR / REQUESTS).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!((5..=25).contains(&fetches), "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn a_crowd_on_a_path_that_rejects_everything_causes_no_flood() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    world.issuer.takes(Duration::from_millis(100));
    let manager = world.manager();
    let client = world.client(&manager);
    for _ in 0..20 {
        let crowd: JoinSet<_> = (0..100)
            .map(|_| {
                let client = client.clone();
                async move { call(&client, "bad").await }
            })
            .collect();
        for answer in crowd.join_all().await {
            assert_eq!(answer.unwrap(), 40014);
        }
    }
    let fetches = world.issuer.fetch_count();
    assert!(fetches <= 3, "{fetches} fetches");
}

#[tokio::test(start_paused = true)]
async fn two_managers_that_end_each_others_tokens_stay_within_the_budget() {
    let world = World::new();
    let clients = [
        world.client(&world.manager()),
        world.client(&world.manager()),
    ];
    let began = Instant::now();
    let mut answered = 0;
    while began.elapsed() < HOUR {
        for client in &clients {
            answered += u32::from(call(client, "user/get").await.unwrap() == 0);
        }
        advance(Duration::from_millis(500)).await;
    }
    let fetches = world.issuer.fetch_count();
    // As long as each is accepted, the quick budget is what limits them.
    let budget = 2 * (1 + 10 + 3600);
    assert!(fetches <= budget, "{fetches} fetches");
    assert!(answered >= 3600, "{answered} answered");
}

#[tokio::test(start_paused = true)]
async fn revoked_expired_and_revoked_within_a_second_and_every_request_succeeds() {
    let world = World::new();
    let manager = world.manager();
    let client = world.client(&manager);
    for errcode in [40014, 42001, 40014] {
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        world.issuer.end(&app(), errcode);
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        advance(Duration::from_millis(300)).await;
    }
    assert_eq!(world.issuer.fetch_count(), 4);
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_an_old_token_costs_nothing() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    let new = manager
        .refresh_rejected(&app(), old.expose_secret())
        .await
        .unwrap();
    for _ in 0..100 {
        assert_eq!(
            manager
                .refresh_rejected(&app(), old.expose_secret())
                .await
                .unwrap(),
            new
        );
    }
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_crowd_that_reports_one_value_makes_one_fetch() {
    let world = World::new();
    let (manager, app) = (world.manager(), app());
    let old = manager.token(&app).await.unwrap();
    world.issuer.end(&app, 40014);
    world.issuer.takes(Duration::from_millis(100));
    let crowd = || join_all((0..1000).map(|_| manager.refresh_rejected(&app, old.expose_secret())));
    let (first, late) = tokio::join!(crowd(), async {
        world.issuer.asked(2).await;
        crowd().await
    });
    let new = manager.token(&app).await.unwrap();
    assert_ne!(new, old);
    for token in first.into_iter().chain(late).chain(crowd().await) {
        assert_eq!(token.unwrap(), new);
    }
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_the_manager_never_had_costs_nothing_while_it_has_another() {
    let world = World::new();
    let manager = world.manager();
    let good = manager.token(&app()).await.unwrap();
    for n in 0..1000 {
        let unknown = format!("unknown-{n}");
        let token = manager.refresh_rejected(&app(), unknown).await.unwrap();
        assert_eq!(token, good);
    }
    assert_eq!(world.issuer.fetch_count(), 1);
    world.issuer.end(&app(), 40014);
    let value = good.expose_secret();
    assert!(manager.refresh_rejected(&app(), value).await.is_ok());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_reported_before_there_is_a_token_is_not_taken_from_the_store() {
    let world = World::new();
    let store = crate::MokaStore::new();
    let [one, two] = [(); 2].map(|()| world.builder().store(store.clone()).build());
    let stored = one.token(&app()).await.unwrap();
    let token = two.refresh_rejected(&app(), "unknown").await.unwrap();
    assert_eq!(token, stored, "another value is in the store");

    let three = world.builder().store(store).build();
    world.issuer.end(&app(), 40014);
    let value = stored.expose_secret();
    let new = three.refresh_rejected(&app(), value).await.unwrap();
    assert_ne!(new.expose_secret(), value);
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_caller_who_reports_a_value_may_be_dropped_at_any_point() {
    for polls in 1..8 {
        let world = World::new();
        let (manager, app) = (world.manager(), app());
        let old = manager.token(&app).await.unwrap();
        world.issuer.end(&app, 40014);
        world.issuer.takes(Duration::from_millis(300));
        {
            let mut caller = Box::pin(manager.refresh_rejected(&app, old.expose_secret()));
            for _ in 0..polls {
                assert!(poll!(&mut caller).is_pending());
                yield_now().await;
            }
        }
        sleep(Duration::from_secs(1)).await;
        assert_eq!(world.issuer.fetch_count(), 2, "after {polls} polls");
        let new = manager.refresh_rejected(&app, old.expose_secret()).await;
        assert_eq!(new.unwrap(), manager.token(&app).await.unwrap());
        assert_eq!(world.issuer.fetch_count(), 2);
    }
}

#[tokio::test(start_paused = true)]
async fn requests_during_a_refresh_wait_for_the_new_token() {
    let world = World::new();
    let manager = world.manager();
    let app = app();
    let old = manager.token(&app).await.unwrap();
    world.issuer.takes(Duration::from_millis(100));
    let (refreshed, asked) = tokio::join!(
        manager.refresh_rejected(&app, old.expose_secret()),
        manager.token(&app)
    );
    assert_eq!(refreshed.unwrap(), asked.unwrap());
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rejected_token_that_could_not_be_replaced_is_not_used_again() {
    let world = World::new();
    let manager = world.manager();
    let old = manager.token(&app()).await.unwrap();
    world.issuer.next(Behaviour::Fail(Error::refused("no")));
    assert!(fails_as(
        &manager.refresh_rejected(&app(), old.expose_secret()).await,
        ErrorKind::Refused
    ));
    assert!(fails_as(&manager.token(&app()).await, ErrorKind::Refused));
    advance(Duration::from_secs(10)).await;
    assert_ne!(manager.token(&app()).await.unwrap(), old);
    assert_eq!(world.issuer.fetch_count(), 3);
}

#[tokio::test(start_paused = true)]
async fn the_budget_can_be_set() {
    let world = World::new();
    let manager = world.builder().refresh_budget(2).build();
    let mut token = manager.token(&app()).await.unwrap();
    for _ in 0..2 {
        token = manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap();
    }
    let result = manager
        .refresh_rejected(&app(), token.expose_secret())
        .await;
    assert!(fails_as(&result, ErrorKind::HeldBack), "{result:?}");
    advance(Duration::from_secs(72)).await;
    assert!(
        manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .is_ok()
    );
}

#[tokio::test(start_paused = true)]
async fn a_source_that_gives_the_rejected_token_again_is_asked_once_for_each_refresh() {
    let world = World::new();
    world.issuer.repeats(Repeat::SameToken);
    let manager = world.manager();
    let token = manager.token(&app()).await.unwrap();
    // At the same moment in time, so that not even the time of the fetch is another.
    assert_eq!(
        manager
            .refresh_rejected(&app(), token.expose_secret())
            .await
            .unwrap(),
        token
    );
    assert_eq!(world.issuer.fetch_count(), 2);
}

#[tokio::test(start_paused = true)]
async fn a_scope_keeps_one_customers_rejections_from_holding_back_anothers() {
    for (has_scopes, healed) in [(true, 0), (false, 40014)] {
        let world = World::new();
        world.issuer.rejects_always("kf/send?customer=7");
        let client = world.client(&world.manager());
        let send = |customer: &str| {
            let url = format!("https://qyapi.weixin.qq.com/cgi-bin/kf/send?customer={customer}");
            let request = client.get(url);
            errcode_of(if has_scopes {
                request.with_extension(RejectionScope::new(customer))
            } else {
                request
            })
        };
        assert_eq!(send("8").await.unwrap(), 0);
        assert_eq!(send("7").await.unwrap(), 40014);
        let fetches = world.issuer.fetch_count();
        assert_eq!(send("7").await.unwrap(), 40014, "held back");
        assert_eq!(world.issuer.fetch_count(), fetches);

        world.issuer.end(&app(), 40014);
        assert_eq!(send("8").await.unwrap(), healed, "scopes: {has_scopes}");
    }
}

#[test]
fn a_scope_is_part_of_the_path_and_makes_no_other_path_of_it() {
    let mut extensions = http::Extensions::new();
    assert_eq!(RejectionScope::joined("/a", &extensions), "/a");
    extensions.insert(RejectionScope::new("b c"));
    assert_eq!(RejectionScope::joined("/a", &extensions), "/a b c");
}

const STEP: Duration = Duration::from_millis(50);

/// Calls the paths in turn for so long, 50 ms after one another, and revokes the token at these times. Returns how many calls of the path
/// `good` were not answered 0.
async fn in_turn(world: &World, paths: &[&str], time: Duration, revoked: &[u64]) -> usize {
    let client = world.client(&world.manager());
    let began = Instant::now();
    let mut revoked = revoked.iter().map(|at| Duration::from_secs(*at)).peekable();
    let mut bad = 0;
    for path in paths.iter().cycle() {
        if began.elapsed() >= time {
            break;
        }
        if revoked.next_if(|at| began.elapsed() >= *at).is_some() {
            world.issuer.end(&app(), 40014);
        }
        let answer = call(&client, path).await.unwrap();
        bad += usize::from(*path == "good" && answer != 0);
        sleep(STEP).await;
    }
    bad
}

/// Paths that always reject, with good ones in between.
fn bad_paths(world: &World, n: usize) -> Vec<String> {
    let paths: Vec<_> = (0..n).map(|n| format!("bad{n}")).collect();
    for path in &paths {
        world.issuer.rejects_always(path);
    }
    paths
}

fn with_good(bad: &[String]) -> Vec<&str> {
    bad.iter().flat_map(|bad| ["good", bad]).collect()
}

#[tokio::test(start_paused = true)]
async fn ten_bad_paths_do_not_keep_a_real_revocation_from_being_healed_at_once() {
    for at in [1, 5, 60, 200] {
        let world = World::new();
        let bad = bad_paths(&world, 10);
        let bad_answers = in_turn(&world, &with_good(&bad), Duration::from_secs(300), &[at]).await;
        assert_eq!(bad_answers, 0, "revoked after {at} s");
    }
}

#[tokio::test(start_paused = true)]
async fn forty_bad_paths_cost_at_most_sixty_fetches_an_hour() {
    let world = World::new();
    let bad = bad_paths(&world, 40);
    let paths: Vec<_> = bad.iter().map(String::as_str).collect();
    in_turn(&world, &paths, HOUR, &[]).await;
    let fetches = world.issuer.fetch_count();
    assert!(fetches <= 61, "{fetches} with the first");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_rejects_a_fifth_of_its_calls_costs_at_most_thirty_fetches_an_hour() {
    let world = World::new();
    world.issuer.rejects_always("kf/send?customer=bad");
    let client = world.client(&world.manager());
    let began = Instant::now();
    let mut n = 0;
    while began.elapsed() < HOUR {
        n += 1;
        let (customer, expected) = if n % 5 == 0 {
            ("bad", 40014)
        } else {
            ("good", 0)
        };
        let url = format!("https://qyapi.weixin.qq.com/cgi-bin/kf/send?customer={customer}");
        assert_eq!(errcode_of(client.get(url)).await.unwrap(), expected);
        sleep(STEP).await;
    }
    let fetches = world.issuer.fetch_count();
    assert!(fetches <= 31, "{fetches} with the first");
}

#[tokio::test(start_paused = true)]
async fn many_real_revocations_are_each_healed_by_one_fetch() {
    let revoked: Vec<_> = (1..=30).map(|n| 2 * n).collect();
    for n in [0, 10] {
        let world = World::new();
        let bad = bad_paths(&world, n);
        let mut paths = with_good(&bad);
        paths.push("good");
        let bad_answers = in_turn(&world, &paths, Duration::from_secs(70), &revoked).await;
        assert_eq!(bad_answers, 0, "{n} bad paths");
        let fetches = world.issuer.fetch_count();
        let allowed = 1 + 30 + if n == 0 { 0 } else { 10 };
        assert!(fetches <= allowed, "{fetches} fetches, {n} bad paths");
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_was_fetched_twice_and_is_rejected_then_costs_one_fetch() {
    for set_back in [0, 1, 10, 3600] {
        let world = World::new();
        world.issuer.repeats(Repeat::SameTokenExtended);
        let manager = world.manager();
        let first = manager.token(&app()).await.unwrap();
        advance(LIFETIME - Duration::from_secs(60)).await;
        manager.token(&app()).await.unwrap();
        sleep(Duration::from_millis(1)).await;
        let second = manager.token(&app()).await.unwrap();
        assert_eq!(first.expose_secret(), second.expose_secret());
        assert_ne!(first, second);

        world.clock.jump(-set_back);
        world.issuer.end(&app(), 40014);
        let tenant = manager.tenant(&app());
        let third = manager
            .refresh_rejected_on(&tenant, &first, "user/get")
            .await;
        assert_ne!(
            third.unwrap().expose_secret(),
            first.expose_secret(),
            "set back by {set_back} s"
        );
        assert_eq!(world.issuer.fetch_count(), 3);
        // And the rejection of the second is late.
        let same = manager
            .refresh_rejected_on(&tenant, &second, "user/get")
            .await;
        assert!(same.is_ok());
        assert_eq!(world.issuer.fetch_count(), 3);
    }
}

#[tokio::test(start_paused = true)]
async fn a_value_that_is_fetched_again_while_requests_with_it_are_rejected_costs_one_fetch() {
    for after in [1, 5, 30, 70] {
        let world = World::new();
        world.issuer.repeats(Repeat::SameTokenExtended);
        world.issuer.is_reached_after(Duration::from_millis(50));
        let client = world.client(&world.manager());
        assert_eq!(call(&client, "user/get").await.unwrap(), 0);
        advance(LIFETIME - Duration::from_secs(60)).await;
        // The first of these calls starts a refresh ahead, which repeats the value while they are on their way.
        let calls = || join_all((0..20).map(|_| call(&client, "user/get")));
        let (mut answers, ()) = tokio::join!(calls(), async {
            sleep(Duration::from_millis(after)).await;
            world.issuer.end(&app(), 40014);
        });
        answers.extend(calls().await);
        let all_good = answers.iter().all(|it| matches!(it, Ok(0)));
        assert!(all_good, "revoked after {after} ms: {answers:?}");
        let fetches = world.issuer.fetch_count();
        assert_eq!(fetches, 3, "revoked after {after} ms");
    }
}

/// Returns these values one after the other, then fails.
struct Values(Mutex<Vec<&'static str>>);

#[crate::async_trait]
impl TokenSource for Values {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        let value = self.0.lock().unwrap().pop();
        let value = value.ok_or_else(|| Error::refused("no more"))?;
        Ok(FetchedToken::new(value, LIFETIME))
    }
}

/// Lets the value `a` be replaced by `b`. Returns the manager, whose source gives `a` once more and then fails, and `b`.
async fn a_replaced_by_b(world: &World) -> (TokenManager, AccessToken) {
    let manager = world.manager_of(Values(Mutex::new(vec!["a", "b", "a"])));
    let first = manager.token(&app()).await.unwrap();
    assert_eq!(first.expose_secret(), "a");
    let second = manager.refresh_rejected(&app(), "a").await.unwrap();
    assert_eq!(second.expose_secret(), "b");
    (manager, second)
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_of_another_value_costs_a_value_that_came_back_nothing() {
    for (passed, set_back, is_ahead) in [0, 1, 1000]
        .into_iter()
        .flat_map(|passed| [(passed, 0), (passed, 100)])
        .flat_map(|(passed, set_back)| [(passed, set_back, true), (passed, set_back, false)])
    {
        let world = World::new();
        let (manager, b) = a_replaced_by_b(&world).await;
        let app = app();
        advance(Duration::from_millis(passed)).await;
        world.clock.jump(-set_back);
        if is_ahead {
            advance(LIFETIME - Duration::from_secs(100)).await;
            manager.token(&app).await.unwrap();
            sleep(Duration::from_millis(1)).await;
        } else {
            manager.refresh_rejected(&app, "b").await.unwrap();
        }
        let tenant = manager.tenant(&app);
        for token in [
            manager.token(&app).await,
            manager.refresh_rejected_on(&tenant, &b, "user/get").await,
            manager.refresh_rejected(&app, "b").await,
            manager.token(&app).await,
        ] {
            let is_a = token.as_ref().is_ok_and(|it| it.expose_secret() == "a");
            let when = format!("{passed} ms later, set back by {set_back} s, ahead: {is_ahead}");
            assert!(is_a, "{when}: {token:?}");
        }
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_rejection_costs_nothing_while_a_refresh_ahead_fails() {
    let world = World::new();
    let (manager, b) = a_replaced_by_b(&world).await;
    let app = app();
    advance(Duration::from_secs(1)).await;
    manager.refresh_rejected(&app, "b").await.unwrap();
    advance(LIFETIME - Duration::from_secs(100)).await;
    let tenant = manager.tenant(&app);
    for _ in 0..5 {
        let late = manager.refresh_rejected_on(&tenant, &b, "user/get");
        let (token, after_late) = tokio::join!(manager.token(&app), late);
        assert_eq!(token.unwrap().expose_secret(), "a");
        assert_eq!(after_late.unwrap().expose_secret(), "a");
        sleep(Duration::from_millis(100)).await;
    }
}

#[tokio::test(start_paused = true)]
async fn a_late_acceptance_of_an_older_token_does_not_end_the_hold_on_a_path() {
    let ms = Duration::from_millis;
    let world = World::new();
    world.issuer.repeats(Repeat::NewTokenOldValid);
    world.issuer.rejects_always("kf/send?customer=bad");
    let client = world.client(&world.manager());
    let send = |customer: &str| {
        let url = format!("https://qyapi.weixin.qq.com/cgi-bin/kf/send?customer={customer}");
        errcode_of(client.get(url))
    };
    assert_eq!(call(&client, "user/get").await.unwrap(), 0);

    // The good call is sent before the refresh, and answered after the new token has been rejected too.
    world.issuer.answers_after(ms(50));
    let (bad, good, ()) = tokio::join!(
        send("bad"),
        async {
            sleep(ms(40)).await;
            send("good").await
        },
        async {
            sleep(ms(39)).await;
            world.issuer.answers_after(ms(100));
            sleep(ms(5)).await;
            world.issuer.answers_after(ms(10));
        }
    );
    assert_eq!((bad.unwrap(), good.unwrap()), (40014, 0));
    let calls = world.issuer.calls();
    let [.., first, good, again] = &calls[..] else {
        panic!("{calls:?}")
    };
    assert_eq!(first.token, good.token);
    assert_ne!(again.token, good.token);
    assert!(good.began < again.began && again.answered < good.answered);
    assert_eq!(world.issuer.fetch_count(), 2);

    assert_eq!(send("bad").await.unwrap(), 40014);
    assert_eq!(world.issuer.fetch_count(), 2, "held back");
}

#[tokio::test(start_paused = true)]
async fn held_back_requests_get_the_apis_own_answer_and_leave_the_token_to_others() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "bad").await.unwrap(), 40014);
    let fetches = world.issuer.fetch_count();
    for _ in 0..10 {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
    }
    assert_eq!(world.issuer.fetch_count(), fetches);
    let bad = traffic(&client, "good", Duration::from_secs(10)).await;
    assert!(bad.is_empty(), "{bad:?}");
}

#[tokio::test(start_paused = true)]
async fn a_path_that_is_held_back_does_not_take_the_token_away_while_the_source_is_down() {
    let world = World::new();
    world.issuer.rejects_always("bad");
    let client = world.client(&world.manager());
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    advance(LIFETIME - Duration::from_secs(310)).await;
    for hold in [2, 4, 8] {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        advance(Duration::from_secs(hold)).await;
    }
    assert_eq!(
        call(&client, "bad").await.unwrap(),
        40014,
        "held back for 16 s"
    );

    // The refresh ahead of the new token fails.
    world.issuer.lives(Duration::from_secs(10));
    advance(Duration::from_secs(16)).await;
    assert_eq!(
        call(&client, "bad").await.unwrap(),
        40014,
        "held back for 32 s"
    );
    sleep(Duration::from_millis(9100)).await;
    world.issuer.usually(Behaviour::Fail(Error::refused("no")));
    assert_eq!(call(&client, "good").await.unwrap(), 0);
    sleep(Duration::from_millis(10)).await;
    for _ in 0..5 {
        assert_eq!(call(&client, "bad").await.unwrap(), 40014);
        assert_eq!(call(&client, "good").await.unwrap(), 0);
    }
}
