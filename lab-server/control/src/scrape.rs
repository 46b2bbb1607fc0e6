//! An HTTP interface with metrics alone, for a program that has nothing else to tell over HTTP.
//! Must not know: what is measured.

use std::fmt;
use std::io;

use axum::Router;
use axum::routing::get;

use crate::access::{Access, Commands, Routes};
use crate::http;
use crate::listen::listen;

/// Answers `GET /metrics` with what `scrape` gives, to who names this machine as its host, until
/// its future is dropped. Nothing can be changed here.
///
/// # Errors
/// What the system says of the listener.
pub async fn serve_metrics(
    listener: std::net::TcpListener,
    scrape: impl Fn() -> Result<String, fmt::Error> + Clone + Send + Sync + 'static,
) -> io::Result<()> {
    listener.set_nonblocking(true)?;
    let listener = tokio::net::TcpListener::from_std(listener)?;
    let open = Router::new().route("/metrics", get(async move || http::metrics(scrape())));
    let access = Access::new(Commands::Nobody, false, &[]);
    let routes = access.guard(Routes { open, ..Routes::default() });
    listen(listener, routes, std::future::pending()).await;
    Ok(())
}
