//! From the settings of a profile to the targets on this machine: which files of which CPUs and
//! interfaces, and which values. Changes nothing.

use std::io;

use crate::facts::Facts;
use crate::profile::{Key, Setting};
use crate::sysctl_file::path as sysctl_path;
use crate::system::{Location, System};
use crate::value::{Format, Relation, mask, normal};

/// One file, ring, feature, field or limit to be set.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Target {
    /// The setting's key, and the CPU, interface or queue when there are several targets.
    pub(crate) name: String,
    pub(crate) at: Location,
    pub(crate) relation: Relation,
    /// The value, normal.
    pub(crate) wanted: String,
}

/// What a setting is on this machine.
pub(crate) enum Resolved {
    /// The targets to be set.
    Targets(Vec<Target>),
    /// There is nothing to set; the reason.
    Nothing(&'static str),
    /// The machine lacks what the setting needs; what it lacks.
    Missing(String),
    /// The value is invalid; the reason.
    Invalid(String),
}

/// Resolves a setting on this machine.
///
/// # Errors
/// When `/sys` cannot be read.
pub(crate) fn resolve(setting: &Setting, system: &System, facts: &Facts) -> io::Result<Resolved> {
    let wanted = match setting.value.text().on(facts) {
        Ok(value) => value,
        Err(reason) => return Ok(Resolved::Invalid(reason)),
    };
    let key = setting.key.to_string();
    let target = |name: String, at: Location, wanted: &str| {
        let wanted = normal(at.format(), wanted);
        Target { name, at, relation: setting.value.relation(), wanted }
    };
    let one = |at: Location| Ok(Resolved::Targets(vec![target(key.clone(), at, &wanted)]));
    match &setting.key {
        Key::Sysctl(name) => one(Location::Sysctl(sysctl_path(name))),
        Key::Limit(resource) => one(Location::Limit(*resource)),
        Key::Thp(thp) => one(Location::Sys {
            path: format!("kernel/mm/transparent_hugepage/{}", thp.name()),
            format: Format::Choice,
        }),
        Key::Governor => {
            let governor = |cpu: &usize| {
                let path = format!("devices/system/cpu/cpu{cpu}/cpufreq/scaling_governor");
                let at = Location::Sys { path, format: Format::Choice };
                target(format!("{key} cpu{cpu}"), at, &wanted)
            };
            Ok(Resolved::Targets(facts.cpus.iter().map(governor).collect()))
        }
        Key::CStates => c_states(&wanted, system, facts),
        _ => interfaces(setting, &wanted, system, facts),
    }
}

fn c_states(wanted: &str, system: &System, facts: &Facts) -> io::Result<Resolved> {
    let Ok(most) = wanted.trim().parse::<u64>() else {
        return Ok(Resolved::Invalid(format!("'{wanted}' is no number of microseconds")));
    };
    let mut targets = Vec::new();
    for cpu in &facts.cpus {
        let states = match system.idle_states(*cpu) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Resolved::Missing("CPUs have no idle states to choose from".to_owned()));
            }
            states => states?,
        };
        for (state, _) in states.into_iter().filter(|(_, latency)| *latency > most) {
            let path = format!("devices/system/cpu/cpu{cpu}/cpuidle/state{state}/disable");
            targets.push(Target {
                name: format!("{} cpu{cpu} state{state}", Key::CStates),
                at: Location::Sys { path, format: Format::Words },
                relation: Relation::Exactly,
                wanted: "1".to_owned(),
            });
        }
    }
    Ok(if targets.is_empty() {
        Resolved::Nothing("no idle state takes longer")
    } else {
        Resolved::Targets(targets)
    })
}

fn interfaces(
    setting: &Setting,
    wanted: &str,
    system: &System,
    facts: &Facts,
) -> io::Result<Resolved> {
    let mut nics = Vec::new();
    match &setting.nics {
        None => nics = system.cards()?,
        Some(names) => {
            for name in names {
                match system.nic(name)? {
                    Some(nic) => nics.push(nic),
                    None => return Ok(Resolved::Missing(format!("there is no interface {name}"))),
                }
            }
        }
    }
    if nics.is_empty() {
        return Ok(Resolved::Nothing("there is no network card"));
    }
    let mut targets = Vec::new();
    for nic in nics {
        match of_interface(setting, &nic.name, wanted, system, facts)? {
            Ok(some) => targets.extend(some),
            Err(reason) => return Ok(Resolved::Invalid(reason)),
        }
    }
    Ok(if targets.is_empty() {
        Resolved::Nothing(match setting.key {
            Key::Xps => "the network cards have one queue to send each",
            _ => "the network cards have no interrupts of their own",
        })
    } else {
        Resolved::Targets(targets)
    })
}

