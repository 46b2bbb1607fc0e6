//! Who may ask and who may command over HTTP.
//!
//! A browser on this machine asks whatever the pages in it want. So a request must name this
//! machine (a page whose name was pointed here names its own), must come from no other page, and
//! needs a secret for what changes something. Owns: these three checks, and how much of a request
//! is read before an answer. Must not know: what is asked.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::body::{Body, to_bytes};
use axum::extract::{Request, State};
use axum::http::uri::Authority;
use axum::http::{HeaderMap, HeaderName, Method, StatusCode, header};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::Response;

use crate::http::error;
use crate::token::{Token, TokenError};
use crate::visitors::{Visitors, token_of};

/// Bytes of a request's body: four times a packet for as many recipients as a frame can name.
const MOST_BODY: usize = 64 * 1024;

/// A body that was begun is complete within this time.
const BODY: Duration = Duration::from_secs(10);

/// What browsers say of the page that a request comes from.
const FETCH_SITE: HeaderName = HeaderName::from_static("sec-fetch-site");

/// Who may command.
#[derive(Clone, Debug)]
pub(crate) enum Commands {
    /// Who has the token, which is found there.
    Token(Token, &'static str),
    /// Everyone who reaches the address.
    Everyone,
    /// Nobody: commands come over the pipe.
    Nobody,
}

#[derive(Debug)]
struct Rules {
    commands: Commands,
    /// Whether questions, too, need what commands need.
    is_reached_from_outside: bool,
    /// Names of this machine, beside its addresses and `localhost`.
    names: Vec<String>,
    /// Who may look from outside without the token; of an interface that people open in a browser.
    visitors: Option<Visitors>,
}

/// Why a request is not answered.
type Refusal = (StatusCode, String);

/// Who may ask and command. A clone is another handle to the same.
#[derive(Clone, Debug)]
pub struct Access(Arc<Rules>);

/// The routes of an interface, by what they need.
#[derive(Debug, Default)]
pub struct Routes {
    /// For everyone: health and metrics.
    pub open: Router,
    /// They change nothing; from outside of this machine they need the token.
    pub questions: Router,
    /// They change something.
    pub commands: Router,
}

impl Access {
    pub(crate) fn new(commands: Commands, is_reached_from_outside: bool, names: &[String]) -> Self {
        Self::with_visitors(commands, is_reached_from_outside, names, None)
    }

    fn with_visitors(
        commands: Commands,
        is_reached_from_outside: bool,
        names: &[String],
        visitors: Option<Visitors>,
    ) -> Self {
        // What this machine calls itself, which is what people type.
        let own = rustix::system::uname().nodename().to_str().map(str::to_owned);
        let names = own.into_iter().chain(names.iter().cloned()).collect();
        Self(Arc::new(Rules { commands, is_reached_from_outside, names, visitors }))
    }

    /// Who may use a page at an address. Commands need a token that was printed, and so do
    /// questions from outside of this machine: a browser asks `/?token=` with it once, and may then
    /// look. The machine answers to further names.
    ///
    /// # Errors
    /// [`TokenError::Random`].
    pub fn of_page(token: Token, at: SocketAddr, names: &[String]) -> Result<Self, TokenError> {
        let visitors = Some(Visitors::new(at.port())?);
        let commands = Commands::Token(token, PRINTED);
        Ok(Self::with_visitors(commands, is_outside(at), names, visitors))
    }

    /// Whether other machines reach it.
    pub fn is_reached_from_outside(&self) -> bool {
        self.0.is_reached_from_outside
    }

    /// The routes, guarded.
    pub fn guard(&self, routes: Routes) -> Router {
        let Routes { mut open, questions, commands } = routes;
        // Routes that there are not cannot have a layer: axum panics.
        if questions.has_routes() {
            open = open.merge(questions.route_layer(from_fn_with_state(self.clone(), may_ask)));
        }
        if commands.has_routes() {
            open = open.merge(commands.route_layer(from_fn_with_state(self.clone(), may_command)));
        }
        open.layer(from_fn_with_state(self.clone(), admit))
    }

