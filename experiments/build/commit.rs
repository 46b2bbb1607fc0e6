//! The commit of a source tree, by its git, and no other tree's around it.

use std::path::Path;
use std::process::Command;

/// What `git` says in this directory; nothing when it is missing or fails.
fn git(root: &Path, arguments: &[&str]) -> Option<String> {
    let output = Command::new("git").arg("-C").arg(root).args(arguments).output().ok()?;
    let said = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| said.trim().to_owned())
}

/// The commit of the tree at `root`, and whether files differ from it; or why it is not known.
pub(crate) fn commit(root: &Path) -> String {
    let top = git(root, &["rev-parse", "--show-toplevel"]).map(std::path::PathBuf::from);
    let is_its_own = top.and_then(|top| top.canonicalize().ok()) == root.canonicalize().ok();
    match git(root, &["rev-parse", "HEAD"]).filter(|_| is_its_own) {
        None => "not known, as it was built from sources without git".to_owned(),
        Some(commit) => {
            let changes = git(root, &["status", "--porcelain", "--untracked-files=no"]);
            let changed = changes.is_none_or(|changes| !changes.is_empty());
            if changed { format!("{commit}, with changes") } else { commit }
        }
    }
}

/// The files whose change means that the commit may be another one.
#[allow(dead_code, reason = "the test of commits does not watch")]
pub(crate) fn watched(root: &Path) -> Vec<String> {
    let names = ["HEAD", "logs/HEAD", "index"];
    let paths = names.iter().filter_map(|name| git(root, &["rev-parse", "--git-path", name]));
    paths.map(|path| root.join(path).display().to_string()).collect()
}
