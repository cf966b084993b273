use std::io;

use proptest::prelude::*;
use reqwest::Url;

use super::*;

fn refused() -> Error {
    Error::refused("the office is closed")
}

/// All that an error and its sources show, in every form.
fn shown(error: &(dyn StdError + 'static)) -> String {
    redact::all_that_is_said(error)
}

/// The text of an error and its sources, as `{:#}` of `anyhow` shows it.
fn chain(error: &(dyn StdError + 'static)) -> String {
    let texts: Vec<_> = redact::chain(error).map(ToString::to_string).collect();
    texts.join(": ")
}

#[test]
fn found_behind_every_kind_of_wrapping() {
    let is_refused = |error: &(dyn StdError + 'static)| {
        Error::find(error).is_some_and(|error| error.kind() == ErrorKind::Refused)
    };
    let sent = reqwest_middleware::Error::from(refused());
    assert!(is_refused(&sent));

    let by_hand = reqwest_middleware::Error::middleware(refused());
    assert!(is_refused(&by_hand));

    let retried = reqwest_retry::RetryError::WithRetries {
        retries: 3,
        err: refused().into(),
    };
    assert!(is_refused(&reqwest_middleware::Error::middleware(retried)));

    let once = reqwest_retry::RetryError::Error(refused().into());
    assert!(is_refused(&reqwest_middleware::Error::middleware(once)));

    /// As programs write it that show an error of a client as their own.
    #[derive(Debug, thiserror::Error)]
    #[error(transparent)]
    struct Transparent(#[from] reqwest_middleware::Error);
    assert!(is_refused(&Transparent(refused().into())));

    assert!(is_refused(&io::Error::other(refused())));
    assert!(is_refused(&io::Error::other(io::Error::other(refused()))));
    assert!(is_refused(&Arc::new(refused())));
    assert!(is_refused(&Box::new(refused())));
    let twice =
        reqwest_middleware::Error::middleware(reqwest_middleware::Error::middleware(refused()));
    assert!(is_refused(&twice));

    assert!(is_refused(&refused()));
    assert!(Error::find(&io::Error::other("something else")).is_none());
}

#[test]
fn each_constructor_makes_its_kind() {
    for (error, kind, transient) in [
        (Error::transient("x"), ErrorKind::Transient, true),
        (Error::refused("x"), ErrorKind::Refused, false),
        (Error::not_ready("x"), ErrorKind::NotReady, false),
        (Error::api(-1, ""), ErrorKind::Api, true),
        (Error::api(45033, ""), ErrorKind::Api, true),
        (Error::api(45009, ""), ErrorKind::Api, false),
        (Error::api(40001, ""), ErrorKind::Api, false),
        (Error::timed_out(Duration::ZERO), ErrorKind::TimedOut, true),
        (Error::held_back(), ErrorKind::HeldBack, false),
        (
            Error::too_many_forced(Duration::from_secs(72)),
            ErrorKind::HeldBack,
            false,
        ),
        (
            Error::expires_too_soon(Duration::ZERO, Duration::from_secs(1)),
            ErrorKind::ExpiresTooSoon,
            false,
        ),
    ] {
        assert_eq!(error.kind(), kind, "{error}");
        assert_eq!(error.is_transient(), transient, "{error}");
        assert_eq!(error.errcode().is_some(), kind == ErrorKind::Api);
        assert_eq!(error.is_timeout(), kind == ErrorKind::TimedOut);
        assert!(!error.is_connect());
    }
    assert_eq!(Error::api(40013, "no").errcode(), Some(40013));
}

#[test]
fn the_time_to_wait_can_be_told() {
    let time = Duration::from_secs(7);
    let error = Error::transient("busy");
    let waiting = error.clone().with_retry_after(time);
    assert_eq!(waiting.retry_after(), Some(time));
    assert_eq!(waiting.kind(), ErrorKind::Transient);
    assert_eq!(chain(&waiting), chain(&error));
    assert_eq!(error.retry_after(), None, "the clone is another");
}

#[test]
fn an_error_is_one_pointer() {
    assert_eq!(size_of::<Error>(), size_of::<usize>());
    assert_eq!(size_of::<Option<Error>>(), size_of::<usize>());
}

#[test]
fn harmless_causes_can_be_downcast() {
    let error = Error::transient(io::Error::other("cause"));
    assert!(error.source().is_some_and(|cause| cause.is::<io::Error>()));
    let error = Error::transient(io::Error::from(io::ErrorKind::TimedOut));
    assert!(error.source().is_some_and(|cause| cause.is::<io::Error>()));
    assert!(error.is_timeout());
    let error = Error::refused(Error::api(40001, "no"));
    assert!(error.source().is_some_and(|cause| cause.is::<Error>()));
}

#[tokio::test]
async fn an_error_of_reqwest_keeps_its_type_and_loses_its_query() {
    for layered in [false, true] {
        let failure = reqwest::get("http://127.0.0.1:1/gettoken?corpsecret=canary#canary").await;
        let failure = failure.unwrap_err();
        let error = if layered {
            Error::transient(reqwest_middleware::Error::from(failure))
        } else {
            Error::transient(failure)
        };
        assert!(error.is_connect() && !error.is_timeout());
        assert!(
            error
                .source()
                .is_some_and(|cause| cause.is::<reqwest::Error>())
        );
        let shown = shown(&error);
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("127.0.0.1:1/gettoken"), "{shown}");
    }
}

#[tokio::test]
async fn a_cause_tells_of_time_limits_and_connections() {
    let elapsed = tokio::time::timeout(Duration::ZERO, std::future::pending::<()>()).await;
    assert!(Error::transient(elapsed.unwrap_err()).is_timeout());
    let refused = tokio::net::TcpStream::connect("127.0.0.1:1")
        .await
        .unwrap_err();
    let error = Error::transient(refused);
    assert!(error.is_connect() && !error.is_timeout());
}

#[tokio::test]
async fn nothing_that_a_programs_error_shows_gets_out_through_an_error_of_reqwest() {
    /// Fails to resolve any name.
    struct Resolver;

    impl reqwest::dns::Resolve for Resolver {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            let url: Url = "https://h/p?corpsecret=canary".parse().unwrap();
            Box::pin(async { Err(Chatty((url, "canary", b"canary".to_vec())).into()) })
        }
    }

    /// The same, with a `Debug` form that is a bare word.
    struct Bare;

    impl reqwest::dns::Resolve for Bare {
        fn resolve(&self, _: reqwest::dns::Name) -> reqwest::dns::Resolving {
            Box::pin(async { Err(Word.into()) })
        }
    }

    struct Word;

    impl Debug for Word {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("canary")
        }
    }

    impl Display for Word {
        fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("the name is not known")
        }
    }

    impl StdError for Word {}

    let http = reqwest::Client::builder().no_proxy().dns_resolver(Bare);
    let http = http.build().unwrap();
    let by_bare_word = http.get("http://h.example/").send().await.unwrap_err();
    let http = reqwest::Client::builder().no_proxy().dns_resolver(Resolver);
    let http = http.build().unwrap();
    let by_resolver = http.get("http://h.example/").send().await.unwrap_err();
    let stream = futures_util::stream::iter([Err::<&str, _>(Chatty("canary"))]);
    let body = reqwest::Body::wrap_stream(stream);
    let by_body = reqwest::Client::new()
        .post("http://127.0.0.1:1/")
        .body(body);
    let by_body = by_body.send().await.unwrap_err();
    let by_password = reqwest::get("http://user:canary@127.0.0.1:1/")
        .await
        .unwrap_err();
    for failure in [by_resolver, by_bare_word, by_body, by_password] {
        let error = Error::transient(failure);
        let shown = shown(&error);
        assert!(
            !shown.contains("canary") && !shown.contains("99, 97"),
            "{shown}"
        );
        assert!(error.is_connect(), "{shown}");
    }
}

