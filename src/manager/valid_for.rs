//! Tokens for callers who need them for a while.

use std::time::Duration;

use super::single_flight::Trigger;
use super::slot::State;
use super::step::Step;
use super::throttle::LOST;
use super::{MOST_REFRESHES, Served, Tenant, TokenManager};
use crate::clock::Moment;
use crate::{AccessToken, Credentials, Error};

impl TokenManager {
    /// A token for these credentials that does not expire within `min`, for a long upload or another program, for example.
    ///
    /// Returns the local copy, or the token in the store, if it has that much time left. Otherwise the manager gets another one, like a refresh
    /// ahead: cooldowns and rate limits hold it back, and processes that share a database make one fetch for all.
    ///
    /// WeCom's tokens expire after two hours, so ask for much less: with a `min` of 110 minutes, this fetches every 10 minutes. In these cases the
    /// source is not asked, and the call fails with [`ExpiresTooSoon`](crate::ErrorKind::ExpiresTooSoon), so repeated calls cause no more fetches:
    ///
    /// - The newest token had less than `min` when it was fetched. The source is asked again when that token is due for a refresh.
    /// - The newest token was fetched within the last minute, or within the last tenth of its lifetime if that is shorter.
    ///
    /// ```
    /// use std::time::Duration;
    /// # use reqwest_wecom::{Credentials, Error, TokenManager};
    ///
    /// # async fn f(manager: TokenManager, credentials: Credentials) -> Result<(), Error> {
    /// let token = manager.token_valid_for(&credentials, Duration::from_secs(30 * 60)).await?;
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Fails if there is no such token. The kind is [`ExpiresTooSoon`](crate::ErrorKind::ExpiresTooSoon) if there is a token but it has less time
    /// left and the source has none that lives longer, or never fetches. [`token`](Self::token) still returns it. The other reasons are
    /// those of `token`.
    ///
    /// # Panics
    ///
    /// Panics if it has to wait for a token on a tokio runtime that was built without `enable_time`.
    ///
    /// # Cancel safety
    ///
    /// This method is cancel safe. A refresh that it started continues in the background.
    pub async fn token_valid_for(
        &self,
        credentials: &Credentials,
        min: Duration,
    ) -> Result<AccessToken, Error> {
        let tenant = self.tenant(credentials);
        for _ in 0..MOST_REFRESHES {
            let token = self.token_of(&tenant).await?;
            let left = token.left(self.shared.clock.now());
            if left >= min {
                return Ok(token);
            }
            let refresh = match self.longer_lived(&tenant, min)? {
                Served::Token(token) => return Ok(token),
                Served::Refresh(refresh, _) => refresh,
            };
            match tenant.outcome_of(refresh).await {
                Some(Err(_)) if !self.shared.fetches => {
                    return Err(Error::expires_too_soon(left, min));
                }
                Some(Err(error)) => return Err(error),
                Some(Ok(_)) | None => {}
            }
        }
        Err(Error::interrupted(LOST))
    }

    /// A token with so much time left, or a refresh that may bring one.
    fn longer_lived(&self, tenant: &Tenant, min: Duration) -> Result<Served, Error> {
        let now = self.shared.clock.moment();
        self.decide(tenant, tenant.slot.lock(), now, |state| {
            self.step_for_longer_lived(state, tenant, min, now)
        })
    }

    fn step_for_longer_lived(
        &self,
        state: &mut State,
        tenant: &Tenant,
        min: Duration,
        now: Moment,
    ) -> Step {
        let Some(local) = state.usable(now.wall) else {
            return self.step(state, tenant, now);
        };
        let left = local.token.left(now.wall);
        if left >= min {
            return Step::Serve(local.token.clone(), None);
        }
        if let Some(refresh) = &state.refresh
            && refresh.may_fetch()
        {
            return Step::Join(refresh.clone(), None);
        }
        if local.token.is_best_for(min, now.wall) {
            return Step::Fail(Error::expires_too_soon(left, min));
        }
        let permit = self.permit(state, now, true);
        self.start_or_fail(state, tenant, Trigger::Short, permit, None, now)
    }
}
