use std::time::UNIX_EPOCH;

use super::*;

const BUDGET: u32 = 10;

fn token(value: &str) -> AccessToken {
    // The same each time it is called.
    AccessToken::from_parts(value, UNIX_EPOCH, UNIX_EPOCH + Duration::from_secs(7200))
}

fn secs(secs: u64) -> Duration {
    Duration::from_secs(secs)
}

/// How many fetches a path gets at once, if all are futile and nothing is held back.
fn granted(guard: &mut Guard, path: &str, now: Instant) -> usize {
    let mut grants = || {
        guard.take(path, BUDGET, now).ok()?;
        guard.slow.take(SLOW_REFILL, now);
        Some(())
    };
    (0..100).take_while(|_| grants().is_some()).count()
}

/// A fetch for this path, whose token is rejected there too.
fn fetch_in_vain(guard: &mut Guard, path: &str, value: &str, now: Instant) -> Option<Duration> {
    guard.take(path, BUDGET, now).ok()?;
    guard.fetched(&token(value));
    guard.futile(path, &token(value), false, now)
}

#[test]
fn a_path_is_held_back_longer_each_time_whatever_it_accepts_in_between() {
    let (mut guard, mut now) = (Guard::default(), Instant::now());
    for (n, hold) in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
        .into_iter()
        .enumerate()
    {
        let hold = secs(hold);
        assert!(guard.take("bad", 1000, now).is_ok());
        assert_eq!(
            guard.futile("bad", &token(&n.to_string()), false, now),
            Some(hold)
        );
        guard.accepted("bad", now);
        let before_end = now + hold - Duration::from_millis(1);
        assert_eq!(guard.take("bad", 1000, before_end), Err(HeldBack::Path));
        assert!(guard.take("good", 1000, now).is_ok());
        now += hold;
    }
    now += MEMORY;
    assert_eq!(
        guard.futile("bad", &token("later"), false, now),
        Some(FIRST_HOLD),
        "it was forgotten"
    );
}

#[test]
fn where_others_fetch_the_first_time_holds_nothing_back() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for (n, hold) in [0, 2, 4].into_iter().enumerate() {
        let token = token(&n.to_string());
        assert_eq!(guard.futile("path", &token, true, now), Some(secs(hold)));
        let is_held = guard.take("path", 1000, now) == Err(HeldBack::Path);
        assert_eq!(is_held, hold > 0);
    }
}

#[test]
fn a_crowd_with_one_token_counts_once() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    let token = token("new");
    for (path, others_fetch) in [("bad", false), ("shared", true)] {
        assert!(guard.futile(path, &token, others_fetch, now).is_some());
        let later = now + Duration::from_millis(1);
        assert!(guard.futile(path, &token, others_fetch, later).is_none());
    }
}

#[test]
fn paths_that_accepted_long_ago_make_room_for_others() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    guard.futile("bad", &token("new"), false, now);
    for n in 0..MOST_PATHS {
        guard.accepted(&n.to_string(), now);
    }
    let later = now + MEMORY;
    guard.futile("bad", &token("newer"), false, later);
    guard.accepted("good", later);
    assert_eq!(granted(&mut guard, "good", later), 10);
}

#[test]
fn unproven_paths_leave_a_reserve_that_proven_paths_can_use() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    assert_eq!(granted(&mut guard, "new", now), 5);
    guard.futile("bad", &token("new"), false, now);
    guard.accepted("good", now);
    assert_eq!(granted(&mut guard, "other", now), 0);
    assert_eq!(granted(&mut guard, "good", now), 5);

    let later = now + MEMORY - secs(1);
    guard.futile("other", &token("newer"), false, later);
    assert_eq!(granted(&mut guard, "good", later), 10, "proven for an hour");
    assert_eq!(granted(&mut guard, "good", later + secs(1)), 0);
}