#[test]
fn display_does_not_repeat_the_source() {
    for error in [
        Error::transient("the cause"),
        Error::refused("the cause"),
        Error::not_ready(io::Error::other("the cause")),
    ] {
        assert!(!error.to_string().contains("the cause"), "{error}");
        assert!(format!("{error:?}").contains("the cause"), "{error:?}");
        let chain = chain(&reqwest_middleware::Error::from(error));
        assert_eq!(chain.matches("the cause").count(), 1, "{chain}");
    }
}

/// An error whose text repeats that of its source, as many do.
#[derive(Debug, thiserror::Error)]
#[error("reading failed: {0}")]
struct Repeats(#[source] io::Error);

#[test]
fn no_text_is_twice_in_a_chain() {
    let repeats = || Repeats(io::Error::other("the disk is full"));
    for error in [
        Error::transient(repeats()),
        Error::refused(anyhow::Error::new(repeats()).context("no answer")),
        Error::refused(reqwest_middleware::Error::middleware(repeats())),
        Error::refused(reqwest_retry::RetryError::WithRetries {
            retries: 3,
            err: reqwest_middleware::Error::middleware(repeats()),
        }),
        Error::transient(refused()),
        Error::transient(Error::transient("the line is cut")),
        Error::refused(Error::refused(repeats())),
        Error::refused(reqwest_middleware::Error::from(refused())),
        Error::transient(reqwest_middleware::Error::from(Error::transient(repeats()))),
        Error::refused(Longer(io::Error::other("no answer: the line is cut"))),
    ] {
        for error in [
            error.clone().into(),
            reqwest_middleware::Error::middleware(error),
        ] {
            let texts: Vec<_> = redact::chain(&error).map(ToString::to_string).collect();
            for (n, text) in texts.iter().enumerate() {
                let mut others = texts.iter().enumerate().filter(|(other, _)| *other != n);
                assert!(others.all(|(_, other)| !other.contains(text)), "{texts:#?}");
            }
        }
    }
}

/// An error whose source repeats its text.
#[derive(Debug, thiserror::Error)]
#[error("no answer")]
struct Longer(#[source] io::Error);

/// A cause that tells more in its `Debug` form than in its text.
#[derive(Debug)]
struct Chatty<T>(#[allow(dead_code, reason = "shown by `Debug`")] T);

impl<T> Display for Chatty<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("the call failed")
    }
}

impl<T: Debug> StdError for Chatty<T> {}

#[test]
fn nothing_that_a_cause_shows_in_debug_gets_out() {
    let url: Url = "https://h/p?corpsecret=canary".parse().unwrap();
    let user: Url = "https://user:canary@h/p".parse().unwrap();
    let causes: Vec<BoxError> = vec![
        Box::new(Chatty(url.clone())),
        Box::new(Chatty(user)),
        Box::new(Chatty("canary")),
        Box::new(Chatty(vec![Some(("a", "canary"))])),
        Box::new(Chatty(*b"canary").context()),
        Box::new(io::Error::other(Chatty("canary"))),
        Box::new(io::Error::other(io::Error::other(Chatty(url)))),
        Box::new(Repeats(io::Error::other(Chatty("canary")))),
        anyhow::Error::new(Chatty("canary")).into(),
        Box::new(reqwest_middleware::Error::middleware(Chatty("canary"))),
    ];
    for cause in causes {
        let text = chain(&*cause);
        let error = Error::refused(cause);
        let shown = shown(&error);
        assert!(
            !shown.contains("canary") && !shown.contains("99, 97"),
            "{shown}"
        );
        assert!(shown.contains("the call failed"), "{text}: {shown}");
    }
}

impl<T> Chatty<T> {
    /// The same as the source of another error.
    fn context(self) -> Context<Self> {
        Context(self)
    }
}

struct Context<E>(E);

impl<E> Debug for Context<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in a context")
    }
}

