//! What the types promise, seen by the compiler.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use reqwest_middleware::Middleware;
use reqwest_wecom::{
    AccessToken, AccessTokenMiddleware, AccessTokenMiddlewareBuilder, Audience, BoxError,
    CorpToken, Credentials, DownstreamToken, Error, ErrorKind, FetchRequest, FetchedToken,
    GetToken, JsapiTicket, Kept, MokaStore, NoAccessToken, ProviderToken, RejectionScope,
    SharedDatabase, SpecToken, Stats, StoreOnly, SuiteTickets, SuiteToken, TokenKey, TokenKind,
    TokenManager, TokenManagerBuilder, TokenSource, TokenStatus, TokenStore, async_trait,
};

fn shared<T: Send + Sync + Unpin + Debug + 'static>() {}
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
    shared::<CorpToken>();
    shared::<Credentials>();
    shared::<DownstreamToken>();
    shared::<Error>();
    shared::<ErrorKind>();
    shared::<FetchRequest>();
    shared::<FetchedToken>();
    shared::<GetToken>();
    shared::<JsapiTicket>();
    shared::<Kept>();
    shared::<MokaStore>();
    shared::<NoAccessToken>();
    shared::<ProviderToken>();
    shared::<RejectionScope>();
    shared::<SpecToken>();
    shared::<Stats>();
    shared::<StoreOnly>();
    shared::<SuiteTickets>();
    shared::<SuiteToken>();
    shared::<TokenKey>();
    shared::<TokenKind>();
    shared::<TokenManager>();
    shared::<TokenManagerBuilder>();
    shared::<TokenStatus>();
    #[cfg(feature = "redis")]
    {
        shared::<reqwest_wecom::RedisConnection>();
        shared::<reqwest_wecom::RedisStore>();
        shared::<reqwest_wecom::RedisStoreBuilder>();
    }
}

#[test]
fn handles_and_values_can_be_cloned() {
    cloned::<AccessToken>();
    cloned::<AccessTokenMiddleware>();
    cloned::<AccessTokenMiddlewareBuilder>();
    cloned::<Audience>();
    cloned::<CorpToken>();
    cloned::<Credentials>();
    cloned::<DownstreamToken>();
    cloned::<Error>();
    cloned::<FetchRequest>();
    cloned::<FetchedToken>();
    cloned::<GetToken>();
    cloned::<JsapiTicket>();
    cloned::<Kept>();
    cloned::<MokaStore>();
    cloned::<NoAccessToken>();
    cloned::<ProviderToken>();
    cloned::<RejectionScope>();
    cloned::<SpecToken>();
    cloned::<StoreOnly>();
    cloned::<SuiteTickets>();
    cloned::<SuiteToken>();
    cloned::<TokenKey>();
    cloned::<TokenKind>();
    cloned::<TokenManager>();
    cloned::<TokenStatus>();
    #[cfg(feature = "redis")]
    cloned::<reqwest_wecom::RedisStore>();
}

#[test]
fn kinds_of_errors_and_counters_are_plain_values() {
    fn plain<T: Copy + Eq>() {}
    fn hashed<T: Hash>() {}
    plain::<ErrorKind>();
    hashed::<ErrorKind>();
    plain::<Stats>();
}

#[test]
fn traits_are_object_safe_and_hold_for_their_objects() {
    fn database<T: SharedDatabase>() {}
    fn store<T: TokenStore>() {}
    fn source<T: TokenSource>() {}
    object::<dyn SharedDatabase>();
    object::<dyn TokenStore>();
    object::<dyn TokenSource>();
    database::<Arc<dyn SharedDatabase>>();
    database::<Box<dyn SharedDatabase>>();
    store::<MokaStore>();
    store::<Arc<MokaStore>>();
    store::<Arc<dyn TokenStore>>();
    store::<Box<dyn TokenStore>>();
    source::<CorpToken>();
    source::<DownstreamToken>();
    source::<GetToken>();
    source::<ProviderToken>();
    source::<SpecToken>();
    source::<SuiteToken>();
    source::<StoreOnly>();
    source::<Arc<GetToken>>();
    source::<Arc<dyn TokenSource>>();
    source::<Box<dyn TokenSource>>();
}

const SECOND: Duration = Duration::from_secs(1);

/// Answers each method in a way that no default does.
struct Odd;

