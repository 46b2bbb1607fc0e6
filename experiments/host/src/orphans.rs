//! Programs whose run has ended without them, though each is to die with the process that started
//! it: found by what that process has written into their environment.

use std::io;
use std::path::Path;

use rustix::process::{Pid, Signal};

/// The process that has started a program: its number and when it began, since numbers come back.
pub(crate) const STARTED_BY: &str = "LAB_STARTED_BY";

/// A program whose run is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Orphan {
    /// Its process.
    pub pid: i32,
    began: u64,
    /// What it was started with.
    pub command: String,
}

/// What [`STARTED_BY`] says of this process.
pub(crate) fn started_by() -> io::Result<String> {
    let pid = std::process::id();
    let began =
        began(Path::new("/proc/self")).ok_or_else(|| io::Error::other("/proc/self/stat"))?;
    Ok(format!("{pid}.{began}"))
}

/// When a process began, in ticks since the boot. Its name may contain anything, and ends with the
/// last parenthesis.
fn began(process: &Path) -> Option<u64> {
    let stat = std::fs::read_to_string(process.join("stat")).ok()?;
    let (_, fields) = stat.rsplit_once(')')?;
    // Field 22, of which the third is the first behind the name.
    fields.split_whitespace().nth(19)?.parse().ok()
}

/// The programs whose run is over, as far as this process may see them.
///
/// # Errors
/// When there is no `/proc`.
pub fn orphans() -> io::Result<Vec<Orphan>> {
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc")? {
        let path = entry?.path();
        let Some(pid) = path.file_name().and_then(|it| it.to_str()?.parse::<i32>().ok()) else {
            continue;
        };
        // Processes come and go meanwhile, and those of others are not shown.
        found.extend(orphan(&path, pid));
    }
    found.sort_by_key(|it| it.pid);
    Ok(found)
}

fn orphan(process: &Path, pid: i32) -> Option<Orphan> {
    // What started it is named by its number, which means something else in another namespace.
    let namespace = |process: &Path| std::fs::read_link(process.join("ns/pid")).ok();
    if namespace(process)? != namespace(Path::new("/proc/self"))? {
        return None;
    }
    let environment = std::fs::read(process.join("environ")).ok()?;
    let mut variables = environment.split(|byte| *byte == 0);
    let by = variables.find_map(|it| it.strip_prefix(format!("{STARTED_BY}=").as_bytes()))?;
    let (parent, parent_began) = std::str::from_utf8(by).ok()?.split_once('.')?;
    if began(&Path::new("/proc").join(parent)) == Some(parent_began.parse().ok()?) {
        return None;
    }
    let line = std::fs::read(process.join("cmdline")).ok()?;
    let words: Vec<_> = line.split(|byte| *byte == 0).map(String::from_utf8_lossy).collect();
    // A shell that such a program was started from says the same; a program is `lab` itself.
    let is_program = matches!(words.get(1).map(AsRef::as_ref), Some("server" | "client" | "hog"));
    if words.first().is_none_or(|it| it != "lab") || !is_program {
        return None;
    }
    let command = words.iter().take(3).map(AsRef::as_ref).collect::<Vec<_>>().join(" ");
    Some(Orphan { pid, began: began(process)?, command: command.trim().to_owned() })
}

impl Orphan {
    /// Ends it.
    ///
    /// # Errors
    /// What the kernel says.
    pub fn end(&self) -> io::Result<()> {
        // The number is that of another process by now.
        if began(&Path::new("/proc").join(self.pid.to_string())) != Some(self.began) {
            return Ok(());
        }
        let Some(pid) = Pid::from_raw(self.pid) else { return Ok(()) };
        Ok(rustix::process::kill_process(pid, Signal::KILL)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn processes_have_begun() {
        let said = started_by().expect("/proc");
        let (pid, ticks) = said.split_once('.').expect("two numbers");
        assert_eq!(pid.parse(), Ok(std::process::id()));
        assert_eq!(ticks.parse().ok(), began(&Path::new("/proc").join(pid)));
        assert_eq!(began(Path::new("/proc/none")), None);
    }
}
