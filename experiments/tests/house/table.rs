//! The table of allowed dependencies: which crate of the workspace may use which others, and which
//! crates from outside it must do without. Only normal dependencies count; tests may use more.
//!
//! Each crate may use crates above it in the table alone, so that no circle can be written down.
//! What crates from outside use in their turn is not looked at.

use std::collections::BTreeSet;

use crate::modules::Files;
use crate::packages::{Package, owner};

/// A row of the table.
pub(crate) struct Row {
    pub(crate) name: &'static str,
    /// The crates of the workspace it may use.
    pub(crate) may_use: &'static [&'static str],
    pub(crate) outside: Outside,
}

/// What a crate may use from outside. `arrow` stands for `arrow-json` and the like as well.
#[derive(Clone, Copy)]
pub(crate) enum Outside {
    /// These and no others.
    Only(&'static [&'static str]),
    /// Any but these: those of `direct` not in its own manifest, those of `behind` not in the
    /// manifest of any crate of the workspace that it reaches either.
    Never { direct: &'static [&'static str], behind: &'static [&'static str] },
}

/// What only reports and fleets need.
const HEAVY: &[&str] = &["arrow", "async-nats", "blazesym", "parquet"];

const HEAVY_OR_AYA: &[&str] = &["arrow", "async-nats", "aya", "blazesym", "parquet"];

/// What runs something: executors, probes, networks, symbolisers. Data and its analysis need none.
const RUNNING: &[&str] = &["async-nats", "aya", "axum", "blazesym", "glommio", "io-uring", "tokio"];

/// The crates of the workspace, bottom up.
pub(crate) const TABLE: &[Row] = &[
    row("events", &[], Outside::Only(&[])),
    row("wire", &[], Outside::Only(&["thiserror"])),
    row("text", &[], Outside::Only(&["strsim"])),
    row("needs-macros", &[], Outside::Only(&[])),
    row("needs", &["needs-macros"], Outside::Only(&["inventory", "libtest-mimic", "rustix"])),
    row("accounting", &[], Outside::Only(&["serde"])),
    row("platform", &[], Outside::Only(&["libc", "rustix", "serde"])),
    row("interrupts", &["platform"], Outside::Only(&["libc", "tokio"])),
    row(
        "journal",
        &["accounting", "platform"],
        Outside::Only(&["crc32fast", "rand", "rustix", "serde", "thiserror"]),
    ),
    row("ethtool", &[], Outside::Only(&["libc", "rustix", "serde"])),
    row(
        "attribution",
        &["accounting", "events"],
        never(&[], &["arrow", "async-nats", "aya", "glommio", "io-uring", "parquet", "tokio"]),
    ),
    row("service", &["accounting", "platform"], Outside::Only(&["serde", "thiserror"])),
    row(
        "workload",
        &["accounting", "attribution", "platform", "service"],
        Outside::Only(&["base64", "rand", "rand_pcg", "serde", "thiserror"]),
    ),
    row("shard", &["platform"], never(&["aya", "axum", "serde_json", "tokio"], HEAVY)),
    row(
        "tuning",
        &["ethtool", "platform"],
        never(&[], &["arrow", "async-nats", "aya", "glommio", "parquet", "tokio"]),
    ),
    row(
        "ebpf",
        &["attribution", "ethtool", "events", "platform", "text"],
        never(&["glommio", "tokio"], HEAVY),
    ),
    row("control", &["interrupts", "platform", "shard"], never(&["aya"], HEAVY)),
    row(
        "lab-server",
        &["accounting", "control", "journal", "platform", "service", "shard", "wire"],
        never(&[], HEAVY_OR_AYA),
    ),
    row(
        "lab-client",
        &[
            "accounting",
            "attribution",
            "control",
            "ebpf",
            "platform",
            "service",
            "shard",
            "wire",
            "workload",
        ],
        never(&[], HEAVY),
    ),
    row(
        "spec",
        &["platform", "service", "text", "tuning", "workload"],
        never(&["arrow", "parquet"], RUNNING),
    ),
    row("record", &["accounting", "attribution", "platform", "spec"], never(&[], RUNNING)),
    row(
        "host",
        &["attribution", "ebpf", "interrupts", "platform", "spec", "text", "tuning"],
        never(&["axum", "statrs"], &["arrow", "async-nats", "glommio", "parquet"]),
    ),
    row(
        "analysis",
        &["accounting", "attribution", "record", "spec", "text"],
        never(&["libc", "rustix"], RUNNING),
    ),
    row(
        "fleet",
        &["attribution", "ebpf", "host", "interrupts", "platform", "spec", "text"],
        never(&["axum", "hdrhistogram", "statrs"], &["arrow", "glommio", "parquet"]),
    ),
    row(
        "report",
        &[
            "analysis",
            "attribution",
            "control",
            "interrupts",
            "record",
            "service",
            "spec",
            "text",
            "wire",
        ],
        never(&["arrow", "glommio", "parquet"], &["async-nats", "aya", "blazesym"]),
    ),
    row(
        "share",
        &["platform", "record"],
        Outside::Only(&["regex", "serde_json", "tempfile", "thiserror", "zip"]),
    ),
    row(
        "run",
        &[
            "accounting",
            "attribution",
            "ebpf",
            "fleet",
            "host",
            "interrupts",
            "platform",
            "record",
            "report",
            "service",
            "spec",
            "text",
            "tuning",
            "workload",
        ],
        never(&["arrow", "aya", "glommio", "parquet", "statrs"], &[]),
    ),
    row(
        "fuzz",
        &[
            "analysis", "control", "fleet", "journal", "platform", "record", "report", "run",
            "service", "share", "spec", "tuning", "wire", "workload",
        ],
        Outside::Only(&["axum", "libfuzzer-sys", "serde", "serde_json", "tempfile", "tokio"]),
    ),
    row(
        "experiments",
        &[
            "accounting",
            "analysis",
            "attribution",
            "control",
            "ebpf",
            "fleet",
            "host",
            "interrupts",
            "journal",
            "lab-client",
            "lab-server",
            "platform",
            "record",
            "report",
            "run",
            "share",
            "spec",
            "text",
            "tuning",
        ],
        never(&["arrow", "async-nats", "aya", "glommio", "parquet"], &[]),
    ),
];

