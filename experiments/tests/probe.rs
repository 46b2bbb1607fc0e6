//! `lab probe` beside a server that it knows nothing of.

mod common;

use std::io::{Read, Write};
use std::net::TcpListener;
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};

use common::{assert_exit, can, experiment, json, lab, number, said};
use serde_json::Value;

const NOBODY: u32 = 65_534;

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

/// A server that answers every 10 bytes with 10, and a client that keeps asking it.
fn chatter(requests: usize) -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = listener.local_addr().expect("bound").port();
    std::thread::spawn(move || {
        let (mut server, _) = listener.accept().expect("a client");
        // Kept open, so that somebody listens until the test is over.
        let _listener = listener;
        let mut bytes = [0; 10];
        while server.read_exact(&mut bytes).and_then(|()| server.write_all(&bytes)).is_ok() {}
    });
    std::thread::spawn(move || {
        let mut client = std::net::TcpStream::connect(("127.0.0.1", port)).expect("connects");
        client.set_nodelay(true).expect("a socket");
        let mut bytes = [7; 10];
        for _ in 0..requests {
            client.write_all(&bytes).and_then(|()| client.read_exact(&mut bytes)).expect("echo");
            std::thread::sleep(std::time::Duration::from_micros(500));
        }
    });
    port
}

#[test]
fn any_server_can_be_watched_and_what_has_no_probe_is_null() {
    if !can("root", is_root()) {
        return;
    }
    let port = chatter(12_000).to_string();
    let output = lab(&["probe", "--port", &port, "--seconds", "2", "--json"]);
    assert_exit(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> =
        text.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    let second = &lines[1];
    let requests = number(second, "/server_wait_us/count");
    assert!(requests > 50, "{second}");
    assert!(number(second, "/server_service_us/count").abs_diff(requests) <= 1);
    assert_eq!(number(second, "/retransmits/server/timeout"), 0);
    // The sleep between two requests is no pacing of the test, only the size of its load.
    let output =
        lab(&["probe", "--port", &port, "--seconds", "1", "--json", "--without", "data_ready"]);
    assert_exit(&output, 0);
    assert!(said(&output).contains("data_ready: left out"), "{}", said(&output));
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert_eq!(line["server_wait_us"], Value::Null);
    assert!(line["packets"].is_array());
}

#[test]
fn what_cannot_be_watched_is_told_in_a_sentence() {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = free.local_addr().expect("bound").port().to_string();
    drop(free);
    let output = lab(&["probe", "--port", &port, "--seconds", "1"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("nobody listens on port"), "{}", said(&output));
    let output = lab(&["probe", "--pid", "4194303", "--seconds", "1"]);
    assert_exit(&output, 2);
    assert!(said(&output).contains("cannot be looked at"), "{}", said(&output));
    assert_exit(&lab(&["probe"]), 2);

    if can("root", is_root()) {
        let port = chatter(4_000).to_string();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        let output = command
            .args(["probe", "--port", &port, "--seconds", "1"])
            .uid(NOBODY)
            .output()
            .expect("lab starts");
        assert_exit(&output, 1);
        assert!(said(&output).contains("not allowed to load probes"), "{}", said(&output));
    }
}

/// Runs `lab` where directories of `/sys` are empty, which no other process notices.
fn lab_without(directories: &[&str], arguments: &[&str]) -> Output {
    let mut script = String::from("set -e; ");
    for directory in directories {
        script += &format!("if [ -d {directory} ]; then mount -t tmpfs none {directory}; fi; ");
    }
    script += "exec \"$@\"";
    Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_lab"))
        .args(arguments)
        .output()
        .expect("unshare, of util-linux")
}

#[test]
fn a_kernel_without_btf_is_told_and_one_without_tracefs_is_watched_all_the_same() {
    if !can("root", is_root()) {
        return;
    }
    let port = chatter(20_000).to_string();
    let probe = ["probe", "--port", &port, "--seconds", "1", "--json"];
    let output = lab_without(&["/sys/kernel/btf"], &probe);
    assert_exit(&output, 1);
    assert!(said(&output).contains("BTF"), "{}", said(&output));
    let output = lab_without(&["/sys/kernel/tracing", "/sys/kernel/debug"], &probe);
    assert_exit(&output, 0);
    let line: Value = serde_json::from_slice(&output.stdout).expect("one line");
    assert!(line["packets"].is_array(), "{line}");
    // A run goes on without, has nulls, and says why.
    let directory = tempfile::tempdir().expect("a directory");
    let out = directory.path().join("run");
    let (file, out_path) = (experiment("smoke"), out.to_str().expect("a path in UTF-8"));
    let file = file.to_str().expect("a path in UTF-8");
    let mut run = vec!["run", file, "--out", out_path];
    for set in ["users=100", "phases.shake.seconds=1", "phases.everything.seconds=1"] {
        run.extend(["--set", set]);
    }
    let output = lab_without(&["/sys/kernel/btf"], &run);
    assert_exit(&output, 0);
    let summary = json(&out, "summary.json");
    let shake = &summary["phases"][1];
    assert!(shake["shake"]["answered"].as_u64() > Some(0), "{shake}");
    assert_eq!(shake["segments_us"]["network"]["p50"], Value::Null);
    assert_eq!(shake["kernel"]["drops"], Value::Null);
    let why = summary["missing"]["phases.attribution"].as_str().expect("a reason");
    assert!(why.contains("BTF"), "{why}");
}
