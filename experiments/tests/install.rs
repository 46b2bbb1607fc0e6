//! What an installed program brings: completions that a shell takes, man pages that `man` shows,
//! which commit it is, and the help of its commands.

mod common;

#[path = "../build/commit.rs"]
mod commit;

use std::path::Path;
use std::process::Command;

use common::{assert_exit, lab, output, said};
use needs::test;

needs::main!();

#[test]
fn names_are_explained_and_mistakes_get_the_nearest() {
    let found = lab(&["explain", "client_stopped"]);
    assert_exit(&found, 0);
    assert!(said(&found).contains("A signal (SIGSTOP,"), "{}", said(&found));
    let found = lab(&["explain", "client_stoped"]);
    assert_exit(&found, 2);
    assert!(said(&found).contains("did you mean client_stopped?"), "{}", said(&found));
    // Commands and flags are clap's.
    for (arguments, near) in [
        (&["explian", "x"][..], "explain"),
        (&["run", "x.ron", "--seet", "a=1"], "--set"),
        (&["completions", "bsh"], "bash"),
    ] {
        let found = lab(arguments);
        assert_exit(&found, 2);
        assert!(said(&found).contains(near), "{arguments:?}: {}", said(&found));
    }
}

#[test]
fn bash_completes_commands_flags_and_values() {
    if !needs::program("bash", "bash") {
        return;
    }
    let script = said(&lab(&["completions", "bash"]));
    let complete = |words: &str| {
        // What readline does: sets the words, calls the function, reads COMPREPLY.
        let count = words.split(' ').count() - 1;
        let driver = format!(
            "{script}\nCOMP_WORDS=({words}); COMP_CWORD={count}; COMP_LINE='{words}'\n\
             _lab lab \"${{COMP_WORDS[$COMP_CWORD]}}\" \"${{COMP_WORDS[$COMP_CWORD-1]}}\"\n\
             printf '%s\\n' \"${{COMPREPLY[@]}}\""
        );
        let found = output(Command::new("bash").args(["--norc", "-c", &driver]));
        assert!(found.status.success(), "{}", said(&found));
        said(&found)
    };
    assert_eq!(complete("lab expl").lines().collect::<Vec<_>>(), ["explain"]);
    assert!(complete("lab run --rep").contains("--repeat"));
    assert_eq!(complete("lab completions fi").trim(), "fish");
    for shell in ["zsh", "fish", "elvish", "powershell"] {
        assert!(said(&lab(&["completions", shell])).contains("explain"), "{shell}");
    }
}

#[test]
fn every_command_has_a_man_page_with_its_example() {
    let directory = tempfile::tempdir().expect("a directory");
    let found = lab(&["man", directory.path().to_str().expect("UTF-8")]);
    assert_exit(&found, 0);
    let page = |name: &str| {
        std::fs::read_to_string(directory.path().join(name)).unwrap_or_else(|_| panic!("no {name}"))
    };
    for name in ["lab.1", "lab-run.1", "lab-tune-apply.1", "lab-ledger-verify.1", "lab-explain.1"] {
        let text = page(name);
        assert!(text.contains(".TH ") && text.contains("Example"), "{name}: {text}");
    }
    assert!(!directory.path().join("lab-hog.1").exists(), "it is hidden");
    if !needs::program("man", "man") {
        return;
    }
    let mut man = Command::new("man");
    man.args(["--warnings", "--local-file"]).arg(directory.path().join("lab-run.1"));
    let found = output(man.env("MANPAGER", "cat").env("MANWIDTH", "100").env("LC_ALL", "C.UTF-8"));
    let said = said(&found);
    assert!(found.status.success(), "{said}");
    assert!(said.contains("lab run experiments/smoke.ron"), "{said}");
    assert!(!said.contains("warning"), "{said}");
}

#[test]
fn the_version_says_commit_and_kernel_side() {
    let said = said(&lab(&["--version"]));
    let mut lines = said.lines();
    assert!(lines.next().is_some_and(|line| line.starts_with("lab 0.")), "{said}");
    assert!(lines.next().is_some_and(|line| line.starts_with("commit: ")), "{said}");
    // The same as `sha256sum` says of the file in the repository.
    let object = Path::new(env!("CARGO_MANIFEST_DIR")).join("../ebpf/prebuilt/probes.o");
    let sum = output(Command::new("sha256sum").arg(object));
    let sum = String::from_utf8_lossy(&sum.stdout).into_owned();
    let sum = sum.split(' ').next().unwrap_or_default();
    assert!(sum.len() == 64 && said.contains(&format!("probes.o sha256 {sum}")), "{said}{sum}");
    let here = env!("CARGO_MANIFEST_DIR").trim_end_matches("/experiments");
    assert!(!said.contains(here), "no place of the build: {said}");
}

fn git(directory: &Path, arguments: &[&str]) {
    let mut git = Command::new("git");
    git.arg("-C").arg(directory).args(["-c", "user.name=x", "-c", "user.email=x@localhost"]);
    let done = output(git.args(arguments));
    assert!(done.status.success(), "{arguments:?}: {}", said(&done));
}

#[test]
fn a_commit_is_that_of_its_own_tree_or_not_known() {
    if !needs::program("git", "git") {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let root = directory.path();
    assert!(commit::commit(root).starts_with("not known"), "{}", commit::commit(root));
    std::fs::write(root.join("file"), "one").expect("written");
    git(root, &["init", "--quiet"]);
    assert!(commit::commit(root).starts_with("not known"), "there is none yet");
    git(root, &["add", "file"]);
    git(root, &["commit", "--quiet", "--message", "one"]);
    let clean = commit::commit(root);
    assert!(clean.len() == 40 && clean.chars().all(|it| it.is_ascii_hexdigit()), "{clean}");
    std::fs::write(root.join("file"), "two").expect("written");
    assert_eq!(commit::commit(root), format!("{clean}, with changes"));
    // Sources that were unpacked within somebody's repository are not of its commit.
    let unpacked = root.join("unpacked");
    std::fs::create_dir(&unpacked).expect("made");
    assert!(commit::commit(&unpacked).starts_with("not known"));
}
