//! Whether a run fits the machine, before it starts: what it needs, what there is, how many users
//! would fit, and what would make room.

mod fleet;
mod item;
mod local;

use text::{Align, Table, thousands};

use crate::experiment::Experiment;
use crate::hosts::Hosts;
use crate::machine::Machine;
use crate::values::Users;

use fleet::fleet;
use local::local;

pub use item::{Item, Verdict};
pub use local::{files_needed, own_namespace};

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

fn compare(experiment: &Experiment, machine: &Machine) -> Vec<Item> {
    match &experiment.hosts {
        Hosts::Local | Hosts::Namespaces(_) => local(experiment, machine),
        Hosts::Fleet { server, clients } => fleet(experiment, server, clients),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use platform::{CgroupLimits, CpuLimit, MemoryLimit, PidsLimit};

    use super::*;
    use crate::machine::ClockState;
    use crate::read::Source;

    const GIB: u64 = 1 << 30;

    fn machine() -> Machine {
        Machine {
            host: "host".to_owned(),
            kernel: "6.1.0-13-amd64".to_owned(),
            cpus: vec![0, 1],
            cpu_model: None,
            memory_bytes: 24 * GIB,
            memory_available_bytes: 22 * GIB,
            limits: CgroupLimits::default(),
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
        let preflight = Preflight::of(&experiment(1_000_000, ""), &small);
        assert_eq!(refused(&preflight)[0].0, "memory");
        let most = preflight.most_users.expect("some fit");
        assert!((400_000..600_000).contains(&most), "{most}");
        assert!(!Preflight::of(&experiment(most, ""), &small).is_refused());
        assert!(Preflight::of(&experiment(most + 1, ""), &small).is_refused());

        let few_files = Machine { files: (500_000, 0), ..machine() };
        let preflight = Preflight::of(&experiment(1_000_000, ""), &few_files);
        assert_eq!(refused(&preflight), [("files", "sysctl -w fs.file-max=2100000")]);
        assert_eq!(preflight.most_users, Some(249_000));
        let root = Machine { root: true, ..few_files };
        assert!(!Preflight::of(&experiment(1_000_000, ""), &root).is_refused());

        let few_descriptors = Machine { descriptors: 256, ..machine() };
        let preflight = Preflight::of(&experiment(1_000_000, ""), &few_descriptors);
        assert_eq!(refused(&preflight), [("descriptors", "ulimit -n 1024")]);
        assert!(
            preflight.most_users.is_some_and(|most| most > 10_000),
            "{:?}",
            preflight.most_users
        );

        let old = Machine { kernel: "5.15.0-91-generic".to_owned(), ..machine() };
        let preflight = Preflight::of(&experiment(10, ""), &old);
        assert_eq!(refused(&preflight), [("kernel", "boot a kernel from 6.0 on")]);
        assert_eq!(preflight.most_users, None, "no number of users helps");
    }

    fn limited(limits: CgroupLimits) -> Machine {
        let left = limits.memory.as_ref().map_or(22 * GIB, |it| it.available_bytes);
        Machine { memory_available_bytes: left, limits, ..machine() }
    }

    fn found<'a>(preflight: &'a Preflight, what: &str) -> Option<&'a Item> {
        preflight.items.iter().find(|item| item.what == what)
    }

    #[test]
    fn the_smallest_limit_of_a_cgroup_decides() {
        let group = || "/pod".to_owned();
        let memory = MemoryLimit { group: group(), bytes: 600 << 20, available_bytes: 590 << 20 };
        let box_of = limited(CgroupLimits { memory: Some(memory), ..CgroupLimits::default() });
        let preflight = Preflight::of(&experiment(100_000, ""), &box_of);
        let way_out = "raise the memory limit of cgroup /pod, or fewer users: --set users=N";
        assert_eq!(refused(&preflight), [("memory", way_out)]);
        let has = &found(&preflight, "memory").expect("looked at").has;
        assert_eq!(has, "590.0 MiB left of the 600.0 MiB of cgroup /pod");
        assert!((40_000..60_000).contains(&preflight.most_users.expect("some fit")));

        let cpu = |cpus| CgroupLimits {
            cpu: Some(CpuLimit { group: group(), cpus }),
            ..CgroupLimits::default()
        };
        let small = Preflight::of(&experiment(10, ""), &limited(cpu(0.08)));
        let item = found(&small, "CPU time").expect("looked at");
        assert!(item.has.starts_with("0.08 CPUs, the quota of cgroup /pod"), "{item:?}");
        assert_eq!(item.verdict, Verdict::Note);
        assert_eq!(
            found(&Preflight::of(&experiment(10, ""), &limited(cpu(2.0))), "CPU time"),
            None
        );
        assert_eq!(found(&Preflight::of(&experiment(10, ""), &machine()), "CPU time"), None);

        let pids = |left| CgroupLimits {
            pids: Some(PidsLimit { group: group(), most: 100, left }),
            ..CgroupLimits::default()
        };
        let few = Preflight::of(&experiment(10, ""), &limited(pids(9)));
        assert_eq!(refused(&few), [("threads", "raise pids.max of cgroup /pod")]);
        assert_eq!(refused(&Preflight::of(&experiment(10, ""), &limited(pids(99)))), []);
    }

    #[test]
    fn wishes_that_need_root() {
        let own = experiment(10, "network: (namespace: Own, congestion: \"cubic\"),");
        let preflight = Preflight::of(&own, &machine());
        let what: Vec<_> = refused(&preflight).into_iter().map(|(what, _)| what).collect();
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
            let preflight = Preflight::of(&experiment(1_000_000, more), &machine);
            let item = preflight.items.into_iter().find(|item| item.what == "socket table");
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
    fn a_fleet_is_compared_with_what_it_declares() {
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
        let preflight = Preflight::of(&fleet(2, 60_000), &machine());
        assert_eq!(refused(&preflight)[0].0, "memory of r2950");
        let preflight = Preflight::of(&fleet(16, 50_000), &machine());
        assert_eq!(refused(&preflight)[0].0, "users");
        assert_eq!(preflight.most_users, Some(850_000));
        assert_eq!(
            refused(&Preflight::of(&fleet(16, 70_000), &machine()))[0].0,
            "client ports of vm"
        );
    }
}
