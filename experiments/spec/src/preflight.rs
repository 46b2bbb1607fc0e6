//! Whether a run fits the machine, before it starts: what it needs, what there is, how many users
//! would fit, and what would make room.

use std::path::Path;

use platform::DescriptorLimits;
use tuning::Profile;
use tuning::profile::Scope;

use crate::configure::{client_config, server_config};
use crate::machine::Machine;
use crate::{Experiment, FaultSpec, HostSpec, Hosts, Namespace, Users};
use text::{Align, Table, bytes, thousands};

/// Kernel memory of a socket that is idle, in bytes: 4,220 measured with a million connections
/// (ARCHITECTURE.md), TCP state, inode, file, dentry, readiness and its place in a ring together.
const KERNEL_BYTES_PER_SOCKET: u64 = 4_400;

/// User memory of a connection on the server, in bytes: 80 measured, and room for growth of tables.
const SERVER_BYTES: u64 = 160;

/// User memory of a user on the client, in bytes: 95 measured, likewise.
const CLIENT_BYTES: u64 = 190;

/// User memory of both programs and the recorder without users, in bytes.
const BASE_BYTES: u64 = 64 << 20;

/// The part of the available memory that a run may count on.
const MEMORY_SHARE: f64 = 0.9;

/// The most buckets that a network namespace's table of sockets may have (ip-sysctl.rst).
const MOST_BUCKETS: u32 = 16 << 20;

/// Sockets in one bucket, on average, that nobody notices.
const SHORT_CHAIN: u64 = 1;

/// Files that a run needs beside its sockets.
const OTHER_FILES: u64 = 2_000;

/// Held packets wait behind an interface of this.
const TUN: &str = "/dev/net/tun";

/// Rings with one submitter came with this kernel.
const KERNEL: (u32, u32) = (6, 0);

/// What came of one comparison.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It fits.
    Fits,
    /// It fits, and somebody should know.
    Note,
    /// It does not fit.
    Refused {
        /// What would make room.
        way_out: String,
    },
}

/// One comparison of what a run needs with what there is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Item {
    /// What is compared, and on which machine when there are several.
    pub what: String,
    /// What the run needs.
    pub needs: String,
    /// What there is.
    pub has: String,
    /// What came of it.
    pub verdict: Verdict,
}

/// All comparisons.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Preflight {
    /// One by one.
    pub items: Vec<Item>,
    /// When the run does not fit: the largest number of users that would, if any.
    pub most_users: Option<u32>,
}

impl Preflight {
    /// Compares an experiment with this machine (or with the machines that it declares).
    pub fn of(experiment: &Experiment, machine: &Machine) -> Self {
        let items = compare(experiment, machine);
        let fits = |users: u32| {
            let Ok(users) = Users::try_from(users) else { return false };
            let smaller = Experiment { users, ..experiment.clone() };
            !is_refused(&compare(&smaller, machine))
        };
        let most_users = is_refused(&items).then(|| {
            // What fits a number of users fits any smaller one: the border is found by halving.
            let (mut fitting, mut not) = (0, experiment.users.get());
            while not - fitting > 1 {
                let middle = fitting + (not - fitting) / 2;
                if fits(middle) { fitting = middle } else { not = middle }
            }
            fitting
        });
        Self { items, most_users: most_users.filter(|most| *most > 0) }
    }

    /// Whether the run must not start.
    pub fn is_refused(&self) -> bool {
        is_refused(&self.items)
    }
}

