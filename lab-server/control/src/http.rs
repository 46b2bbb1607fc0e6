//! Answers over HTTP.

use std::fmt::Display;

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use crate::metrics;

/// An error as JSON: `{"error": "why"}`.
pub fn error(status: StatusCode, why: impl Display) -> Response {
    (status, Json(json!({ "error": why.to_string() }))).into_response()
}

/// A page of metrics, or why there is none.
pub fn metrics(text: Result<String, std::fmt::Error>) -> Response {
    match text {
        Ok(text) => ([(header::CONTENT_TYPE, metrics::CONTENT_TYPE)], text).into_response(),
        Err(why) => error(StatusCode::INTERNAL_SERVER_ERROR, why),
    }
}
