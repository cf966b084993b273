use std::time::Duration;

use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;

use super::issuer::{Call, Issuer};
use super::{Audience, FetchRequest, TokenSource};
use crate::{AccessToken, Error, FetchedToken, TokenKind};

/// How long a ticket serves that the issuer repeats after its expiry. The manager asks again in the last tenth, so not before 5 minutes.
const REPEATED: Duration = Duration::from_secs(6 * 60);

/// Fetches the tickets that sign web pages for WeCom's JS-SDK (<https://developer.work.weixin.qq.com/document/path/90506>).
///
/// There are two types of ticket: that of the corp (企业的 `jsapi_ticket`) and that of the app (应用的 `jsapi_ticket`). Each has a source and a kind:
///
/// | source | kind | signs | call | limit for one app |
/// | --- | --- | --- | --- | --- |
/// | [`of_corp`](Self::of_corp) | [`jsapi_ticket`](TokenKind::jsapi_ticket) | `wx.config` | `get_jsapi_ticket` | 100 an hour, and 400 for a corp |
/// | [`of_app`](Self::of_app) | [`agent_config_ticket`](TokenKind::agent_config_ticket) | `wx.agentConfig` | `ticket/get?type=agent_config` | 100 an hour |
///
/// Fetching a ticket needs an access token, which the middleware of `http` adds. Take a ticket from the [`TokenManager`](crate::TokenManager):
///
/// ```
/// use reqwest_middleware::ClientBuilder;
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, JsapiTicket, TokenKind, TokenManager};
///
/// # async fn f() -> Result<(), Box<dyn std::error::Error>> {
/// let http = reqwest::Client::builder().referer(false).build()?;
/// let app = Credentials::new("ww1234", "secret");
/// let client = ClientBuilder::new(http.clone()).with(AccessTokenMiddleware::new(http, app.clone())).build();
///
/// let tickets = TokenManager::builder(JsapiTicket::of_corp(client)).build();
/// let ticket = tickets.token(&app.of_kind(&TokenKind::jsapi_ticket())).await?;
/// # Ok(())
/// # }
/// ```
///
/// The source sends each call with the [`Credentials`](crate::Credentials) of the ticket, as access token credentials. So one client and one
/// manager serve any number of apps. For the apps of a service provider, this is the access token of the customer, not the suite's.
///
/// **Never send a ticket to the page**, only the signature: anyone who has the ticket can sign any page. The example `page_ticket` signs one.
///
/// # Repeated tickets
///
/// WeCom may return the same ticket again with `expires_in` 7200, although less time is left. The manager then keeps the expiry of the first fetch.
/// If WeCom still returns the same ticket after that, the manager uses it for 6 minutes at a time, and asks again after 5. Over a
/// [`SharedStore`](crate::SharedStore), this holds across processes and restarts. A process that starts with an empty store can't know how
/// old its first ticket is.
///
/// No call ever rejects a ticket: the page just shows `invalid signature`. If the URL and the app are right, call
/// [`TokenManager::refresh`](crate::TokenManager::refresh), which fetches now whatever the manager has.
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors), except errcode 45009. It is about one app or corp here, so it becomes [`Error::refused`] and stops
/// no fetches for others. If there is no access token, the error is the one that says why.
#[derive(Clone, Debug)]
pub struct JsapiTicket {
    issuer: Issuer,
    ticket: Ticket,
}

#[derive(Clone, Copy, Debug)]
enum Ticket {
    OfCorp,
    OfApp,
}