/// The preflight as a table, with what would fit and the way there.
pub fn table(preflight: &Preflight) -> String {
    let mut table = Table::new([Align::Left; 4]);
    for item in &preflight.items {
        let verdict = match item.verdict {
            // As wide as the widest of them: lines below a row are indented to the next column.
            Verdict::Fits => "fits   ",
            Verdict::Note => "note   ",
            Verdict::Refused { .. } => "REFUSED",
        };
        let (needs, has) = (format!("needs {}", item.needs), format!("has {}", item.has));
        table.row([verdict, &item.what, &needs, &has]);
        if let Verdict::Refused { way_out } = &item.verdict {
            table.line(format!("         way out: {way_out}"));
        }
    }
    let mut out = table.to_string();
    if preflight.is_refused() {
        out += &match preflight.most_users {
            Some(most) => format!(
                "this run does not fit; {} users would: --set users={most}\n",
                thousands(u64::from(most))
            ),
            None => "this run does not fit, with any number of users\n".to_owned(),
        };
    }
    out
}

fn is_refused(items: &[Item]) -> bool {
    items.iter().any(|item| matches!(item.verdict, Verdict::Refused { .. }))
}

fn item(what: &str, needs: String, has: String, refused: Option<String>) -> Item {
    let verdict = refused.map_or(Verdict::Fits, |way_out| Verdict::Refused { way_out });
    Item { what: what.to_owned(), needs, has, verdict }
}

fn compare(experiment: &Experiment, machine: &Machine) -> Vec<Item> {
    match &experiment.hosts {
        Hosts::Local | Hosts::Namespaces(_) => local(experiment, machine),
        Hosts::Fleet { server, clients } => fleet(experiment, server, clients),
    }
}

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

