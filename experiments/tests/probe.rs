//! `lab probe` beside a server that it knows nothing of.

mod common;

use std::io::{Read, Write};
use std::net::{Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::os::unix::process::CommandExt;
use std::process::{Child, Command, Output, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{
    Running, assert_exit, experiment, json, lab, lines, number, output, said, wait_until,
};
use needs::test;
use rustix::process::{Pid, Signal, kill_process};
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
                std::thread::sleep(Duration::from_micros(500));
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

/// Something that a thread does again and again until this is dropped.
struct Again {
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Again {
    fn start(mut act: impl FnMut() + Send + 'static) -> Self {
        let over = Arc::new(AtomicBool::new(false));
        let is_over = Arc::clone(&over);
        let thread = std::thread::spawn(move || {
            while !is_over.load(Ordering::Relaxed) {
                act();
            }
        });
        Self { over, thread: Some(thread) }
    }
}

impl Drop for Again {
    fn drop(&mut self) {
        self.over.store(true, Ordering::Relaxed);
        // Why it failed has been said by its own panic.
        let _ = self.thread.take().map(JoinHandle::join);
    }
}

/// The last line of a probe of two seconds.
fn second_line(arguments: &[&str]) -> Value {
    let mut all = vec!["probe", "--seconds", "2", "--json"];
    all.extend(arguments);
    let output = lab(&all);
    assert_exit(&output, 0);
    let text = String::from_utf8_lossy(&output.stdout);
    serde_json::from_str(text.lines().nth(1).expect("two lines")).expect("JSON")
}

fn requests(line: &Value) -> u64 {
    number(line, "/server_wait_us/count")
}

/// A server and its client in one process of a network namespace of its own; gone when dropped.
struct Elsewhere(Child);

impl Elsewhere {
    fn start(port: &str) -> Self {
        let script = "import socket, sys, threading, time
l = socket.create_server(('127.0.0.1', int(sys.argv[1])))
def ask():
    c = socket.create_connection(l.getsockname())
    while True:
        c.sendall(b'ask'); c.recv(10); time.sleep(0.001)
threading.Thread(target=ask, daemon=True).start()
s, _ = l.accept()
print('ready', flush=True)
while True:
    s.sendall(s.recv(10))
";
        let mut child = Command::new("unshare")
            .args(["--net", "sh", "-c", "ip link set lo up; exec \"$@\"", "sh"])
            .args(["python3", "-c", script, port])
            .stdout(Stdio::piped())
            .spawn()
            .expect("unshare");
        let mut ready = [0; 6];
        child.stdout.take().expect("piped").read_exact(&mut ready).expect("it serves");
        Self(child)
    }
}

impl Drop for Elsewhere {
    fn drop(&mut self) {
        // It may have ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn a_server_in_another_network_namespace_is_another() {
    let there = || needs::program("python", "python3") && needs::program("ip", "ip");
    if !needs::root() || !there() || !needs::program("unshare", "unshare") {
        return;
    }
    let own = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let port = own.local_addr().expect("bound").port().to_string();
    let other = Elsewhere::start(&port);
    let pid = other.0.id().to_string();
    // Nobody asks here, whoever asks there.
    let line = second_line(&["--port", &port]);
    assert_eq!(requests(&line), 0, "{line}");
    assert_eq!(line["nearest"], serde_json::json!([]), "{line}");
    let line = second_line(&["--pid", &pid]);
    assert!(requests(&line) > 50, "{line}");
    assert_eq!(line["nearest"], serde_json::json!(["lo"]), "{line}");
    assert_eq!(number(&line, "/listeners/0/turned_away"), 0);
    drop(own);
    let output = lab(&["probe", "--port", &port, "--seconds", "1"]);
    assert_exit(&output, 2);
    let said = said(&output);
    assert!(said.contains(&format!("python3 (process {pid}")), "{said}");
    assert!(said.contains(&format!("lab probe --pid {pid}")), "{said}");
}

#[test]
fn two_servers_on_one_port_are_told_apart_by_address() {
    if !needs::root() {
        return;
    }
    let chatter = Chatter::start();
    let port = chatter.port();
    let six = TcpListener::bind(("::1", port.parse().expect("a port"))).expect("the same port");
    let line = second_line(&["--port", &port, "--address", "127.0.0.1"]);
    assert!(requests(&line) > 50, "{line}");
    assert_eq!(line["listeners"].as_array().map(Vec::len), Some(2), "{line}");
    let line = second_line(&["--port", &port, "--address", "::1"]);
    assert_eq!(requests(&line), 0, "{line}");
    let output = lab(&["probe", "--port", &port, "--seconds", "1"]);
    assert_exit(&output, 0);
    assert!(said(&output).contains("it has 2 listeners"), "{}", said(&output));
    assert!(said(&output).contains("--address tells them apart"), "{}", said(&output));
    drop(six);
}

#[test]
fn a_healthy_close_is_no_loss() {
    if !needs::root() {
        return;
    }
    let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
    let address = listener.local_addr().expect("bound");
    let closes = Again::start(move || {
        let mut client = TcpStream::connect(address).expect("connects");
        let (mut server, _) = listener.accept().expect("a client");
        // The client ends first, and the server closes last.
        client.write_all(b"ask").expect("sent");
        client.shutdown(Shutdown::Write).expect("connected");
        let mut bytes = Vec::new();
        server.read_to_end(&mut bytes).expect("read");
        server.write_all(&bytes).expect("sent");
        drop(server);
        client.read_to_end(&mut bytes).expect("read");
    });
    let line = second_line(&["--port", &address.port().to_string()]);
    drop(closes);
    assert!(number(&line, "/drops_harmless") > 0, "the case is not what it is for: {line}");
    assert_eq!(number(&line, "/drops"), 0, "{line}");
    let clients = line["losses_by_client"].as_object().expect("counted");
    assert!(clients.values().all(|it| it["drops"] == 0), "{line}");
}

#[test]
fn a_full_accept_queue_stands_apart_and_addresses_are_whole() {
    if !needs::root() {
        return;
    }
    // The standard library's queue is 128 or 4096 long: one that is shorter.
    let address = SocketAddr::new(Ipv6Addr::LOCALHOST.into(), 0);
    let family = rustix::net::AddressFamily::INET6;
    let socket = rustix::net::socket(family, rustix::net::SocketType::STREAM, None).expect("IPv6");
    rustix::net::bind(&socket, &address).expect("a free port");
    rustix::net::listen(&socket, 1).expect("a short queue");
    let server = TcpListener::from(socket);
    let address = server.local_addr().expect("bound");
    // Beside it, one in the same namespace that is well.
    let other = Chatter::start();
    let mut held = Vec::new();
    let calls = Again::start(move || {
        let wait = Duration::from_millis(1200);
        held.extend(TcpStream::connect_timeout(&address, wait));
    });
    let port = address.port().to_string();
    let text = std::thread::scope(|scope| {
        let text = scope.spawn(|| lab(&["probe", "--port", &port, "--seconds", "4"]));
        let line = second_line(&["--port", &other.port()]);
        assert_eq!(number(&line, "/listeners/0/turned_away"), 0, "the neighbour's: {line}");
        text.join().expect("the probe")
    });
    assert_exit(&text, 0);
    let line = second_line(&["--port", &port]);
    drop(calls);
    assert!(number(&line, "/listeners/0/turned_away") > 0, "{line}");
    assert_eq!(number(&line, "/listeners/0/waiting"), 2, "{line}");
    assert_eq!(number(&line, "/drops"), 0, "{line}");
    let clients = line["losses_by_client"].as_object().expect("counted");
    assert!(clients.contains_key("::1") && !clients.contains_key("0.0.0.0"), "{line}");
    let text = String::from_utf8_lossy(&text.stdout);
    let turned_away = |line: &str| {
        let queue = line.split("accept queue 2 of 1, ").nth(1)?;
        queue.split(' ').next()?.parse::<u64>().ok()
    };
    assert!(text.lines().filter_map(turned_away).any(|count| count > 0), "{text}");
    assert!(text.lines().all(|line| line.contains("  drops 0  ")), "{text}");
    drop(server);
}

const LOAD: &str = "(
    name: \"probed\",
    users: 100,
    network: (namespace: Host),
    probes: Off,
    server: (shards: 1),
    client: (shards: 1, processes: 1),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: \"stops\"),
    phases: [
        (name: \"connect\", connect: (), until: Established, longest_s: 30),
        (name: \"load\", seconds: 120, shake: Open(rate: Fixed(1000))),
    ],
)";

/// The quota of a cgroup of this test's own, with one process; gone when dropped.
struct Quota(std::path::PathBuf);

impl Quota {
    /// A millisecond in a hundred, for a process.
    fn of(pid: u64) -> Self {
        let first = std::path::Path::new("/sys/fs/cgroup/cpu");
        let root =
            if first.join("cgroup.procs").exists() { first } else { first.parent().unwrap() };
        let directory = root.join(format!("lab-test-{}", std::process::id()));
        std::fs::create_dir(&directory).expect("a cgroup");
        let group = Self(directory);
        if group.0.join("cpu.max").exists() {
            group.write("cpu.max", "1000 100000");
        } else {
            group.write("cpu.cfs_period_us", "100000");
            group.write("cpu.cfs_quota_us", "1000");
        }
        group.write("cgroup.procs", &pid.to_string());
        group
    }

    fn write(&self, file: &str, value: &str) {
        std::fs::write(self.0.join(file), value).expect(file);
    }
}

impl Drop for Quota {
    fn drop(&mut self) {
        // The process has ended by then, or goes where the group was made.
        for pid in std::fs::read_to_string(self.0.join("cgroup.procs")).unwrap_or_default().lines()
        {
            let _ = std::fs::write(self.0.with_file_name("cgroup.procs"), pid);
        }
        let _ = std::fs::remove_dir(&self.0);
    }
}

#[test]
fn what_keeps_a_server_from_its_work_is_named() {
    if !needs::root() {
        return;
    }
    let directory = tempfile::tempdir().expect("a directory");
    let (file, out) = (directory.path().join("load.ron"), directory.path().join("run"));
    std::fs::write(&file, LOAD).expect("written");
    let (file, to) = (file.to_str().expect("UTF-8"), out.to_str().expect("UTF-8"));
    let running = Running::start(&["run", file, "--out", to]);
    let answers = |row: &Value| row["source"] == "client" && row["answered"].as_u64() > Some(0);
    wait_until("shakes are answered", || {
        out.join("samples.jsonl").exists() && lines(&out, "samples.jsonl").iter().any(answers)
    });
    let pid = number(&json(&out, "manifest.json"), "/server/pid");
    let server = Pid::from_raw(i32::try_from(pid).expect("a process")).expect("not 0");
    let pid_text = pid.to_string();
    let listen = json(&out, "manifest.json")["server"]["listen"].clone();
    let port = listen.as_str().and_then(|it| it.rsplit(':').next()).expect("a port").to_owned();
    let watch = |json: bool, seconds: &str| {
        let mut arguments = vec!["probe", "--pid", &pid_text, "--port", &port];
        arguments.extend(["--seconds", seconds]);
        arguments.extend(json.then_some("--json"));
        let output = lab(&arguments);
        assert_exit(&output, 0);
        String::from_utf8_lossy(&output.stdout).into_owned()
    };
    // Again and again, as when the probes are attached, and when a second begins, is not known.
    let stopper = Again::start(move || {
        kill_process(server, Signal::STOP).expect("stopped");
        std::thread::sleep(Duration::from_millis(150));
        kill_process(server, Signal::CONT).expect("goes on");
        std::thread::sleep(Duration::from_millis(150));
    });
    let (rows, text) = (watch(true, "3"), watch(false, "2"));
    drop(stopper);
    let rows: Vec<Value> = rows.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    let stopped = &rows[2]["causes"]["server_stopped"];
    // Half of the time, but for what this machine does else.
    assert!(stopped["us"].as_u64() > Some(250_000), "{}", rows[2]);
    assert_eq!(
        (&stopped["signal"], &stopped["sender_pid"]),
        (&"SIGSTOP".into(), &std::process::id().into())
    );
    assert_eq!(rows[2]["causes"]["server_throttled"], Value::Null);
    let said = format!("process {})", std::process::id());
    assert!(text.contains("server stopped") && text.contains(&said), "{text}");

    let quota = Quota::of(pid);
    let (rows, text) = (watch(true, "3"), watch(false, "2"));
    drop(quota);
    let rows: Vec<Value> = rows.lines().map(|it| serde_json::from_str(it).expect("JSON")).collect();
    let throttled = &rows[2]["causes"]["server_throttled"];
    assert!(throttled["us"].as_u64() > Some(250_000), "{}", rows[2]);
    let group = format!("/lab-test-{}", std::process::id());
    assert_eq!(throttled["cgroup"], Value::from(group.as_str()), "{throttled}");
    assert!(throttled["cpu_stat_us"].as_u64() > Some(100_000), "{throttled}");
    assert!(text.contains("server throttled") && text.contains(&group), "{text}");
    drop(running);
}