const fn row(name: &'static str, may_use: &'static [&'static str], outside: Outside) -> Row {
    Row { name, may_use, outside }
}

const fn never(direct: &'static [&'static str], behind: &'static [&'static str]) -> Outside {
    Outside::Never { direct, behind }
}

/// Rows that use crates which do not stand above them, one sentence each.
pub(crate) fn order_faults(table: &[Row]) -> Vec<String> {
    let mut above = BTreeSet::new();
    let mut faults = Vec::new();
    for row in table {
        for name in row.may_use.iter().filter(|name| !above.contains(**name)) {
            let row = row.name;
            faults.push(format!(
                "the table lets {row} use {name}, which does not stand above: take the arrow out, \
                 or move {name} up"
            ));
        }
        above.insert(row.name);
    }
    faults
}

/// Dependencies that the table does not allow, one sentence each.
pub(crate) fn faults(table: &[Row], packages: &[Package]) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let name = &package.name;
        let Some(row) = table.iter().find(|row| row.name == name) else {
            faults.push(format!("{name}: not in the table: say in the table what it may use"));
            continue;
        };
        for used in &package.normal {
            let ours = packages.iter().any(|other| other.name == *used);
            if ours && !row.may_use.contains(&used.as_str()) {
                faults.push(format!(
                    "{name} uses {used}, which the table does not allow: move what it needs to a \
                     crate below both"
                ));
            }
            let allowed = match row.outside {
                Outside::Only(names) => is_one_of(used, names),
                Outside::Never { direct, behind } => {
                    !is_one_of(used, direct) && !is_one_of(used, behind)
                }
            };
            if !ours && !allowed {
                faults.push(format!(
                    "{name} uses {used}, which the table keeps from it: move that code to a crate \
                     that may"
                ));
            }
        }
        if let Outside::Never { behind, .. } = row.outside {
            for chain in chains(package, packages, behind) {
                let chain = chain.join(" -> ");
                faults.push(format!(
                    "{name} reaches a crate that the table keeps from it: {chain}: cut the chain"
                ));
            }
        }
    }
    for row in table.iter().filter(|row| packages.iter().all(|package| package.name != row.name)) {
        faults.push(format!("{}: in the table and not in the workspace: take it out", row.name));
    }
    faults
}

/// Normal dependencies that no file of the package names, one sentence each.
pub(crate) fn unused(packages: &[Package], files: &Files) -> Vec<String> {
    let mut faults = Vec::new();
    for package in packages {
        let own = files.iter().filter(|(file, _)| {
            let owner = owner(file, packages);
            owner.is_some_and(|owner| owner.name == package.name)
        });
        let own: Vec<_> = own.collect();
        for used in &package.normal {
            let word = used.replace('-', "_");
            if own.iter().all(|(_, facts)| !facts.identifiers.contains(&word)) {
                let name = &package.name;
                faults.push(format!("{name} does not name {used}: take it out of its Cargo.toml"));
            }
        }
    }
    faults
}

