//! Whether a run fits this machine.

use std::path::Path;

use platform::DescriptorLimits;
use text::bytes;
use tuning::Profile;
use tuning::profile::Scope;

use super::item::{
    BASE_BYTES, CLIENT_BYTES, Item, KERNEL_BYTES_PER_SOCKET, SERVER_BYTES, Verdict, item, memory,
};
use crate::configure::{client_config, server_config};
use crate::experiment::Experiment;
use crate::fault::FaultSpec;
use crate::hosts::{Hosts, Namespace};
use crate::machine::Machine;

/// The most buckets that a network namespace's table of sockets may have (ip-sysctl.rst).
const MOST_BUCKETS: u32 = 16 << 20;

/// Sockets in one bucket, on average, that make no difference.
const SHORT_CHAIN: u64 = 1;

/// Files that a run needs beside its sockets.
const OTHER_FILES: u64 = 2_000;

/// Threads of a server or client beside its shards: those that read commands, write lines, serve
/// the control interface and hand work to blocking calls.
const THREADS_OF_PROGRAM: u64 = 8;

/// Threads of the recorder beside one a CPU that looks for stalls.
const THREADS_OF_RECORDER: u64 = 12;

/// Held packets wait behind an interface of this.
const TUN: &str = "/dev/net/tun";

/// Rings with one submitter came with this kernel.
const KERNEL: (u32, u32) = (6, 0);

/// Whether a run on one machine has a namespace of its own, or several.
pub fn own_namespace(experiment: &Experiment, root: bool) -> bool {
    if matches!(experiment.hosts, Hosts::Namespaces(_)) {
        return true;
    }
    match experiment.network.namespace {
        Namespace::Own => true,
        Namespace::Host => false,
        Namespace::Auto => root,
    }
}

/// All comparisons for a run on one machine.
pub(super) fn local(experiment: &Experiment, machine: &Machine) -> Vec<Item> {
    let own = own_namespace(experiment, machine.root);
    let mut items = vec![kernel(machine), namespace(experiment, machine, own)];
    items.extend(congestion(experiment, machine));
    items.extend(tuned(experiment, own));
    items.extend(socket_table(experiment, machine, own));
    items.extend(faults(experiment, machine));
    items.push(descriptors(experiment, machine));
    items.push(files(experiment, machine));
    let ports = if own { experiment.network.ports } else { machine.ports };
    items.push(client_ports(experiment, machine, ports));
    let users = u64::from(experiment.users.get());
    let per_user = 2 * KERNEL_BYTES_PER_SOCKET + SERVER_BYTES + CLIENT_BYTES;
    let needs = users * per_user + BASE_BYTES;
    items.push(memory_left(needs, machine));
    items.extend(cpu_time(experiment, machine));
    items.extend(threads(experiment, machine));
    items.push(Item {
        what: "clock".to_owned(),
        needs: "one machine: its monotonic clock".to_owned(),
        has: "there".to_owned(),
        verdict: Verdict::Fits,
    });
    items
}

/// Memory, by the machine or by the cgroup that leaves less of it.
fn memory_left(needs: u64, machine: &Machine) -> Item {
    let available = machine.memory_available_bytes;
    let mut item = memory("memory", needs, available, "available");
    let limit = machine.limits.memory.as_ref();
    if let Some(limit) = limit.filter(|it| it.available_bytes <= available) {
        let (left, all) = (bytes(limit.available_bytes), bytes(limit.bytes));
        item.has = format!("{left} left of the {all} of cgroup {}", limit.group);
        if let Verdict::Refused { way_out } = &mut item.verdict {
            *way_out = format!(
                "raise the memory limit of cgroup {}, or fewer users: --set users=N",
                limit.group
            );
        }
    }
    item
}

/// CPU time, where a quota leaves less than the CPUs that threads run on. What it is enough for is
/// not known beforehand, so it refuses nothing.
fn cpu_time(experiment: &Experiment, machine: &Machine) -> Option<Item> {
    let limit = machine.limits.cpu.as_ref()?;
    let named = [&experiment.server.cpus, &experiment.client.cpus];
    let mut cpus: Vec<usize> =
        named.iter().flat_map(|it| it.as_deref().unwrap_or(&machine.cpus)).copied().collect();
    cpus.sort_unstable();
    cpus.dedup();
    (limit.cpus < cpus.len() as f64).then(|| Item {
        what: "CPU time".to_owned(),
        needs: format!("what {} CPUs give, at most", cpus.len()),
        has: format!(
            "{:.2} CPUs, the quota of cgroup {}: once it is used up, all programs stand still \
             until its next period",
            limit.cpus, limit.group
        ),
        verdict: Verdict::Note,
    })
}

