//! Tickets for pages: what the two calls may answer, and what may become of the connection.

use std::time::{Duration, UNIX_EPOCH};

use futures_util::future::join_all;
use reqwest_middleware::ClientBuilder;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, Credentials, FetchRequest, GetToken, JsapiTicket,
    TokenManager, TokenSource,
};
use serde_json::json;

use super::failure::{Failure, Stage};
use super::search::Places;
use super::support::{Answer, Qyapi};
use super::world::{Canaries, nobody};

const CALLS: [&str; 2] = ["get_jsapi_ticket", "ticket/get"];

/// Plays each failure that is an answer, for both types of ticket.
pub(crate) async fn play(canaries: &'static Canaries, places: &mut Places) {
    let stages = [Stage::Fetch, Stage::FirstTry];
    let failures = Failure::all().into_iter();
    let failures = failures.flat_map(|it| stages.map(|stage| Some((it, stage))));
    let all = failures.chain([None]);
    let scenes = all.flat_map(|failure| CALLS.map(|call| scene(failure, call, canaries)));
    for of_scene in join_all(scenes).await {
        places.looked_in.extend(of_scene.looked_in);
        places.leaks.extend(of_scene.leaks);
    }
}

/// `None`: the ticket comes.
async fn scene(failure: Option<(Failure, Stage)>, call: &str, canaries: &Canaries) -> Places {
    let mut places = Places::new(format!("{call} {failure:?} {canaries:?}"));
    let qyapi = Qyapi::start().await;
    let http = qyapi.client_builder().timeout(Duration::from_secs(1));
    let http = http.build().unwrap();
    let app = Credentials::new("ww_corp", canaries.secret);
    let tokens = GetToken::new(http.clone()).base_url(qyapi.base_url());
    let tokens = TokenManager::builder(tokens).build();
    let middleware = AccessTokenMiddleware::builder(tokens).build();
    let client = ClientBuilder::new(http).with(middleware).build();
    let source = if call == CALLS[0] {
        JsapiTicket::of_corp(client)
    } else {
        JsapiTicket::of_app(client)
    };
    let source = source.base_url(qyapi.base_url());
    let tickets = TokenManager::builder(source.clone()).build();
    let credentials = app.of_kind(source.audience().kind());

    let [token, ticket] = canaries.tokens;
    let gives = json!({ "access_token": token, "expires_in": 7200 });
    qyapi.script("gettoken", Answer::ok(gives).always());
    let gives = Answer::ok(json!({ "ticket": ticket, "expires_in": 7200 }));
    let answers = match failure {
        None => vec![gives],
        // A failure that tells the ticket too.
        Some((Failure::Errcode(errcode), Stage::FirstTry)) => {
            let said = format!("{} {token} {ticket}", canaries.secret);
            let said = json!({ "errcode": errcode, "errmsg": said, "ticket": ticket });
            vec![Answer::json(said.to_string()).always()]
        }
        Some((failure, stage)) => failure.answers(stage, canaries, nobody().await, qyapi.addr()),
    };
    for answer in answers {
        qyapi.script(call, answer);
    }
    match tickets.token(&credentials).await {
        Ok(ticket) => places.look_at("ticket", &ticket),
        Err(error) => places.look_into("error of the ticket's manager", &error),
    }
    places.look("key of a ticket", tickets.key(&credentials).as_str());
    places.look_at("credentials of a ticket", &credentials);
    places.look_at("source of tickets", &source);
    places.look_at("manager of tickets", &tickets);
    let current = AccessToken::from_parts(ticket, UNIX_EPOCH, UNIX_EPOCH);
    let request = FetchRequest::new(credentials).with_current(current, Duration::ZERO);
    places.look_at("request for a ticket", &request);
    places
}