/// The targets of one interface, or the reason why the value is invalid.
fn of_interface(
    setting: &Setting,
    nic: &str,
    wanted: &str,
    system: &System,
    facts: &Facts,
) -> io::Result<Result<Vec<Target>, String>> {
    let key = &setting.key;
    let relation = setting.value.relation();
    let queue_file = |way: &str, queue: usize, file: &str, format: Format| Location::Sys {
        path: format!("class/net/{nic}/queues/{way}-{queue}/{file}"),
        format,
    };
    let target = |what: String, at: Location, wanted: &str| {
        let wanted = normal(at.format(), wanted);
        Target { name: format!("{key} {nic}{what}"), at, relation, wanted }
    };
    let owned = nic.to_owned();
    let single = match key {
        Key::Feature(name) => Some(Location::Feature { nic: owned, name: name.clone() }),
        Key::Ring(ring) => Some(Location::Ring { nic: owned, ring: *ring }),
        Key::Coalesce(field) => Some(Location::Coalesce { nic: owned, field: field.clone() }),
        _ => None,
    };
    if let Some(at) = single {
        return Ok(Ok(vec![target(String::new(), at, wanted)]));
    }
    let (way, file, format) = match key {
        Key::RpsFlows => ("rx", "rps_flow_cnt", Format::Words),
        Key::Xps => ("tx", "xps_cpus", Format::Mask),
        _ => ("rx", "rps_cpus", Format::Mask),
    };
    let mut targets = Vec::new();
    if *key == Key::Irq {
        let interrupts = system.interrupts(nic)?;
        let count = interrupts.len();
        for (place, number) in interrupts.into_iter().enumerate() {
            // An interrupt goes to one CPU, so there may be more of them than CPUs.
            let cpus = match cpus(wanted, place, count.max(facts.cpus.len()), facts) {
                Ok(cpus) => cpus,
                Err(reason) => return Ok(Err(reason)),
            };
            targets.push(target(format!(" irq{number}"), Location::Irq(number), &cpus));
        }
        return Ok(Ok(targets));
    }
    let queues = system.queues(nic, way)?;
    if *key == Key::Xps && queues.len() < 2 {
        return Ok(Ok(targets));
    }
    let count = queues.len();
    for queue in queues {
        let value = match format {
            Format::Mask => match cpus(wanted, queue, count, facts) {
                Ok(cpus) => cpus,
                Err(reason) => return Ok(Err(reason)),
            },
            _ => wanted.to_owned(),
        };
        targets.push(target(
            format!(" {way}-{queue}"),
            queue_file(way, queue, file, format),
            &value,
        ));
    }
    Ok(Ok(targets))
}

/// The CPUs of one of several queues as a mask: `spread` over all CPUs, `all`, `none`, or a mask.
fn cpus(wanted: &str, queue: usize, queues: usize, facts: &Facts) -> Result<String, String> {
    let all = &facts.cpus;
    match wanted.trim() {
        "all" => Ok(mask(all.iter().copied())),
        "none" => Ok("0".to_owned()),
        "spread" if queues < all.len() => {
            let own = all.iter().enumerate().filter(|(place, _)| place % queues == queue % queues);
            Ok(mask(own.map(|(_, cpu)| *cpu)))
        }
        "spread" => Ok(mask(std::iter::once(all[queue % all.len()]))),
        digits if digits.chars().all(|c| c.is_ascii_hexdigit() || c == ',') => {
            Ok(digits.to_owned())
        }
        other => Err(format!("'{other}' names no CPUs: spread, all, none, or a mask such as 3")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn queues_are_spread_over_cpus() {
        let facts = |cpus: usize| Facts {
            memory: 1 << 30,
            page: 4096,
            cpus: (0..cpus).collect(),
            kernel: "6.1".to_owned(),
        };
        let spread = |queues: usize, count: usize| -> Vec<String> {
            let facts = facts(count);
            (0..queues).map(|it| cpus("spread", it, queues, &facts).expect("valid")).collect()
        };
        assert_eq!(spread(1, 2), ["3"]);
        assert_eq!(spread(2, 2), ["1", "2"]);
        assert_eq!(spread(2, 4), ["5", "a"]);
        assert_eq!(spread(3, 2), ["1", "2", "1"]);
        assert_eq!(cpus("all", 0, 1, &facts(40)).as_deref(), Ok("ffffffffff"));
        assert_eq!(cpus("none", 0, 1, &facts(2)).as_deref(), Ok("0"));
        assert!(cpus("some", 0, 1, &facts(2)).is_err());
    }

    #[test]
    fn names_with_dots_in_them() {
        assert_eq!(sysctl_path("net.core.somaxconn"), "net/core/somaxconn");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.1/rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(sysctl_path("net.ipv4.conf.eth0/1.rp_filter"), "net/ipv4/conf/eth0.1/rp_filter");
        assert_eq!(sysctl_path("single"), "single");
    }
}
