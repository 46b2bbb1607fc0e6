//! A profile as a plain POSIX shell script with the same effect and its undo, for machines without
//! this program. Its formulas are worked out where it runs.

use std::fmt::Write;

use ethtool::long_name;

use crate::along::for_shell;
use crate::limits::{Limit, limits, limits_d, systemd};
use crate::profile::{Effect, Key, PlacedSetting, Profile, Ring, Setting};
use crate::value::{Format, Relation, Rounding, format_of_sysctl, normal};

/// Everything but the settings.
const BODY: &str = include_str!("body.sh");

/// Where the settings stand in it.
const SETTINGS: &str = "    @SETTINGS@\n";

/// Where the table of what the kernel changes along stands.
const ALONG: &str = "        @ALONG@\n";

/// The script of a profile.
pub fn script(profile: &Profile) -> String {
    let mut settings = String::new();
    for placed in &profile.settings {
        // Writing to a string cannot fail.
        let _ = add(&mut settings, placed);
    }
    let snippets = match limits(profile) {
        Ok(limits) if !limits.is_empty() => snippets(&profile.name, &limits),
        _ => String::new(),
    };
    BODY.replace("@NAME@", &profile.name)
        .replace("@ABOUT@", &profile.about)
        .replace("@LIMITS@\n", &snippets)
        .replace(ALONG, &for_shell())
        .replace(SETTINGS, &settings)
}

/// A script cannot raise the limits of other processes: it has the files that do.
fn snippets(name: &str, limits: &[Limit]) -> String {
    let mut out = String::from(
        "#\n# A script cannot raise the limits of other processes; these files do:\n#\n",
    );
    for text in [limits_d(name, limits), systemd(name, limits)] {
        for line in text.lines() {
            out += &format!("#   {}\n", line.trim_start_matches("# "));
        }
        out += "#\n";
    }
    out
}

fn add(out: &mut String, placed: &PlacedSetting) -> std::fmt::Result {
    let setting = &placed.setting;
    if matches!(setting.key, Key::Limit(_)) {
        return Ok(());
    }
    writeln!(out, "    # {}", setting.because)?;
    if let Effect::NewNamespace { .. } = setting.effect {
        writeln!(out, "    # In network namespaces that are made after it was set.")?;
    }
    let (file, format) = match &setting.key {
        Key::Sysctl(name) => {
            let path = path(name);
            (format!("/proc/sys/{path}"), format_of_sysctl(&path))
        }
        Key::Thp(thp) => {
            (format!("/sys/kernel/mm/transparent_hugepage/{}", thp.name()), Format::Choice)
        }
        key => return writeln!(out, "    {}", of_many(key, setting)),
    };
    writeln!(
        out,
        "    {} {} {}",
        head("setting", setting, format),
        quoted(&file),
        value(setting, format)
    )
}

fn path(name: &str) -> String {
    if name.contains('/') { name.to_owned() } else { name.replace('.', "/") }
}

/// `setting NAME FORMAT RELATION ROUNDING NEED`.
fn head(function: &str, setting: &Setting, format: Format) -> String {
    let format = match format {
        Format::Words => "words",
        Format::Ranges => "ranges",
        Format::Mask => "mask",
        Format::Choice => "choice",
    };
    let relation = match setting.value.relation() {
        Relation::Exactly => "exactly",
        Relation::AtLeast => "at_least",
        Relation::AtMost => "at_most",
    };
    let rounding = match setting.rounding {
        Rounding::None => "as_it_is",
        Rounding::PowerOfTwo => "pow2",
    };
    let need = if setting.optional { "optional" } else { "required" };
    format!("{function} {} {format} {relation} {rounding} {need}", quoted(&setting.key.to_string()))
}

fn value(setting: &Setting, format: Format) -> String {
    let text = setting.value.text();
    if text.is_fixed() { quoted(&normal(format, text.source())) } else { text.to_shell() }
}

fn quoted(text: &str) -> String {
    format!("'{}'", text.replace('\'', "'\\''"))
}

/// Settings of several CPUs or interfaces.
fn of_many(key: &Key, setting: &Setting) -> String {
    let nics = setting.nics.as_ref().map_or("$(cards)".to_owned(), |nics| {
        nics.iter().map(|nic| quoted(nic)).collect::<Vec<_>>().join(" ")
    });
    let ethtool = |kind: &str, what: &str| {
        let head = head("of_cards", setting, Format::Words);
        format!("{head} {kind} {} {} {nics}", quoted(what), value(setting, Format::Words))
    };
    let queues = |function: &str, way: &str, file: &str, format: Format| {
        let head = head(function, setting, format);
        format!("{head} {way} {file} {} {nics}", value(setting, Format::Words))
    };
    match key {
        Key::Governor => {
            let head = head("of_cpus", setting, Format::Choice);
            format!("{head} cpufreq/scaling_governor {}", value(setting, Format::Choice))
        }
        Key::CStates => {
            let head = head("of_idle_states", setting, Format::Words);
            format!("{head} {}", value(setting, Format::Words))
        }
        Key::Feature(name) => ethtool("feature", long_name(name)),
        Key::Ring(Ring::Rx) => ethtool("ring", "RX"),
        Key::Ring(Ring::Tx) => ethtool("ring", "TX"),
        Key::Coalesce(field) => ethtool("coalesce", field),
        Key::RpsFlows => queues("of_queues", "rx", "rps_flow_cnt", Format::Words),
        Key::Rps => queues("of_queues", "rx", "rps_cpus", Format::Mask),
        Key::Xps => queues("of_queues", "tx", "xps_cpus", Format::Mask),
        Key::Irq => {
            let head = head("of_interrupts", setting, Format::Mask);
            format!("{head} {} {nics}", value(setting, Format::Words))
        }
        Key::Sysctl(_) | Key::Limit(_) | Key::Thp(_) => String::new(),
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;
    use crate::profile::names;

    #[test]
    fn the_scripts_of_the_repository_are_those_of_the_profiles() {
        for name in names() {
            let file = Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("scripts/{name}.sh"));
            let there = std::fs::read_to_string(&file).unwrap_or_default();
            let made = script(&Profile::load(name).expect("embedded"));
            for mark in ["@NAME@", "@ABOUT@", "@LIMITS@", "@ALONG@", "@SETTINGS@"] {
                assert!(!made.contains(mark), "{mark} is left in the script of {name}");
            }
            assert!(
                there == made,
                "{} is not what the profile says: cargo lab tune script {name} > {}",
                file.display(),
                file.display()
            );
        }
    }
}
