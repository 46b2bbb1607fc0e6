//! What belongs to an installed program: completions, man pages, and which build it is. Must not
//! know: what the commands do.

use std::path::Path;
use std::sync::LazyLock;

use anyhow::Context;
use clap_complete::Shell;
use sha2::{Digest, Sha256};

/// The commit that this was built from, or why it is not known; by `build.rs`.
const BUILT_FROM: &str = env!("LAB_BUILT_FROM");

/// What `lab --version` says: this program, its commit, and what it loads into the kernel.
pub(crate) fn version() -> &'static str {
    static TEXT: LazyLock<String> = LazyLock::new(|| {
        let digest = |object: &[u8]| {
            let digest = Sha256::digest(object);
            digest.iter().map(|byte| format!("{byte:02x}")).collect::<String>()
        };
        let [probes, faults] = ebpf::objects().map(digest);
        format!(
            "{}\ncommit: {BUILT_FROM}\nkernel side: probes.o sha256 {probes}\n             \
             faults.o sha256 {faults}",
            env!("CARGO_PKG_VERSION")
        )
    });
    &TEXT
}

/// Completions for a shell.
pub(crate) fn completions(command: &mut clap::Command, shell: Shell) -> String {
    let mut out = Vec::new();
    clap_complete::generate(shell, command, "lab", &mut out);
    String::from_utf8_lossy(&out).into_owned()
}

/// Writes a man page for each command.
///
/// # Errors
/// What the system says, with the directory.
pub(crate) fn man(command: clap::Command, directory: &Path) -> anyhow::Result<()> {
    let write = || {
        std::fs::create_dir_all(directory)?;
        // The first line of a page has the version alone.
        clap_mangen::generate_to(command.long_version(env!("CARGO_PKG_VERSION")), directory)
    };
    write().with_context(|| format!("{}: man pages", directory.display()))
}
