//! A suite's token is fetched with the newest ticket, wherever it has arrived, and nothing else loses a ticket.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a test fails by panicking"
)]

#[path = "support/mod.rs"]
mod support;

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::future::join_all;
use reqwest_wecom::{
    Error, ErrorKind, FetchRequest, SharedDatabase, SuiteTickets, TokenManager, TokenSource,
};
use support::{Answer, Memory, Qyapi, SUITE, SUITE_SECRET, chain, suite};
use tokio::time::{Instant, advance, pause, resume};

const MINUTE: Duration = Duration::from_secs(60);

/// Two processes that share a database.
fn two() -> (SuiteTickets, SuiteTickets, Arc<Memory>) {
    let database = Arc::new(Memory::default());
    let one = || SuiteTickets::shared([SUITE], database.clone());
    (one(), one(), database)
}

async fn fetch(qyapi: &Qyapi, tickets: &SuiteTickets) -> Result<(), Error> {
    let source = qyapi.suite_source(tickets);
    source.fetch(FetchRequest::new(suite())).await.map(drop)
}

/// The tickets that were sent, in order.
fn sent(qyapi: &Qyapi) -> Vec<String> {
    let received = qyapi.received();
    received.iter().map(|it| it.json("suite_ticket")).collect()
}

#[tokio::test]
async fn white_space_and_a_byte_order_mark_at_the_ends_make_no_difference() {
    let qyapi = Qyapi::start().await;
    qyapi.set_ticket("ticket");
    let with_mark = format!("\u{feff}{SUITE}\n");
    let tickets = SuiteTickets::new([&with_mark]);
    tickets
        .put(&with_mark, "\u{feff}ticket\n", 1)
        .await
        .unwrap();
    let manager = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    manager.token(&suite()).await.unwrap();
}

#[tokio::test]
async fn without_a_ticket_nothing_is_called_and_the_first_one_serves_at_once() {
    let qyapi = Qyapi::start().await;
    let tickets = SuiteTickets::new([SUITE]);
    let manager = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    for _ in 0..3 {
        let error = manager.token(&suite()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
        assert!(
            chain(&error).contains("SuiteTickets::put"),
            "{}",
            chain(&error)
        );
    }
    assert_eq!(qyapi.received().len(), 0);
    qyapi.set_ticket("ticket");
    tickets.put(SUITE, " ticket\n", 1).await.unwrap();
    manager.token(&suite()).await.unwrap();
    assert_eq!(sent(&qyapi), ["ticket"]);
}

#[tokio::test]
async fn the_newest_ticket_counts_in_whatever_order_they_arrive() {
    let (one, other, _) = two();
    for order in [[1, 2, 3], [3, 2, 1], [2, 3, 1], [3, 1, 2]] {
        let alone = SuiteTickets::new([SUITE]);
        let database = Arc::new(Memory::default());
        let shared = SuiteTickets::shared([SUITE], database.clone());
        let reader = SuiteTickets::shared([SUITE], database);
        for stamp in order {
            let ticket = format!("ticket-{stamp}");
            alone.put(SUITE, &ticket, stamp).await.unwrap();
            shared.put(SUITE, &ticket, stamp).await.unwrap();
        }
        for tickets in [&alone, &shared, &reader] {
            let qyapi = Qyapi::start().await;
            qyapi.set_ticket("ticket-3");
            fetch(&qyapi, tickets).await.unwrap();
        }
    }
    let qyapi = Qyapi::start().await;
    qyapi.set_ticket("ticket-9");
    let all = (1..10).map(|stamp| {
        let process = if stamp % 2 == 0 { &one } else { &other };
        process.put(SUITE, format!("ticket-{stamp}"), stamp)
    });
    for put in join_all(all).await {
        put.unwrap();
    }
    fetch(&qyapi, &one).await.unwrap();
    fetch(&qyapi, &other).await.unwrap();
}

#[tokio::test]
async fn a_ticket_of_another_suite_or_an_empty_one_is_refused() {
    let qyapi = Qyapi::start().await;
    let tickets = qyapi.tickets().await;
    for (suite_id, ticket) in [("ww_other", "other"), ("", "other"), (SUITE, " \n")] {
        let error = tickets.put(suite_id, ticket, 2).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Refused);
    }
    fetch(&qyapi, &tickets).await.unwrap();
    assert_eq!(sent(&qyapi), ["ticket-1"]);

    let others = SuiteTickets::new(["ww_other"]);
    let error = fetch(&qyapi, &others).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    assert!(chain(&error).contains(SUITE), "{}", chain(&error));
}

