//! The promises of [`SharedDatabase`](crate::SharedDatabase), and a check for each.

use std::time::Duration;

use futures_util::FutureExt;
use futures_util::future::{join_all, try_join, try_join_all};

use super::concurrency::{lost_updates, one_winner, read_together};
use super::probe::{Found, MINUTE, Probe, shown};

/// How long a value lives that is to expire during the check.
pub(super) const SOON: Duration = Duration::from_secs(1);

/// Checks all promises at the same time, and returns the broken ones.
pub(super) async fn broken(probe: &Probe) -> Vec<String> {
    let checks = [
        named(
            "A stored value can be loaded, with its time left",
            stored(probe),
        )
        .boxed(),
        named(
            "A swap against `None` fails if there is a value",
            against_none(probe),
        )
        .boxed(),
        named(
            "A swap fails and changes nothing unless every byte is equal",
            against_other_bytes(probe),
        )
        .boxed(),
        named(
            "A swap against bytes fails if there is no value",
            against_bytes(probe),
        )
        .boxed(),
        named(
            "A swap renews the time left, even if the bytes are equal",
            renewal(probe),
        )
        .boxed(),
        named("A value can be empty, binary, or 8 KiB long", values(probe)).boxed(),
        named(
            "A key can contain any text, and different keys have different values",
            keys(probe),
        )
        .boxed(),
        named(
            "The time left decreases, and an expired value is missing",
            expiry(probe),
        )
        .boxed(),
        named(
            "A swap against the bytes of an expired value fails",
            against_expired_bytes(probe),
        )
        .boxed(),
        named(
            "A swap against `None` succeeds if the value has expired",
            none_against_expired(probe),
        )
        .boxed(),
        named("Concurrent swaps lose no update", lost_updates(probe)).boxed(),
        named(
            "When many swap against `None` at once, one succeeds",
            one_winner(probe),
        )
        .boxed(),
        named(
            "`load` reads the bytes and the time left in one atomic step",
            read_together(probe),
        )
        .boxed(),
    ];
    join_all(checks).await.into_iter().flatten().collect()
}

async fn named(promise: &str, check: impl Future<Output = Result<(), Found>>) -> Option<String> {
    let found = check.await.err()?;
    Some(format!("- {promise}.\n  Found: {found}."))
}

async fn stored(probe: &Probe) -> Result<(), Found> {
    let key = probe.key("stored");
    key.is_missing("nothing was stored").await?;
    let first = key.store(None, b"first", MINUTE).await?;
    first.is_there().await?;
    let second = key.store(Some(b"first"), b"second", 10 * MINUTE).await?;
    second.is_there().await?;
    let third = key.store(Some(b"second"), b"third", MINUTE).await?;
    third.is_there().await
}

async fn against_none(probe: &Probe) -> Result<(), Found> {
    let check = async |value: &[u8]| {
        let key = probe.key(&format!("none-{}", value.len()));
        let stored = key.store(None, value, MINUTE).await?;
        let why = "there is a value";
        key.refuse(None, why).await?;
        stored.is_there().await
    };
    check(b"value").await?;
    check(b"").await
}

async fn against_other_bytes(probe: &Probe) -> Result<(), Found> {
    let long = [b'a'; 8 * 1024];
    let mut other_end = long;
    other_end[long.len() - 1] = b'b';
    let pairs: [(&[u8], &[u8]); 15] = [
        (b"value", b"other"),
        (b"value", b"valu"),
        (b"value", b"value2"),
        (b"value", b"VALUE"),
        (b"value", b"value "),
        (b" value", b"value"),
        (b"value\n", b"value"),
        (b"value", b"value\0"),
        (b"value\0a", b"value\0b"),
        (b"value", b""),
        (b"", b" "),
        (b"1", b"01"),
        (b"\xff", b"\xfe"),
        (b"\xff", "\u{fffd}".as_bytes()),
        (&long, &other_end),
    ];
    let checks = pairs
        .iter()
        .enumerate()
        .map(|(i, (value, other))| async move {
            let key = probe.key(&format!("other-{i}"));
            let stored = key.store(None, value, MINUTE).await?;
            let why = format!("the value was {}", shown(value));
            key.refuse(Some(other), &why).await?;
            stored.is_there().await
        });
    try_join_all(checks).await?;
    Ok(())
}