fn local(experiment: &Experiment, machine: &Machine) -> Vec<Item> {
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
    items.push(memory("memory", needs, machine.memory_available_bytes, "available"));
    items.push(Item {
        what: "clock".to_owned(),
        needs: "one machine: its monotonic clock".to_owned(),
        has: "there".to_owned(),
        verdict: Verdict::Fits,
    });
    items
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

fn files(experiment: &Experiment, machine: &Machine) -> Item {
    let needs = 2 * u64::from(experiment.users.get()) + OTHER_FILES;
    let (most, used) = machine.files;
    let free = most.saturating_sub(used);
    // A process with CAP_SYS_ADMIN may go beyond fs.file-max.
    let refused = (needs > free && !machine.root)
        .then(|| format!("sysctl -w fs.file-max={}", (used + needs).next_multiple_of(100_000)));
    let has = if machine.root {
        format!("{free} free; root may go beyond")
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

fn memory(what: &str, needs: u64, has: u64, kind: &str) -> Item {
    let most = (has as f64 * MEMORY_SHARE) as u64;
    let refused = (needs > most).then(|| "free memory, or fewer users: --set users=N".to_owned());
    item(what, bytes(needs), format!("{} {kind}", bytes(has)), refused)
}

fn fleet(experiment: &Experiment, server: &HostSpec, clients: &[HostSpec]) -> Vec<Item> {
    let users = experiment.users.get();
    let on_host = |what: &str, host: &HostSpec| format!("{what} of {}", host.name);
    let mut items = Vec::new();
    let cpus: Vec<usize> = (0..server.cores.get() as usize).collect();
    let limit = u64::from(server.descriptors.get());
    let limits = DescriptorLimits { soft: limit, hard: limit };
    let resolved = server_config(experiment).resolve(&cpus, limits);
    items.push(item(
        &on_host("descriptors", server),
        resolved.as_ref().map_or_else(ToString::to_string, |it| format!("{} shards", it.shards)),
        format!("{limit} a table"),
        resolved.is_err().then(|| format!("ulimit -n {}", limit * 4)),
    ));
    let gib = |host: &HostSpec| u64::from(host.memory_gib.get()) << 30;
    let needs = u64::from(users) * (KERNEL_BYTES_PER_SOCKET + SERVER_BYTES) + BASE_BYTES;
    items.push(memory(&on_host("memory", server), needs, gib(server), "in all"));
    let mut room: u64 = 0;
    for host in clients {
        let each = host.users.map_or(0, Users::get);
        room += u64::from(each) * u64::from(host.count.get());
        let (first, last) = host.ports;
        let needed = workload::sources_needed(each, first, last);
        items.push(item(
            &on_host("client ports", host),
            format!("{needed} addresses for {each} users"),
            match host.addresses.get() {
                1 => format!("1 address, ports {first} to {last}"),
                more => format!("{more} addresses, ports {first} to {last}"),
            },
            (needed > host.addresses.get()).then(|| {
                format!("on {}: sysctl -w net.ipv4.ip_local_port_range='1024 65535'", host.name)
            }),
        ));
        let needs = u64::from(each) * (KERNEL_BYTES_PER_SOCKET + CLIENT_BYTES) + BASE_BYTES;
        items.push(memory(&on_host("memory", host), needs, gib(host), "in all"));
    }
    items.push(item(
        "users",
        users.to_string(),
        format!("{room} on the clients"),
        (room < u64::from(users)).then(|| "more client machines, or more users on each".to_owned()),
    ));
    items.push(Item {
        what: "clocks".to_owned(),
        needs: "within 50 ms of each other".to_owned(),
        has: "measured when the fleet is there".to_owned(),
        verdict: Verdict::Note,
    });
    items
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Source;
    use crate::machine::ClockState;

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        Machine {
            host: "host".to_owned(),
            kernel: "6.1.0-13-amd64".to_owned(),
            cpus: vec![0, 1],
            cpu_model: None,
            memory_bytes: 24 * GIB,
            memory_available_bytes: 22 * GIB,
            descriptors: 20_000,
            files: (2_466_170, 1_000),
            ports: (32_768, 60_999),
            root: false,
            congestion: (
                ["reno", "cubic", "bbr"].map(str::to_owned).to_vec(),
                ["reno", "bbr"].map(str::to_owned).to_vec(),
            ),
            socket_table: Some(262_144),
            clock: ClockState::default(),
            nics: Vec::new(),
        }
    }

    fn experiment(users: u32, more: &str) -> Experiment {
        let text =
            format!("(name: \"x\", users: {users}, {more} phases: [(name: \"p\", seconds: 1)])");
        Source::parse(Path::new("x.ron"), text, &[]).expect("valid").experiment
    }

    fn refused(preflight: &Preflight) -> Vec<(&str, &str)> {
        preflight
            .items
            .iter()
            .filter_map(|item| match &item.verdict {
                Verdict::Refused { way_out } => Some((item.what.as_str(), way_out.as_str())),
                _ => None,
            })
            .collect()
    }

    #[test]
    fn a_million_fits_this_size_of_machine() {
        let fits = Preflight::of(&experiment(1_000_000, ""), &machine());
        assert_eq!(refused(&fits), []);
        assert_eq!(fits.most_users, None);
    }

    #[test]
    fn what_does_not_fit_is_refused_with_what_would_and_the_way_there() {
        let small = Machine { memory_available_bytes: 5 * GIB, ..machine() };
        let it = Preflight::of(&experiment(1_000_000, ""), &small);
        assert_eq!(refused(&it)[0].0, "memory");
        let most = it.most_users.expect("some fit");
        assert!((400_000..600_000).contains(&most), "{most}");
        assert!(!Preflight::of(&experiment(most, ""), &small).is_refused());
        assert!(Preflight::of(&experiment(most + 1, ""), &small).is_refused());

        let few_files = Machine { files: (500_000, 0), ..machine() };
        let it = Preflight::of(&experiment(1_000_000, ""), &few_files);
        assert_eq!(refused(&it), [("files", "sysctl -w fs.file-max=2100000")]);
        assert_eq!(it.most_users, Some(249_000));
        let root = Machine { root: true, ..few_files };
        assert!(!Preflight::of(&experiment(1_000_000, ""), &root).is_refused());

        let few_descriptors = Machine { descriptors: 256, ..machine() };
        let it = Preflight::of(&experiment(1_000_000, ""), &few_descriptors);
        assert_eq!(refused(&it), [("descriptors", "ulimit -n 1024")]);
        assert!(it.most_users.is_some_and(|most| most > 10_000), "{:?}", it.most_users);

        let old = Machine { kernel: "5.15.0-91-generic".to_owned(), ..machine() };
        let it = Preflight::of(&experiment(10, ""), &old);
        assert_eq!(refused(&it), [("kernel", "boot a kernel from 6.0 on")]);
        assert_eq!(it.most_users, None, "no number of users helps");
    }

    #[test]
    fn wishes_that_need_root() {
        let own = experiment(10, "network: (namespace: Own, congestion: \"cubic\"),");
        let it = Preflight::of(&own, &machine());
        let what: Vec<_> = refused(&it).into_iter().map(|(what, _)| what).collect();
        assert_eq!(what, ["network namespace", "congestion control"]);
        let root = Machine { root: true, ..machine() };
        assert!(!Preflight::of(&own, &root).is_refused());
        let unknown = experiment(10, "network: (congestion: \"vegas\"),");
        assert_eq!(refused(&Preflight::of(&unknown, &root))[0].0, "congestion control");
        let one = experiment(60_000, "client: (sources: [\"127.0.0.1\"]),");
        assert_eq!(refused(&Preflight::of(&one, &machine()))[0].0, "client ports");
    }

    /// The table of a namespace is made with it, so only a namespace of the run's own has another.
    #[test]
    fn the_socket_table_counts_where_a_namespace_is_made() {
        let table = |more: &str, root: bool| {
            let machine = Machine { root, ..machine() };
            let it = Preflight::of(&experiment(1_000_000, more), &machine);
            let item = it.items.into_iter().find(|it| it.what == "socket table");
            let item = item.expect("looked at");
            (item.has, item.verdict)
        };
        let profile = "tuning: (profile: \"million-sockets\"),";
        for (more, root, has, verdict) in [
            ("", true, "262144 buckets, chains of 8; network.socket_table", Verdict::Note),
            ("network: (socket_table: 4194304),", true, "4194304 buckets", Verdict::Fits),
            (profile, true, "4194304 buckets", Verdict::Fits),
            (profile, false, "262144 buckets, chains of 8; 4194304 would", Verdict::Note),
            ("hosts: Namespaces(1),", true, "262144 buckets, chains of 4", Verdict::Note),
        ] {
            let (said, came) = table(more, root);
            assert!(said.starts_with(has) && came == verdict, "{more}: {said} {came:?}");
        }
        let too_large = experiment(10, "network: (socket_table: 33554432),");
        let root = Machine { root: true, ..machine() };
        assert_eq!(refused(&Preflight::of(&too_large, &root))[0].0, "socket table");
        let wrong = experiment(10, "tuning: (profile: \"milion\"),");
        assert_eq!(refused(&Preflight::of(&wrong, &root))[0].0, "tuning");
    }

    #[test]
    fn a_fleet_is_held_against_what_it_declares() {
        let fleet = |memory: u32, users: u32| {
            experiment(
                1_000_000,
                &format!(
                    "hosts: Fleet(server: (name: \"r2950\", cores: 8, memory_gib: {memory}),
                     clients: [(name: \"vm\", count: 17, cores: 4, memory_gib: 5, users: {users},
                     ports: (1024, 65535))]),"
                ),
            )
        };
        assert_eq!(refused(&Preflight::of(&fleet(16, 60_000), &machine())), []);
        let it = Preflight::of(&fleet(2, 60_000), &machine());
        assert_eq!(refused(&it)[0].0, "memory of r2950");
        let it = Preflight::of(&fleet(16, 50_000), &machine());
        assert_eq!(refused(&it)[0].0, "users");
        assert_eq!(it.most_users, Some(850_000));
        assert_eq!(
            refused(&Preflight::of(&fleet(16, 70_000), &machine()))[0].0,
            "client ports of vm"
        );
    }
}