/// For each unwanted crate behind the crates that a package uses, the shortest way to it.
fn chains<'a>(start: &'a Package, packages: &'a [Package], unwanted: &[&str]) -> Vec<Vec<&'a str>> {
    let mut seen = BTreeSet::from([start.name.as_str()]);
    let mut found: Vec<Vec<&str>> = Vec::new();
    let mut open = vec![vec![start.name.as_str()]];
    while !open.is_empty() {
        let mut next = Vec::new();
        for way in &open {
            let last = way.last().expect("never empty");
            let package = packages.iter().find(|package| package.name == **last);
            for used in package.into_iter().flat_map(|package| &package.normal) {
                let way = [&way[..], &[used]].concat();
                if packages.iter().any(|package| package.name == *used) {
                    if seen.insert(used) {
                        next.push(way);
                    }
                } else if way.len() > 2 && is_one_of(used, unwanted) && seen.insert(used) {
                    found.push(way);
                }
            }
        }
        open = next;
    }
    found
}

fn is_one_of(name: &str, names: &[&str]) -> bool {
    names.iter().any(|one| {
        name.strip_prefix(one).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMALL: &[Row] = &[
        row("low", &[], Outside::Only(&["thiserror"])),
        row("middle", &["low"], never(&["tokio"], &[])),
        row("high", &["low", "middle"], never(&[], &["arrow", "glommio"])),
    ];

    fn package(name: &str, normal: &[&str]) -> Package {
        Package {
            name: name.to_owned(),
            normal: normal.iter().map(|&name| name.to_owned()).collect(),
            others: vec!["proptest".to_owned(), "high".to_owned()],
            ..Package::default()
        }
    }

    #[test]
    fn what_the_table_allows_is_no_fault() {
        let packages = [
            package("low", &["thiserror"]),
            package("middle", &["low", "serde"]),
            package("high", &["low", "middle", "tokio", "arrows"]),
        ];
        assert_eq!(faults(SMALL, &packages), Vec::<String>::new());
        assert_eq!(order_faults(SMALL), Vec::<String>::new());
    }

    #[test]
    fn what_the_table_does_not_allow_is_seen() {
        for (low, middle, high, expected) in [
            (&["middle"][..], &[][..], &[][..], "low uses middle, which the table does not allow"),
            (&["serde"], &[], &[], "low uses serde, which the table keeps from it"),
            (&[], &["tokio"], &[], "middle uses tokio, which the table keeps from it"),
            (&[], &[], &["arrow-json"], "high uses arrow-json, which the table keeps from it"),
            (&[], &["glommio"], &["middle"], "high -> middle -> glommio: cut the chain"),
        ] {
            let packages = [package("low", low), package("middle", middle), package("high", high)];
            let seen = faults(SMALL, &packages);
            assert!(seen.len() == 1 && seen[0].contains(expected), "{expected}: {seen:?}");
        }
    }

    #[test]
    fn crates_without_a_row_and_rows_without_a_crate_are_seen() {
        let packages = [package("low", &[]), package("middle", &[]), package("new", &[])];
        let seen = faults(SMALL, &packages);
        assert_eq!(seen.len(), 2, "{seen:?}");
        assert!(seen[0].starts_with("new: not in the table"), "{seen:?}");
        assert!(seen[1].starts_with("high: in the table"), "{seen:?}");
    }

    #[test]
    fn a_dependency_that_no_file_names_is_seen() {
        let texts = [("low/src/lib.rs".to_owned(), "use this_error::Error; // serde".to_owned())];
        let (files, _) = crate::sources::parse(&texts);
        let package =
            Package { folder: "low".to_owned(), ..package("low", &["this-error", "serde"]) };
        assert_eq!(
            unused(&[package], &files),
            ["low does not name serde: take it out of its Cargo.toml"]
        );
    }

    #[test]
    fn a_circle_in_the_table_is_seen() {
        let table =
            [row("low", &["high"], Outside::Only(&[])), row("high", &["low"], Outside::Only(&[]))];
        let seen = order_faults(&table);
        assert!(seen.len() == 1 && seen[0].contains("low use high"), "{seen:?}");
    }
}