#[async_trait]
impl TokenSource for Odd {
    async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
        Ok(FetchedToken::new("odd", SECOND))
    }

    fn audience(&self) -> Audience {
        Audience::new("https://odd.example/".parse().unwrap())
    }

    fn fetches(&self) -> bool {
        false
    }
}

#[async_trait]
impl TokenStore for Odd {
    async fn get(&self, _: &TokenKey) -> Result<Option<AccessToken>, BoxError> {
        let now = SystemTime::now();
        Ok(Some(AccessToken::from_parts("odd", now, now + SECOND)))
    }

    async fn put(&self, _: &TokenKey, _: &AccessToken) -> Result<(), BoxError> {
        Err("odd".into())
    }

    fn database(&self) -> Option<Arc<dyn SharedDatabase>> {
        Some(Arc::new(Self))
    }
}

#[async_trait]
impl SharedDatabase for Odd {
    async fn load(&self, _: &str) -> Result<Option<Kept>, BoxError> {
        Ok(Some(Kept::new("odd", SECOND)))
    }

    async fn compare_and_swap(
        &self,
        _: &str,
        expected: Option<&[u8]>,
        _: &Kept,
    ) -> Result<bool, BoxError> {
        Ok(expected == Some(b"odd"))
    }
}

async fn is_odd_source(source: impl TokenSource) {
    let request = FetchRequest::new(Credentials::new("corp", "secret"));
    assert_eq!(source.fetch(request).await.unwrap().expose_secret(), "odd");
    assert_eq!(
        source.audience().base_url().as_str(),
        "https://odd.example/"
    );
    assert!(!source.fetches());
}

async fn is_odd_store(store: impl TokenStore) {
    let key = TokenManager::builder(Odd)
        .build()
        .key(&Credentials::new("corp", "secret"));
    let token = store.get(&key).await.unwrap().unwrap();
    assert_eq!(token.expose_secret(), "odd");
    assert!(store.put(&key, &token).await.is_err());
    is_odd_database(store.database().unwrap()).await;
}

async fn is_odd_database(database: impl SharedDatabase) {
    let kept = database.load("key").await.unwrap().unwrap();
    assert_eq!(kept.expose_secret(), b"odd");
    let swapped = database.compare_and_swap("key", Some(b"odd"), &kept);
    assert!(swapped.await.unwrap());
    assert!(!database.compare_and_swap("key", None, &kept).await.unwrap());
}

#[tokio::test]
async fn each_method_of_a_trait_is_forwarded_by_arc_and_box() {
    is_odd_source(Arc::new(Odd)).await;
    is_odd_source(Box::new(Odd)).await;
    is_odd_source(Arc::new(Odd) as Arc<dyn TokenSource>).await;
    is_odd_source(Box::new(Odd) as Box<dyn TokenSource>).await;
    is_odd_source(Arc::new(Box::new(Odd))).await;
    is_odd_store(Arc::new(Odd)).await;
    is_odd_store(Box::new(Odd)).await;
    is_odd_store(Arc::new(Odd) as Arc<dyn TokenStore>).await;
    is_odd_store(Box::new(Odd) as Box<dyn TokenStore>).await;
    is_odd_store(Arc::new(Box::new(Odd))).await;
    is_odd_database(Arc::new(Odd)).await;
    is_odd_database(Box::new(Odd)).await;
    is_odd_database(Arc::new(Odd) as Arc<dyn SharedDatabase>).await;
    is_odd_database(Box::new(Odd) as Box<dyn SharedDatabase>).await;
}

#[test]
fn provided_methods_have_the_documented_defaults() {
    struct Plain;

    #[async_trait]
    impl TokenSource for Plain {
        async fn fetch(&self, _: FetchRequest) -> Result<FetchedToken, Error> {
            Err(Error::not_ready("never"))
        }
    }

    assert!(Plain.fetches());
    assert_eq!(Plain.audience(), Audience::default());
    assert!(!StoreOnly::default().fetches());
    assert!(MokaStore::new().database().is_none());
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
    let _valid_for =
        |manager: &TokenManager, app: &Credentials| sent(manager.token_valid_for(app, SECOND));
    let _refresh = |manager: &TokenManager, app: &Credentials| sent(manager.refresh(app));
    let _rejected = |manager: &TokenManager, app: &Credentials| {
        sent(manager.refresh_rejected(app, "value"));
    };
    fn middleware<T: Middleware>() {}
    middleware::<AccessTokenMiddleware>();
}
