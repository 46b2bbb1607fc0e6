//! What the probes cost: CPU per request of a server and its clients, probes off and on in turn.
//!
//! `cost PORT SERVER_PID CLIENT_PID REQUESTS_PER_SECOND [ROUNDS [SECONDS]]`, while the load runs.
//! CPU is what the kernel's books have for both processes, so it holds their softirqs too; other
//! things on the machine disturb it little. `ABSENT` in the environment names probes to leave out.
//! Also prints what each probe took in a further round
//! with `kernel.bpf_stats_enabled`, which is put back afterwards.

use std::{fs, net::Ipv4Addr, thread::sleep, time::Duration};

use ebpf::{FlowLayout, Options, Probes, Program};

const STATS: &str = "/proc/sys/kernel/bpf_stats_enabled";

/// CPU time of a process so far, in nanoseconds.
fn cpu_ns(pid: u32) -> u64 {
    let tasks = fs::read_dir(format!("/proc/{pid}/task")).expect("the process");
    let of_task = |task: fs::DirEntry| -> Option<u64> {
        let text = fs::read_to_string(task.path().join("schedstat")).ok()?;
        text.split_whitespace().next()?.parse().ok()
    };
    tasks.flatten().filter_map(of_task).sum()
}

fn attach(port: u16, server: u32, client: u32) -> Probes {
    let layout = FlowLayout::all_ports(Ipv4Addr::new(127, 0, 1, 1), 17);
    let mut options = Options::of_flows(port, layout);
    let absent = std::env::var("ABSENT").unwrap_or_default();
    options.absent = absent.split_whitespace().map(str::to_owned).collect();
    let probes = Probes::attach(&options).expect("probes");
    probes.watch(server, Program::Server);
    probes.watch(client, Program::Client(0));
    sleep(Duration::from_millis(300));
    probes
}

fn main() {
    let numbers: Vec<u32> =
        std::env::args().skip(1).map(|text| text.parse().expect("a number")).collect();
    let [port, server, client, rate, more @ ..] = numbers.as_slice() else {
        println!("usage: cost PORT SERVER_PID CLIENT_PID REQUESTS_PER_SECOND [ROUNDS [SECONDS]]");
        return;
    };
    let port = u16::try_from(*port).expect("a port");
    let rounds = more.first().copied().unwrap_or(6);
    let seconds = more.get(1).copied().unwrap_or(4);
    let requests = f64::from(rate * seconds);
    let measure = || {
        let before = cpu_ns(*server) + cpu_ns(*client);
        sleep(Duration::from_secs(u64::from(seconds)));
        (cpu_ns(*server) + cpu_ns(*client) - before) as f64 / 1000.0 / requests
    };
    let (mut off, mut on) = (Vec::new(), Vec::new());
    for round in 0..rounds {
        off.push(measure());
        let probes = attach(port, *server, *client);
        on.push(measure());
        drop(probes);
        sleep(Duration::from_millis(300));
        let (off, on) = (off.last().unwrap_or(&0.0), on.last().unwrap_or(&0.0));
        println!("round {round}: {off:.2} us off, {on:.2} us on, {:+.2}", on - off);
    }
    let median = |values: &mut Vec<f64>| {
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let (off, on) = (median(&mut off), median(&mut on));
    println!("CPU of both ends per request: {off:.2} us off, {on:.2} us on, {:+.2} us", on - off);
    each(port, *server, *client, requests, seconds);
}

/// What each probe takes, by the kernel's own account.
fn each(port: u16, server: u32, client: u32, requests: f64, seconds: u32) {
    let stats = fs::read_to_string(STATS).unwrap_or_default();
    fs::write(STATS, "1").expect("permission to switch statistics on");
    let probes = attach(port, server, client);
    let before = probes.report();
    sleep(Duration::from_secs(u64::from(seconds)));
    let after = probes.report();
    let counters = probes.read();
    fs::write(STATS, stats.trim()).expect("permission to put statistics back");
    let mut total = 0.0;
    for (before, after) in before.iter().zip(&after) {
        let runs = (after.runs.unwrap_or(0) - before.runs.unwrap_or(0)) as f64;
        let ns = (after.run_time_ns.unwrap_or(0) - before.run_time_ns.unwrap_or(0)) as f64;
        if runs > 0.0 {
            let per_request = ns / requests;
            total += per_request;
            println!(
                "{:>18}: {:5.2} runs a request, {:4.0} ns each, {per_request:4.0} ns a request",
                after.name,
                runs / requests,
                ns / runs
            );
        }
    }
    println!("             total: {total:.0} ns a request with statistics on");
    println!("lost: {}", serde_json::to_string(&counters.lost).expect("JSON"));
}
