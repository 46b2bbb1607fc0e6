//! `lab agent`: an agent of a fleet, and its figures for Prometheus where `--metrics` asks for
//! them.

use std::net::{SocketAddr, TcpListener};
use std::sync::Arc;

use control::metrics::{Labelled, encode_labelled};
use fleet::agent::{AgentArgs, Figures, Status};
use spec::UsageError;

/// Carries it out, until it is interrupted.
pub(crate) async fn run(args: &AgentArgs) -> anyhow::Result<()> {
    let listener = args.metrics.map(bind).transpose()?;
    let looked_on = |status| {
        if let Some(listener) = listener {
            serve(listener, status);
        }
    };
    fleet::agent::run(args, run::PIPE_PROTOCOL, looked_on).await
}

/// Takes the address before anything else is begun.
fn bind(address: SocketAddr) -> anyhow::Result<TcpListener> {
    TcpListener::bind(address)
        .map_err(|error| UsageError::error(format!("--metrics {address}: {error}")))
}

fn serve(listener: TcpListener, status: Arc<Status>) {
    if let Ok(address) = listener.local_addr() {
        text::say!("metrics: http://{address}/metrics");
    }
    let scrape = move || encode_labelled("lab_agent", families(&status.figures()));
    tokio::spawn(async move {
        if let Err(error) = control::serve_metrics(listener, scrape).await {
            text::say!("--metrics: {error}");
        }
    });
}

/// The figures as metrics: of an agent each has one value.
fn families(figures: &Figures) -> Vec<Labelled> {
    let one = |name: &str, help: &str, counter, value: u64| Labelled {
        name: name.to_owned(),
        help: help.to_owned(),
        counter,
        values: vec![(Vec::new(), value as f64)],
    };
    let waiting = &figures.waiting;
    vec![
        Labelled {
            name: "info".to_owned(),
            help: "The version of the lab".to_owned(),
            counter: false,
            values: vec![(vec![("version", host::VERSION.to_owned())], 1.0)],
        },
        one("start_time_seconds", "When the agent was started, in Unix time", false, figures.since),
        one("connected", "Whether it is connected to NATS", false, figures.is_connected.into()),
        one("working", "Whether it works for a run", false, figures.is_working.into()),
        one("kept_runs", "Runs of which it keeps something", false, figures.kept_runs),
        one("runs", "Runs that it began to work for", true, figures.runs),
        one("orders", "Orders of coordinators, for runs it worked for", true, figures.orders),
        one("refusals", "Requests of coordinators that it refused", true, figures.refused),
        one("waiting_batches", "Batches that are not merged yet", false, waiting.batches),
        one(
            "waiting_bytes",
            "Room of what is not merged, in memory and on disk",
            false,
            waiting.bytes,
        ),
        one("lost_items", "Items of kept runs that had no room, and are lost", false, waiting.lost),
    ]
}
