//! The HTTP interface.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /qps?qps=60000` | changes the rate from the next second on; 409 without an open load |
//! | `GET /counters` | what all shards counted, and each, as JSON |
//! | `GET /metrics` | everything as OpenMetrics |
//! | `POST /command` | a [`Command`] as JSON |
//!
//! The first and the last change something: [`Access`] says who may.

use attribution::Tally;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use control::http::error;
use control::metrics::Family;
use control::{Access, Routes};
use serde::Deserialize;
use serde_json::{Value, json};
use workload::Command;

use super::error::CommandError;
use super::hub::Hub;

/// The routes.
pub(crate) fn router(hub: &Hub, access: &Access) -> Router {
    let open = Router::new().route("/metrics", get(scrape));
    let questions = Router::new().route("/counters", get(counters));
    let commands = Router::new().route("/qps", get(qps)).route("/command", post(command));
    let [open, questions, commands] =
        [open, questions, commands].map(|routes| routes.with_state(hub.clone()));
    access.guard(Routes { open, questions, commands })
}

/// `GET /qps?qps=`.
#[derive(Clone, Copy, Deserialize)]
struct Qps {
    qps: u32,
}

fn answer(hub: &Hub, command: Command) -> Response {
    match hub.execute(command) {
        Ok(()) => Json(json!({})).into_response(),
        Err(refused @ (CommandError::Phase(_) | CommandError::Slow(_))) => {
            error(StatusCode::BAD_REQUEST, refused)
        }
        Err(refused @ CommandError::NoOpenLoad) => error(StatusCode::CONFLICT, refused),
        Err(refused @ CommandError::InboxFull(_)) => {
            error(StatusCode::SERVICE_UNAVAILABLE, refused)
        }
    }
}

async fn qps(State(hub): State<Hub>, asked: Result<Query<Qps>, QueryRejection>) -> Response {
    match asked {
        Ok(Query(Qps { qps })) => answer(&hub, Command::Rate { qps }),
        Err(refused) => error(StatusCode::BAD_REQUEST, refused.body_text()),
    }
}

async fn command(
    State(hub): State<Hub>,
    command: Result<Json<Command>, JsonRejection>,
) -> Response {
    match command {
        Ok(Json(command)) => answer(&hub, command),
        Err(refused) => error(StatusCode::BAD_REQUEST, refused.body_text()),
    }
}

async fn counters(State(hub): State<Hub>) -> Json<Value> {
    let totals = hub.totals();
    let mut total = Tally::default();
    for (tally, _) in &totals {
        total.add(tally);
    }
    let shards: Vec<Value> = totals
        .iter()
        .enumerate()
        .map(|(shard, (tally, last))| json!({ "shard": shard, "counters": tally, "last": last }))
        .collect();
    Json(json!({ "total": total, "shards": shards }))
}

async fn scrape(State(hub): State<Hub>) -> Response {
    let totals = hub.totals();
    let mut families = Vec::new();
    for (index, (name, help, _)) in Tally::default().named().enumerate() {
        let value = |tally: &Tally| tally.named().nth(index).map_or(0, |(_, _, value)| value);
        families.push(Family {
            name: name.to_owned(),
            help: help.to_owned(),
            counter: true,
            values: totals.iter().map(|(tally, _)| value(tally)).collect(),
        });
    }
    families.push(Family {
        name: "online".to_owned(),
        help: "Users logged in".to_owned(),
        counter: false,
        values: totals.iter().map(|(_, last)| last.map_or(0, |it| u64::from(it.online))).collect(),
    });
    control::http::metrics(control::metrics::encode("lab_client", families, Vec::new()))
}