#[tokio::test]
async fn suites_have_tickets_of_their_own() {
    let database = Arc::new(Memory::default());
    let tickets = SuiteTickets::shared([SUITE, "ww:other"], database.clone());
    tickets.put("ww:other", "other", 9).await.unwrap();
    let qyapi = Qyapi::start().await;
    let error = fetch(&qyapi, &tickets).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReady);
    let values = database.values.lock().unwrap();
    let keys: Vec<_> = values.keys().map(String::as_str).collect();
    assert_eq!(keys, ["suite_ticket:ww%3Aother"]);
}

#[tokio::test]
async fn a_ticket_that_reached_one_process_serves_the_others() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, _) = two();
    qyapi.set_ticket("ticket");
    receiver.put(SUITE, "ticket", 1).await.unwrap();
    fetch(&qyapi, &other).await.unwrap();
}

#[tokio::test]
async fn a_ticket_is_kept_for_half_an_hour() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, _) = two();
    let alone = qyapi.tickets().await;
    receiver.put(SUITE, "ticket-1", 1).await.unwrap();
    fetch(&qyapi, &other).await.unwrap();
    let all = [&alone, &receiver, &other];
    pause();
    advance(30 * MINUTE - Duration::from_secs(1)).await;
    resume();
    for tickets in all {
        fetch(&qyapi, tickets).await.unwrap();
    }
    pause();
    advance(2 * MINUTE).await;
    resume();
    for tickets in all {
        let error = fetch(&qyapi, tickets).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
    }
}

#[tokio::test]
async fn a_copy_lives_no_longer_than_the_ticket_in_the_database() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, _) = two();
    qyapi.set_ticket("ticket-1");
    receiver.put(SUITE, "ticket-1", 1).await.unwrap();
    pause();
    advance(20 * MINUTE).await;
    resume();
    fetch(&qyapi, &other).await.unwrap();
    pause();
    advance(10 * MINUTE).await;
    resume();
    let error = fetch(&qyapi, &other).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::NotReady);
}

#[tokio::test]
async fn after_40085_a_newer_ticket_is_read_once() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, _) = two();
    receiver.put(SUITE, "old", 1).await.unwrap();
    qyapi.set_ticket("new");
    let gate = qyapi.hold_api();
    let fetching = fetch(&qyapi, &other);
    let pushed = async {
        gate.arrived(1).await;
        receiver.put(SUITE, "new", 2).await.unwrap();
        gate.open();
    };
    let (fetched, ()) = tokio::join!(fetching, pushed);
    fetched.unwrap();
    assert_eq!(sent(&qyapi), ["old", "new"]);
}

#[tokio::test]
async fn two_rejected_tickets_are_enough_for_one_fetch() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, _) = two();
    receiver.put(SUITE, "old", 1).await.unwrap();
    let gate = qyapi.hold_api();
    let fetching = fetch(&qyapi, &other);
    let pushed = async {
        gate.arrived(1).await;
        receiver.put(SUITE, "newer", 2).await.unwrap();
        gate.let_through(1);
        gate.arrived(2).await;
        receiver.put(SUITE, "newest", 3).await.unwrap();
        gate.open();
    };
    let (fetched, ()) = tokio::join!(fetching, pushed);
    assert_eq!(fetched.unwrap_err().kind(), ErrorKind::NotReady);
    assert_eq!(sent(&qyapi), ["old", "newer"]);
}

