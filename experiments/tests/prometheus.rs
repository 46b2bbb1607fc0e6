//! Debian's Prometheus, in earnest: it scrapes a run, an agent, a server and a client, every
//! expression of the dashboard has data there, and the rules that are shipped do what they say.

mod common;

use std::collections::BTreeSet;
use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::Instant;

use common::{PATIENCE, Running, output, said, wait_until};
use needs::test;
use rustix::process::Signal;
use serde_json::Value;

needs::main!();

fn has_prometheus() -> bool {
    needs::program("prometheus", "prometheus") && needs::program("prometheus", "promtool")
}

fn notebooks() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../notebooks")
}

fn shipped(name: &str) -> String {
    std::fs::read_to_string(notebooks().join(name)).expect("it is shipped")
}

fn promtool(arguments: &[&str], directory: &Path) -> Output {
    output(Command::new("promtool").args(arguments).current_dir(directory))
}

#[test]
fn rules_and_configuration_pass_promtool() {
    if !has_prometheus() {
        return;
    }
    let directory = notebooks().join("prometheus");
    for arguments in [
        ["check", "config", "prometheus.yml"],
        ["check", "rules", "rules.yml"],
        ["test", "rules", "rules_test.yml"],
    ] {
        let output = promtool(&arguments, &directory);
        assert!(output.status.success(), "{arguments:?}: {}", said(&output));
    }
    // The same tests, and rules that do something else.
    for (rule, other) in [
        ("ratio_rate30s > 0.01", "ratio_rate30s > 0.06"),
        ("> ignoring (what) lab_run_cents", ">= ignoring (what) 2 * lab_run_cents"),
        ("lab_agent_connected == 0", "lab_agent_connected == 1"),
        ("512 * 1024 * 1024", "5120 * 1024 * 1024"),
    ] {
        let place = tempfile::tempdir().expect("a directory");
        let rules = shipped("prometheus/rules.yml");
        assert!(rules.contains(rule), "{rule}");
        std::fs::write(place.path().join("rules.yml"), rules.replace(rule, other))
            .expect("written");
        let tests = shipped("prometheus/rules_test.yml");
        std::fs::write(place.path().join("rules_test.yml"), tests).expect("written");
        let output = promtool(&["test", "rules", "rules_test.yml"], place.path());
        assert!(!output.status.success(), "no test sees {other}");
    }
}

/// What stands behind a key in the lines of a file.
fn named<'a>(text: &'a str, key: &str) -> BTreeSet<&'a str> {
    let lines = text.lines().map(|line| line.trim().trim_start_matches("- ").trim_start());
    lines.filter_map(|line| line.strip_prefix(key)).map(str::trim).collect()
}

#[test]
fn every_rule_has_a_test() {
    let (rules, tests) = (shipped("prometheus/rules.yml"), shipped("prometheus/rules_test.yml"));
    let names: BTreeSet<&str> =
        named(&rules, "record:").union(&named(&rules, "alert:")).copied().collect();
    assert!(names.len() > 12, "{names:?}");
    for name in names {
        let is_tested = tests.contains(&format!("expr: {name}\n"))
            || tests.contains(&format!("alertname: {name}\n"));
        assert!(is_tested, "{name}");
    }
}

/// A port that is free now.
fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    listener.local_addr().expect("an address").port()
}

/// The text of a page.
fn get(host: &str, path: &str) -> Option<String> {
    let mut stream = TcpStream::connect(host).ok()?;
    stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
    write!(stream, "GET {path} HTTP/1.0\r\nhost: {host}\r\n\r\n").ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).ok()?;
    let (head, body) = answer.split_once("\r\n\r\n")?;
    head.lines().next()?.contains(" 200").then(|| body.to_owned())
}

/// Text as a part of an address.
fn escaped(text: &str) -> String {
    let escape = |byte: u8| match byte {
        b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' => char::from(byte).to_string(),
        byte => format!("%{byte:02X}"),
    };
    text.bytes().map(escape).collect()
}

/// Slow answers, lost packets and red packets in every second: everything that a dashboard shows.
const EXPERIMENT: &str = r#"(
    name: "scraped",
    users: 200,
    hosts: Namespaces(1),
    server: (shards: 1, sets: 8),
    client: (shards: 1),
    probes: Required,
    attribution: (slow_us: 1000),
    validity: (late_share: 1.0, client_busy_share: 1.0, because: "only its figures are looked at"),
    phases: [
        (name: "connect", connect: (), until: Established, longest_s: 30),
        (name: "shake", after: Terminated("connect"), seconds: 600, shake: Open(rate: Fixed(300)),
         packets: (rate: 10), faults: [
            SlowHandler(us: 4000, share: 0.02),
            Loss(share: 0.02, direction: ToServer),
        ]),
    ],
)"#;

/// What is scraped, each by its job and its address. It ends with this.
struct Scraped {
    targets: Vec<(&'static str, String)>,
    run: Running,
    others: Vec<Running>,
    nats: std::process::Child,
    _place: tempfile::TempDir,
}

impl Drop for Scraped {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.nats.kill();
        let _ = self.nats.wait();
    }
}

