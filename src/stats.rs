//! What a manager counts.

use std::sync::atomic::{AtomicU64, Ordering};

use serde::Serialize;

/// Defines [`Stats`] and, under the same names, the [`Counters`] that it is a reading of.
macro_rules! counters {
    ($(#[$doc:meta])* pub struct Stats { $($(#[$meaning:meta])* pub $name:ident: u64,)* }) => {
        $(#[$doc])*
        pub struct Stats {
            $($(#[$meaning])* pub $name: u64,)*
        }

        /// What is counted. None of it is on the path of a request whose token is in hand.
        #[derive(Debug, Default)]
        pub(crate) struct Counters {
            $(pub(crate) $name: Counter,)*
        }

        impl Counters {
            pub(crate) fn read(&self) -> Stats {
                Stats { $($name: self.$name.read(),)* }
            }
        }
    };
}

counters! {
    /// Counters of fetches, refreshes, replays and store calls since a manager was built: see [`TokenManager::stats`](crate::TokenManager::stats).
    ///
    /// All counters start at zero and only grow. They are for all apps of the manager together. Export them as they are to a monitoring
    /// system that expects counters, or subtract an earlier reading:
    ///
    /// ```
    /// # use reqwest_wecom::{Stats, TokenManager};
    /// # fn f(manager: TokenManager, before: Stats) {
    /// let now = manager.stats();
    /// if now.failed_refused > before.failed_refused {
    ///     eprintln!("WeCom refuses the credentials of an app");
    /// }
    /// # }
    /// ```
    ///
    /// Counters that are read together may differ by what happens meanwhile. With [`Serialize`], they are numbers under the names of the fields.
    #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
    #[non_exhaustive]
    pub struct Stats {
        /// How often the source was asked for a token, every try included. With [`GetToken`](crate::GetToken), each is one call of `gettoken`.
        ///
        /// Expect about one for each app in two hours, over all processes that share a database, and one for each token that the API rejects. A try fails in one of the four ways that
        /// follow, succeeds, or is still under way.
        pub fetches: u64,
        /// Fetches that failed although another try may succeed: no connection, a timeout, HTTP 408, 425, 429 or 5xx, errcode -1 or 45033, or a panic. Fetches
        /// that were cut off by the fetch limit or by the end of their runtime count here too.
        ///
        /// A few are normal. If they grow as fast as `fetches`, the source is down or can't be reached.
        pub failed_transient: u64,
        /// Fetches that failed, and another try will not help: errcode 40001 (wrong secret) or 60020 (IP not trusted), another HTTP status than those
        /// above, or an answer without a token. The rate limit of a [`JsapiTicket`](crate::JsapiTicket) counts here too.
        ///
        /// Any increase needs a person: [`status`](crate::TokenManager::status) tells the reason for each app.
        pub failed_refused: u64,
        /// Fetches that failed with errcode 45009, except those of a [`JsapiTicket`](crate::JsapiTicket). Each stops the fetches for all apps for at least a minute.
        pub failed_rate_limited: u64,
        /// Fetches that failed because the source had no token yet.
        pub failed_not_ready: u64,

        /// Refreshes because there was no local copy. Each app causes one when it is used for the first time, and after a long time without use.
        ///
        /// A refresh looks into the store first, so most refreshes need no fetch if other processes fetch too. That holds for all triggers.
        pub refreshes_cold: u64,
        /// Refreshes in the background because the local copy was about to expire. This is the usual one.
        pub refreshes_expiring: u64,
        /// Refreshes because the local copy had expired. They make requests wait. Apps with little traffic cause them, and sources that fail.
        pub refreshes_expired: u64,
        /// Refreshes because the API rejected the local copy. Someone else may be fetching tokens for the same app, which ends yours.
        pub refreshes_rejected: u64,
        /// Looks into the store because the local copy was older than [`local_copy`](crate::TokenManagerBuilder::local_copy).
        pub refreshes_stale: u64,
        /// Refreshes for [`token_valid_for`](crate::TokenManager::token_valid_for), because the local copy was to expire too soon.
        pub refreshes_short: u64,
        /// Refreshes that an operator forced, with [`refresh`](crate::TokenManager::refresh).
        pub refreshes_forced: u64,

        /// Requests that were sent again with another token after the API had rejected theirs.
        ///
        /// Those that were neither accepted nor rejected again failed in another way: the connection was lost, for example.
        pub replays: u64,
        /// Requests that were sent again and accepted. Your callers did not notice the rejection.
        pub replays_accepted: u64,
        /// Requests that were sent again and rejected again. The API may reject every token on this path.
        pub replays_rejected: u64,
        /// Requests that were not sent again, although there was another token: their body was longer than the
        /// [replay limit](crate::AccessTokenMiddlewareBuilder::replay_limit). They are not among `replays`.
        pub replays_too_long: u64,
        /// Rejections after which no other token could be had, because the path is held back or the
        /// [refresh budget](crate::TokenManagerBuilder::refresh_budget) is used up. The request got the API's own answer.
        pub held_back: u64,

        /// Calls to the store that read: `get`, or `load` of a shared database. Calls to the default store count too.
        pub store_reads: u64,
        /// Calls to the store that write: `put`, or `compare_and_swap` of a shared database.
        pub store_writes: u64,
        /// Calls to the store that failed, panicked, or had no answer within 2 s.
        pub store_failed: u64,
    }
}

/// A number that only grows.
#[derive(Debug, Default)]
pub(crate) struct Counter(AtomicU64);

impl Counter {
    pub(crate) fn add_one(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn read(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}
