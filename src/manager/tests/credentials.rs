//! Who a token is for.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use futures_util::poll;
use tokio::task::yield_now;

use super::world::{World, errcode_of, fails_as};
use crate::{
    AccessToken, AccessTokenMiddleware, BoxError, Credentials, Error, ErrorKind, FetchRequest,
    FetchedToken, TokenKey, TokenManager, TokenSource, TokenStore,
};

/// The first 32 hex digits of the SHA-256 of "secret".
const DIGEST_OF_SECRET: &str = "2bb80d537b1da3e38bd30361aa855686";

fn with_secret() -> Credentials {
    Credentials::new("corp", "secret")
}

fn without_secret() -> Credentials {
    Credentials::without_secret("corp", DIGEST_OF_SECRET)
}

/// A source that needs the secret, as `gettoken` does.
#[derive(Default)]
struct NeedsSecret {
    fetches: AtomicUsize,
}

#[crate::async_trait]
impl TokenSource for NeedsSecret {
    async fn fetch(&self, request: FetchRequest) -> Result<FetchedToken, Error> {
        self.fetches.fetch_add(1, Ordering::Relaxed);
        tokio::time::sleep(Duration::from_millis(100)).await;
        let credentials = request.credentials();
        match credentials.expose_secret() {
            Some(_) => Ok(FetchedToken::new("token", Duration::from_secs(7200))),
            None => Err(Error::no_secret(credentials.id())),
        }
    }
}

/// Counts its calls.
#[derive(Default)]
struct Counting(AtomicUsize);

#[crate::async_trait]
impl TokenStore for Counting {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(None)
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        self.0.fetch_add(1, Ordering::Relaxed);
        Ok(())
    }
}

#[tokio::test(start_paused = true)]
async fn empty_credentials_are_an_error_before_any_call() {
    let world = World::new();
    let store = Arc::new(Counting::default());
    let manager = world.builder().store(store.clone()).build();
    for empty in [
        Credentials::new("", "secret"),
        Credentials::new("\u{feff} ", "secret"),
        Credentials::new("corp", "\n"),
        Credentials::without_secret("corp", " "),
        Credentials::without_secret("", "app"),
    ] {
        for _ in 0..3 {
            let token = manager.token(&empty).await;
            assert!(fails_as(&token, ErrorKind::InvalidCredentials), "{token:?}");
            let other = manager.refresh_rejected(&empty, "dead").await;
            assert!(fails_as(&other, ErrorKind::InvalidCredentials), "{other:?}");
        }
    }
    assert_eq!(world.issuer.fetch_count(), 0);
    assert_eq!(store.0.load(Ordering::Relaxed), 0);
}

#[tokio::test(start_paused = true)]
async fn a_secret_from_a_file_finds_the_token_of_the_trimmed_one() {
    let world = World::new();
    let manager = world.manager();
    let token = manager.token(&with_secret()).await.unwrap();
    let from_file = Credentials::new("corp\n", "\u{feff}secret\r\n");
    assert_eq!(manager.key(&from_file), manager.key(&with_secret()));
    assert_eq!(manager.token(&from_file).await.unwrap(), token);
    assert_eq!(world.issuer.fetch_count(), 1);
}

#[tokio::test(start_paused = true)]
async fn who_has_the_secret_does_not_fail_for_want_of_it_whoever_started() {
    let manager = TokenManager::builder(NeedsSecret::default()).build();
    let (with, without) = (with_secret(), without_secret());
    assert_eq!(manager.key(&with), manager.key(&without));

    let mut first = Box::pin(manager.token(&without));
    assert!(poll!(&mut first).is_pending());
    yield_now().await;
    let second = manager.token(&with).await;
    assert_eq!(second.unwrap().expose_secret(), "token");
    let first = first.await;
    assert!(fails_as(&first, ErrorKind::NoSecret), "{first:?}");
    assert!(manager.token(&without).await.is_ok(), "the token is there");
}