    /// Whether a host's name or address is one of this machine. Addresses always are: only a name
    /// can be pointed elsewhere.
    fn admits(&self, host: &str) -> bool {
        let host = host.trim_start_matches('[').trim_end_matches([']', '.']).to_ascii_lowercase();
        host.parse::<IpAddr>().is_ok()
            || host == "localhost"
            || host.ends_with(".localhost")
            || self.0.names.iter().any(|name| name.eq_ignore_ascii_case(&host))
    }

    /// Compares the name and the page that a request names with those of this machine.
    fn check_origin(&self, request: &Request) -> Result<(), Refusal> {
        let refuse = |why: String| Err((StatusCode::FORBIDDEN, why));
        let mut hosts = request.headers().get_all(header::HOST).iter();
        let (Some(host), None) = (hosts.next(), hosts.next()) else {
            return refuse("a request names its host, once".to_owned());
        };
        let host: Option<Authority> = host.to_str().ok().and_then(|host| host.parse().ok());
        let Some(host) = host else { return refuse("this is no name of a host".to_owned()) };
        for name in [Some(host.host()), request.uri().host()].into_iter().flatten() {
            if !self.admits(name) {
                return refuse(format!(
                    "'{name}' is no name of this machine: use an address or localhost, or start \
                     it with this name (--control-host)"
                ));
            }
        }
        let mut origins = request.headers().get_all(header::ORIGIN).iter();
        let own = |origin: &str| {
            let origin = origin.strip_prefix("http://").or(origin.strip_prefix("https://"));
            origin.is_some_and(|origin| origin.eq_ignore_ascii_case(host.as_str()))
        };
        if origins.all(|origin| origin.to_str().is_ok_and(own)) {
            Ok(())
        } else {
            refuse("this comes from a page of somebody else".to_owned())
        }
    }

    /// Compares what a request has with what commands need.
    fn check_token(&self, headers: &HeaderMap) -> Result<(), Refusal> {
        let (token, whence) = match &self.0.commands {
            Commands::Everyone => return Ok(()),
            Commands::Nobody => {
                let why = "commands come over the pipe alone: start it with --control-token-file \
                           FILE, and who has that token may command";
                return Err((StatusCode::FORBIDDEN, why.to_owned()));
            }
            Commands::Token(token, whence) => (token, whence),
        };
        let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
        match given.and_then(|given| given.split_once(' ')) {
            Some((scheme, given)) if scheme.eq_ignore_ascii_case("bearer") => {
                let why = format!("this is not {whence}");
                let right = token.is(given.trim());
                right.then_some(()).ok_or((StatusCode::FORBIDDEN, why))
            }
            _ => {
                let browser = match self.0.visitors {
                    Some(_) => "; in a browser, open the address that was printed with it",
                    None => "",
                };
                let why = format!("this needs {whence} (Authorization: Bearer TOKEN){browser}");
                Err((StatusCode::UNAUTHORIZED, why))
            }
        }
    }
}

/// Whether other machines reach an address.
pub(crate) fn is_outside(address: SocketAddr) -> bool {
    !address.ip().to_canonical().is_loopback()
}

/// Where a token is found that a program has made.
pub(crate) const PRINTED: &str = "the token that was printed at its start";

/// Where a token is found that is in a file.
pub(crate) const IN_FILE: &str = "the token of its --control-token-file";

/// Reads a request that names this machine, as far as it may go.
async fn admit(State(access): State<Access>, request: Request, next: Next) -> Response {
    if let Err((status, why)) = access.check_origin(&request) {
        return error(status, why);
    }
    let (head, body) = request.into_parts();
    match tokio::time::timeout(BODY, to_bytes(body, MOST_BODY)).await {
        Ok(Ok(body)) => next.run(Request::from_parts(head, Body::from(body))).await,
        Ok(Err(_)) => {
            let why = format!("a body has {MOST_BODY} bytes at most, and comes whole");
            error(StatusCode::PAYLOAD_TOO_LARGE, why)
        }
        Err(_) => {
            let why = format!("the body did not come within {} s", BODY.as_secs());
            error(StatusCode::REQUEST_TIMEOUT, why)
        }
    }
}

/// Whether a request comes from no page of somebody else: a page can have any address asked for as
/// a picture; then it names no origin.
fn is_of_no_other_page(headers: &HeaderMap) -> bool {
    headers.get_all(FETCH_SITE).iter().all(|site| site == "same-origin" || site == "none")
}

async fn may_ask(State(access): State<Access>, request: Request, next: Next) -> Response {
    if !access.0.is_reached_from_outside {
        return next.run(request).await;
    }
    let looks = request.method() == Method::GET && is_of_no_other_page(request.headers());
    if let (Some(visitors), true) = (&access.0.visitors, looks) {
        if let (Some(given), Commands::Token(token, whence)) =
            (token_of(request.uri()), &access.0.commands)
        {
            return match token.is(given) {
                true => visitors.welcome(request.uri().path(), token),
                false => error(StatusCode::FORBIDDEN, format!("this is not {whence}")),
            };
        }
        if visitors.knows(request.headers()) {
            return next.run(request).await;
        }
    }
    may_command(State(access), request, next).await
}

async fn may_command(State(access): State<Access>, request: Request, next: Next) -> Response {
    if !is_of_no_other_page(request.headers()) {
        return error(StatusCode::FORBIDDEN, "this comes from a page of somebody else");
    }
    match access.check_token(request.headers()) {
        Ok(()) => next.run(request).await,
        Err((status, why)) => error(status, why),
    }
}

#[cfg(test)]
mod tests {
    use axum::http::Method;
    use axum::routing::{get, post};
    use hyper::service::Service;
    use hyper_util::service::TowerToHyperService;