/// Processes and threads, where a cgroup has a limit of them.
fn threads(experiment: &Experiment, machine: &Machine) -> Option<Item> {
    let limit = machine.limits.pids.as_ref()?;
    let descriptors = DescriptorLimits { soft: machine.descriptors, hard: machine.descriptors };
    let server = server_config(experiment).resolve(&machine.cpus, descriptors);
    let client = client_config(experiment, 0);
    let client = client.resolve(&machine.cpus, descriptors, experiment.network.ports);
    // What cannot be resolved is refused by its own comparison.
    let shards = |shards: Option<usize>| shards.unwrap_or(1) as u64 + THREADS_OF_PROGRAM;
    let clients = u64::from(experiment.client.processes.get());
    let needs = shards(server.ok().map(|it| it.shards))
        + clients * shards(client.ok().map(|it| it.shards))
        + THREADS_OF_RECORDER
        + machine.cpus.len() as u64;
    let has = format!("{} left of the {} of cgroup {}", limit.left, limit.most, limit.group);
    let way_out = format!("raise pids.max of cgroup {}", limit.group);
    Some(item("threads", needs.to_string(), has, (needs > limit.left).then_some(way_out)))
}

fn kernel(machine: &Machine) -> Item {
    let (major, minor) = KERNEL;
    let too_old = machine.kernel_version() < KERNEL;
    item(
        "kernel",
        format!("Linux {major}.{minor} (io_uring with one submitter)"),
        machine.kernel.clone(),
        too_old.then(|| format!("boot a kernel from {major}.{minor} on")),
    )
}

fn namespace(experiment: &Experiment, machine: &Machine, own: bool) -> Item {
    let wanted = experiment.network.namespace;
    let (needs, way_out) = match experiment.hosts {
        Hosts::Namespaces(count) => (
            format!("{} of its own and veth links", count.get() + 1),
            "run as root, or --set 'hosts=\"Local\"'",
        ),
        _ if own => ("one of its own".to_owned(), "run as root, or --set network.namespace=Host"),
        _ => ("that of the machine".to_owned(), ""),
    };
    let refused = (own && !machine.root).then(|| way_out.to_owned());
    let mut item = item(
        "network namespace",
        needs,
        if machine.root { "root: may make one" } else { "not root: may not make one" }.to_owned(),
        refused,
    );
    if wanted == Namespace::Auto && !own && experiment.network.socket_table.is_some() {
        item.verdict = Verdict::Note;
        item.has += "; the socket table stays as the machine has it";
    }
    item
}

/// The profile, and what of it a run applies by itself.
fn tuned(experiment: &Experiment, own: bool) -> Option<Item> {
    let spec = experiment.tuning.as_ref()?;
    let needs = format!("profile {}", spec.profile);
    let profile = Profile::load(&spec.profile).map_err(|error| error.to_string());
    let profile = match profile.and_then(|profile| profile.without(&spec.without)) {
        Ok(profile) => profile,
        Err(why) => {
            let way_out = format!("{why}; lab tune list");
            return Some(item("tuning", needs, "no such profile".to_owned(), Some(way_out)));
        }
    };
    let count = |scope| profile.settings.iter().filter(|it| it.setting.scope == scope).count();
    let (namespaces, machine) = (count(Scope::Namespace), count(Scope::Machine));
    let has = if own {
        format!("{namespaces} settings for namespaces of its own, {machine} with --tune-host")
    } else {
        format!("{} settings, with --tune-host", namespaces + machine)
    };
    let left = machine > 0 || !own;
    let verdict = if left { Verdict::Note } else { Verdict::Fits };
    Some(Item { what: "tuning".to_owned(), needs, has, verdict })
}

/// The table that sockets are found in: it is made with its namespace, and a setting for it counts
/// for namespaces that are made later.
fn socket_table(experiment: &Experiment, machine: &Machine, own: bool) -> Option<Item> {
    let set = experiment.network.socket_table.map(u64::from).or_else(|| {
        let spec = experiment.tuning.as_ref()?;
        let profile = Profile::load(&spec.profile).ok()?.without(&spec.without).ok()?;
        tuning::socket_table(&profile)
    });
    // Each namespace has a table of its own, and a connection an end in it, or both.
    let ends = if matches!(experiment.hosts, Hosts::Namespaces(_)) { 1 } else { 2 };
    let sockets = ends * u64::from(experiment.users.get());
    let needs = format!("{sockets} sockets");
    let buckets = if own { set.or(machine.socket_table) } else { machine.socket_table }?;
    let mut has = format!("{buckets} buckets");
    if buckets > u64::from(MOST_BUCKETS) {
        let way_out = format!("at most {MOST_BUCKETS} buckets");
        return Some(item("socket table", needs, has, Some(way_out)));
    }
    let chain = sockets.div_ceil(buckets.max(1));
    let long = chain > SHORT_CHAIN;
    if long {
        has += &format!(", chains of {chain}");
    }
    if let (false, Some(set)) = (own, set) {
        has += &format!("; {set} would count in a namespace of its own, made after it is set");
    } else if long && set.is_none() {
        has += "; network.socket_table or the profile million-sockets makes them short";
    }
    let verdict = if long { Verdict::Note } else { Verdict::Fits };
    Some(Item { what: "socket table".to_owned(), needs, has, verdict })
}

