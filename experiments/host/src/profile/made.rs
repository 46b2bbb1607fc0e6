//! Code that a program made itself while it ran (Java, Node.js, .NET, PHP), by the names that it
//! writes to `/tmp/perf-PID.map`: what `perf` reads, too.
//!
//! Must not know: what else is mapped.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

/// A map that is larger is not read: at 60 bytes a line these are a million functions.
const LARGEST: u64 = 64 << 20;

/// Functions by their first address, each with the address behind its last and its name.
#[derive(Clone, Debug, Default)]
pub(crate) struct MadeCode {
    functions: BTreeMap<u64, (u64, String)>,
    /// How long the map was when it was read.
    length: u64,
}

/// Where a process of this number keeps its map: by its own number, and in its own file system.
fn path(pid: u32) -> Option<PathBuf> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("NSpid:"))?;
    let own = line.split_whitespace().next_back()?;
    let root = PathBuf::from(format!("/proc/{pid}/root"));
    Some(root.join(format!("tmp/perf-{own}.map")))
}

impl MadeCode {
    /// Reads the map when it has grown. Whoever may write to `/tmp` could make one: it must belong
    /// to the user that the process runs as, or to root.
    pub(crate) fn look(&mut self, pid: u32) {
        let owner = fs::metadata(format!("/proc/{pid}")).map(|it| it.uid());
        let Some((path, owner)) = path(pid).zip(owner.ok()) else { return };
        let Ok(about) = fs::symlink_metadata(&path) else { return };
        let trusted = about.is_file() && (about.uid() == owner || about.uid() == 0);
        if !trusted || about.len() == self.length || about.len() > LARGEST {
            return;
        }
        if let Ok(bytes) = fs::read(&path) {
            self.length = about.len();
            self.read(&String::from_utf8_lossy(&bytes));
        }
    }

    /// Lines of `START SIZE NAME`, both in hexadecimal. A place that was used again has the later
    /// name. The last line may be half written.
    fn read(&mut self, text: &str) {
        for line in text.split_inclusive('\n').filter_map(|line| line.strip_suffix('\n')) {
            let mut fields = line.splitn(3, ' ');
            let hex = |text: Option<&str>| {
                let text = text?;
                u64::from_str_radix(text.strip_prefix("0x").unwrap_or(text), 16).ok()
            };
            let (start, size) = (hex(fields.next()), hex(fields.next()));
            let (Some(start), Some(size), Some(name)) = (start, size, fields.next()) else {
                continue;
            };
            self.functions.insert(start, (start.saturating_add(size), name.trim().to_owned()));
        }
    }

    /// The function at an address.
    pub(crate) fn name(&self, address: u64) -> Option<&str> {
        let (_, (end, name)) = self.functions.range(..=address).next_back()?;
        (address < *end).then_some(name.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_by_any_of_their_addresses() {
        let mut made = MadeCode::default();
        made.read("7f00 20 LazyCompile:*hot /srv/a.js:1:2\nnonsense\n0x7f20 0x10 b\n7f40 10 half");
        for (address, expected) in [
            (0x7eff, None),
            (0x7f00, Some("LazyCompile:*hot /srv/a.js:1:2")),
            (0x7f1f, Some("LazyCompile:*hot /srv/a.js:1:2")),
            (0x7f20, Some("b")),
            (0x7f30, None),
            (0x7f40, None),
        ] {
            assert_eq!(made.name(address), expected, "{address:#x}");
        }
        made.read("7f00 20 again\n");
        assert_eq!(made.name(0x7f10), Some("again"));
    }

    #[test]
    fn the_map_of_this_process_is_read_as_it_grows() {
        let own = path(std::process::id()).expect("this process");
        fs::write(&own, "10 10 first\n").expect("/tmp");
        let mut made = MadeCode::default();
        made.look(std::process::id());
        assert_eq!((made.name(0x10), made.name(0x20)), (Some("first"), None));
        fs::write(&own, "10 10 first\n20 10 second\n").expect("/tmp");
        made.look(std::process::id());
        assert_eq!(made.name(0x20), Some("second"));
        fs::remove_file(&own).expect("ours");
    }
}
