use std::borrow::Cow;
use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use http::Extensions;
use tokio::time::Instant;

use crate::AccessToken;

const FIRST_PAUSE: Duration = Duration::from_secs(2);
const LONGEST_PAUSE: Duration = Duration::from_secs(300);
/// One fetch comes back to the budget in this time.
const REFILL: Duration = Duration::from_secs(10);
/// So many paths are kept in mind; the API has fewer.
const MOST_PATHS: usize = 1024;

/// Decides whether a rejection is a reason to fetch, for one key, so that an API that rejects every token causes no flood.
///
/// A refresh whose token was rejected too, on the same path, was futile. The next one for that path is held back, twice as long each time.
/// Other paths are not, so a token that was really revoked is replaced at once. On top of that, all rejections together have a budget.
#[derive(Debug, Default)]
pub(super) struct Guard {
    futile: HashMap<Box<str>, Futile>,
    /// When the budget will be whole again.
    whole_at: Option<Instant>,
    is_exhausted: bool,
}

/// There is no fetch left in the budget.
#[derive(Debug)]
pub(super) struct Exhausted {
    /// Whether there was one the last time.
    pub(super) is_news: bool,
}

#[derive(Debug)]
struct Futile {
    token: AccessToken,
    /// How often another token was futile before.
    times: u32,
    held_until: Instant,
}

impl Guard {
    /// Whether a refresh for this path is held back.
    pub(super) fn holds_back(&self, path: &str, now: Instant) -> bool {
        self.futile
            .get(path)
            .is_some_and(|futile| now < futile.held_until)
    }

    /// The new token was rejected too on this path. Returns how long the next refresh is held back, if that is news.
    pub(super) fn futile(
        &mut self,
        path: &str,
        token: &AccessToken,
        now: Instant,
    ) -> Option<Duration> {
        let times = match self.futile.get(path) {
            // A crowd that was sent again with the one token says one thing only.
            Some(futile) if futile.token == *token && now < futile.held_until => return None,
            Some(futile) if futile.token == *token => futile.times,
            Some(futile) => futile.times + 1,
            None => 0,
        };
        if self.futile.len() >= MOST_PATHS {
            self.futile.retain(|_, futile| now < futile.held_until);
        }
        let pause = FIRST_PAUSE
            .saturating_mul(1 << times.min(16))
            .min(LONGEST_PAUSE);
        let futile = Futile {
            token: token.clone(),
            times,
            held_until: now + pause,
        };
        self.futile.insert(path.into(), futile);
        Some(pause)
    }

    /// A token was accepted on this path.
    pub(super) fn accepted(&mut self, path: &str) {
        if !self.futile.is_empty() {
            self.futile.remove(path);
        }
    }

    /// Takes one fetch out of the budget.
    pub(super) fn spend(&mut self, budget: u32, now: Instant) -> Result<(), Exhausted> {
        let whole_at = self.whole_at.map_or(now, |at| at.max(now));
        if whole_at - now + REFILL > REFILL.saturating_mul(budget) {
            let is_news = !std::mem::replace(&mut self.is_exhausted, true);
            return Err(Exhausted { is_news });
        }
        self.whole_at = Some(whole_at + REFILL);
        self.is_exhausted = false;
        Ok(())
    }

    /// Returns a fetch that was not needed.
    pub(super) fn give_back(&mut self) {
        self.whole_at = self.whole_at.and_then(|at| at.checked_sub(REFILL));
    }

    /// Whether it holds nothing back and its budget is whole.
    pub(super) fn is_at_rest(&self, now: Instant) -> bool {
        self.whole_at.is_none_or(|at| at <= now)
            && self.futile.values().all(|futile| now >= futile.held_until)
    }
}

/// Put on a request as an extension, this tells the manager what else a rejection is about, beside the path: a customer or an agent, for example.
///
/// The API may reject calls of one path for one customer only. Without a scope, such calls hold back the refreshes that others need on the same
/// path. With a scope, path and scope together are held back. The text is logged with the path, so it must not be a secret.
///
/// ```
/// # use reqwest_wecom::RejectionScope;
/// # fn f(client: reqwest_middleware::ClientWithMiddleware) {
/// client
///     .get("https://qyapi.weixin.qq.com/cgi-bin/kf/customer/batchget")
///     .with_extension(RejectionScope::new("customer 7"))
/// # ;}
/// ```
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RejectionScope(Arc<str>);

impl RejectionScope {
    /// The scope of this name.
    pub fn new(name: impl Into<String>) -> Self {
        Self(name.into().into())
    }

    /// The path of a request, with its scope if it has one.
    pub(crate) fn joined<'a>(path: &'a str, extensions: &Extensions) -> Cow<'a, str> {
        match extensions.get::<Self>() {
            // A path has no spaces, so this is no other path.
            Some(Self(name)) => format!("{path} {name}").into(),
            None => path.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn token(value: &str) -> AccessToken {
        let now = std::time::SystemTime::now();
        AccessToken::from_parts(value, now, now + Duration::from_secs(7200))
    }

    #[test]
    fn a_path_is_held_back_longer_each_time_until_it_accepts() {
        let (mut guard, mut now) = (Guard::default(), Instant::now());
        for (n, pause) in [2, 4, 8, 16, 32, 64, 128, 256, 300, 300]
            .into_iter()
            .enumerate()
        {
            let pause = Duration::from_secs(pause);
            assert!(!guard.holds_back("bad", now));
            assert_eq!(
                guard.futile("bad", &token(&n.to_string()), now),
                Some(pause)
            );
            assert!(guard.holds_back("bad", now + pause - Duration::from_millis(1)));
            assert!(!guard.holds_back("good", now));
            now += pause;
        }
        guard.accepted("bad");
        assert_eq!(guard.futile("bad", &token("next"), now), Some(FIRST_PAUSE));
    }

    #[test]
    fn a_crowd_with_one_token_counts_once() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let token = token("refreshed");
        assert!(guard.futile("bad", &token, now).is_some());
        assert!(guard.futile("bad", &token, now).is_none());
    }

    #[test]
    fn the_budget_comes_back_one_by_one() {
        let (mut guard, now) = (Guard::default(), Instant::now());
        let granted =
            |guard: &mut Guard, now| (0..100).filter(|_| guard.spend(10, now).is_ok()).count();
        assert_eq!(granted(&mut guard, now), 10);
        assert_eq!(granted(&mut guard, now + REFILL), 1);
        guard.give_back();
        assert_eq!(granted(&mut guard, now + REFILL), 1);
        assert_eq!(granted(&mut guard, now + REFILL * 3), 2);
        assert_eq!(granted(&mut guard, now + REFILL * 1000), 10);
        assert!(Guard::default().spend(0, now).is_err());
    }

    #[test]
    fn many_paths_are_not_kept_for_ever() {
        let (mut guard, mut now) = (Guard::default(), Instant::now());
        for n in 0..10 * MOST_PATHS {
            guard.futile(&n.to_string(), &token("refreshed"), now);
            now += FIRST_PAUSE;
        }
        assert!(guard.futile.len() <= MOST_PATHS);
    }
}
