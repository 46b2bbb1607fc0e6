//! Every input of the corpora, findings of the past among them, with bounds on time and memory.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use fuzz::{Bounded, LARGEST_BYTES, TARGETS};

#[global_allocator]
static MEMORY: Bounded = Bounded;

/// What one input may take, also unoptimised and on a busy machine: a fuzzer's own bound is 2 s.
const PATIENCE: Duration = Duration::from_secs(10);

fn inputs(name: &str) -> Vec<PathBuf> {
    let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora").join(name);
    let entries = std::fs::read_dir(&directory).unwrap_or_else(|error| panic!("{name}: {error}"));
    entries.map(|entry| entry.expect("an entry").path()).collect()
}

#[test]
fn every_input_is_read_or_refused_within_its_bounds() {
    for (name, target) in TARGETS {
        let inputs = inputs(name);
        assert!(!inputs.is_empty(), "{name} has no inputs");
        for input in inputs {
            let bytes = std::fs::read(&input).expect("an input");
            println!("{name}: {}", input.display());
            let start = Instant::now();
            target(&bytes);
            let took = start.elapsed();
            assert!(took < PATIENCE, "{}: {took:?}", input.display());
        }
    }
}

#[test]
fn corpora_are_small_and_of_targets_that_there_are() {
    let top = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpora");
    for entry in std::fs::read_dir(top).expect("corpora") {
        let name = entry.expect("an entry").file_name().into_string().expect("a name");
        assert!(fuzz::target(&name).is_some(), "corpora/{name} is of no target");
        let sizes = inputs(&name).into_iter().map(|file| file.metadata().expect("there").len());
        let all: u64 = sizes.sum();
        assert!(all < 200_000, "{name} has {all} bytes");
    }
}

#[test]
fn memory_beyond_the_bound_ends_the_process() {
    const ASKED: &str = "FUZZ_TEST_ASKS";
    if std::env::var_os(ASKED).is_some() {
        drop(std::hint::black_box(vec![1_u8; LARGEST_BYTES + 1]));
        return;
    }
    let mut command = std::process::Command::new(std::env::current_exe().expect("this test"));
    let name = "memory_beyond_the_bound_ends_the_process";
    let output = command.args(["--exact", name, "--nocapture"]).env(ASKED, "1").output();
    let output = output.expect("it starts");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(!output.status.success() && said.contains("more memory than any needs"), "{said}");
}
