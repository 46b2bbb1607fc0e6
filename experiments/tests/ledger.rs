//! A run whose server keeps a durable ledger, and the audit of that against what clients received.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{assert_exit, experiment, lab, number, said};
use serde_json::Value;

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}

/// Files of the ledger of a kind, in order.
fn files(ledger: &Path, kind: &str) -> Vec<PathBuf> {
    let entries = fs::read_dir(ledger).expect("a directory");
    let mut files: Vec<PathBuf> = entries.map(|entry| entry.expect("an entry").path()).collect();
    files.retain(|file| file.extension().is_some_and(|it| it == kind));
    files.sort();
    files
}

#[test]
fn the_ledger_of_a_run_is_what_its_clients_received() {
    let root = tempfile::tempdir().expect("a directory");
    // The server may be an ordinary user, who must get there.
    fs::set_permissions(root.path(), Permissions::from_mode(0o755)).expect("ours");
    let (ledger, out) = (root.path().join("ledger"), root.path().join("run"));
    let keep = format!("server.ledger={:?}", path(&ledger));
    let smoke = experiment("smoke");
    let output = lab(&["run", path(&smoke), "--out", path(&out), "--set", &keep]);
    assert_exit(&output, 0);
    let verify = ["ledger", "verify", path(&ledger)];
    let alone = lab(&[&verify[..], &["--json"]].concat());
    assert_exit(&alone, 0);
    let found: Value = serde_json::from_slice(&alone.stdout).expect("JSON");
    assert_eq!((&found["balanced"], &found["complete"]), (&true.into(), &true.into()));
    assert_eq!(found["received_by_clients"], Value::Null);
    // 80 packets to be shaken in each of two phases, and 40 for three users.
    assert_eq!(number(&found, "/ledger/created/count"), 80 + 80 + 40 * 3);
    assert!(number(&found, "/grants/count") > 0 && number(&found, "/claims/count") > 0);
    let against = lab(&[&verify[..], &["--run", path(&out)]].concat());
    assert_exit(&against, 0);
    assert!(said(&against).contains("received by clients"), "{}", said(&against));

    // Another run does not go on with it: its books would have the money of this one.
    let again = root.path().join("again");
    let output = lab(&["run", path(&smoke), "--out", path(&again), "--set", &keep]);
    assert_exit(&output, 1);
    assert!(said(&output).contains("a directory of its own"), "{}", said(&output));

    assert_seen(&ledger, &out);
}

/// What is missing or changed in a ledger is seen.
fn assert_seen(ledger: &Path, out: &Path) {
    // Epoch 2 began with the run that was refused; the records are those of epoch 1.
    let segments = files(ledger, "segment");
    let largest = segments.iter().max_by_key(|it| fs::metadata(it).expect("there").len());
    let largest = largest.expect("a segment");
    let whole = fs::read(largest).expect("there");
    let mut changed = whole.clone();
    changed[whole.len() / 2] ^= 1;
    fs::write(largest, &changed).expect("ours");
    let verify = ["ledger", "verify", path(ledger), "--run", path(out)];
    let damaged = lab(&verify);
    assert_exit(&damaged, 4);
    assert!(said(&damaged).contains("is damaged at byte"), "{}", said(&damaged));
    fs::write(largest, &whole).expect("ours");
    assert_exit(&lab(&verify), 0);
    let nothing = lab(&["ledger", "verify", path(out)]);
    assert_exit(&nothing, 2);
    assert!(said(&nothing).contains("has no durable ledger"), "{}", said(&nothing));
    assert_exit(&lab(&["ledger", "verify", "/nowhere"]), 2);
}
