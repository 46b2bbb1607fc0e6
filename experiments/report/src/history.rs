//! The page of a history: one HTML file, nothing loaded from anywhere. Must not know: how runs are
//! compared.

use std::io::{self, Write};
use std::path::Path;

use crate::page::{FORMAT, STYLE, escaped, in_script};
use analysis::history::History;

const HTML: &str = include_str!("page/history.html");
const CSS: &str = include_str!("page/history.css");
const SCRIPT: &str = include_str!("page/history.js");

/// The HTML of a history.
fn html(history: &History) -> serde_json::Result<String> {
    let title = format!("{}: history", history.directory.display());
    let content = in_script(&serde_json::to_string(history)?);
    let mut out = String::with_capacity(content.len() + 50_000);
    let mut rest = HTML;
    for (mark, part) in [
        ("{{title}}", escaped(&title)),
        ("{{css}}", format!("{STYLE}\n{CSS}")),
        ("{{content}}", content),
        ("{{scripts}}", format!("{FORMAT}\n{SCRIPT}")),
    ] {
        let (before, after) = rest.split_once(mark).unwrap_or((rest, ""));
        out += before;
        out += &part;
        rest = after;
    }
    Ok(out + rest)
}

/// Writes the page of a history. It appears in one step, in the place of an earlier one.
///
/// # Errors
/// What the system says.
pub fn write_history(history: &History, file: &Path) -> io::Result<()> {
    let html = html(history)?;
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    let part = file.with_file_name(name);
    let written = std::fs::File::create(&part).and_then(|mut out| {
        out.write_all(html.as_bytes())?;
        out.sync_all()?;
        std::fs::rename(&part, file)
    });
    written.inspect_err(|_| {
        // What is there of it takes the room of something that is needed.
        let _ = std::fs::remove_file(&part);
    })
}
