//! The HTTP interface.
//!
//! | request | does |
//! | --- | --- |
//! | `GET /health` | 200 when every shard answers, 503 with the one that does not |
//! | `GET /counters` | counters of all shards and of each, as JSON |
//! | `GET /ledger` | the books in all and per SET, as JSON |
//! | `GET /metrics` | everything as OpenMetrics |
//! | `POST /command` | a [`Command`] as JSON |
//! | `GET /yaohongbao?qps&sum`, `GET /fahongbao?qps&sum&min&max` | as the prototype has them |
//!
//! The last three change something: [`Access`] says who may.

use std::sync::Arc;

use accounting::Ledger;
use accounting::server::Counters;
use axum::Json;
use axum::Router;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{Query, State};
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post};
use control::http::error;
use control::{Access, Routes};
use serde_json::{Value, json};
use service::Command;

use crate::panel::error::CommandError;
use crate::panel::hub::Hub;
use crate::panel::metrics;
use crate::panel::prototype::{FaHongBao, YaoHongBao};
use crate::report::Snapshot;

/// The routes.
pub fn router(hub: &Hub, access: &Access) -> Router {
    let open = Router::new().route("/health", get(health)).route("/metrics", get(scrape));
    let questions = Router::new().route("/counters", get(counters)).route("/ledger", get(ledger));
    let commands = Router::new()
        .route("/command", post(command))
        .route("/yaohongbao", get(yaohongbao))
        .route("/fahongbao", get(fahongbao));
    let [open, questions, commands] =
        [open, questions, commands].map(|routes| routes.with_state(hub.clone()));
    access.guard(Routes { open, questions, commands })
}

async fn ask(hub: &Hub) -> Result<Arc<[Snapshot]>, Response> {
    hub.snapshots().await.map_err(|shard| {
        error(StatusCode::SERVICE_UNAVAILABLE, format!("shard {shard} does not answer"))
    })
}

fn sums(snapshots: &[Snapshot]) -> (Counters, Ledger) {
    let mut counters = Counters::default();
    for snapshot in snapshots {
        counters.add(&snapshot.counters);
    }
    (counters, snapshots.iter().map(|snapshot| &snapshot.ledger).sum())
}

async fn health(State(hub): State<Hub>) -> Result<Json<Value>, Response> {
    let snapshots = ask(&hub).await?;
    let connections: u32 = snapshots.iter().map(|snapshot| snapshot.connections).sum();
    let online: u64 = snapshots.iter().map(|snapshot| snapshot.gauges.users_online).sum();
    let balanced = sums(&snapshots).1.is_balanced();
    Ok(Json(json!({
        "shards": snapshots.len(), "connections": connections, "users_online": online,
        "balanced": balanced,
    })))
}

async fn counters(State(hub): State<Hub>) -> Result<Json<Value>, Response> {
    let snapshots = ask(&hub).await?;
    let shards: Vec<Value> = snapshots
        .iter()
        .map(|snapshot| {
            json!({
                "shard": snapshot.shard, "connections": snapshot.connections,
                "gauges": snapshot.gauges, "counters": snapshot.counters,
            })
        })
        .collect();
    Ok(Json(json!({ "total": sums(&snapshots).0, "shards": shards })))
}

async fn ledger(State(hub): State<Hub>) -> Result<Json<Value>, Response> {
    let snapshots = ask(&hub).await?;
    let total = sums(&snapshots).1;
    let sets: Vec<Value> = snapshots
        .iter()
        .flat_map(|snapshot| &snapshot.sets)
        .map(|(set, users, ledger)| json!({ "set": set, "users": users, "ledger": ledger }))
        .collect();
    Ok(Json(json!({ "total": total, "balanced": total.is_balanced(), "sets": sets })))
}

async fn scrape(State(hub): State<Hub>) -> Result<Response, Response> {
    let snapshots = ask(&hub).await?;
    let (families, took) = (metrics::families(&snapshots), metrics::distributions(&snapshots));
    Ok(control::http::metrics(control::metrics::encode("lab", families, took)))
}

fn carry_out(hub: &Hub, command: Command) -> Response {
    match hub.execute(command) {
        Ok(done) => Json(done).into_response(),
        Err(why @ (CommandError::Invalid(_) | CommandError::Slow(_))) => {
            error(StatusCode::BAD_REQUEST, why)
        }
        Err(why @ CommandError::InboxFull(_)) => error(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

async fn command(
    State(hub): State<Hub>,
    command: Result<Json<Command>, JsonRejection>,
) -> Response {
    match command {
        Ok(Json(command)) => carry_out(&hub, command),
        Err(why) => error(StatusCode::BAD_REQUEST, why.body_text()),
    }
}

async fn yaohongbao(
    State(hub): State<Hub>,
    asked: Result<Query<YaoHongBao>, QueryRejection>,
) -> Response {
    match asked {
        Ok(Query(asked)) => carry_out(&hub, asked.into()),
        Err(why) => error(StatusCode::BAD_REQUEST, why.body_text()),
    }
}

async fn fahongbao(
    State(hub): State<Hub>,
    asked: Result<Query<FaHongBao>, QueryRejection>,
) -> Response {
    match asked {
        Ok(Query(asked)) => carry_out(&hub, asked.into()),
        Err(why) => error(StatusCode::BAD_REQUEST, why.body_text()),
    }
}