impl JsapiTicket {
    /// Fetches the ticket for `wx.config`. Calls `get_jsapi_ticket` at `https://qyapi.weixin.qq.com` through this client, whose middleware adds
    /// the access token.
    pub fn of_corp(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            issuer: Issuer::new(http, TokenKind::jsapi_ticket()),
            ticket: Ticket::OfCorp,
        }
    }

    /// Fetches the ticket for `wx.agentConfig`. Calls `ticket/get?type=agent_config` at `https://qyapi.weixin.qq.com` through this client,
    /// whose middleware adds the access token.
    pub fn of_app(http: impl Into<ClientWithMiddleware>) -> Self {
        Self {
            issuer: Issuer::new(http, TokenKind::agent_config_ticket()),
            ticket: Ticket::OfApp,
        }
    }

    /// Sets another [base URL](crate::GetToken::base_url). Default: `https://qyapi.weixin.qq.com/`.
    ///
    /// It must be the base URL of the source that fetches the access tokens too, or the middleware adds none.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.issuer.set_base_url(base_url);
        self
    }
}

#[async_trait]
impl TokenSource for JsapiTicket {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let (path, query): (_, &[_]) = match self.ticket {
            Ticket::OfCorp => ("cgi-bin/get_jsapi_ticket", &[]),
            Ticket::OfApp => ("cgi-bin/ticket/get", &[("type", "agent_config")]),
        };
        let app = request.credentials();
        let secret = app.expose_secret();
        let call = Call {
            path,
            field: "ticket",
            secrets: secret.as_slice(),
            scope: None,
        };
        let as_app = app.clone().of_kind(&TokenKind::access_token());
        let fetched = self.issuer.get_as(as_app, &call, query).await;
        let fetched = fetched.map_err(about_this_app)?;
        Ok(with_true_lifetime(fetched, &request))
    }

    fn audience(&self) -> Audience {
        self.issuer.audience().clone()
    }
}

/// The rate limit is one of the app or of its corp, and so must not stop the fetches for others.
fn about_this_app(error: Error) -> Error {
    match error.errcode() {
        Some(45009) => Error::refused(error),
        _ => error,
    }
}

/// A value that is known already has no more left than it had, whatever the issuer says.
fn with_true_lifetime(fetched: FetchedToken, request: &FetchRequest) -> FetchedToken {
    let is_same = |current: &&AccessToken| current.expose_secret() == fetched.expose_secret();
    let Some(current) = request.current().filter(is_same) else {
        return fetched;
    };
    let left = request.current_left();
    // The lifetime that it was given here when its expiry was over.
    let is_overdue = left.is_zero() || current.lifetime() == REPEATED;
    let left = if is_overdue { REPEATED } else { left };
    fetched.expiring_within(left)
}

#[cfg(test)]
mod tests {
    use std::time::UNIX_EPOCH;

    use super::*;
    use crate::Credentials;

    const FULL: u64 = 7200;

    /// The lifetime of a ticket if the issuer says this one, in seconds, and the current ticket has this value, lifetime, and time left.
    fn lifetime(said: u64, current: Option<(&str, u64, u64)>) -> u64 {
        let secs = Duration::from_secs;
        let mut request = FetchRequest::new(Credentials::new("corp", "secret"));
        if let Some((value, lifetime, left)) = current {
            let token = AccessToken::from_parts(value, UNIX_EPOCH, UNIX_EPOCH + secs(lifetime));
            request = request.with_current(token, secs(left));
        }
        let fetched = FetchedToken::new("ticket", secs(said));
        with_true_lifetime(fetched, &request).expires_in().as_secs()
    }

    #[test]
    fn a_known_ticket_has_no_more_left_than_it_had() {
        for (said, current, expected) in [
            (FULL, None, FULL),
            (FULL, Some(("other", FULL, 300)), FULL),
            (FULL, Some(("other", FULL, 0)), FULL),
            (FULL, Some(("ticket", FULL, 300)), 300),
            // It says the truth.
            (200, Some(("ticket", FULL, 300)), 200),
            // Its time is over, and it comes again.
            (FULL, Some(("ticket", FULL, 0)), 360),
            (FULL, Some(("ticket", 300, 0)), 360),
            (60, Some(("ticket", FULL, 0)), 60),
            (FULL, Some(("ticket", 360, 36)), 360),
            (FULL, Some(("ticket", 360, 0)), 360),
        ] {
            assert_eq!(lifetime(said, current), expected, "{said} {current:?}");
        }
    }
}
