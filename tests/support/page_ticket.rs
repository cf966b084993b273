//! Tickets that sign web pages: one for each corp, and one for each app.

use std::collections::HashMap;

use serde_json::json;

use super::{Qyapi, Shared, answer::Answer, issuer::random_token, received::Received};

/// What a ticket is for: a corp, or an app, which its secret names.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum PageTicket {
    /// As `get_jsapi_ticket` returns it.
    OfCorp(String),
    /// As `ticket/get?type=agent_config` returns it.
    OfApp(String),
}

/// The tickets so far. Each is returned again and again, always with the whole lifetime.
#[derive(Default)]
pub(super) struct PageTickets(HashMap<PageTicket, String>);

impl PageTickets {
    fn of(&mut self, ticket: PageTicket) -> String {
        let value = || format!("kgt8ON7yVITDhtdwci0q{}", &random_token()[..42]);
        self.0.entry(ticket).or_insert_with(value).clone()
    }
}

impl Qyapi {
    /// The ticket that the calls return.
    pub fn page_ticket(&self, ticket: PageTicket) -> String {
        self.shared.page_tickets.lock().unwrap().of(ticket)
    }
}

/// Answers either call, which has a good access token.
pub(super) fn answer(qyapi: &Shared, call: &Received) -> Answer {
    let token = call.access_token().unwrap_or_default();
    let (corp, secret) = qyapi.issuer.lock().unwrap().app_with(&token);
    let ticket = match (call.path.as_str(), call.param("type").as_deref()) {
        ("get_jsapi_ticket", None) => PageTicket::OfCorp(corp),
        ("ticket/get", Some("agent_config")) => PageTicket::OfApp(secret),
        _ => return Answer::errcode(40035),
    };
    let ticket = qyapi.page_tickets.lock().unwrap().of(ticket);
    Answer::ok(json!({ "ticket": ticket, "expires_in": 7200 }))
}