fn congestion(experiment: &Experiment, machine: &Machine) -> Option<Item> {
    let name = experiment.network.congestion.as_ref()?;
    let (available, allowed) = &machine.congestion;
    let refused = if !available.contains(name) {
        Some(format!("modprobe tcp_{name}, or --set network.congestion=null"))
    } else if !allowed.contains(name) && !machine.root {
        Some("run as root, or --set network.congestion=null".to_owned())
    } else {
        None
    };
    Some(item("congestion control", name.clone(), available.join(" "), refused))
}

/// Whether the faults of an experiment can be brought about here.
fn faults(experiment: &Experiment, machine: &Machine) -> Option<Item> {
    let faults = || experiment.phases.iter().flat_map(|phase| &phase.faults);
    let (mut needs, mut way_out) = (format!("{} of the lab's own", faults().count()), None);
    for fault in faults() {
        match fault {
            FaultSpec::Hog { cpus, nice, .. } => {
                if let Some(cpu) = cpus.iter().find(|cpu| !machine.cpus.contains(cpu)) {
                    needs = format!("CPU {cpu} for a hog");
                    way_out = Some(format!("name some of the CPUs {:?}", machine.cpus));
                } else if *nice < 0 && !machine.root {
                    needs = format!("nice level {nice} for a hog");
                    way_out = Some("run as root, or give it a nice level from 0 on".to_owned());
                }
            }
            FaultSpec::Delay { .. } if !Path::new(TUN).exists() => {
                needs = format!("{TUN} to hold packets");
                way_out = Some("modprobe tun, or leave Delay out".to_owned());
            }
            _ => {}
        }
    }
    faults().next()?;
    let has = if machine.root { "root" } else { "not root" };
    Some(item("faults", needs, has.to_owned(), way_out))
}

fn descriptors(experiment: &Experiment, machine: &Machine) -> Item {
    let limit = machine.descriptors;
    let limits = DescriptorLimits { soft: limit, hard: limit };
    let resolved = server_config(experiment).resolve(&machine.cpus, limits);
    let needs = match &resolved {
        Ok(it) => format!("{} server shards, up to {} sockets a ring", it.shards, it.per_ring),
        Err(error) => error.to_string(),
    };
    let refused = resolved.is_err().then(|| format!("ulimit -n {}", limit.saturating_mul(4)));
    item("descriptors", needs, format!("{limit} a table"), refused)
}

/// Files that are open when all users are there.
pub fn files_needed(experiment: &Experiment) -> u64 {
    2 * u64::from(experiment.users.get()) + OTHER_FILES
}

fn files(experiment: &Experiment, machine: &Machine) -> Item {
    let needs = files_needed(experiment);
    let (most, used) = machine.files;
    let free = most.saturating_sub(used);
    // A process with CAP_SYS_ADMIN may go beyond fs.file-max.
    let refused = (needs > free && !machine.root)
        .then(|| format!("sysctl -w fs.file-max={}", (used + needs).next_multiple_of(100_000)));
    let has = if machine.root {
        format!("{free} free; beyond them programs keep CAP_SYS_ADMIN")
    } else {
        format!("{free} free")
    };
    item("files", needs.to_string(), has, refused)
}

fn client_ports(experiment: &Experiment, machine: &Machine, ports: (u16, u16)) -> Item {
    let limit = machine.descriptors;
    let limits = DescriptorLimits { soft: limit, hard: limit };
    let configs = client_config(experiment, 0);
    let resolved = configs.resolve(&machine.cpus, limits, ports);
    let (first, last) = ports;
    let has = format!("ports {first} to {last}");
    match resolved {
        Ok(it) => {
            let addresses = it.flows.sources.len();
            item("client ports", format!("{addresses} addresses"), has, None)
        }
        Err(error) => {
            let way_out = "sysctl -w net.ipv4.ip_local_port_range='1024 65535'".to_owned();
            item("client ports", error.to_string(), has, Some(way_out))
        }
    }
}
