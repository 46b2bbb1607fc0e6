//! Resource limits: for the lab's own children, and as snippets for logins and for units.

use std::io;

use crate::facts::Facts;
use crate::profile::{Key, Profile, Resource};
use crate::system::raise;

/// A limit that a profile asks for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// Of what.
    pub resource: Resource,
    /// At least this.
    pub least: u64,
}

/// The limits of a profile, as they are on this machine.
///
/// # Errors
/// A value that is no number, with its place.
pub fn limits(profile: &Profile) -> io::Result<Vec<Limit>> {
    let facts = Facts::of_this_machine()?;
    let mut limits = Vec::new();
    for placed in &profile.settings {
        let Key::Limit(resource) = placed.setting.key else { continue };
        let wrong = |reason: String| io::Error::other(format!("{}: {reason}", placed.place));
        let text = placed.setting.value.text().on(&facts).map_err(wrong)?;
        let least = text.trim().parse().map_err(|_| wrong(format!("'{text}' is no number")))?;
        limits.push(Limit { resource, least });
    }
    Ok(limits)
}

/// Raises limits of the calling process to at least these, as far as it may. Fit for a child
/// between fork and exec.
///
/// # Errors
/// The last limit that could not be raised so far; the others are.
pub fn raise_limits(limits: &[Limit]) -> io::Result<()> {
    let mut outcome = Ok(());
    for limit in limits {
        if let Err(errno) = raise(limit.resource, limit.least) {
            outcome = Err(errno.into());
        }
    }
    outcome
}

/// A file for `/etc/security/limits.d`, for logins.
pub fn limits_d(profile: &str, limits: &[Limit]) -> String {
    let mut out = format!("# {profile}: /etc/security/limits.d/{profile}.conf, for new logins\n");
    for Limit { resource, least } in limits {
        // The star means every user but root.
        for user in ["*", "root"] {
            out += &format!("{user} - {} {least}\n", resource.name());
        }
    }
    out
}

/// A drop-in for a unit of systemd.
pub fn systemd(profile: &str, limits: &[Limit]) -> String {
    let mut out = format!(
        "# {profile}: /etc/systemd/system/UNIT.service.d/{profile}.conf, then systemctl \
         daemon-reload\n[Service]\n"
    );
    for Limit { resource, least } in limits {
        out += &format!("Limit{}={least}\n", resource.name().to_uppercase());
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn limits_as_others_write_them() {
        let profile = Profile::load("million-sockets").expect("embedded");
        let limits = limits(&profile).expect("numbers");
        assert_eq!(limits, [Limit { resource: Resource::Nofile, least: 1_100_000 }]);
        let text = limits_d("million-sockets", &limits);
        assert!(text.ends_with("* - nofile 1100000\nroot - nofile 1100000\n"), "{text}");
        let text = systemd("million-sockets", &limits);
        assert!(text.ends_with("[Service]\nLimitNOFILE=1100000\n"), "{text}");
    }
}
