//! The calls of a service provider: suites, customers, downstream corps, and the zone.

use std::collections::HashSet;

use axum::http::Method;
use reqwest_wecom::{Credentials, TokenKind};
use serde_json::Value;

use super::{CORP, Qyapi, SECRET, Shared, answer::Answer, api::issued, received::Received};

/// A suite.
pub const SUITE: &str = "ww_suite";
/// The secret of [`SUITE`].
pub const SUITE_SECRET: &str = "secret-of-the-suite";
/// The corp of the service provider.
pub const PROVIDER: &str = "ww_provider";
/// The provider secret of [`PROVIDER`].
pub const PROVIDER_SECRET: &str = "secret-of-the-provider";
/// The secret of the zone of [`PROVIDER`].
pub const ZONE_SECRET: &str = "secret-of-the-zone";
/// The agent id of the app in each downstream corp.
pub const BRANCH_AGENT: &str = "1000002";

/// The credentials of [`SUITE`].
pub fn suite() -> Credentials {
    Credentials::new(SUITE, SUITE_SECRET).of_kind(&TokenKind::suite_access_token())
}

/// The credentials of [`PROVIDER`].
pub fn provider() -> Credentials {
    Credentials::new(PROVIDER, PROVIDER_SECRET).of_kind(&TokenKind::provider_access_token())
}

/// The credentials of a customer of [`SUITE`].
pub fn customer(n: usize) -> Credentials {
    Credentials::new(format!("ww_customer_{n}"), code_of(n))
}

/// The permanent code of a customer, by which the stand-in knows its tokens.
pub fn code_of(n: usize) -> String {
    format!("permanent-code-of-ww_customer_{n}")
}

/// The credentials of a corp downstream of the corp of [`app`](super::app).
pub fn branch(n: usize) -> Credentials {
    Credentials::without_secret(format!("ww_branch_{n}"), BRANCH_AGENT)
}

#[derive(Default)]
pub(super) struct Provider {
    tickets: HashSet<String>,
    unauthorized: HashSet<String>,
}

/// What the provider's side is told.
impl Qyapi {
    /// From now on this ticket of [`SUITE`] is the only good one.
    pub fn set_ticket(&self, ticket: &str) {
        self.provider_side().tickets = HashSet::from([ticket.to_owned()]);
    }

    /// From now on this customer has not authorized the suite.
    pub fn unauthorize(&self, n: usize) {
        let corp = customer(n).id().to_owned();
        self.provider_side().unauthorized.insert(corp);
    }

    /// From now on it has again.
    pub fn authorize(&self, n: usize) {
        self.provider_side().unauthorized.remove(customer(n).id());
    }

    /// How often a token of this customer was fetched.
    pub fn corp_token_count_of(&self, n: usize) -> usize {
        let corp = customer(n).id().to_owned();
        let of_corp = |it: &Received| it.json("auth_corpid") == corp;
        let is_call = |it: &Received| it.path == "service/get_corp_token";
        self.received()
            .iter()
            .filter(|it| is_call(it) && of_corp(it))
            .count()
    }

    fn provider_side(&self) -> std::sync::MutexGuard<'_, Provider> {
        self.shared.provider.lock().unwrap()
    }
}

impl Received {
    /// A text of the JSON that was sent.
    pub fn json(&self, name: &str) -> String {
        let json: Value = serde_json::from_slice(&self.body).unwrap_or_default();
        json[name].as_str().unwrap_or_default().to_owned()
    }
}

/// The answer, if this is a call of the provider's side.
pub(super) fn decide(qyapi: &Shared, call: &Received) -> Option<Answer> {
    let refused = |errcode| Some(Answer::errcode(errcode));
    let mut issuer = qyapi.issuer.lock().unwrap();
    let provider = qyapi.provider.lock().unwrap();
    let as_suite = || call.param("suite_access_token");
    match call.path.as_str() {
        "service/get_suite_token" => {
            let secret = call.json("suite_secret");
            match issuer.check(&call.json("suite_id"), &secret) {
                0 if !provider.tickets.contains(&call.json("suite_ticket")) => refused(40085),
                0 => Some(issued(&mut issuer, &secret, "suite_access_token")),
                40013 => refused(40080),
                errcode => refused(errcode),
            }
        }
        "service/get_provider_token" => {
            let secret = call.json("provider_secret");
            match issuer.check(&call.json("corpid"), &secret) {
                0 => Some(issued(&mut issuer, &secret, "provider_access_token")),
                errcode => refused(errcode),
            }
        }
        "service/get_corp_token" => {
            let errcode = issuer.judge_of(SUITE_SECRET, as_suite().as_deref());
            let (corp, code) = (call.json("auth_corpid"), call.json("permanent_code"));
            if errcode != 0 {
                return refused(errcode);
            }
            if provider.unauthorized.contains(&corp) {
                return refused(40082);
            }
            if code != format!("permanent-code-of-{corp}") {
                return refused(40084);
            }
            issuer.add(&corp, &code);
            Some(issued(&mut issuer, &code, "access_token"))
        }
        "service/get_admin_list" => {
            let errcode = issuer.judge_of(SUITE_SECRET, as_suite().as_deref());
            refused(errcode)
        }
        path if path.starts_with("license/") => {
            let token = call.param("provider_access_token");
            refused(issuer.judge_of(PROVIDER_SECRET, token.as_deref()))
        }
        "service/get_login_info" => {
            refused(issuer.judge_of(PROVIDER_SECRET, call.access_token().as_deref()))
        }
        "corpgroup/corp/gettoken" if call.method == Method::POST => {
            let errcode = issuer.judge_of(SECRET, call.access_token().as_deref());
            if errcode != 0 {
                return refused(if errcode == 40082 { 40014 } else { errcode });
            }
            let sent: Value = serde_json::from_slice(&call.body).unwrap_or_default();
            let is_complete = sent["agentid"].is_u64() && sent["business_type"].is_u64();
            if !is_complete {
                return refused(47001);
            }
            let corp = call.json("corpid");
            let secret = format!("{}-of-{corp}-below-{CORP}", sent["agentid"]);
            issuer.add(&corp, &secret);
            Some(issued(&mut issuer, &secret, "access_token"))
        }
        "/spec/gettoken" => {
            issuer.add(PROVIDER, ZONE_SECRET);
            match issuer.check(&call.json("corpid"), &call.json("secret")) {
                0 => Some(issued(&mut issuer, ZONE_SECRET, "access_token")),
                errcode => refused(errcode),
            }
        }
        _ => None,
    }
}
