//! The present value of every setting that the profiles name: what a run writes into its manifest.
//! Changes nothing.

use std::collections::BTreeMap;

use crate::check::check_on;
use crate::facts::Facts;
use crate::profile::{Effect, Profile, names};
use crate::system::System;

/// The sysctl that sizes the tables of namespaces that are made after it was set.
const SOCKET_TABLE: &str = "net.ipv4.tcp_child_ehash_entries";

/// The present values of all settings of the program's profiles and of another one, by name, as
/// the calling thread's network namespace has them; `None` for what cannot be read here.
pub fn present_values(also: Option<&Profile>) -> BTreeMap<String, Option<String>> {
    let system = System::of_this_thread();
    let mut values = BTreeMap::new();
    let embedded: Vec<Profile> = names().filter_map(|name| Profile::load(name).ok()).collect();
    for profile in embedded.iter().chain(also) {
        for finding in check_on(profile, &system).unwrap_or_default() {
            values.insert(finding.name, finding.now);
        }
    }
    values
}

/// The buckets that a profile gives the table of sockets of new namespaces, on this machine.
pub fn socket_table(profile: &Profile) -> Option<u64> {
    let facts = Facts::of_this_machine().ok()?;
    let setting = profile.settings.iter().map(|it| &it.setting).find(|it| {
        matches!(it.effect, Effect::NewNamespace { .. }) && it.key.to_string() == SOCKET_TABLE
    })?;
    setting.value.text().on(&facts).ok()?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_a_profile() {
        let table = |name: &str| socket_table(&Profile::load(name).expect("embedded"));
        assert_eq!(table("million-sockets"), Some(4_194_304));
        assert_eq!(table("prototype"), None);
    }

    #[test]
    fn what_every_kernel_has_is_listed() {
        let values = present_values(None);
        assert!(values["net.core.somaxconn"].is_some(), "{values:?}");
        assert!(values["limit.nofile"].is_some(), "{values:?}");
        assert!(values.contains_key("net.ipv4.tcp_tw_recycle"), "also what a kernel lacks");
    }
}
