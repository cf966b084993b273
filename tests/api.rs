//! What the types promise, seen by the compiler.

use std::fmt::Debug;
use std::sync::Arc;

use reqwest_middleware::Middleware;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, AccessTokenMiddlewareBuilder, Audience, BoxError,
    Credentials, Error, Fetch, GetToken, MokaStore, NoAccessToken, StoreOnly, TokenKey,
    TokenManager, TokenManagerBuilder, TokenSource, TokenStore,
};

fn shared<T: Send + Sync + Debug>() {}
fn cloned<T: Clone + 'static>() {}
fn object<T: ?Sized>() {}
fn sent<T: Send>(_: T) {}

#[test]
fn everything_can_be_shared_between_threads_and_shown() {
    shared::<AccessToken>();
    shared::<AccessTokenMiddleware>();
    shared::<AccessTokenMiddlewareBuilder>();
    shared::<Audience>();
    shared::<BoxError>();
    shared::<Credentials>();
    shared::<Error>();
    shared::<Fetch<'static>>();
    shared::<GetToken>();
    shared::<MokaStore>();
    shared::<NoAccessToken>();
    shared::<StoreOnly>();
    shared::<TokenKey>();
    shared::<TokenManager>();
    shared::<TokenManagerBuilder>();
}

#[test]
fn handles_and_values_can_be_cloned() {
    cloned::<AccessToken>();
    cloned::<AccessTokenMiddleware>();
    cloned::<Audience>();
    cloned::<Credentials>();
    cloned::<Error>();
    cloned::<GetToken>();
    cloned::<MokaStore>();
    cloned::<NoAccessToken>();
    cloned::<StoreOnly>();
    cloned::<TokenKey>();
    cloned::<TokenManager>();
}

#[test]
fn traits_are_object_safe_and_hold_for_their_objects() {
    fn store<T: TokenStore>() {}
    fn source<T: TokenSource>() {}
    object::<dyn TokenStore>();
    object::<dyn TokenSource>();
    store::<MokaStore>();
    store::<Arc<MokaStore>>();
    store::<Arc<dyn TokenStore>>();
    source::<GetToken>();
    source::<StoreOnly>();
    source::<Arc<GetToken>>();
    source::<Arc<dyn TokenSource>>();
}

#[test]
fn errors_are_errors_and_go_out_as_those_of_reqwest_middleware() {
    fn error<T: std::error::Error + Into<BoxError> + Into<reqwest_middleware::Error>>() {}
    fn from_anything(cause: BoxError) -> [Error; 2] {
        [Error::transient("text"), Error::refused(cause)]
    }
    error::<Error>();
    assert_eq!(
        from_anything("cause".into()).map(|it| it.is_transient()),
        [true, false]
    );
}

#[test]
fn futures_can_be_moved_between_threads() {
    let _token = |manager: &TokenManager, app: &Credentials| sent(manager.token(app));
    let _renew = |manager: &TokenManager, app: &Credentials, rejected: &AccessToken| {
        sent(manager.renew(app, rejected));
    };
    let _run = |fetch: &Fetch<'_>| sent(fetch.run());
    fn middleware<T: Middleware>() {}
    middleware::<AccessTokenMiddleware>();
}
