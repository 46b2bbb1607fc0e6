//! The links between the network namespaces of a run: one veth pair for each namespace of clients,
//! that has its other end in the server's. Gone with the namespaces.
//!
//! Owns: which interfaces, addresses and routes there are. Must not know: what uses them.

use std::io;
use std::sync::Arc;

use rustix::fd::AsFd;

use host::links::{Links, bring_up, index};
use host::namespace::Netns;
use spec::Experiment;
use spec::places::{Group, SERVER_ADDRESS, group_of, groups};

/// The client's end of a link, in the namespace of the clients.
pub(crate) const CLIENT_END: &str = "lab0";

/// The network namespaces of a run.
#[derive(Clone, Debug, Default)]
pub struct Namespaces {
    /// The server's; `None` when it is that of the machine.
    pub server: Option<Arc<Netns>>,
    /// Those of the clients; none when they share the server's.
    pub clients: Vec<Arc<Netns>>,
}

/// The server's end of the link to a namespace of clients, in the server's namespace.
pub(crate) fn server_end(number: usize) -> String {
    format!("lab{number}")
}

impl Namespaces {
    /// Makes what an experiment asks for, if it is to have namespaces of its own.
    ///
    /// # Errors
    /// What the kernel says, with what was tried.
    pub fn make(experiment: &Experiment, own: bool) -> io::Result<Self> {
        if !own {
            return Ok(Self::default());
        }
        let make = || Netns::make(&experiment.network, experiment.tuning.is_some()).map(Arc::new);
        let server = make()?;
        let mut clients = Vec::new();
        for (number, group) in groups(experiment).iter().enumerate() {
            let client = make()?;
            join(&server, &client, number, group)?;
            clients.push(client);
        }
        Ok(Self { server: Some(server), clients })
    }

    /// That of a client process.
    pub fn of_client(&self, experiment: &Experiment, process: u32) -> Option<&Netns> {
        let own = group_of(experiment, process).and_then(|(number, _)| self.clients.get(number));
        own.or(self.server.as_ref()).map(Arc::as_ref)
    }
}

/// Joins two namespaces.
fn join(server: &Netns, client: &Netns, number: usize, group: &Group) -> io::Result<()> {
    let name = server_end(number);
    client.run(|| -> io::Result<()> {
        let links = Links::open()?;
        links.add_veth_pair(CLIENT_END, &name, server.as_fd())?;
        bring_up(CLIENT_END)?;
        let own = index(CLIENT_END)?;
        group.sources.iter().try_for_each(|source| links.add_address(own, *source))?;
        links.add_route(own, SERVER_ADDRESS)
    })??;
    server.run(|| -> io::Result<()> {
        let links = Links::open()?;
        bring_up(&name)?;
        let own = index(&name)?;
        links.add_address(own, SERVER_ADDRESS)?;
        group.sources.iter().try_for_each(|source| links.add_route(own, *source))
    })?
}
