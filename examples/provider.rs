//! A service provider: one suite, three customers, and tickets that WeCom pushes. `cargo run --example provider`
//!
//! A fake API in the same process ends every token once, and one customer withdraws its authorization. The calls that are made are printed.

#![allow(clippy::print_stdout, reason = "it prints to the terminal")]

use anyhow::{Context, Result, ensure};
use reqwest::{Client, Url};
use reqwest_middleware::{ClientBuilder, ClientWithMiddleware};
use reqwest_wecom::{
    AccessTokenMiddleware, CorpToken, Credentials, Error, SuiteTickets, SuiteToken, TokenManager,
};
use support::{Qyapi, SUITE, SUITE_SECRET, code_of, customer, suite};

#[path = "../tests/support/mod.rs"]
mod support;

/// A client for the calls of the suite, and one for the calls of its customers.
fn clients(
    http: Client,
    base_url: &Url,
    suite: Credentials,
    tickets: SuiteTickets,
) -> (ClientWithMiddleware, ClientWithMiddleware) {
    let source = SuiteToken::new(http.clone(), tickets).base_url(base_url.clone());
    let manager = TokenManager::builder(source).build();
    let as_suite = AccessTokenMiddleware::builder(manager).credentials(suite);
    let as_suite = ClientBuilder::new(http.clone())
        .with(as_suite.build())
        .build();

    let source = CorpToken::new(as_suite.clone()).base_url(base_url.clone());
    let manager = TokenManager::builder(source).build();
    let as_customer = AccessTokenMiddleware::builder(manager).build();
    (as_suite, ClientBuilder::new(http).with(as_customer).build())
}

/// Your handler of the callback whose `InfoType` is `suite_ticket`, once it is decrypted.
async fn ticket_arrived(
    tickets: &SuiteTickets,
    ticket: &str,
    time_stamp: u64,
) -> Result<(), Error> {
    tickets.put(SUITE, ticket, time_stamp).await
}

#[tokio::main]
async fn main() -> Result<()> {
    let api = Qyapi::start().await;
    let tickets = SuiteTickets::new([SUITE]);
    let (as_suite, as_customer) = clients(api.client(), &api.base_url(), suite(), tickets.clone());
    let story = Story { api, as_customer };

    let error = story.user(0).await.err().context("it succeeded")?;
    story.tell(&format!("no ticket has arrived: {error:#}"), 0)?;

    story.api.set_ticket("ticket-1");
    ticket_arrived(&tickets, "ticket-1", 1_700_000_000).await?;
    for n in 0..3 {
        story.user(n).await?;
    }
    story.tell(
        "the first ticket arrives, and three customers call",
        1 + 3 + 3,
    )?;

    as_suite
        .get(story.api.url("service/get_admin_list"))
        .send()
        .await?;
    story.tell("the suite calls with the token that it has", 1)?;

    (0..3).for_each(|n| story.api.expire(&code_of(n)));
    for n in 0..3 {
        story.user(n).await?;
    }
    story.tell("the customers' tokens end", 3 * (1 + 1 + 1))?;

    story.api.set_ticket("ticket-2");
    ticket_arrived(&tickets, "ticket-2", 1_700_000_600).await?;
    story.api.reject(SUITE_SECRET, 42009);
    story.api.expire(&code_of(0));
    story.user(0).await?;
    story.tell(
        "the suite's token ends, and so does a customer's",
        1 + 3 + 1,
    )?;

    story.api.unauthorize(1);
    story.api.expire(&code_of(1));
    let error = story.user(1).await.err().context("it succeeded")?;
    story.user(2).await?;
    story.tell(
        &format!("a customer withdraws, the others go on: {error:#}"),
        1 + 3 + 1,
    )
}

struct Story {
    api: Qyapi,
    as_customer: ClientWithMiddleware,
}

impl Story {
    /// Calls as this customer.
    async fn user(&self, n: usize) -> Result<()> {
        let url = self.api.url("user/get?userid=zhangsan");
        let request = self.as_customer.get(url).with_extension(customer(n));
        let body = request.send().await?.text().await?;
        ensure!(body.contains(r#""errcode":0"#), "the API answered {body}");
        Ok(())
    }

    /// Prints what has happened, and the calls since this was last called.
    fn tell(&self, what: &str, expected: usize) -> Result<()> {
        let calls: Vec<_> = self.api.received().into_iter().map(|it| it.path).collect();
        println!("{what}\n    {}\n", calls.join("\n    "));
        ensure!(calls.len() == expected, "expected {expected} calls");
        self.api.forget_received();
        Ok(())
    }
}
