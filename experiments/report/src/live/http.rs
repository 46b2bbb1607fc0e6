//! What is state.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /events` | server-sent events: all so far, then every second; `Last-Event-ID` resumes |
//! | `GET /metrics` | every figure of the run as OpenMetrics |
//! | `GET /report.html` | the report, once it is made |
//! | `POST /order` | a [`RunCommand`] as JSON, with `Authorization: Bearer <token>` |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use control::http::error;
use futures_lite::Stream;
use serde_json::json;
use sha2::{Digest as _, Sha256};
use tokio::sync::watch;

use super::command::RunCommand;
use super::control::ControlHandle;
use super::feed::{Feed, STILL_OPEN_S, locked};
use super::metrics;
use crate::assemble::NAME;
use crate::page::Page;

/// What requests are answered from.
#[derive(Clone)]
pub(super) struct AppState {
    feed: Arc<Mutex<Feed>>,
    ticks: watch::Receiver<u64>,
    /// Only its hash is compared, so that the time that takes says nothing about it.
    token: [u8; 32],
    control: ControlHandle,
    directory: Arc<PathBuf>,
}

impl AppState {
    pub(super) fn new(
        feed: Arc<Mutex<Feed>>,
        ticks: watch::Receiver<u64>,
        token: String,
        control: ControlHandle,
        directory: PathBuf,
    ) -> Self {
        let token = Sha256::digest(token).into();
        Self { feed, ticks, token, control, directory: Arc::new(directory) }
    }
}

/// The routes.
pub(super) fn router(state: AppState) -> Router {
    Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/metrics", get(scrape))
        .route("/report.html", get(report))
        .route("/order", post(command))
        .with_state(state)
}

async fn page(State(state): State<AppState>) -> Html<String> {
    let title = format!("{}: live", locked(&state.feed).name());
    Html(Page { title: &title, content: None }.to_html())
}

/// One reader of the page.
struct Reader {
    state: AppState,
    /// Everything before this second has been sent.
    from: u64,
    version: Option<u64>,
    ready: VecDeque<Event>,
    begun: bool,
}

impl Reader {
    async fn next(mut self) -> Option<(Result<Event, Infallible>, Self)> {
        loop {
            if let Some(event) = self.ready.pop_front() {
                return Some((Ok(event), self));
            }
            // The first time everything that is known is news.
            if std::mem::replace(&mut self.begun, true) && self.state.ticks.changed().await.is_err()
            {
                return None;
            }
            self.gather();
        }
    }

    fn gather(&mut self) {
        let mut feed = locked(&self.state.feed);
        if self.version != Some(feed.version) {
            self.version = Some(feed.version);
            self.ready.push_back(Event::default().event("run").data(feed.about()));
        }
        let Some(last) = feed.digest.last() else { return };
        let event = Event::default().event("data").id(last.to_string());
        self.ready.push_back(event.data(feed.digest.to_json(self.from)));
        self.from = last.saturating_sub(STILL_OPEN_S);
    }
}

async fn events(
    State(state): State<AppState>,
    headers: HeaderMap,
) -> Sse<impl Stream<Item = Result<Event, Infallible>>> {
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = seen.map_or(0, |last| last.saturating_sub(STILL_OPEN_S));
    let reader = Reader { state, from, version: None, ready: VecDeque::new(), begun: false };
    Sse::new(futures_lite::stream::unfold(reader, Reader::next)).keep_alive(KeepAlive::default())
}

async fn scrape(State(state): State<AppState>) -> Response {
    control::http::metrics(metrics::encode(&locked(&state.feed).digest))
}

async fn report(State(state): State<AppState>) -> Response {
    let file = state.directory.join(NAME);
    let read = tokio::task::spawn_blocking(|| std::fs::read_to_string(file)).await;
    match read.unwrap_or_else(|ended| Err(ended.into())) {
        Ok(page) => Html(page).into_response(),
        Err(_) => error(StatusCode::NOT_FOUND, "the report is made when the run has ended"),
    }
}

/// The answer to a command without the token.
fn refusal(state: &AppState, headers: &HeaderMap) -> Option<Response> {
    let given = headers.get(header::AUTHORIZATION).and_then(|it| it.to_str().ok());
    let Some(given) = given.and_then(|it| it.strip_prefix("Bearer ")) else {
        let why = "this changes the run: it needs the token that was printed at its start";
        return Some(error(StatusCode::UNAUTHORIZED, why));
    };
    let hash: [u8; 32] = Sha256::digest(given.trim()).into();
    let why = "this is not the token that was printed at its start";
    (hash != state.token).then(|| error(StatusCode::FORBIDDEN, why))
}

async fn command(
    State(state): State<AppState>,
    headers: HeaderMap,
    command: Result<Json<RunCommand>, JsonRejection>,
) -> Response {
    if let Some(refusal) = refusal(&state, &headers) {
        return refusal;
    }
    let command = match command {
        Ok(Json(command)) => command,
        Err(why) => return error(StatusCode::BAD_REQUEST, why.body_text()),
    };
    let users = locked(&state.feed).users();
    if let Err(why) = command.check(users) {
        return error(StatusCode::BAD_REQUEST, why);
    }
    match state.control.send(command).await {
        Ok(done) => Json(json!({ "done": done })).into_response(),
        Err(why) => error(StatusCode::CONFLICT, why),
    }
}