/// The part of a line behind `http://`, up to where the address ends.
fn address(line: &str) -> String {
    let (_, rest) = line.rsplit_once("http://").expect("an address");
    rest.split(['/', ' ', '?']).next().expect("an address").to_owned()
}

impl Scraped {
    fn start() -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let path = |name: &str| place.path().join(name).to_str().expect("UTF-8").to_owned();
        let port = free_port().to_string();
        let nats = Command::new("nats-server")
            .args(["-a", "127.0.0.1", "-p", &port, "-js", "-sd", &path("nats")])
            .stderr(Stdio::null())
            .spawn()
            .expect("nats-server");
        let host = format!("127.0.0.1:{port}");
        wait_until("NATS listens", || TcpStream::connect(&host).is_ok());

        let control = ["--control", "127.0.0.1:0", "--control-open", "--shards", "1"];
        let listen = ["server", "--listen", "127.0.0.1:0", "--sets", "8", "--users", "1000"];
        let server = Running::start(&[&listen[..], &control, &["--overload", "20"]].concat());
        let line = server.wait_for("lab-server: ");
        let (_, listens) = line.split_once("listen on ").expect("an address");
        let at = listens.split(',').next().expect("an address");
        let shake = ["client", "--server", at, "--users", "0..100", "--rate", "50"];
        let client = Running::start(&[&shake[..], &control, &["--seconds", "600"]].concat());
        let controls = client.wait_for("lab-client: ");

        let (url, state) = (format!("nats://{host}"), path("agent"));
        let agent = Running::start(&[
            "agent",
            "--name",
            "h0",
            "--nats",
            &url,
            "--state",
            &state,
            "--metrics",
            "127.0.0.1:0",
        ]);
        let metrics = agent.wait_for("metrics: ");

        let (file, out) = (path("scraped.ron"), path("run"));
        std::fs::write(&file, EXPERIMENT).expect("written");
        let run = Running::start(&["run", &file, "--out", &out, "--live", "127.0.0.1:0"]);
        let page = run.wait_for("live page: ");
        let targets = vec![
            ("lab-run", address(&page)),
            ("lab-agent", address(&metrics)),
            ("lab-server", address(&line)),
            ("lab-client", address(&controls)),
        ];
        Self { targets, run, others: vec![server, client, agent], nats, _place: place }
    }
}

/// Debian's Prometheus with the configuration that is shipped, but for the addresses.
struct Prometheus {
    _process: Running,
    host: String,
    _place: tempfile::TempDir,
}

impl Prometheus {
    fn start(targets: &[(&str, String)]) -> Self {
        let place = tempfile::tempdir().expect("a directory");
        let mut config = shipped("prometheus/prometheus.yml");
        for (job, address) in targets {
            let (before, rest) = config.split_once(&format!("job_name: {job}\n")).expect("a job");
            let (_, after) = rest.split_once("[\"").expect("targets");
            let (was, after) = after.split_once("\"]").expect("their end");
            assert!(was.starts_with("127.0.0.1:"), "{was}");
            let of_job = format!("job_name: {job}\n    static_configs:\n      - targets: ");
            config = format!("{before}{of_job}[\"{address}\"]{after}");
        }
        std::fs::write(place.path().join("prometheus.yml"), config).expect("written");
        let rules = shipped("prometheus/rules.yml");
        std::fs::write(place.path().join("rules.yml"), rules).expect("written");
        let host = format!("127.0.0.1:{}", free_port());
        let mut command = Command::new("prometheus");
        command
            .current_dir(place.path())
            .args(["--config.file=prometheus.yml", "--storage.tsdb.path=data"])
            .arg(format!("--web.listen-address={host}"));
        let process = Running::of(&mut command);
        wait_until("Prometheus is ready", || get(&host, "/-/ready").is_some());
        Self { _process: process, host, _place: place }
    }

    fn ask(&self, path: &str) -> Value {
        let answer = get(&self.host, path).unwrap_or_else(|| panic!("{path} has no answer"));
        let answer: Value = serde_json::from_str(&answer).expect("JSON");
        assert_eq!(answer["status"], "success", "{path}: {answer}");
        answer["data"].clone()
    }

    /// The series that an expression has now.
    fn series(&self, expression: &str) -> Vec<Value> {
        let data = self.ask(&format!("/api/v1/query?query={}", escaped(expression)));
        data["result"].as_array().cloned().unwrap_or_default()
    }
}

/// Every expression of the dashboard, as Grafana asks for it.
fn expressions(instance: &str) -> Vec<String> {
    fn gather(value: &Value, found: &mut Vec<String>) {
        match value {
            Value::Object(fields) => {
                found.extend(fields.get("expr").and_then(Value::as_str).map(str::to_owned));
                fields.values().for_each(|value| gather(value, found));
            }
            Value::Array(items) => items.iter().for_each(|value| gather(value, found)),
            _ => {}
        }
    }
    let dashboard: Value = serde_json::from_str(&shipped("grafana-dashboard.json")).expect("JSON");
    let mut found = Vec::new();
    gather(&dashboard, &mut found);
    for variable in dashboard["templating"]["list"].as_array().expect("variables") {
        let query = variable["query"]["query"].as_str().unwrap_or_default();
        if let Some(of) = query.strip_prefix("label_values(") {
            found.push(of.split(',').next().expect("a metric").to_owned());
        }
    }
    let asked = |it: String| it.replace("$instance", instance).replace("$__rate_interval", "10s");
    let found: Vec<String> = found.into_iter().map(asked).collect();
    assert!(found.iter().all(|it| !it.contains('$')), "{found:?}");
    found
}

