//! `lab probe` beside a server that it knows nothing of.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;

use common::{assert_exit, experiment, json, lab, number, output, said};
use needs::test;
use serde_json::Value;

needs::main!();

const NOBODY: u32 = 65_534;

/// A server that answers every 10 bytes with 10, and a client that keeps asking it until this is
/// dropped.
struct Chatter {
    /// Kept open, so that somebody listens.
    listener: TcpListener,
    over: Arc<AtomicBool>,
    client: Option<JoinHandle<()>>,
}

impl Chatter {
    fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = listener.local_addr().expect("bound");
        let over = Arc::new(AtomicBool::new(false));
        let mut client = TcpStream::connect(address).expect("connects");
        let (mut server, _) = listener.accept().expect("a client");
        std::thread::spawn(move || {
            let mut bytes = [0; 10];
            // Ends with the client.
            while server.read_exact(&mut bytes).and_then(|()| server.write_all(&bytes)).is_ok() {}
        });
        let is_over = Arc::clone(&over);
        let client = std::thread::spawn(move || {
            client.set_nodelay(true).expect("a socket");
            let mut bytes = [7; 10];
            while !is_over.load(Ordering::Relaxed) {
                client
                    .write_all(&bytes)
                    .and_then(|()| client.read_exact(&mut bytes))
                    .expect("echo");
                std::thread::sleep(std::time::Duration::from_micros(500));
            }
        });
        Self { listener, over, client: Some(client) }
    }

    fn port(&self) -> String {
        self.listener.local_addr().expect("bound").port().to_string()
    }
}

impl Drop for Chatter {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Why a client failed has been said by its own panic.
        let _ = self.client.take().map(JoinHandle::join);
    }
}

#[test]
fn any_server_can_be_watched_and_what_has_no_probe_is_null() {
    if !needs::root() {
        return;
    }
    let chatter = Chatter::start();
    let port = chatter.port();
    let output = lab(&["probe", "--port", &port, "--seconds", "2", "--json"]);
    assert_exit(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout);
    let lines: Vec<Value> =
        text.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    assert_eq!(lines.len(), 2, "{text}");
    let second = &lines[1];
    let requests = number(second, "/server_wait_us/count");
    assert!(requests > 50, "{second}");
    // A second begins and ends with a reading, and a CPU's counts are read after another's: at each
    // end one request may have its wait counted without its service, or the other way round.
    assert!(number(second, "/server_service_us/count").abs_diff(requests) <= 2, "{second}");
    assert_eq!(number(second, "/retransmits/server/timeout"), 0);
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

    if needs::root() {
        let chatter = Chatter::start();
        let port = chatter.port();
        let mut command = Command::new(env!("CARGO_BIN_EXE_lab"));
        command.args(["probe", "--port", &port, "--seconds", "1"]).uid(NOBODY);
        let output = common::output(&mut command);
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
    // Of util-linux.
    let mut command = Command::new("unshare");
    command
        .args(["--mount", "--propagation", "private", "sh", "-c", &script, "sh"])
        .arg(env!("CARGO_BIN_EXE_lab"))
        .args(arguments);
    output(&mut command)
}

#[test]
fn a_kernel_without_btf_is_told_and_one_without_tracefs_is_watched_all_the_same() {
    if !needs::root() {
        return;
    }
    let chatter = Chatter::start();
    let port = chatter.port();
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
