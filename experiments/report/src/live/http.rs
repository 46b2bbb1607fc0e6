//! What is state.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /metrics` | every figure of the run as OpenMetrics |
//! | `GET /` | the page |
//! | `GET /events` | server-sent events: all so far, then every second; `Last-Event-ID` resumes |
//! | `GET /report.html` | the report, once it is made |
//! | `POST /order` | a [`RunCommand`] as JSON, with `Authorization: Bearer <token>` |
//!
//! [`Access`] says who may: metrics are for everybody; the others, where other machines reach them,
//! for who has the token, or was let in with it.

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
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};

use super::command::RunCommand;
use super::control::ControlHandle;
use super::feed::{Feed, STILL_OPEN_S, locked};
use super::metrics;
use crate::assemble::NAME;
use crate::page::Page;

/// Readers of `/events` at a time: half of the connections that there can be, so that the page and
/// its orders are answered beside them.
const MOST_READERS: usize = 32;

/// The most that the page of a run has, in bytes: that of an hour has 3 MB.
const MOST_PAGE: u64 = 64 << 20;

/// What requests are answered from.
#[derive(Clone)]
pub(super) struct AppState {
    feed: Arc<Mutex<Feed>>,
    ticks: watch::Receiver<u64>,
    control: ControlHandle,
    directory: Arc<PathBuf>,
    /// The readers that there may be.
    readers: Arc<Semaphore>,
}

impl AppState {
    pub(super) fn new(
        feed: Arc<Mutex<Feed>>,
        ticks: watch::Receiver<u64>,
        control: ControlHandle,
        directory: PathBuf,
    ) -> Self {
        let readers = Arc::new(Semaphore::new(MOST_READERS));
        Self { feed, ticks, control, directory: Arc::new(directory), readers }
    }
}

/// The routes.
pub(super) fn router(state: &AppState, access: &Access) -> Router {
    let open = Router::new().route("/metrics", get(scrape));
    let questions = Router::new()
        .route("/", get(page))
        .route("/events", get(events))
        .route("/report.html", get(report));
    let commands = Router::new().route("/order", post(command));
    let [open, questions, commands] =
        [open, questions, commands].map(|routes| routes.with_state(state.clone()));
    access.guard(Routes { open, questions, commands })
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
    _place: OwnedSemaphorePermit,
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
) -> Result<Sse<impl Stream<Item = Result<Event, Infallible>>>, Response> {
    let Ok(place) = Arc::clone(&state.readers).try_acquire_owned() else {
        let why = format!("{MOST_READERS} pages follow this run already: close one, and reload");
        return Err(error(StatusCode::SERVICE_UNAVAILABLE, why));
    };
    let seen = headers.get("last-event-id").and_then(|id| id.to_str().ok()?.parse::<u64>().ok());
    let from = seen.map_or(0, |last| last.saturating_sub(STILL_OPEN_S));
    let (ready, _place) = (VecDeque::new(), place);
    let reader = Reader { state, from, version: None, ready, begun: false, _place };
    let events = futures_lite::stream::unfold(reader, Reader::next);
    Ok(Sse::new(events).keep_alive(KeepAlive::default()))
}

async fn scrape(State(state): State<AppState>) -> Response {
    control::http::metrics(metrics::encode(&locked(&state.feed).digest))
}

async fn report(State(state): State<AppState>) -> Response {
    let directory = state.directory.clone();
    let read = move || record::read_within(&directory, NAME, MOST_PAGE);
    let read = tokio::task::spawn_blocking(read).await;
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
