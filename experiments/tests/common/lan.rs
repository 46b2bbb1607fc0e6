//! Hosts in network namespaces, joined by a bridge, and a real NATS server: a fleet on one machine
//! that can be cut, healed and killed host by host.

// Each test file is a program of its own and uses its part of this.
#![allow(dead_code)]

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use super::common::{output, wait_until};

/// Where NATS listens, on the bridge.
pub(crate) const URL: &str = "nats://10.91.0.1:4222";

/// Whether a fleet can be tested here.
pub(crate) fn can_be() -> bool {
    needs::root() && needs::program("ip", "ip") && needs::program("nats", "nats-server")
}

fn ip(arguments: &str) {
    let output = Command::new("ip").args(arguments.split(' ')).output().expect("ip");
    assert!(output.status.success(), "ip {arguments}: {output:?}");
}

/// A process that is killed when this is dropped.
#[derive(Debug)]
pub(crate) struct Process(pub(crate) Child);

impl Process {
    /// Its number.
    pub(crate) fn id(&self) -> u32 {
        self.0.id()
    }

    /// Sends it a signal.
    pub(crate) fn signal(&self, signal: rustix::process::Signal) {
        let pid = rustix::process::Pid::from_child(&self.0);
        rustix::process::kill_process(pid, signal).expect("it is there");
    }

    /// Kills it, and waits until it is gone.
    pub(crate) fn kill(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }

    /// Waits for the end of a `lab run`: completed, valid or not, as the machine's other work can
    /// make clients late.
    pub(crate) fn assert_completed(&mut self) {
        let code = self.exit_code();
        assert!(matches!(code, Some(0 | 4)), "{code:?}");
    }

    /// Waits for its end.
    pub(crate) fn exit_code(&mut self) -> Option<i32> {
        wait_until("it ends", || self.0.try_wait().expect("our child").is_some());
        self.0.wait().expect("our child").code()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        self.kill();
    }
}

/// A bridge, and what is plugged into it.
pub(crate) struct Lan {
    prefix: String,
    hosts: Vec<String>,
    directory: tempfile::TempDir,
    nats: Option<Process>,
    /// What stands in the server's configuration beside JetStream.
    config: String,
}

impl Lan {
    /// A bridge with a NATS server that has JetStream, and so many hosts.
    pub(crate) fn new(hosts: u32) -> Self {
        Self::with(hosts, "jetstream { store_dir: \"STORE\" }")
    }

    /// The same with a configuration for NATS, in which STORE is a directory for JetStream.
    pub(crate) fn with(hosts: u32, config: &str) -> Self {
        static LANS: AtomicU32 = AtomicU32::new(0);
        let number = LANS.fetch_add(1, Ordering::Relaxed);
        let prefix = format!("lab{}x{number}", std::process::id());
        let directory = tempfile::tempdir().expect("a directory");
        let config = config.to_owned();
        let mut lan = Self { prefix, hosts: Vec::new(), directory, nats: None, config };
        let hub = lan.hub();
        ip(&format!("netns add {hub}"));
        lan.hosts.push(hub.clone());
        ip(&format!("-n {hub} link set lo up"));
        ip(&format!("-n {hub} link add br0 type bridge"));
        ip(&format!("-n {hub} addr add 10.91.0.1/24 dev br0"));
        ip(&format!("-n {hub} link set br0 up"));
        for host in 0..hosts {
            lan.plug(host);
        }
        lan.start_nats();
        lan
    }

    fn hub(&self) -> String {
        format!("{}hub", self.prefix)
    }

    /// The namespace with the bridge and NATS, as a file.
    pub(crate) fn namespace(&self) -> PathBuf {
        Path::new("/run/netns").join(self.hub())
    }

    fn host(&self, host: u32) -> String {
        format!("{}h{host}", self.prefix)
    }

    fn plug(&mut self, number: u32) {
        let (hub, host) = (self.hub(), self.host(number));
        ip(&format!("netns add {host}"));
        self.hosts.push(host.clone());
        ip(&format!("-n {host} link set lo up"));
        ip(&format!("-n {hub} link add v{number} type veth peer name eth0 netns {host}"));
        ip(&format!("-n {hub} link set v{number} master br0"));
        ip(&format!("-n {hub} link set v{number} up"));
        ip(&format!("-n {host} addr add 10.91.0.{}/24 dev eth0", number + 10));
        ip(&format!("-n {host} link set eth0 up"));
    }

