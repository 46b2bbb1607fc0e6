//! The command line of `lab agent`.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use crate::access::Access;
use crate::names;
use crate::protocol::Role;
use crate::target::Target;
use spec::UsageError;

/// Arguments of `lab agent`.
#[derive(Clone, Debug, clap::Args)]
pub struct AgentArgs {
    #[command(flatten)]
    pub(super) access: Access,
    /// The name of this host in experiments
    #[arg(long)]
    pub(super) name: String,
    /// What the host may be used for; may be given again [default: all of them]
    #[arg(long = "role", value_name = "ROLE", value_enum)]
    pub(super) roles: Vec<Role>,
    /// Labels that experiments can ask for; may be given again
    #[arg(long, value_name = "KEY=VALUE", value_parser = label, num_args = 1..)]
    pub(super) labels: Vec<(String, String)>,
    /// An IPv4 address for the server to listen on and for clients to come from; may be given
    /// again [default: the one towards NATS first, then the host's others]
    #[arg(long = "address", value_name = "ADDRESS")]
    pub(super) addresses: Vec<Ipv4Addr>,
    /// A server, or the servers of a network, that coordinators may have this host load; may be
    /// given again [default: loopback and private networks]
    #[arg(long = "allow-target", value_name = "ADDRESS[/BITS][:PORT]")]
    pub(super) targets: Vec<Target>,
    /// How many seconds to wait for `lab run --resume` when the coordinator of a run is gone,
    /// counted from the end of the phase
    #[arg(long, value_name = "SECONDS", default_value_t = 60)]
    pub(super) wait: u64,
    /// Answer GET /metrics there, for Prometheus [default: nowhere]
    #[arg(long, value_name = "ADDRESS:PORT")]
    pub metrics: Option<SocketAddr>,
    /// As whom programs run: NAME, UID or UID:GID [default: who has called sudo, else nobody]
    #[arg(long, value_name = "USER")]
    pub(super) user: Option<String>,
    /// Where results are kept until they are acknowledged [default: $STATE_DIRECTORY, or
    /// lab-agent-NAME here]
    #[arg(long, value_name = "DIR")]
    pub(super) state: Option<PathBuf>,
}

fn label(text: &str) -> Result<(String, String), String> {
    let (key, value) = text.split_once('=').ok_or("a label is KEY=VALUE")?;
    Ok((key.to_owned(), value.to_owned()))
}

/// Names are part of subjects and of file names.
pub(super) fn check_name(name: &str) -> anyhow::Result<()> {
    names::check_agent(name).map_err(|why| UsageError::error(format!("--name: {why}")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_part_of_a_subject_are_refused() {
        for name in ["vm1", "R2950", "a-b_c"] {
            assert!(check_name(name).is_ok(), "{name}");
        }
        for name in ["", "a.b", "a b", "*", ">", "ü", &"x".repeat(65)] {
            let error = check_name(name).expect_err(name);
            assert!(error.is::<UsageError>(), "{error}");
        }
    }
}