#[tokio::test(start_paused = true)]
async fn who_has_the_secret_gets_a_token_in_a_crowd_without() {
    let source = Arc::new(NeedsSecret::default());
    let manager = TokenManager::builder(source.clone()).build();
    let crowd: Vec<_> = (0..100)
        .map(|_| {
            let manager = manager.clone();
            tokio::spawn(async move {
                while manager.token(&without_secret()).await.is_err() {
                    yield_now().await;
                }
            })
        })
        .collect();
    while source.fetches.load(Ordering::Relaxed) == 0 {
        yield_now().await;
    }
    assert!(manager.token(&with_secret()).await.is_ok());
    for one in crowd {
        one.await.unwrap();
    }
    assert_eq!(
        source.fetches.load(Ordering::Relaxed),
        2,
        "one without the secret, then one with it"
    );
}

#[tokio::test(start_paused = true)]
async fn after_a_rejection_too_the_secret_is_used_whoever_started() {
    let manager = TokenManager::builder(NeedsSecret::default()).build();
    let (with, without) = (with_secret(), without_secret());
    let mut first = Box::pin(manager.refresh_rejected(&without, "dead"));
    assert!(poll!(&mut first).is_pending());
    yield_now().await;
    assert!(manager.refresh_rejected(&with, "dead").await.is_ok());
    assert!(first.await.is_err());
}

/// Which app a request is for, as a program might say it.
#[derive(Clone)]
struct Corp(&'static str);

#[tokio::test(start_paused = true)]
async fn the_app_of_a_request_is_its_own_or_the_chosen_or_the_default() {
    let world = World::new();
    let manager = world.manager();
    let [own, chosen, default] = ["own", "chosen", "default"].map(|id| Credentials::new(id, "s"));
    let builder = AccessTokenMiddleware::builder(manager.clone()).credentials_for({
        let chosen = chosen.clone();
        move |request, extensions| {
            let Corp(name) = extensions.get()?;
            let is_get = request.method() == reqwest::Method::GET;
            (is_get && *name == "chosen").then(|| chosen.clone())
        }
    });
    let with_default = world.client_with(builder.clone().credentials(default.clone()).build());
    let without = world.client_with(builder.build());
    let url = "https://qyapi.weixin.qq.com/cgi-bin/user/get";

    for (request, app) in [
        (with_default.get(url), &default),
        (
            with_default.get(url).with_extension(Corp("other")),
            &default,
        ),
        (
            with_default.post(url).with_extension(Corp("chosen")),
            &default,
        ),
        (
            with_default.get(url).with_extension(Corp("chosen")),
            &chosen,
        ),
        (
            with_default
                .get(url)
                .with_extension(Corp("chosen"))
                .with_extension(own.clone()),
            &own,
        ),
        (without.get(url).with_extension(Corp("chosen")), &chosen),
    ] {
        assert_eq!(errcode_of(request).await.unwrap(), 0);
        let sent = world.issuer.calls().last().unwrap().token.clone();
        let token = manager.token(app).await.unwrap();
        assert_eq!(sent, token.expose_secret(), "{app:?}");
    }
    let nobody = errcode_of(without.get(url).with_extension(Corp("other"))).await;
    assert!(fails_as(&nobody, ErrorKind::NoCredentials), "{nobody:?}");
}

#[tokio::test(start_paused = true)]
async fn the_function_is_not_called_for_requests_that_get_no_token() {
    let calls = Arc::new(AtomicUsize::default());
    let world = World::new();
    let middleware = AccessTokenMiddleware::builder(world.manager()).credentials_for({
        let calls = calls.clone();
        move |_, _| {
            calls.fetch_add(1, Ordering::Relaxed);
            None
        }
    });
    let client = world.client_with(middleware.build());
    for url in [
        "https://h.example/",
        "https://qyapi.weixin.qq.com/cgi-bin/gettoken",
    ] {
        client.get(url).send().await.unwrap();
    }
    assert_eq!(calls.load(Ordering::Relaxed), 0);
}
