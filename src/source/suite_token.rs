use async_trait::async_trait;
use reqwest::Url;
use reqwest_middleware::ClientWithMiddleware;
use serde_json::json;

use super::issuer::{Call, Issuer};
use super::suite_tickets::Ticket;
use super::{Audience, FetchRequest, SuiteTickets, TokenSource};
use crate::{Error, FetchedToken, TokenKind};

/// The ticket is invalid or out of date.
const INVALID_TICKET: i64 = 40085;

/// Fetches the tokens of a service provider's suites, with `POST {base URL}/cgi-bin/service/get_suite_token`
/// (<https://developer.work.weixin.qq.com/document/path/90600>).
///
/// It needs [`Credentials`](crate::Credentials) of the kind [`suite_access_token`](TokenKind::suite_access_token), with the id and the secret of
/// the suite, and the [tickets](SuiteTickets) that WeCom pushes to you:
///
/// ```
/// use reqwest_wecom::{AccessTokenMiddleware, Credentials, SuiteTickets, SuiteToken, TokenKind, TokenManager};
///
/// # fn f(http: reqwest::Client) {
/// let tickets = SuiteTickets::new(["ww_suite"]);
/// let suite = Credentials::new("ww_suite", "suite secret").of_kind(&TokenKind::suite_access_token());
/// let manager = TokenManager::builder(SuiteToken::new(http, tickets)).build();
/// let middleware = AccessTokenMiddleware::builder(manager).credentials(suite).build();
/// # }
/// ```
///
/// # Errors
///
/// As for [`GetToken`](crate::GetToken#errors), and [`Error::not_ready`] while there is no usable ticket.
///
/// If WeCom rejects the ticket (40085), the source reads it again and repeats the call once if there is a newer one. Otherwise it does not use
/// that ticket for 60 s, or until a newer one arrives.
#[derive(Clone, Debug)]
pub struct SuiteToken {
    issuer: Issuer,
    tickets: SuiteTickets,
}

impl SuiteToken {
    /// Calls `get_suite_token` at `https://qyapi.weixin.qq.com` through this client. Other middleware on it sees secret and ticket in the body.
    pub fn new(http: impl Into<ClientWithMiddleware>, tickets: SuiteTickets) -> Self {
        Self {
            issuer: Issuer::new(http, TokenKind::suite_access_token()),
            tickets,
        }
    }

    /// Sets another [base URL](crate::GetToken::base_url). Default: `https://qyapi.weixin.qq.com/`.
    #[must_use]
    pub fn base_url(mut self, base_url: Url) -> Self {
        self.issuer.set_base_url(base_url);
        self
    }

    async fn fetch_with(
        &self,
        id: &str,
        secret: &str,
        ticket: &Ticket,
    ) -> Result<FetchedToken, Error> {
        let ticket = ticket.expose_secret();
        let call = Call {
            path: "cgi-bin/service/get_suite_token",
            field: "suite_access_token",
            secrets: &[secret, ticket],
            scope: None,
        };
        let body = json!({ "suite_id": id, "suite_secret": secret, "suite_ticket": ticket });
        self.issuer.post(&call, &body).await
    }
}

#[async_trait]
impl TokenSource for SuiteToken {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        let (id, secret) = (request.credentials().id(), request.secret()?);
        let ticket = self.tickets.newest(id).await?;
        let first = self.fetch_with(id, secret, &ticket).await;
        let Some(error) = about_ticket(&first) else {
            return first;
        };
        self.tickets.rejected(id, &ticket, error);
        // Another process may have received a newer one. If not, this fails.
        let ticket = self.tickets.newest(id).await?;
        let second = self.fetch_with(id, secret, &ticket).await;
        let Some(error) = about_ticket(&second) else {
            return second;
        };
        self.tickets.rejected(id, &ticket, error);
        Err(Error::not_ready(error.clone()))
    }

    fn audience(&self) -> Audience {
        self.issuer.audience().clone()
    }
}

fn about_ticket(fetched: &Result<FetchedToken, Error>) -> Option<&Error> {
    let error = fetched.as_ref().err()?;
    (error.errcode() == Some(INVALID_TICKET)).then_some(error)
}
