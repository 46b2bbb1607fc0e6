//! A run whose server keeps a durable ledger, and the audit of that against what clients received.

mod common;

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use common::{assert_exit, experiment, json, lab, number, said};
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
    // 80 packets to be shaken in each of two phases, and 40 for three users; a phase that ends late
    // on a busy machine has one more.
    let created = number(&found, "/ledger/created/count");
    assert!(created >= 80 + 80 + 40 * 3, "{created}");
    assert_eq!(created, number(&json(&out, "summary.json"), "/ledger/created/count"));
    assert!(number(&found, "/grants/count") > 0 && number(&found, "/claims/count") > 0);
    let against = lab(&[&verify[..], &["--run", path(&out)]].concat());
    assert_exit(&against, 0);
    assert!(said(&against).contains("received by clients"), "{}", said(&against));

    // Another run does not go on with it: its books would have the money of this one.
    let again = root.path().join("again");
    let output = lab(&["run", path(&smoke), "--out", path(&again), "--set", &keep]);
    assert_exit(&output, 1);
    assert!(said(&output).contains("a directory of its own"), "{}", said(&output));

    assert_disagreements_are_seen(&ledger, &out);
    assert_seen(&ledger, &out);
}

/// The books of both sides, as they were closed.
fn change_books(out: &Path, change: impl Fn(&mut Value)) {
    let file = out.join("events.jsonl");
    let text = fs::read_to_string(&file).expect("there");
    let mut changed = 0;
    let lines = text.lines().map(|line| {
        let mut event: Value = serde_json::from_str(line).expect("JSON");
        if event["event"] != "books" {
            return line.to_owned();
        }
        changed += 1;
        change(&mut event);
        event.to_string()
    });
    let lines: Vec<String> = lines.collect();
    assert_eq!(changed, 1);
    fs::write(&file, lines.join("\n") + "\n").expect("ours");
}

/// Each way in which clients and ledger can disagree is said, and ends with 4.
fn assert_disagreements_are_seen(ledger: &Path, out: &Path) {
    let events = fs::read(out.join("events.jsonl")).expect("there");
    let add = |pointer: &'static str, by: i64| {
        move |event: &mut Value| {
            let value = event.pointer_mut(pointer).expect(pointer);
            *value = (value.as_i64().expect("a number") + by).into();
        }
    };
    const COUNT: &str = "/received_by_clients/count";
    const AMOUNT: &str = "/received_by_clients/amount";
    type Change = Box<dyn Fn(&mut Value)>;
    let both = |count, amount| -> Change {
        Box::new(move |event: &mut Value| {
            add(COUNT, count)(event);
            add(AMOUNT, amount)(event);
        })
    };
    let of_server = |pointer, by| -> Change { Box::new(add(pointer, by)) };
    // Far more than can have been under way at the end.
    let (lost, cents) = (-150, -1500);
    let cases: [(&str, Change, &str); 8] = [
        ("the ledger lost a grant", both(1, 50), "the ledger does not know all of it"),
        ("grants that nobody received", both(lost, cents), "missing shares: "),
        ("more cents", both(0, 1), "the ledger does not know all of it"),
        ("fewer cents", both(0, -1), "missing shares: "),
        ("double", of_server("/clients/double_grants", 1), "two users received the same packet"),
        ("granted", of_server("/server/granted/amount", 1), "the server closed its books with"),
        ("claimed", of_server("/server/claimed/count", 1), "the server closed its books with"),
        (
            "not closed",
            Box::new(|event| event["received_by_clients"] = Value::Null),
            "not all clients have closed their books",
        ),
    ];
    for (case, change, sentence) in cases {
        change_books(out, change);
        let output = lab(&["ledger", "verify", path(ledger), "--run", path(out)]);
        assert_exit(&output, 4);
        let said = said(&output);
        assert!(said.contains(sentence), "{case}: {said}");
        assert!(said.contains("the books do not balance"), "{case}: {said}");
        fs::write(out.join("events.jsonl"), &events).expect("ours");
    }
    assert_exit(&lab(&["ledger", "verify", path(ledger), "--run", path(out)]), 0);
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
