//! What can fail, and when.

use std::net::SocketAddr;

use bytes::Bytes;
use futures_util::{StreamExt, stream};
use percent_encoding::{NON_ALPHANUMERIC, utf8_percent_encode};
use serde_json::{Value, json};

use super::support::Answer;
use super::world::Canaries;

/// What a request is at when the failure comes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Stage {
    /// Its first token is being fetched.
    Fetch,
    /// It is being sent for the first time.
    FirstTry,
    /// Its token was rejected, and another is being fetched.
    Refresh,
    /// It is being sent with the new token.
    Replay,
}

impl Stage {
    pub(crate) const ALL: [Self; 4] = [Self::Fetch, Self::FirstTry, Self::Refresh, Self::Replay];

    /// Whether it is `gettoken` that fails, and not the API.
    pub(crate) fn is_of_gettoken(self) -> bool {
        matches!(self, Self::Fetch | Self::Refresh)
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Failure {
    /// Of the connection.
    Refused,
    Reset,
    Garbage,
    Unresolvable,
    UntrustedCertificate,
    Closed,
    /// Of time.
    HangsBeforeAnswer,
    HangsInBody,
    /// Of the answer.
    CutBody,
    NotJson,
    WrongJson,
    EmptyToken,
    EndlessToken,
    Status(u16),
    Errcode(i64),
    /// Of a redirect: where it leads.
    RedirectLoop,
    RedirectToOtherScheme,
    RedirectToNobody(Wrapped),
    RedirectToAnother(Wrapped),
    /// Of the other parts.
    StoreFails,
    StorePanics,
    SourcePanics,
    SourceFails,
    LayerBelowFails,
}

/// How a redirect that takes the query along wraps it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Wrapped {
    AsItIs,
    IntoParameter,
    Twice,
    IntoFragment,
    IntoPath,
    IntoUserName,
}

/// All that `gettoken` and the API are known to answer.
const ERRCODES: [i64; 16] = [
    -1, 40001, 40013, 40014, 40080, 40082, 40083, 40084, 40085, 40091, 41001, 42001, 42009, 45009,
    60020, 99999,
];

impl Failure {
    pub(crate) fn all() -> Vec<Self> {
        let mut all = vec![
            Self::Refused,
            Self::Reset,
            Self::Garbage,
            Self::Unresolvable,
            Self::UntrustedCertificate,
            Self::Closed,
            Self::HangsBeforeAnswer,
            Self::HangsInBody,
            Self::CutBody,
            Self::NotJson,
            Self::WrongJson,
            Self::EmptyToken,
            Self::EndlessToken,
            Self::RedirectLoop,
            Self::RedirectToOtherScheme,
            Self::StoreFails,
            Self::StorePanics,
            Self::SourcePanics,
            Self::SourceFails,
            Self::LayerBelowFails,
        ];
        all.extend([302, 400, 403, 404, 500, 502, 503].map(Self::Status));
        all.extend(ERRCODES.map(Self::Errcode));
        all.extend(Wrapped::ALL.map(Self::RedirectToNobody));
        all.extend(Wrapped::ALL.map(Self::RedirectToAnother));
        all
    }

    /// The answers that it is, if it is any. What an issuer says goes into our errors, so it tells all there.
    pub(crate) fn answers(
        self,
        stage: Stage,
        canaries: &Canaries,
        nobody: SocketAddr,
        another: SocketAddr,
    ) -> Vec<Answer> {
        let all = if stage.is_of_gettoken() {
            format!("{} {}", canaries.secret, canaries.tokens[0])
        } else {
            String::new()
        };
        let json = |value: Value| Answer::json(value.to_string());
        let gives =
            |token: &str| json(json!({ "errmsg": all, "access_token": token, "expires_in": 7200 }));
        let redirect = |to: &str| Answer::status(302).header("location", to);
        let query = canaries.query(stage);
        let begun = format!(r#"{{"errmsg":"{all}"#);
        let answer = match self {
            Self::HangsInBody => {
                let hanging = |_| {
                    let begun = Ok(Bytes::from(begun.clone()));
                    Answer::stream(stream::iter([begun]).chain(stream::pending()))
                        .header("content-type", "application/json")
                };
                return (0..16).map(hanging).collect();
            }
            Self::Closed => Answer::close(),
            Self::HangsBeforeAnswer => Answer::hang(),
            Self::NotJson => Answer::json(format!("<html>{all}</html>")),
            Self::WrongJson => json(json!([all, { "access_token": all }])),
            Self::EmptyToken => gives(""),
            Self::EndlessToken => gives(&canaries.tokens[0].repeat(500)),
            Self::Status(status) => Answer::status(status).body(all),
            Self::Errcode(errcode) => {
                let [token, _] = canaries.tokens;
                json(json!({ "errcode": errcode, "errmsg": all, "access_token": token }))
            }
            Self::RedirectLoop => redirect(&format!("?{query}")),
            Self::RedirectToOtherScheme => redirect(&format!("ftp://{nobody}/?{query}")),
            Self::RedirectToNobody(wrapped) => redirect(&wrapped.location(nobody, &query)),
            Self::RedirectToAnother(wrapped) => redirect(&wrapped.location(another, &query)),
            _ => return Vec::new(),
        };
        vec![answer.always()]
    }
}

impl Wrapped {
    const ALL: [Self; 6] = [
        Self::AsItIs,
        Self::IntoParameter,
        Self::Twice,
        Self::IntoFragment,
        Self::IntoPath,
        Self::IntoUserName,
    ];

    fn location(self, nobody: SocketAddr, query: &str) -> String {
        let encoded = |text: &str| utf8_percent_encode(text, NON_ALPHANUMERIC).to_string();
        let once = encoded(&format!("/cgi-bin/user/get?{query}"));
        match self {
            Self::AsItIs => format!("http://{nobody}/login?{query}"),
            Self::IntoParameter => format!("http://{nobody}/login?back={once}"),
            Self::Twice => format!("http://{nobody}/login?back={}", encoded(&once)),
            Self::IntoFragment => format!("http://{nobody}/login#{query}"),
            Self::IntoPath => format!("http://{nobody}/login/{once}"),
            Self::IntoUserName => format!("http://{once}:{once}@{nobody}/login"),
        }
    }
}