    use super::*;

    async fn call(routes: &Router, request: Request) -> Response {
        TowerToHyperService::new(routes.clone()).call(request).await.expect("never fails")
    }

    /// What a request is answered with.
    async fn ask(routes: &Router, method: Method, path: &str, more: &[(&str, &str)]) -> u16 {
        let mut request = Request::builder().method(method).uri(path);
        for (name, value) in more {
            request = request.header(*name, *value);
        }
        let request = request.body(Body::empty()).expect("a request");
        call(routes, request).await.status().as_u16()
    }

    fn routes(access: &Access) -> Router {
        access.guard(Routes {
            open: Router::new().route("/health", get(|| async {})),
            questions: Router::new().route("/ledger", get(|| async {})),
            commands: Router::new()
                .route("/command", post(|| async {}))
                .route("/qps", get(|| async {})),
        })
    }

    /// The live page has commands and no questions.
    #[tokio::test]
    async fn an_interface_may_lack_any_kind_of_route() {
        let access = Access::new(Commands::Everyone, false, &[]);
        let open = || Router::new().route("/health", get(|| async {}));
        let few = access.guard(Routes { open: open(), ..Routes::default() });
        assert_eq!(ask(&few, Method::GET, "/health", &[HERE]).await, 200);
        assert_eq!(ask(&few, Method::GET, "/ledger", &[HERE]).await, 404);
        let none = access.guard(Routes::default());
        assert_eq!(ask(&none, Method::GET, "/health", &[HERE]).await, 404);
    }

    const HERE: (&str, &str) = ("host", "127.0.0.1:8989");