impl<E> Display for Context<E> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("in a context")
    }
}

impl<E: StdError + 'static> StdError for Context<E> {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        Some(&self.0)
    }
}

#[test]
fn the_query_of_a_url_in_a_text_is_left_out() {
    for text in [
        "GET https://h/gettoken?corpsecret=canary failed",
        "https://h/gettoken?corpsecret=canary",
        "at https://a/b and (https://h/gettoken?corpsecret=canary)",
    ] {
        let causes: [BoxError; 3] = [
            text.into(),
            io::Error::other(text).into(),
            Box::new(Repeats(io::Error::other(text))),
        ];
        for cause in causes {
            let shown = shown(&Error::refused(cause));
            assert!(!shown.contains("canary"), "{shown}");
            assert!(shown.contains("https://h/gettoken?***"), "{shown}");
        }
    }
}

#[test]
fn what_serde_quotes_is_left_out() {
    #[derive(Debug, thiserror::Error)]
    #[error("the answer is odd: {0}")]
    struct Odd(#[from] serde_json::Error);

    let error = || serde_json::from_str::<u64>(r#""canary""#).unwrap_err();
    assert!(error().to_string().contains("canary"));
    let causes: [BoxError; 5] = [
        error().into(),
        anyhow::Error::new(error()).into(),
        Box::new(Odd(error())),
        io::Error::other(error()).into(),
        anyhow::Error::new(error()).context("no answer").into(),
    ];
    for cause in causes {
        let shown = shown(&Error::refused(cause));
        assert!(!shown.contains("canary"), "{shown}");
        assert!(shown.contains("invalid type: ***, expected u64"), "{shown}");
    }
}

proptest! {
    #[test]
    fn a_cause_is_kept_only_if_it_shows_no_more_than_its_text(text in "[a-z\"\\\\ \n]{1,12}", debug in "[a-z\"\\\\ \n]{0,12}") {
        #[derive(Clone)]
        struct Any(String, String);
        impl Display for Any {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }
        impl Debug for Any {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.1)
            }
        }
        impl StdError for Any {}

        let error = Error::refused(Any(text.clone(), debug.clone()));
        let is_kept = error.source().is_some_and(|cause| cause.is::<Any>());
        prop_assert_eq!(is_kept, debug == text || debug == format!("{text:?}"));
        let cause = error.source().unwrap();
        prop_assert_eq!(cause.to_string(), text.clone());
        let shown = format!("{cause:?}");
        let quoted = format!("{text:?}");
        prop_assert!(shown == text || shown == quoted);
    }
}
