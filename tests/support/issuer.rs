//! The issuer: apps, their tokens, and what it thinks of a token.

use std::{
    collections::HashMap,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use tokio::time::Instant;

use super::provider::{PROVIDER, PROVIDER_SECRET, SUITE, SUITE_SECRET};

/// A corp with two apps.
pub const CORP: &str = "ww_corp";
/// The secret of the first app of [`CORP`].
pub const SECRET: &str = "secret-of-the-first-app";
/// The secret of the second app of [`CORP`].
pub const OTHER_SECRET: &str = "secret-of-the-second-app";
/// Another corp, with one app.
pub const OTHER_CORP: &str = "ww_other_corp";
/// The secret of the app of [`OTHER_CORP`].
pub const OTHER_CORP_SECRET: &str = "secret-of-the-other-corp";

/// What another `gettoken` within the lifetime of a token does. After the token was ended it gives a new one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Repeat {
    /// Gives the same token and tells the same lifetime.
    SameToken,
    /// Gives the same token and tells what is left of its lifetime, in whole seconds.
    SameTokenShorter,
    /// Gives the same token and tells the lifetime that is set now.
    SameTokenExtended,
    /// Gives a new token; the old one stays good.
    NewTokenOldValid,
    /// Gives a new token; the old one is answered 40014.
    #[default]
    NewTokenEndsOld,
}

pub(super) struct Issuer {
    pub(super) repeat: Repeat,
    pub(super) lifetime: Duration,
    pub(super) suffix: String,
    pub(super) omit_errcode: bool,
    apps: Vec<App>,
    /// The errcode that each token ever issued is answered.
    verdicts: HashMap<String, i64>,
}

struct App {
    corp: String,
    secret: String,
    /// The good ones, newest last.
    tokens: Vec<Token>,
}

struct Token {
    value: String,
    issued: Instant,
    lifetime: Duration,
}

impl Default for Issuer {
    fn default() -> Self {
        Self {
            repeat: Repeat::default(),
            lifetime: Duration::from_secs(7200),
            suffix: String::new(),
            omit_errcode: false,
            apps: vec![
                App::new(CORP, SECRET),
                App::new(CORP, OTHER_SECRET),
                App::new(OTHER_CORP, OTHER_CORP_SECRET),
                App::new(SUITE, SUITE_SECRET),
                App::new(PROVIDER, PROVIDER_SECRET),
            ],
            verdicts: HashMap::new(),
        }
    }
}

impl App {
    fn new(corp: &str, secret: &str) -> Self {
        Self {
            corp: corp.to_owned(),
            secret: secret.to_owned(),
            tokens: Vec::new(),
        }
    }
}

impl Issuer {
    /// Adds an app, unless it is there already.
    pub(super) fn add(&mut self, corp: &str, secret: &str) {
        if self.check(corp, secret) != 0 {
            self.apps.push(App::new(corp, secret));
        }
    }

    /// The errcode for a call that takes the token of the app with this secret, and of no other.
    pub(super) fn judge_of(&self, secret: &str, token: Option<&str>) -> i64 {
        let Some(token) = token else { return 41001 };
        let mut apps = self.apps.iter().filter(|app| app.secret == secret);
        let mut good = apps.next().into_iter().flat_map(|app| &app.tokens);
        if good.any(|good| good.value == token) {
            return 0;
        }
        let verdict = self.verdicts.get(token).copied();
        verdict.filter(|verdict| *verdict != 0).unwrap_or(40082)
    }

    /// The errcode for these credentials.
    pub(super) fn check(&self, corp: &str, secret: &str) -> i64 {
        let mut apps = self.apps.iter().filter(|app| app.corp == corp).peekable();
        if apps.peek().is_none() {
            40013
        } else if apps.any(|app| app.secret == secret) {
            0
        } else {
            40001
        }
    }

    /// A token of the app, and the lifetime to tell.
    pub(super) fn issue(&mut self, secret: &str) -> (String, Duration) {
        let (repeat, lifetime) = (self.repeat, self.lifetime);
        if let Some(token) = self.app(secret).tokens.last() {
            let told = match repeat {
                Repeat::SameToken => Some(token.lifetime),
                Repeat::SameTokenShorter => {
                    Some(token.lifetime.saturating_sub(token.issued.elapsed()))
                }
                Repeat::SameTokenExtended => Some(lifetime),
                Repeat::NewTokenOldValid | Repeat::NewTokenEndsOld => None,
            };
            if let Some(told) = told {
                return (token.value.clone(), told);
            }
        }
        if repeat == Repeat::NewTokenEndsOld {
            self.end(secret, 40014);
        }
        let value = random_token() + &self.suffix;
        self.verdicts.insert(value.clone(), 0);
        self.app(secret).tokens.push(Token {
            value: value.clone(),
            issued: Instant::now(),
            lifetime,
        });
        (value, lifetime)
    }

    /// From now on the good tokens of the app are answered this errcode.
    pub(super) fn end(&mut self, secret: &str, errcode: i64) {
        let ended = std::mem::take(&mut self.app(secret).tokens);
        let ended = ended.into_iter().map(|token| (token.value, errcode));
        self.verdicts.extend(ended);
    }

    pub(super) fn current(&mut self, secret: &str) -> Option<String> {
        let newest = self.app(secret).tokens.last()?;
        Some(newest.value.clone())
    }

    /// Corp and secret of the app that has this good token.
    pub(super) fn app_with(&self, token: &str) -> (String, String) {
        let has = |app: &&App| app.tokens.iter().any(|it| it.value == token);
        let app = self.apps.iter().find(has).expect("the token is good");
        (app.corp.clone(), app.secret.clone())
    }

    /// The errcode for a call that carries these tokens.
    pub(super) fn judge(&self, tokens: &[String]) -> i64 {
        match tokens {
            [] => 41001,
            [token] => self.verdicts.get(token).copied().unwrap_or(40014),
            _ => 40014,
        }
    }

    fn app(&mut self, secret: &str) -> &mut App {
        let app = self.apps.iter_mut().find(|app| app.secret == secret);
        app.expect("an app has this secret")
    }
}

/// As long as real ones, and safe in a URL as they are. Random, so that no other stand-in takes it for its own.
pub(super) fn random_token() -> String {
    const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    let random = || RandomState::new().hash_one(()) as usize;
    (0..214)
        .map(|_| char::from(ALPHABET[random() % 64]))
        .collect()
}
