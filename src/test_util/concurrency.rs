//! Promises that only concurrent calls can break.

use std::panic::resume_unwind;
use std::str::from_utf8;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::Barrier;
use tokio::task::{JoinSet, yield_now};
use tokio::time::Instant;

use super::probe::{Found, Key, MINUTE, Probe, shown};
use super::promises::SOON;
use crate::Kept;

const TASKS: usize = 32;
/// How often each task increments the counter, if there is time.
const INCREMENTS: usize = 8;
const READERS: usize = 4;
const READS: usize = 500;
/// Slow databases get fewer calls.
const TIME: Duration = Duration::from_secs(1);

async fn all<T: 'static>(mut tasks: JoinSet<Result<T, Found>>) -> Result<Vec<T>, Found> {
    let mut results = Vec::new();
    while let Some(ended) = tasks.join_next().await {
        match ended {
            Ok(result) => results.push(result?),
            Err(error) if error.is_panic() => resume_unwind(error.into_panic()),
            Err(error) => return Err(error.to_string()),
        }
    }
    Ok(results)
}

pub(super) async fn lost_updates(probe: &Probe) -> Result<(), Found> {
    let key = probe.key("counter");
    key.store(None, b"0", MINUTE).await?;
    let end = Instant::now() + TIME;
    let mut tasks = JoinSet::new();
    for _ in 0..TASKS {
        tasks.spawn(increment(key.clone(), end));
    }
    let succeeded: usize = all(tasks).await?.into_iter().sum();
    let (_, counted) = counter(&key).await?;
    if counted != succeeded {
        return Err(format!(
            "{TASKS} tasks incremented a counter. {succeeded} swaps returned true, but the counter is {counted}"
        ));
    }
    Ok(())
}

/// Increments the counter and returns how often it did.
async fn increment(key: Key, end: Instant) -> Result<usize, Found> {
    // Each swap that fails means that another succeeds, so more attempts than that are never needed.
    let most = 2 * TASKS * INCREMENTS;
    let mut succeeded = 0;
    for _ in 0..most {
        let (kept, count) = counter(&key).await?;
        let next = (count + 1).to_string();
        let expected = Some(kept.expose_secret());
        if key.swap(expected, next.as_bytes(), MINUTE).await? {
            succeeded += 1;
        }
        if succeeded == INCREMENTS || (succeeded > 0 && Instant::now() >= end) {
            return Ok(succeeded);
        }
        yield_now().await;
    }
    Err(format!(
        "{TASKS} tasks incremented a counter. After {most} swaps of one task, only {succeeded} had returned true"
    ))
}

async fn counter(key: &Key) -> Result<(Kept, usize), Found> {
    let kept = key.load().await?;
    let kept = kept.ok_or("`load` returned `None` for a counter")?;
    let count = from_utf8(kept.expose_secret()).ok();
    let count = count.and_then(|text| text.parse().ok()).ok_or_else(|| {
        format!(
            "`load` returned {} for a counter",
            shown(kept.expose_secret())
        )
    })?;
    Ok((kept, count))
}

pub(super) async fn one_winner(probe: &Probe) -> Result<(), Found> {
    for i in 0..4 {
        race(&probe.key(&format!("race-{i}")), "no value").await?;
    }
    let mut expired = Vec::new();
    for i in 0..4 {
        let key = probe.key(&format!("expired-race-{i}"));
        expired.push((key.store(None, b"expired", SOON).await?, key));
    }
    for (stored, key) in expired {
        stored.expired().await;
        race(&key, "an expired value").await?;
    }
    Ok(())
}

async fn race(key: &Key, against: &str) -> Result<(), Found> {
    let barrier = Arc::new(Barrier::new(TASKS));
    let mut tasks = JoinSet::new();
    for i in 0..TASKS {
        let (key, barrier) = (key.clone(), barrier.clone());
        tasks.spawn(async move {
            barrier.wait().await;
            let value = format!("task {i}").into_bytes();
            let won = key.swap(None, &value, MINUTE).await?;
            Ok(won.then_some(value))
        });
    }
    let winners: Vec<_> = all(tasks).await?.into_iter().flatten().collect();
    let [winner] = winners.as_slice() else {
        return Err(format!(
            "of {TASKS} concurrent swaps against {against}, {} returned true",
            winners.len()
        ));
    };
    match key.load().await? {
        Some(kept) if kept.expose_secret() == winner => Ok(()),
        kept => Err(format!(
            "{} was stored against {against}, but `load` returned {}",
            shown(winner),
            kept.map_or_else(|| "`None`".to_owned(), |kept| shown(kept.expose_secret()))
        )),
    }
}

const SHORT: (&[u8], Duration) = (b"a minute", MINUTE);
const LONG: (&[u8], Duration) = (b"two hours", Duration::from_secs(2 * 60 * 60));

pub(super) async fn read_together(probe: &Probe) -> Result<(), Found> {
    let key = probe.key("together");
    key.store(None, SHORT.0, SHORT.1).await?;
    let end = Instant::now() + TIME;
    let reading = Arc::new(AtomicBool::new(true));
    let mut writer = JoinSet::new();
    writer.spawn(keep_swapping(key.clone(), reading.clone()));
    let mut readers = JoinSet::new();
    for _ in 0..READERS {
        readers.spawn(keep_reading(key.clone(), end));
    }
    let read = all(readers).await;
    reading.store(false, Ordering::Relaxed);
    all(writer).await?;
    read?;
    Ok(())
}

async fn keep_swapping(key: Key, reading: Arc<AtomicBool>) -> Result<(), Found> {
    let (mut now, mut next) = (SHORT, LONG);
    while reading.load(Ordering::Relaxed) {
        key.store(Some(now.0), next.0, next.1).await?;
        (now, next) = (next, now);
        yield_now().await;
    }
    if now == LONG {
        // Do not leave a value with the long time behind.
        key.store(Some(now.0), next.0, next.1).await?;
    }
    Ok(())
}

async fn keep_reading(key: Key, end: Instant) -> Result<(), Found> {
    for _ in 0..READS {
        let kept = key.load().await?;
        let kept = kept.ok_or("`load` returned `None` while a value was replaced")?;
        let (bytes, left) = (kept.expose_secret(), kept.left());
        let half_way = LONG.1 / 2;
        if (bytes == SHORT.0 && left > half_way) || (bytes == LONG.0 && left < half_way) {
            return Err(format!(
                "while values for {:?} and {:?} replaced each other, `load` returned {} with {left:?} left",
                SHORT.1,
                LONG.1,
                shown(bytes)
            ));
        }
        if Instant::now() >= end {
            break;
        }
        yield_now().await;
    }
    Ok(())
}
