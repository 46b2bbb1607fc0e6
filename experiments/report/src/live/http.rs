//! What is state.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /` | the page |
//! | `GET /events` | server-sent events: all so far, then every second; `Last-Event-ID` resumes |
//! | `GET /metrics` | every figure of the run as OpenMetrics |
//! | `GET /report.html` | the report, once it is made |
//! | `POST /order` | a [`RunCommand`] as JSON, with `Authorization: Bearer <token>`: [`Access`] |

use std::collections::VecDeque;
use std::convert::Infallible;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::extract::State;
use axum::extract::rejection::JsonRejection;
use axum::http::{HeaderMap, StatusCode};
use axum::response::sse::{Event, KeepAlive, Sse};
use axum::response::{Html, IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use control::http::error;
use control::{Access, Routes};
use futures_lite::Stream;
use serde_json::json;
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
    control: ControlHandle,
    directory: Arc<PathBuf>,
}

impl AppState {
    pub(super) fn new(
        feed: Arc<Mutex<Feed>>,
        ticks: watch::Receiver<u64>,
        control: ControlHandle,
        directory: PathBuf,
    ) -> Self {
        Self { feed, ticks, control, directory: Arc::new(directory) }
    }
}

/// The routes.
pub(super) fn router(state: AppState, access: &Access) -> Router {
    let open = Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/metrics", get(scrape))
        .route("/report.html", get(report))
        .with_state(state.clone());
    let commands = Router::new().route("/order", post(command)).with_state(state);
    access.guard(Routes { open, commands, ..Routes::default() })
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

async fn command(
    State(state): State<AppState>,
    command: Result<Json<RunCommand>, JsonRejection>,
) -> Response {
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
