//! The kinds of WeCom, and the paths that take them.
//!
//! Which path takes which token is documented with each call: <https://developer.work.weixin.qq.com/document/>.

use std::sync::LazyLock;

use super::{REJECTED_BY, TokenKind};

/// All paths below are below this one.
const API: &str = "cgi-bin/";

const SUITE: [&str; 22] = [
    "idconvert/upgrade_chatid_for_new_corp",
    "service/auth/getuserdetail3rd",
    "service/auth/getuserinfo3rd",
    "service/externalcontact/unionid_to_external_userid_3rd",
    "service/get_admin_list",
    "service/get_agent",
    "service/get_app_permissions",
    "service/get_app_qrcode",
    "service/get_auth_info",
    "service/get_corp_token",
    "service/get_order",
    "service/get_order_list",
    "service/get_permanent_code",
    "service/get_pre_auth_code",
    "service/getuserdetail3rd",
    "service/getuserinfo3rd",
    "service/miniprogram/jscode2session",
    "service/prolong_try",
    "service/set_agent",
    "service/set_session_info",
    "service/v2/get_auth_info",
    "service/v2/get_permanent_code",
];

const PROVIDER: [&str; 25] = [
    "advanced_api/",
    "hardware/get_device_feature",
    "license/",
    "paytool/",
    "service/add_device",
    "service/batch/getresult",
    "service/contact/batchsearch",
    "service/contact/id_translate",
    "service/contact/search",
    "service/contact/sort",
    "service/corpid_to_opencorpid",
    "service/del_device",
    "service/externalcontact/finish_external_userid_migration",
    "service/fetch_device_log",
    "service/get_account_balance",
    "service/get_corp_detail",
    "service/get_customized_auth_url",
    "service/get_device_auth_info",
    "service/get_login_url",
    "service/get_register_code",
    "service/get_register_info",
    "service/list_device",
    "service/media/upload",
    "service/reset_secret_no",
    "service/set_printer_support_state",
];

/// The one that takes the provider's token as `access_token`.
const PROVIDER_AS_ACCESS_TOKEN: [&str; 1] = ["service/get_login_info"];

/// The paths that take none of these tokens.
const OTHER_CREDENTIALS: [&str; 7] = [
    "aibot/cli/",
    "aibot/response",
    "gettoken",
    "openhw/",
    "service/",
    "webhook/",
    "wedoc/smartsheet/webhook",
];

static ACCESS_TOKEN: LazyLock<TokenKind> = LazyLock::new(|| {
    let others = [&SUITE[..], &PROVIDER, &PROVIDER_AS_ACCESS_TOKEN].concat();
    TokenKind::new("access_token")
        .takes("access_token", [API])
        .except(below_api(&OTHER_CREDENTIALS))
        .except(below_api(&others))
});

static SUITE_ACCESS_TOKEN: LazyLock<TokenKind> = LazyLock::new(|| {
    TokenKind::new("suite_access_token")
        .takes("suite_access_token", below_api(&SUITE))
        .rejected_by(REJECTED_BY.into_iter().chain([40082, 42009]))
});

static PROVIDER_ACCESS_TOKEN: LazyLock<TokenKind> = LazyLock::new(|| {
    TokenKind::new("provider_access_token")
        .takes("provider_access_token", below_api(&PROVIDER))
        .takes("access_token", below_api(&PROVIDER_AS_ACCESS_TOKEN))
        .rejected_by(REJECTED_BY.into_iter().chain([40082]))
});

static JSAPI_TICKET: LazyLock<TokenKind> = LazyLock::new(|| ticket("jsapi_ticket"));

static AGENT_CONFIG_TICKET: LazyLock<TokenKind> = LazyLock::new(|| ticket("agent_config_ticket"));

/// A token that goes into no query, so that no call can reject it.
fn ticket(name: &str) -> TokenKind {
    TokenKind::new(name).rejected_by([])
}

fn below_api(paths: &[&str]) -> impl Iterator<Item = String> {
    paths.iter().map(|path| format!("{API}{path}"))
}

/// The kinds of WeCom.
impl TokenKind {
    /// The access token of an app, as `gettoken` returns it.
    ///
    /// All paths below `cgi-bin/` take it, except those that take another credential, such as `gettoken`, `service/…` and `webhook/…`. Errcodes
    /// 40014 and 42001 reject it.
    pub fn access_token() -> Self {
        ACCESS_TOKEN.clone()
    }

    /// The token of a suite, as `service/get_suite_token` returns it to a service provider.
    ///
    /// Some paths below `cgi-bin/service/` and `cgi-bin/idconvert/upgrade_chatid_for_new_corp` take it, as `suite_access_token`. Errcodes
    /// 40014, 40082, 42001 and 42009 reject it. WeCom also returns 40082 to a good token, if the customer has not authorized the suite.
    /// Such calls hold back refreshes on their path. Put a [`RejectionScope`](crate::RejectionScope) with the customer's corp id on calls about one
    /// customer, so that the others are not affected.
    pub fn suite_access_token() -> Self {
        SUITE_ACCESS_TOKEN.clone()
    }

    /// The token of a service provider, as `service/get_provider_token` returns it.
    ///
    /// Some paths below `cgi-bin/service/`, all below `cgi-bin/license/`, `cgi-bin/paytool/` and `cgi-bin/advanced_api/`, and
    /// `cgi-bin/hardware/get_device_feature` take it, as `provider_access_token`. `cgi-bin/service/get_login_info` takes it as `access_token`.
    /// Errcodes 40014, 40082 and 42001 reject it.
    pub fn provider_access_token() -> Self {
        PROVIDER_ACCESS_TOKEN.clone()
    }

    /// The ticket that signs web pages for `wx.config`, as `get_jsapi_ticket` returns it: see [`JsapiTicket`](crate::JsapiTicket).
    ///
    /// The middleware never adds it to a request, and no errcode rejects it. Read it from the manager.
    pub fn jsapi_ticket() -> Self {
        JSAPI_TICKET.clone()
    }

    /// The ticket that signs web pages for `wx.agentConfig`, as `ticket/get` returns it: see [`JsapiTicket`](crate::JsapiTicket).
    ///
    /// The middleware never adds it to a request, and no errcode rejects it. Read it from the manager.
    pub fn agent_config_ticket() -> Self {
        AGENT_CONFIG_TICKET.clone()
    }
}

/// If this is a kind of WeCom, the other one that this path takes.
pub(crate) fn other_kind_for(path: &str, kind: &TokenKind) -> Option<&'static TokenKind> {
    let all = [
        &*ACCESS_TOKEN,
        &*SUITE_ACCESS_TOKEN,
        &*PROVIDER_ACCESS_TOKEN,
    ];
    let is_one = all.contains(&kind);
    let mut others = all.into_iter().filter(|other| is_one && *other != kind);
    others.find(|other| other.parameter_on(path).is_some())
}