/// Names of before that are kept, although a gauge has no quantile.
const KEPT: [&str; 2] = ["lab_run_latency_seconds ", "lab_run_latency_at_least_seconds "];

/// What promtool finds wrong with a page of metrics. It reads the older format, in which a counter
/// is declared by its whole name.
fn lint(page: &str) -> Vec<String> {
    let words = |line: &str| line.split(' ').map(str::to_owned).collect::<Vec<_>>();
    let counters: BTreeSet<String> = page
        .lines()
        .filter(|line| line.starts_with("# TYPE ") && line.ends_with(" counter"))
        .map(|line| words(line).swap_remove(2))
        .collect();
    let mut text = String::new();
    for line in page.lines().filter(|line| *line != "# EOF") {
        let mut parts = words(line);
        if line.starts_with("# ") && counters.contains(&parts[2]) {
            parts[2] += "_total";
        }
        text += &(parts.join(" ") + "\n");
    }
    let mut command = Command::new("promtool");
    command.args(["check", "metrics"]).stdin(Stdio::piped());
    let mut child =
        command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("promtool");
    child.stdin.take().expect("piped").write_all(text.as_bytes()).expect("it reads");
    let found = said(&child.wait_with_output().expect("it ends"));
    let is_new = |line: &&str| !KEPT.iter().any(|kept| line.starts_with(kept));
    found.lines().filter(is_new).map(str::to_owned).collect()
}

/// Waits until all of these have data.
fn assert_data(prometheus: &Prometheus, mut missing: Vec<String>) {
    let began = Instant::now();
    while !missing.is_empty() {
        missing.retain(|expression| prometheus.series(expression).is_empty());
        assert!(began.elapsed() < PATIENCE, "no data for {missing:#?}");
        std::thread::sleep(std::time::Duration::from_millis(200));
    }
}

#[test]
fn every_expression_of_the_dashboard_has_data_in_prometheus() {
    let can_be = has_prometheus() && needs::root() && needs::program("ip", "ip");
    if !can_be || !needs::program("nats", "nats-server") {
        return;
    }
    let scraped = Scraped::start();
    let prometheus = Prometheus::start(&scraped.targets);
    let up = scraped.targets.iter().map(|(job, _)| format!("up{{job=\"{job}\"}} == 1")).collect();
    assert_data(&prometheus, up);
    let all = expressions(&scraped.targets[0].1);
    assert!(all.len() > 40, "{all:?}");
    assert_data(&prometheus, all);

    let rules = shipped("prometheus/rules.yml");
    assert_data(&prometheus, named(&rules, "record:").into_iter().map(str::to_owned).collect());
    let loaded = prometheus.ask("/api/v1/rules");
    let groups = loaded["groups"].as_array().expect("groups");
    let loaded: Vec<&Value> =
        groups.iter().filter_map(|it| it["rules"].as_array()).flatten().collect();
    assert_eq!(loaded.len(), named(&rules, "record:").len() + named(&rules, "alert:").len());
    let ill: Vec<&&Value> = loaded.iter().filter(|rule| rule["health"] != "ok").collect();
    assert!(ill.is_empty(), "{ill:?}");
    // The server admits 20 shakes a second, and is asked for 50.
    let rung = "ALERTS{alertname=\"LabServerOverloaded\", alertstate=\"firing\"}";
    assert_data(&prometheus, vec![rung.to_owned()]);

    for (job, address) in &scraped.targets {
        let page = get(address, "/metrics").expect("metrics");
        assert!(page.ends_with("# EOF\n"), "{job}");
        assert_eq!(lint(&page), [""; 0], "{job}");
    }
    scraped.run.signal(Signal::INT);
    wait_until("the run ends", || get(&scraped.targets[0].1, "/metrics").is_none());
    for process in &scraped.others {
        process.signal(Signal::TERM);
    }
}

#[test]
fn a_name_without_its_unit_is_seen() {
    if !has_prometheus() {
        return;
    }
    let page = "# HELP lab_poll_milliseconds Polls\n# TYPE lab_poll_milliseconds gauge\n\
                lab_poll_milliseconds 3.0\n# EOF\n";
    assert!(lint(page).iter().any(|line| line.contains("lab_poll_milliseconds")));
}

#[test]
fn an_address_of_metrics_that_is_taken_is_said_before_anything_begins() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("an address").to_string();
    let output = common::lab(&["agent", "--name", "h0", "--metrics", &address]);
    common::assert_exit(&output, 2);
    assert!(said(&output).contains(&format!("--metrics {address}: ")), "{}", said(&output));
}
