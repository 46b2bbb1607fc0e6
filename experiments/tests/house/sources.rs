//! The Rust files and packages of the repository, read once for all tests of the watch.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;

use crate::facts;
use crate::modules::Files;

/// The folder of the workspace.
pub(crate) fn top() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the workspace")
}

/// What the repository holds.
pub(crate) struct Repository {
    /// Name and text of each Rust file.
    pub(crate) texts: Vec<(String, String)>,
    pub(crate) files: Files,
    /// Files that do not parse, one sentence each.
    pub(crate) unread: Vec<String>,
}

/// The repository as it stands on disk, files not yet committed included.
pub(crate) fn repository() -> &'static Repository {
    static REPOSITORY: OnceLock<Repository> = OnceLock::new();
    REPOSITORY.get_or_init(|| {
        let names = rust_files();
        assert!(names.len() > 50, "{} files", names.len());
        let text = |name: String| {
            let text = std::fs::read_to_string(top().join(&name)).expect("text");
            (name, text)
        };
        let texts: Vec<(String, String)> = names.into_iter().map(text).collect();
        let (files, unread) = parse(&texts);
        Repository { texts, files, unread }
    })
}

fn rust_files() -> Vec<String> {
    let listed = Command::new("git")
        .args(["ls-files", "--cached", "--others", "--exclude-standard", "*.rs"])
        .current_dir(top())
        .output()
        .expect("git is there");
    assert!(listed.status.success(), "{listed:?}");
    let names = String::from_utf8(listed.stdout).expect("names in UTF-8");
    let files = names.lines().filter(|name| top().join(name).exists());
    files.map(str::to_owned).collect()
}

/// Parses files on as many threads as the machine has.
pub(crate) fn parse(texts: &[(String, String)]) -> (Files, Vec<String>) {
    let threads = std::thread::available_parallelism().map_or(1, |threads| threads.get());
    let mut read = Vec::new();
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads)
            .map(|first| {
                scope.spawn(move || {
                    let own = texts.iter().skip(first).step_by(threads);
                    let read = |(name, text): &(String, String)| {
                        (name.clone(), facts::read(text).map_err(|error| error.to_string()))
                    };
                    own.map(read).collect::<Vec<_>>()
                })
            })
            .collect();
        read = threads.into_iter().flat_map(|thread| thread.join().expect("no panic")).collect();
    });
    let mut files = Files::new();
    let mut unread = Vec::new();
    for (name, facts) in read {
        match facts {
            Ok(facts) => drop(files.insert(name, facts)),
            Err(error) => unread.push(format!("{name}: does not parse: {error}")),
        }
    }
    (files, unread)
}
