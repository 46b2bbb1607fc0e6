//! `lab nic`: the interfaces of a machine, a line a second each.
//!
//! Owns: the command. A second's data is made in `second`, and put into words in `lines`.

use serde::Serialize;

mod lines;
mod second;

use crate::seconds::Seconds;
use lines::Explained;
use second::{Second, Watch};

/// What it cannot see.
const LIMITS: &str = "\
What it cannot see:
  What a switch, a hypervisor or a cloud drops before the card, unless the driver is told.
  What a queueing discipline drops before the driver: tc -s qdisc.
  What a socket drops: lab probe, nstat.
  Frames that an XDP program takes, where the driver does not count them.
  Interfaces of other network namespaces: nsenter --net=/proc/PID/ns/net lab nic
docs/commands.md says where else to look.";

/// What to watch.
#[derive(Clone, Debug, clap::Args)]
#[command(after_help = LIMITS)]
pub struct NicArgs {
    /// Interfaces [default: all of this network namespace, also those that come]
    #[arg(value_name = "IFACE")]
    interfaces: Vec<String>,
    /// End after so many seconds [default: when interrupted]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    seconds: Option<u64>,
    /// A line of JSON a second, with everything that is counted
    #[arg(long)]
    json: bool,
    /// Name every counter and queue that moved, however many
    #[arg(long)]
    all: bool,
}

/// Watches until interrupted.
///
/// # Errors
/// [`spec::UsageError`], or what keeps the interfaces from being read.
pub async fn run(args: &NicArgs) -> anyhow::Result<()> {
    let mut watch = Watch::open(&args.interfaces)?;
    let mut seconds = Seconds::begin(args.seconds).await?;
    let mut explained = Explained::new();
    while seconds.next().await {
        let second = watch.second()?;
        let lines = if args.json {
            format!("{}\n", json_line(&second)?)
        } else {
            second.meanings(&mut explained).iter().for_each(|it| text::say!("{it}"));
            second.lines(args.all)
        };
        // The reader of the pipe has seen enough, or nothing more can be written: `lab` knows.
        if !text::tell(format_args!("{lines}")) {
            break;
        }
    }
    Ok(())
}

fn json_line(second: &Second) -> anyhow::Result<String> {
    /// With the name of its source, as lines of other commands have it.
    #[derive(Serialize)]
    struct Line<'a> {
        source: &'static str,
        #[serde(flatten)]
        second: &'a Second,
    }
    Ok(serde_json::to_string(&Line { source: "nic", second })?)
}