    /// A directory for files of the test.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn inside(&self, namespace: &str, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", namespace, program]);
        command
    }

    /// Starts the NATS server (again), and waits until it listens.
    pub(crate) fn start_nats(&mut self) {
        let file = self.path("nats.conf");
        let store = self.path("store");
        let text = self.config.replace("STORE", store.to_str().expect("a path in UTF-8"));
        std::fs::write(&file, format!("listen: 10.91.0.1:4222\n{text}\n")).expect("written");
        let log = File::options().create(true).append(true).open(self.path("nats.log"));
        let mut command = self.inside(&self.hub(), "nats-server");
        command.arg("-c").arg(&file).stderr(log.expect("a log"));
        self.nats = Some(Process(command.spawn().expect("nats-server")));
        let hub = self.hub();
        wait_until("NATS listens", || {
            let listens = output(Command::new("ip").args([
                "netns",
                "exec",
                &hub,
                "ss",
                "-Hltn",
                "sport = :4222",
            ]));
            !listens.stdout.is_empty()
        });
    }

    /// Kills the NATS server.
    pub(crate) fn kill_nats(&mut self) {
        self.nats = None;
    }

    /// Takes a host off the bridge, or puts it back.
    pub(crate) fn plugged(&self, host: u32, plugged: bool) {
        let to = if plugged { "up" } else { "down" };
        ip(&format!("-n {} link set v{host} {to}", self.hub()));
    }

    /// `lab` on a host, or beside NATS, in a network that nobody else can reach.
    pub(crate) fn lab(&self, host: Option<u32>, arguments: &[&str]) -> Command {
        let mut command = self.lab_as_given(host, arguments);
        if arguments.contains(&"--nats") {
            command.arg("--nats-plain");
        }
        command
    }

    /// The same with these arguments and no others.
    pub(crate) fn lab_as_given(&self, host: Option<u32>, arguments: &[&str]) -> Command {
        let namespace = host.map_or_else(|| self.hub(), |host| self.host(host));
        let mut command = self.inside(&namespace, env!("CARGO_BIN_EXE_lab"));
        command.args(arguments).current_dir(self.directory.path());
        command
    }

    /// Starts an agent on a host. What it says is in `NAME.log`.
    pub(crate) fn agent(&self, host: u32, name: &str, more: &[&str]) -> Process {
        self.start_agent(self.lab(Some(host), &[]), name, more)
    }

    /// The same on a host that passes for a machine with a kernel of its own: the name of its boot
    /// is another.
    pub(crate) fn agent_elsewhere(&self, host: u32, name: &str, more: &[&str]) -> Process {
        let boot = self.path(&format!("boot-{name}"));
        std::fs::write(&boot, format!("the boot of {name}\n")).expect("written");
        // `ip netns exec` gives each program a mount namespace of its own.
        let over = "mount --bind \"$0\" /proc/sys/kernel/random/boot_id && exec \"$@\"";
        let mut command = self.inside(&self.host(host), "sh");
        command.args(["-c", over]).arg(boot).arg(env!("CARGO_BIN_EXE_lab"));
        command.current_dir(self.directory.path());
        self.start_agent(command, name, more)
    }

    /// The same as [`Self::agent`] where a file says which congestion controls all may choose.
    pub(crate) fn agent_told_that_allowed_is(
        &self,
        allowed: &Path,
        host: u32,
        name: &str,
        more: &[&str],
    ) -> Process {
        let over = "mount --bind \"$0\" /proc/sys/net/ipv4/tcp_allowed_congestion_control && \
                    exec \"$@\"";
        let mut command = self.inside(&self.host(host), "sh");
        command.args(["-c", over]).arg(allowed).arg(env!("CARGO_BIN_EXE_lab"));
        command.current_dir(self.directory.path());
        self.start_agent(command, name, more)
    }

    /// The same as [`Self::agent`] without the right to load probes.
    pub(crate) fn agent_without_rights(&self, host: u32, name: &str, more: &[&str]) -> Process {
        let mut command = self.inside(&self.host(host), "setpriv");
        let rights = "-bpf,-perfmon,-sys_admin";
        command.args(["--bounding-set", rights, "--inh-caps", rights]);
        command.arg(env!("CARGO_BIN_EXE_lab")).current_dir(self.directory.path());
        self.start_agent(command, name, more)
    }

    fn start_agent(&self, mut lab: Command, name: &str, more: &[&str]) -> Process {
        let log = self.path(&format!("{name}.log"));
        let log = File::options().create(true).append(true).open(log).expect("a log");
        lab.args(["agent", "--nats", URL, "--nats-plain", "--name", name, "--state"])
            .arg(self.path(&format!("state-{name}")))
            .args(more);
        Process(lab.stdout(Stdio::null()).stderr(log).spawn().expect("lab starts"))
    }

    /// Agents for a server on host 0 and clients on the others: `s`, `c1`, `c2`, …
    pub(crate) fn fleet(&self, more: &[&str]) -> Vec<Process> {
        let hosts = u32::try_from(self.hosts.len()).expect("few") - 1;
        let agents = (0..hosts).map(|host| {
            let (name, role) =
                if host == 0 { ("s".to_owned(), "server") } else { (format!("c{host}"), "client") };
            let mut arguments = vec!["--role", role, "--role", "probe"];
            arguments.extend(more);
            self.agent(host, &name, &arguments)
        });
        let agents = agents.collect();
        self.wait_for_agents(hosts as usize);
        agents
    }

    /// Who is there, as `lab hosts` has it; `None` when that could not be asked.
    fn hosts(&self) -> Option<Vec<serde_json::Value>> {
        let found = output(&mut self.lab(None, &["hosts", "--json", "--nats", URL]));
        if !found.status.success() {
            eprintln!("lab hosts: {found:?}");
            return None;
        }
        Some(serde_json::from_slice(&found.stdout).expect("JSON"))
    }

    /// Waits until so many agents are there, and something is so of each.
    pub(crate) fn wait_for_hosts(
        &self,
        count: usize,
        what: &str,
        so: impl Fn(&serde_json::Value) -> bool,
    ) {
        wait_until(what, || {
            self.hosts().is_some_and(|hosts| hosts.len() == count && hosts.iter().all(&so))
        });
    }

    /// Waits until so many agents are there.
    pub(crate) fn wait_for_agents(&self, count: usize) {
        self.wait_for_hosts(count, "all agents are there", |_| true);
    }

    /// Starts a run beside NATS; what it says is in `run.log`.
    pub(crate) fn run(&self, arguments: &[&str]) -> Process {
        let log = File::options().create(true).append(true).open(self.path("run.log"));
        let mut command = self.lab(None, &["run"]);
        command.args(arguments).args(["--nats", URL, "--nats-plain"]);
        command.stdout(Stdio::null()).stderr(log.expect("a log"));
        Process(command.spawn().expect("lab starts"))
    }

    /// Starts a run of an experiment with this text; where its files go.
    pub(crate) fn run_text(&self, text: &str) -> (Process, PathBuf) {
        let (file, out) = (self.path("x.ron"), self.path("out"));
        std::fs::write(&file, text).expect("written");
        let [file, directory] = [&file, &out].map(|it| it.to_str().expect("a path in UTF-8"));
        (self.run(&[file, "--out", directory]), out)
    }

    /// Waits until a phase of a run starts.
    pub(crate) fn wait_for_phase(&self, out: &Path, name: &str) {
        self.wait_for_event(out, &format!("{name} starts"), |it| {
            it["event"] == "phase_starts" && it["phase"] == name
        });
    }

    /// What a log has.
    pub(crate) fn said(&self, log: &str) -> String {
        std::fs::read_to_string(self.path(log)).unwrap_or_default()
    }

    /// Waits until the events of a run have something.
    pub(crate) fn wait_for_event(
        &self,
        out: &Path,
        what: &str,
        so: impl Fn(&serde_json::Value) -> bool,
    ) {
        wait_until(what, || {
            let text = std::fs::read_to_string(out.join("events.jsonl")).unwrap_or_default();
            let whole = text.rfind('\n').map_or("", |end| &text[..end]);
            whole.lines().filter_map(|line| serde_json::from_str(line).ok()).any(|it| so(&it))
        });
    }
}

impl Drop for Lan {
    fn drop(&mut self) {
        self.nats = None;
        if std::thread::panicking() {
            for log in ["run.log", "s.log", "c1.log", "c2.log", "nats.log"] {
                eprintln!("== {log}\n{}", self.said(log));
            }
        }
        for host in &self.hosts {
            let _ = Command::new("ip").args(["netns", "del", host]).status();
        }
    }
}

/// The children of a process.
pub(crate) fn children(pid: u32) -> Vec<u32> {
    let tasks = std::fs::read_dir(format!("/proc/{pid}/task")).into_iter().flatten().flatten();
    tasks
        .flat_map(|task| {
            let text = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            text.split_whitespace().filter_map(|it| it.parse().ok()).collect::<Vec<u32>>()
        })
        .collect()
}

/// A moment, so that something is in the middle and not at its beginning.
pub(crate) fn a_moment() {
    std::thread::sleep(Duration::from_millis(1500));
}