#[test]
fn only_a_futile_fetch_costs_something_of_the_slow_budget() {
    let (mut guard, mut now) = (Guard::default(), Instant::now());
    for n in 0..100 {
        assert!(guard.take("good", BUDGET, now).is_ok(), "{n}");
        let token = token(&n.to_string());
        match n % 4 {
            // It is accepted, its caller gives up, it fails, or it is lost.
            0 => {
                guard.fetched(&token);
                guard.healed("good", &token);
            }
            1 => guard.fetched(&token),
            _ => {}
        }
        now += QUICK_REFILL;
    }
    assert_eq!(granted(&mut guard, "bad", now), 5);
}

#[test]
fn a_replay_on_another_path_does_not_make_a_futile_fetch_a_good_one() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    assert!(guard.take("bad", BUDGET, now).is_ok());
    guard.fetched(&token("new"));
    guard.healed("good", &token("new"));
    assert!(guard.futile("bad", &token("new"), false, now).is_some());
    assert_eq!(granted(&mut guard, "other", now), 4);
}

#[test]
fn the_quick_budget_limits_fetches_that_are_accepted_too() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    let mut all = 0;
    for n in 0..100 {
        if guard.take("good", BUDGET, now).is_ok() {
            all += 1;
            let token = token(&n.to_string());
            guard.fetched(&token);
            guard.healed("good", &token);
        }
    }
    assert_eq!(all, QUICK);
    assert!(guard.take("good", BUDGET, now + QUICK_REFILL).is_ok());
}

#[test]
fn futile_fetches_are_at_most_sixty_in_any_hour() {
    let (mut guard, mut now) = (Guard::default(), Instant::now());
    let began = now;
    let mut fetches = 0;
    while now < began + secs(3600) {
        let path = format!("bad{}", fetches % 40);
        let value = fetches.to_string();
        fetches += usize::from(fetch_in_vain(&mut guard, &path, &value, now).is_some());
        now += Duration::from_millis(500);
    }
    assert!((50..=60).contains(&fetches), "{fetches}");
}

#[test]
fn a_fetch_that_is_not_made_costs_nothing_of_the_quick_budget_either() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    for _ in 0..100 {
        assert!(guard.take("path", BUDGET, now).is_ok());
        guard.not_needed();
    }
    for n in 0..QUICK {
        assert!(guard.take("path", BUDGET, now).is_ok(), "{n}");
    }
    assert!(guard.take("path", BUDGET, now).is_err());
}

#[test]
fn what_callers_report_counts_since_nothing_tells_whether_it_was_futile() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    let granted = |guard: &mut Guard, now| {
        let takes = (0..100).take_while(|_| guard.take(REPORTED, BUDGET, now).is_ok());
        takes.count()
    };
    assert_eq!(granted(&mut guard, now), 10);
    assert_eq!(granted(&mut guard, now + QUICK_REFILL * QUICK), 0);
    assert_eq!(granted(&mut guard, now + SLOW_REFILL), 1);
}

#[test]
fn a_budget_of_none_grants_nothing_and_news_are_told_once() {
    let (mut guard, now) = (Guard::default(), Instant::now());
    assert_eq!(
        guard.take("a", 0, now),
        Err(HeldBack::Budget { is_news: true })
    );
    assert_eq!(
        guard.take("a", 0, now),
        Err(HeldBack::Budget { is_news: false })
    );
    assert!(guard.take("a", 1, now).is_ok());
    guard.fetched(&token("new"));
    assert!(guard.futile("a", &token("new"), true, now).is_some());
    assert_eq!(
        guard.take("a", 1, now),
        Err(HeldBack::Budget { is_news: true })
    );
}

#[test]
fn paths_are_never_kept_without_a_bound() {
    let (mut guard, mut now) = (Guard::default(), Instant::now());
    for n in 0..10 * MOST_PATHS {
        guard.futile(&format!("bad{n}"), &token("new"), false, now);
        guard.accepted(&format!("good{n}"), now);
        now += secs(1);
    }
    assert!(guard.records.len() <= MOST_PATHS);
    assert!(guard.accepted.len() <= MOST_PATHS);
    now += MEMORY;
    guard.accepted("good", now);
    assert!(guard.records.is_empty() && guard.accepted.is_empty());
    assert!(guard.is_at_rest(now + MEMORY));
}