async fn against_bytes(probe: &Probe) -> Result<(), Found> {
    let check = async |name: &str, expected: &[u8]| {
        let key = probe.key(name);
        let why = "nothing was stored";
        key.refuse(Some(expected), why).await?;
        key.is_missing(why).await
    };
    check("missing", b"value").await?;
    check("missing-empty", b"").await
}

async fn renewal(probe: &Probe) -> Result<(), Found> {
    let key = probe.key("renewal");
    let mut expected = None;
    for left in [MINUTE, MINUTE, 10 * MINUTE, MINUTE] {
        let stored = key.store(expected, b"value", left).await?;
        stored.is_there().await?;
        expected = Some(b"value".as_slice());
    }
    Ok(())
}

async fn values(probe: &Probe) -> Result<(), Found> {
    let all: Vec<u8> = (0..=u8::MAX).collect();
    let large = all.repeat(32);
    let values: [&[u8]; 7] = [b"", b"\0", b"\xff\xfe", b" ", b"{}", &all, &large];
    let checks = values.iter().enumerate().map(|(i, value)| async move {
        let key = probe.key(&format!("value-{i}"));
        key.store(None, value, MINUTE).await?.is_there().await?;
        let after = key.store(Some(value), b"after", MINUTE).await?;
        after.is_there().await
    });
    try_join_all(checks).await?;
    Ok(())
}

async fn keys(probe: &Probe) -> Result<(), Found> {
    let names = [
        "a",
        "A",
        "a ",
        " a",
        "a:",
        ":a",
        "a@b",
        "a/b",
        "a/b/",
        "a//b",
        "a/../b",
        "a%b",
        "a%25b",
        "a%2Fb",
        "a{b}",
        "{}",
        "a+b",
        "a b",
        "a?b#c",
        "a*",
        "a_",
        "a.",
        "a'b",
        "a\"b",
        "a\\b",
        "a\tb",
        "企业微信",
        "é",
        "e\u{301}",
        "😀",
    ];
    let mut keys: Vec<_> = names.iter().map(|name| probe.key(name)).collect();
    keys.extend(["1", "2"].map(|end| probe.long_key(300, end)));
    // All are stored before the first is loaded, to find keys that share a value.
    let stored = keys.iter().enumerate().map(|(i, key)| async move {
        let value = format!("value {i}");
        key.store(None, value.as_bytes(), MINUTE).await
    });
    let stored = try_join_all(stored).await?;
    try_join_all(stored.iter().map(|stored| stored.is_there())).await?;
    Ok(())
}

async fn expiry(probe: &Probe) -> Result<(), Found> {
    let (short, long) = (probe.key("expires"), probe.key("stays"));
    let stays = long.store(None, b"stays", MINUTE).await?;
    let expires = short.store(None, b"expires", SOON).await?;
    expires.is_there().await?;
    expires.expired().await;
    short
        .is_missing(&format!("it was stored for {SOON:?} and has expired"))
        .await?;
    stays.is_there().await
}

async fn against_expired_bytes(probe: &Probe) -> Result<(), Found> {
    let check = async |name: &str, value: &[u8]| {
        let key = probe.key(name);
        key.store(None, value, SOON).await?.expired().await;
        key.refuse(Some(value), "that value has expired").await?;
        key.is_missing("the last value has expired").await
    };
    try_join(check("expired", b"value"), check("expired-empty", b"")).await?;
    Ok(())
}

async fn none_against_expired(probe: &Probe) -> Result<(), Found> {
    let key = probe.key("replaced");
    key.store(None, b"before", SOON).await?.expired().await;
    let after = key.store(None, b"after", MINUTE).await?;
    after.is_there().await
}