    #[tokio::test]
    async fn a_request_names_this_machine() {
        let names = ["lab.example".to_owned()];
        let routes = routes(&Access::new(Commands::Everyone, false, &names));
        for (host, status) in [
            ("127.0.0.1:8989", 200),
            ("127.0.0.1", 200),
            ("10.1.2.3:80", 200),
            ("[::1]:8989", 200),
            ("localhost:8989", 200),
            ("LocalHost", 200),
            ("localhost.", 200),
            ("one.localhost:1", 200),
            ("lab.example:8989", 200),
            ("LAB.example", 200),
            ("evil.example", 403),
            ("evil.example:8989", 403),
            ("127.0.0.1.evil.example", 403),
            ("localhost.evil.example", 403),
            ("notlocalhost", 403),
            ("lab.example.evil.example", 403),
            ("127.0.0.1:8989:80 x", 403),
            ("", 403),
        ] {
            for path in ["/health", "/ledger", "/qps", "/nowhere"] {
                let expected = if path == "/nowhere" && status == 200 { 404 } else { status };
                let got = ask(&routes, Method::GET, path, &[("host", host)]).await;
                assert_eq!(got, expected, "{host} {path}");
            }
        }
        assert_eq!(ask(&routes, Method::GET, "/health", &[]).await, 403, "no host");
        let two = [HERE, ("host", "evil.example")];
        assert_eq!(ask(&routes, Method::GET, "/health", &two).await, 403, "two hosts");
        let absolute = "http://evil.example/health";
        assert_eq!(ask(&routes, Method::GET, absolute, &[HERE]).await, 403);
    }

    #[tokio::test]
    async fn a_request_comes_from_no_other_page() {
        let routes = routes(&Access::new(Commands::Everyone, false, &[]));
        for (origin, status) in [
            ("http://127.0.0.1:8989", 200),
            ("https://127.0.0.1:8989", 200),
            ("http://127.0.0.1:3000", 403),
            ("http://127.0.0.1", 403),
            ("http://evil.example", 403),
            ("file://127.0.0.1:8989", 403),
            ("null", 403),
        ] {
            let more = [HERE, ("origin", origin)];
            for (method, path) in [(Method::GET, "/health"), (Method::POST, "/command")] {
                assert_eq!(ask(&routes, method, path, &more).await, status, "{origin} {path}");
            }
        }
        for (site, status) in
            [("same-origin", 200), ("none", 200), ("same-site", 403), ("cross-site", 403)]
        {
            let more = [HERE, ("sec-fetch-site", site)];
            assert_eq!(ask(&routes, Method::GET, "/qps", &more).await, status, "{site}");
        }
    }

    #[tokio::test]
    async fn commands_need_what_they_need() {
        let token = Token::new().expect("random");
        let right = format!("Bearer {}", token.secret());
        let shouted = format!("BEARER  {} ", token.secret());
        let half = format!("Bearer {}", &token.secret()[..9]);
        let bare = token.secret().to_owned();
        let printed = Commands::Token(token, PRINTED);
        for (commands, outside, given, command, question) in [
            (printed.clone(), false, None, 401, 200),
            (printed.clone(), false, Some(&half), 403, 200),
            (printed.clone(), false, Some(&bare), 401, 200),
            (printed.clone(), false, Some(&right), 200, 200),
            (printed.clone(), false, Some(&shouted), 200, 200),
            (printed.clone(), true, None, 401, 401),
            (printed.clone(), true, Some(&right), 200, 200),
            (Commands::Everyone, false, None, 200, 200),
            (Commands::Nobody, false, None, 403, 200),
            (Commands::Nobody, false, Some(&right), 403, 200),
        ] {
            let routes = routes(&Access::new(commands.clone(), outside, &[]));
            let given = given.map(|given| ("authorization", given.as_str()));
            let more: Vec<_> = [Some(HERE), given].into_iter().flatten().collect();
            let what = format!("{commands:?} {outside} {given:?}");
            for (method, path, status) in [
                (Method::GET, "/health", 200),
                (Method::GET, "/ledger", question),
                (Method::GET, "/qps", command),
                (Method::POST, "/command", command),
            ] {
                assert_eq!(ask(&routes, method, path, &more).await, status, "{path} {what}");
            }
        }
    }