#[tokio::test]
async fn a_rejected_ticket_is_not_used_for_a_minute_unless_a_newer_one_arrives() {
    let qyapi = Qyapi::start().await;
    let tickets = SuiteTickets::new([SUITE]);
    let manager = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    qyapi.set_ticket("good");
    tickets.put(SUITE, "bad", 1).await.unwrap();
    for _ in 0..5 {
        let error = manager.token(&suite()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::NotReady);
        assert!(chain(&error).contains("40085"), "{}", chain(&error));
    }
    assert_eq!(sent(&qyapi), ["bad"]);
    pause();
    advance(MINUTE).await;
    resume();
    assert!(manager.token(&suite()).await.is_err());
    assert_eq!(sent(&qyapi), ["bad", "bad"]);
    tickets.put(SUITE, "good", 2).await.unwrap();
    manager.token(&suite()).await.unwrap();
    assert_eq!(sent(&qyapi), ["bad", "bad", "good"]);
}

#[tokio::test]
async fn no_rejection_and_no_failure_loses_the_ticket() {
    let qyapi = Qyapi::start().await;
    let tickets = qyapi.tickets().await;
    for answer in [
        Answer::errcode(40001),
        Answer::errcode(-1),
        Answer::status(502),
        Answer::errcode(42009),
    ] {
        qyapi.script("service/get_suite_token", answer);
        fetch(&qyapi, &tickets).await.unwrap_err();
    }
    let manager = TokenManager::builder(qyapi.suite_source(&tickets)).build();
    let client = qyapi.as_suite(&manager);
    for errcode in [40082, 42009, 40014, 42001] {
        let url = qyapi.url("service/get_admin_list");
        let answer = client.get(url).send().await.unwrap();
        assert!(answer.text().await.unwrap().contains(r#""errcode":0"#));
        qyapi.reject(SUITE_SECRET, errcode);
    }
}

#[tokio::test]
async fn a_database_that_has_lost_the_ticket_gets_it_back_with_the_time_it_has_left() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, database) = two();
    qyapi.set_ticket("ticket");
    receiver.put(SUITE, "ticket", 1).await.unwrap();
    pause();
    advance(10 * MINUTE).await;
    resume();
    database.values.lock().unwrap().clear();
    assert!(fetch(&qyapi, &other).await.is_err());
    fetch(&qyapi, &receiver).await.unwrap();
    fetch(&qyapi, &other).await.unwrap();
    let kept = database
        .load("suite_ticket:ww_suite")
        .await
        .unwrap()
        .unwrap();
    assert!(kept.left() <= 20 * MINUTE && kept.left() > 19 * MINUTE);
    let text = String::from_utf8(kept.expose_secret().to_vec()).unwrap();
    assert_eq!(text, r#"{"ticket":"ticket","time_stamp":1}"#);
}

#[tokio::test]
async fn what_no_process_has_written_is_replaced() {
    let (receiver, _, database) = two();
    for odd in ["", "null", "[]", "{}", r#"{"ticket":1,"time_stamp":2}"#] {
        let row = (odd.as_bytes().to_vec(), Instant::now() + MINUTE);
        let key = String::from("suite_ticket:ww_suite");
        database.values.lock().unwrap().insert(key, row);
        receiver.put(SUITE, "ticket", 1).await.unwrap();
        let kept = database.load("suite_ticket:ww_suite").await.unwrap();
        assert!(
            kept.unwrap()
                .expose_secret()
                .starts_with(br#"{"ticket":"t"#)
        );
    }
}

#[tokio::test]
async fn while_the_database_is_down_each_process_uses_the_ticket_that_it_has_seen() {
    let qyapi = Qyapi::start().await;
    let (receiver, other, database) = two();
    qyapi.set_ticket("pushed");
    for down in [&database.fails, &database.hangs] {
        down.store(true, Ordering::SeqCst);
        let error = receiver.put(SUITE, "pushed", 1).await.unwrap_err();
        assert!(error.is_transient());
        let text = chain(&error);
        assert!(
            text.contains("the database with the suite tickets"),
            "{text}"
        );
        fetch(&qyapi, &receiver).await.unwrap();
        assert!(fetch(&qyapi, &other).await.unwrap_err().is_transient());
        down.store(false, Ordering::SeqCst);
    }
    receiver.put(SUITE, "pushed", 1).await.unwrap();
    fetch(&qyapi, &other).await.unwrap();
    database.fails.store(true, Ordering::SeqCst);
    fetch(&qyapi, &other).await.unwrap();
}
