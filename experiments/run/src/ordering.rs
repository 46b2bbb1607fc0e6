//! Orders that a person gives a run while it goes on, over its live page. Each is recorded: what
//! was asked for afterwards is not what the file says.

use std::net::{SocketAddr, TcpListener};
use std::path::Path;

use serde_json::json;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use workload::Command as ClientCommand;

use record::Event;
use report::live::{Desk, Given, Live, Order, SOCKET, Socket, bind, take_orders};
use spec::Shake;

use super::{Happened, Run};

/// Where a run hears of orders.
pub(super) struct Orders {
    pub(super) given: UnboundedReceiver<Given>,
    /// Kept, so that waiting for an order never ends for want of somebody who could give one.
    desk: UnboundedSender<Given>,
    /// The address of the page, until it is served.
    listener: Option<TcpListener>,
    live: Option<Live>,
    socket: Option<Socket>,
}

impl Orders {
    /// Takes the address of the page, if one is wanted.
    ///
    /// # Errors
    /// When it cannot be had.
    pub(super) fn new(live: Option<SocketAddr>) -> anyhow::Result<Self> {
        let listener = live.map(bind).transpose()?;
        let (desk, given) = unbounded_channel();
        Ok(Self { given, desk, listener, live: None, socket: None })
    }

    /// Takes orders for the run in a directory; returns what to tell a person.
    pub(super) fn open(&mut self, directory: &Path) -> anyhow::Result<Vec<String>> {
        let mut said = Vec::new();
        match take_orders(directory, self.desk.clone()) {
            Ok(socket) => self.socket = Some(socket),
            Err(error) => said.push(format!("{SOCKET}: {error}; lab live can only watch this run")),
        }
        if let Some(listener) = self.listener.take() {
            let live = Live::start(listener, directory, Desk::Run(self.desk.clone()))?;
            said.push(format!("live page: {}", live.address()));
            self.live = Some(live);
        }
        Ok(said)
    }

    /// Takes none any more; the page goes on.
    pub(super) fn close(&mut self) -> Option<Live> {
        self.socket = None;
        self.given.close();
        self.live.take()
    }
}

impl Run {
    /// Carries out an order, or hands it on to whoever can.
    pub(super) async fn obey(&mut self, given: Given) -> anyhow::Result<Option<Happened>> {
        let Given { order, answer } = given;
        if self.ending {
            let _ = answer.send(Err("the run is about to be over".to_owned()));
            return Ok(None);
        }
        if let Err(why) = order.check(self.source.experiment.users.get()) {
            let _ = answer.send(Err(why));
            return Ok(None);
        }
        if order == (Order::EndPhase {}) {
            return Ok(Some(Happened::EndPhase(answer)));
        }
        let said = match (&order, order.for_server()) {
            (Order::Rate { qps }, _) => self.set_rate(*qps).await?,
            (_, Some(command)) => {
                self.server.tell(&command).await?;
                Ok("the server was told; what it refuses stands among the warnings".to_owned())
            }
            (_, None) => Err("nobody can do that".to_owned()),
        };
        if said.is_ok() {
            self.record_order(&order)?;
        }
        // Whoever gave the order may not wait any more.
        let _ = answer.send(said);
        Ok(None)
    }

    async fn set_rate(&mut self, qps: u32) -> anyhow::Result<Result<String, String>> {
        let now = self.files.phase_at(self.now()).map(|phase| usize::from(phase.index));
        let Some(spec) = now.and_then(|index| self.phases.get(index)) else {
            return Ok(Err("not now: no phase is under way".to_owned()));
        };
        if !matches!(spec.shake, Some(Shake::Open { .. })) {
            return Ok(Err(format!("phase {} has no open load to change", spec.name)));
        }
        self.tell_clients(&ClientCommand::Rate { qps }).await?;
        Ok(Ok(format!("{qps} shakes a second from the next second on")))
    }

    /// Records an order that was carried out.
    pub(super) fn record_order(&mut self, order: &Order) -> anyhow::Result<()> {
        let order = serde_json::to_value(order)?;
        self.progress.say(&format!("ordered: {order}"));
        self.files.event(Event::now("ordered", json!({ "order": order })))?;
        Ok(())
    }
}