    /// From outside, a browser that was opened with the token may look, and no more.
    #[tokio::test]
    async fn a_page_that_other_machines_reach_is_shown_to_who_has_the_token() {
        let token = Token::new().expect("random");
        let with = format!("/ledger?x=1&token={}", token.secret());
        let bearer = format!("Bearer {}", token.secret());
        let at = "0.0.0.0:80".parse().expect("an address");
        let routes = routes(&Access::of_page(token, at, &[]).expect("random"));
        let shown = |more: Vec<(&'static str, String)>| {
            let routes = routes.clone();
            async move {
                let mut more: Vec<_> = more.iter().map(|(n, v)| (*n, v.as_str())).collect();
                more.push(HERE);
                ask(&routes, Method::GET, "/ledger", &more).await
            }
        };
        assert_eq!(ask(&routes, Method::GET, "/health", &[HERE]).await, 200, "open");
        assert_eq!(shown(vec![]).await, 401);
        assert_eq!(shown(vec![("authorization", bearer)]).await, 200);
        for wrong in ["/ledger?token=", "/ledger?token=00", "/ledger?token"] {
            let status = ask(&routes, Method::GET, wrong, &[HERE]).await;
            assert!(status == 403 || status == 401, "{wrong}: {status}");
        }
        let picture = [HERE, ("sec-fetch-site", "cross-site")];
        assert_eq!(ask(&routes, Method::GET, &with, &picture).await, 403);
        assert_eq!(ask(&routes, Method::POST, &with, &[HERE]).await, 401);

        let request = Request::builder().uri(&with).header(HERE.0, HERE.1);
        let welcome = call(&routes, request.body(Body::empty()).expect("a request")).await;
        assert_eq!(welcome.status(), StatusCode::SEE_OTHER);
        let said = |name: &str| welcome.headers()[name].to_str().expect("text").to_owned();
        assert!(said("location").starts_with("/ledger#token="), "{}", said("location"));
        let set = said("set-cookie");
        assert!(set.ends_with("; Path=/; HttpOnly; SameSite=Strict"), "{set}");
        let cookie = set.split(';').next().expect("a pair").to_owned();
        let (name, value) = cookie.split_once('=').expect("a pair");
        assert!(!with.contains(value), "the cookie is not the token");
        assert_eq!(shown(vec![("cookie", cookie.clone())]).await, 200);
        assert_eq!(shown(vec![("cookie", format!("a=b; {cookie}; c"))]).await, 200);
        assert_eq!(shown(vec![("cookie", format!("{name}=00"))]).await, 401);
        assert_eq!(shown(vec![("cookie", format!("x{cookie}"))]).await, 401);
        let cookie = [HERE, ("cookie", cookie.as_str())];
        for (method, path) in [(Method::GET, "/qps"), (Method::POST, "/command")] {
            assert_eq!(ask(&routes, method, path, &cookie).await, 401, "it may look: {path}");
        }
        let [here, cookie] = cookie;
        let elsewhere = [here, cookie, ("sec-fetch-site", "same-site")];
        assert_eq!(ask(&routes, Method::GET, "/ledger", &elsewhere).await, 403);

        // On loopback everybody may look, as ever.
        let token = Token::new().expect("random");
        let at = "127.0.0.1:80".parse().expect("an address");
        let routes = self::routes(&Access::of_page(token, at, &[]).expect("random"));
        assert_eq!(ask(&routes, Method::GET, "/ledger", &[HERE]).await, 200);
    }

    #[tokio::test]
    async fn a_body_has_a_bound() {
        let routes = routes(&Access::new(Commands::Everyone, false, &[]));
        for (bytes, status) in [(MOST_BODY, 200), (MOST_BODY + 1, 413)] {
            let request = Request::builder().method("POST").uri("/command").header(HERE.0, HERE.1);
            let request = request.body(Body::from(vec![b' '; bytes])).expect("a request");
            let got = call(&routes, request).await.status().as_u16();
            assert_eq!(got, status, "{bytes}");
        }
    }
}
