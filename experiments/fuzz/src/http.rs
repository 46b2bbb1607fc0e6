//! Requests over HTTP, byte by byte: whatever they say of hosts, pages, cookies and tokens, nobody
//! reaches what needs the token without it.

use std::cell::Cell;
use std::net::SocketAddr;
use std::pin::pin;
use std::sync::OnceLock;

use axum::extract::Query;
use axum::routing::{get, post};
use axum::{Json, Router};
use control::{Access, Routes, Token, converse};
use service::{Command, FaHongBao, YaoHongBao};
use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex};
use tokio::runtime::Runtime;
use tokio::task::yield_now;
use workload::Qps;

/// What inputs say for the token, and for the cookie: the real ones are others in every process.
const TOKEN: &[u8; 32] = b"the-token-the-token-the-token-00";
const COOKIE: &[u8; 32] = b"the-cookie-the-cookie-the-cook-0";

/// A port that other machines reach.
const OUTSIDE: SocketAddr =
    SocketAddr::new(std::net::IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), 80);

/// Answers come at once: what has not come after so many looks waits for more of its request.
const TURNS: usize = 16;

/// Bytes on their way in each direction: answers to as many requests as an input holds.
const ROOM: usize = 8 << 20;

thread_local! {
    /// Whether a question and a command were answered.
    static REACHED: [Cell<bool>; 2] = const { [Cell::new(false), Cell::new(false)] };
}

/// Something that needs the token was reached, as `what` says.
fn reached(what: usize) {
    REACHED.with(|reached| reached[what].set(true));
}

/// An interface, and its secrets.
struct Served {
    runtime: Runtime,
    routes: Router,
    token: Vec<u8>,
    cookie: Vec<u8>,
}

impl Served {
    fn new() -> Self {
        let token = Token::new().expect("random");
        let access = Access::of_page(token.clone(), OUTSIDE, &["lab.example".to_owned()]);
        let routes = access.expect("random").guard(routes());
        let runtime = tokio::runtime::Builder::new_current_thread().enable_time().build();
        let runtime = runtime.expect("a runtime");
        let token = token.secret().as_bytes().to_vec();
        let mut served = Self { runtime, routes, token, cookie: Vec::new() };
        let ask = format!("GET /?token={} HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n", served.secret());
        let said = String::from_utf8(served.answer(ask.as_bytes())).expect("text");
        let (_, rest) = said.split_once("lab-look-80=").expect("a cookie");
        served.cookie = rest.as_bytes()[..COOKIE.len()].to_vec();
        served
    }

    fn secret(&self) -> &str {
        std::str::from_utf8(&self.token).expect("hexadecimal digits")
    }

    /// What the bytes of a connection are answered with.
    fn answer(&self, bytes: &[u8]) -> Vec<u8> {
        let (mut here, there) = duplex(ROOM);
        self.runtime.block_on(async {
            here.write_all(bytes).await.expect("there is room");
            let mut conversation = pin!(converse(there, self.routes.clone()));
            let patience = async {
                for _ in 0..TURNS {
                    yield_now().await;
                }
            };
            let goes_on = tokio::select! {
                biased;
                () = &mut conversation => false,
                () = patience => true,
            };
            // A peer that sends no more is not answered any more.
            if goes_on {
                here.shutdown().await.expect("it is there");
                conversation.await;
            }
            let mut said = Vec::new();
            here.read_to_end(&mut said).await.expect("it has ended");
            said
        })
    }
}

fn routes() -> Routes {
    let open = Router::new().route("/health", get(|| async { "fine" }));
    let questions = Router::new().route("/", get(|| async { reached(0) }));
    let prototype = |command: Command| {
        reached(1);
        Json(command)
    };
    let commands = Router::new()
        .route("/command", post(move |Json(it): Json<Command>| async move { prototype(it) }))
        .route(
            "/yaohongbao",
            get(move |Query(it): Query<YaoHongBao>| async move { prototype(it.into()) }),
        )
        .route(
            "/fahongbao",
            get(move |Query(it): Query<FaHongBao>| async move { prototype(it.into()) }),
        )
        .route(
            "/qps",
            get(|Query(it): Query<Qps>| async move {
                reached(1);
                Json(workload::Command::from(it))
            }),
        );
    Routes { open, questions, commands }
}

/// Everything that is `what` as `with`.
fn replace(bytes: &mut [u8], what: &[u8; 32], with: &[u8]) -> bool {
    let mut found = false;
    let mut at = 0;
    while let Some(next) = bytes[at..].windows(what.len()).position(|it| it == what) {
        at += next;
        bytes[at..at + what.len()].copy_from_slice(with);
        found = true;
    }
    found
}

/// The bytes of a connection.
pub(crate) fn http(bytes: &[u8]) {
    static SERVED: OnceLock<Served> = OnceLock::new();
    let served = SERVED.get_or_init(Served::new);
    REACHED.with(|reached| reached.iter().for_each(|it| it.set(false)));
    let mut bytes = bytes.to_vec();
    let commands = replace(&mut bytes, TOKEN, &served.token);
    let looks = replace(&mut bytes, COOKIE, &served.cookie);
    let said = served.answer(&bytes);
    assert!(said.is_empty() || said.starts_with(b"HTTP/1."), "an answer");
    let reached = REACHED.with(|reached| [reached[0].get(), reached[1].get()]);
    assert!(!reached[0] || commands || looks, "a question without the token");
    assert!(!reached[1] || commands, "a command without the token");
}
