//! `lab history`: the runs of a directory for a terminal, a program or a browser. Must not know:
//! how runs are compared.

use std::io::IsTerminal;

use analysis::history::{self, HistoryArgs};
use anyhow::Context;
use rustix::termios::tcgetwinsize;
use spec::UsageError;

use crate::exit::Exit;

/// Columns of standard output; `None` where it is no terminal, and lines may be of any length.
fn width() -> Option<usize> {
    let out = std::io::stdout();
    let columns = tcgetwinsize(&out).ok().filter(|_| out.is_terminal())?.ws_col;
    (columns > 0).then_some(usize::from(columns))
}

/// Shows the history of a directory.
pub(crate) fn show(args: &HistoryArgs) -> anyhow::Result<Exit> {
    let history = history::history(args).map_err(UsageError::of)?;
    if args.json {
        text::tell!("{}", serde_json::to_string_pretty(&history)?);
    } else {
        text::tell_words!("{}", history::table(&history, width()));
    }
    if let Some(file) = &args.out {
        report::write_history(&history, file)
            .with_context(|| format!("{}: cannot write it", file.display()))?;
        // In the place of JSON nothing else stands.
        if args.json {
            text::say!("lab: {}", file.display());
        } else {
            text::tell!("{}", file.display());
        }
    }
    Ok(Exit::Fine)
}
