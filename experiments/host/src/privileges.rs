//! Whom the programs of a run run as: an ordinary user without capabilities, who gains none either.
//! What a run needs rights for is done before by the process that starts them, and handed down.
//!
//! Owns: the choice of the user, and the way there between fork and exec. Must not know: what
//! programs do.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use ebpf::doctor::{Finding, State};
use rustix::process::{Gid, Uid};
use rustix::thread::{CapabilitySet, CapabilitySets};
use serde_json::{Value, json};
use spec::UsageError;

use crate::congestion;
use crate::user::{User, is_mapped};

/// Who said as whom programs run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ChosenBy {
    /// The command line.
    Option,
    /// `sudo`, by whom it was called.
    Sudo,
    /// Nobody else: root does not run programs as root.
    Default,
    /// This process is not root, or may not be anybody else.
    Caller,
}

impl ChosenBy {
    fn word(self) -> &'static str {
        match self {
            ChosenBy::Option => "--user",
            ChosenBy::Sudo => "sudo",
            ChosenBy::Default => "default",
            ChosenBy::Caller => "caller",
        }
    }
}

/// As whom programs run, and with what.
#[derive(Clone, Debug)]
pub struct Privileges {
    user: User,
    chosen_by: ChosenBy,
    /// Whether a program changes from root to the user.
    drops: bool,
    /// A group more, for io_uring.
    rings: Option<u32>,
    /// What it keeps all the same, each with its reason.
    kept: Vec<(CapabilitySet, String)>,
}

/// The largest group that is none: `kernel.io_uring_group` without a group.
const NO_GROUP: i64 = -1;

fn sysctl(name: &str) -> Option<i64> {
    let path = format!("/proc/sys/{}", name.replace('.', "/"));
    std::fs::read_to_string(path).ok()?.trim().parse().ok()
}

/// The capabilities of this process.
fn own() -> CapabilitySet {
    let sets = rustix::thread::capabilities(None);
    sets.map_or(CapabilitySet::empty(), |sets| sets.effective)
}

impl Privileges {
    /// The user of the command line, else that of sudo, else nobody. A process that is not root
    /// runs programs as itself.
    ///
    /// # Errors
    /// [`UsageError`]: a user that there is not, or that a program cannot be.
    pub fn choose(option: Option<&str>) -> anyhow::Result<Self> {
        let caller = User::of_this_process();
        let by_caller = |user| Self {
            user,
            chosen_by: ChosenBy::Caller,
            drops: false,
            rings: None,
            kept: Vec::new(),
        };
        let (user, chosen_by) = match (option, User::of_sudo()) {
            (Some(text), _) => {
                let user = User::parse(text)
                    .map_err(|why| UsageError::error(format!("--user {text}: {why}")))?;
                (user, ChosenBy::Option)
            }
            (None, Some(user)) => (user, ChosenBy::Sudo),
            (None, None) => (User::nobody(), ChosenBy::Default),
        };
        if caller.uid != 0 {
            if chosen_by == ChosenBy::Option && user.uid != caller.uid {
                let what = format!("--user {user}: only root starts programs as somebody else");
                return Err(UsageError::error(what));
            }
            return Ok(by_caller(caller));
        }
        let cannot = if user.uid == 0 {
            None
        } else if !is_mapped(user.uid)? {
            Some("this container has no such user")
        } else if !own().contains(CapabilitySet::SETUID | CapabilitySet::SETGID) {
            Some("root may not be anybody else here (CAP_SETUID, CAP_SETGID)")
        } else {
            None
        };
        if let Some(why) = cannot {
            if chosen_by == ChosenBy::Option {
                return Err(UsageError::error(format!("--user {user}: {why}")));
            }
            return Ok(by_caller(caller));
        }
        let drops = user.uid != 0;
        let rings = if drops { of_rings(&user)? } else { None };
        if drops {
            may_execute(&user)?;
        }
        Ok(Self { user, chosen_by, drops, rings, kept: Vec::new() })
    }

    /// Makes a directory that a program is to write into, and gives it to the program's user when
    /// it is new.
    ///
    /// # Errors
    /// What the system says.
    pub fn make_directory(&self, path: &Path) -> io::Result<()> {
        if path.exists() {
            return Ok(());
        }
        std::fs::create_dir_all(path)?;
        if self.drops {
            std::os::unix::fs::lchown(path, Some(self.user.uid), Some(self.user.gid))?;
        }
        Ok(())
    }

    /// Whether programs have fewer rights than this process.
    pub fn are_dropped(&self) -> bool {
        self.drops
    }

    /// Has programs keep CAP_SYS_ADMIN, for a reason that people read.
    pub fn keep_sys_admin(&mut self, because: String) {
        self.keep(CapabilitySet::SYS_ADMIN, because);
    }

    /// Has programs keep CAP_NET_ADMIN when they cannot choose a congestion control without it.
    ///
    /// # Errors
    /// [`UsageError`]: one that no program can choose here, whatever it keeps.
    pub fn keep_for_congestion(&mut self, name: &str) -> anyhow::Result<()> {
        congestion::check(name)?;
        if !congestion::is_for_everybody(name) {
            let because = format!(
                "congestion control {name} is for root alone here: \
                 net.ipv4.tcp_allowed_congestion_control, or a namespace of the run's own"
            );
            self.keep(CapabilitySet::NET_ADMIN, because);
        }
        Ok(())
    }

    /// Has programs keep CAP_IPC_LOCK when their rings lock more memory than their limit, which
    /// this process cannot raise; `None` when nobody knows how much they lock.
    pub fn keep_for_rings(&mut self, bytes: Option<u64>) {
        if own().contains(CapabilitySet::SYS_RESOURCE) {
            return;
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Memlock).maximum;
        let Some(limit) = limit.filter(|limit| bytes.is_none_or(|bytes| bytes > *limit)) else {
            return;
        };
        let needs = bytes.map_or("an unknown number of".to_owned(), |it| it.to_string());
        let because = format!(
            "{needs} bytes of rings, and the limit of locked memory is {limit}, which this process \
             may not raise: ulimit -l unlimited"
        );
        self.keep(CapabilitySet::IPC_LOCK, because);
    }

    /// The same without what is kept: for a program that does not need it.
    pub fn with_nothing(&self) -> Self {
        Self { kept: Vec::new(), ..self.clone() }
    }

    /// Keeps, too, what another program does: for the manifest of both.
    pub fn add_kept(&mut self, other: &Self) {
        for (capability, because) in &other.kept {
            self.keep(*capability, because.clone());
        }
    }

    fn keep(&mut self, capability: CapabilitySet, because: String) {
        if self.drops && !self.kept.iter().any(|(it, _)| *it == capability) {
            self.kept.push((capability, because));
        }
    }

    /// For the manifest.
    pub fn to_json(&self) -> Value {
        let all = "this process has it, and programs run as the same user";
        let kept: Vec<(String, &str)> = if self.drops {
            self.kept.iter().map(|(it, because)| (names(*it), because.as_str())).collect()
        } else if self.user.uid == 0 {
            own().iter().map(|it| (names(it), all)).collect()
        } else {
            Vec::new()
        };
        let kept = kept.iter().map(|(name, because)| json!({ "name": name, "because": because }));
        let mut text = json!(self.user);
        text["chosen_by"] = self.chosen_by.word().into();
        text["capabilities"] = kept.collect();
        text["no_new_privs"] = true.into();
        text
    }

    /// For the doctor: as whom programs run, and what this process keeps, and why.
    pub fn findings(&self) -> Vec<Finding> {
        let own = own();
        let has: Vec<String> = USES
            .iter()
            .filter(|(capability, _)| own.contains(*capability))
            .map(|(capability, what)| format!("{} {what}", names(*capability)))
            .collect();
        let finding = |name: &str, found: String| Finding {
            name: name.to_owned(),
            state: State::Ok,
            found,
            consequence: None,
            way_out: None,
        };
        let user = &self.user;
        let with = if self.drops || user.uid != 0 { "no capabilities" } else { "all capabilities" };
        let by = self.chosen_by.word();
        let mut programs =
            finding("programs run as", format!("{user} ({by}), {with}, no_new_privs"));
        if user.uid == 0 {
            programs.state = State::Less;
            programs.consequence = Some("a mistake in server or client is root's".to_owned());
            programs.way_out = Some("leave --user out, or name an ordinary user".to_owned());
        }
        let keeps = match has.is_empty() {
            true => "nothing: this process is not root".to_owned(),
            false => has.join(", "),
        };
        vec![programs, finding("lab itself keeps", keeps)]
    }

    /// The way to the user, for a child between fork and exec.
    pub(crate) fn descent(&self) -> Descent {
        let kept = self.kept.iter().fold(CapabilitySet::empty(), |all, (it, _)| all | *it);
        let gid = Gid::from_raw(self.user.gid);
        Descent {
            ids: self.drops.then(|| (Uid::from_raw(self.user.uid), gid)),
            groups: self.rings.map(Gid::from_raw).into_iter().collect(),
            keeps_all: !self.drops && self.user.uid == 0,
            kept,
        }
    }
}

/// What this process needs its capabilities for.
const USES: [(CapabilitySet, &str); 6] = [
    (CapabilitySet::BPF, "loads probes"),
    (CapabilitySet::PERFMON, "attaches probes, reads perf events"),
    (CapabilitySet::NET_ADMIN, "makes links, drops and holds packets"),
    (CapabilitySet::SYS_ADMIN, "makes and enters network namespaces, sets sysctls"),
    (CapabilitySet::SYS_PTRACE, "reads /proc of its programs"),
    (CapabilitySet::SETUID, "starts programs as somebody else"),
];

/// `CAP_` and the name of each capability of a set.
fn names(set: CapabilitySet) -> String {
    let names = set.iter_names().map(|(name, _)| format!("CAP_{name}"));
    let names: Vec<String> = names.collect();
    // One that is newer than this program.
    if names.is_empty() { format!("0x{:x}", set.bits()) } else { names.join(", ") }
}

/// The group that may use io_uring, where not everybody may.
fn of_rings(user: &User) -> anyhow::Result<Option<u32>> {
    if sysctl("kernel.io_uring_disabled") != Some(1) {
        return Ok(None);
    }
    match sysctl("kernel.io_uring_group").filter(|it| *it != NO_GROUP) {
        Some(group) => Ok(Some(u32::try_from(group)?)),
        None => Err(UsageError::error(format!(
            "{user} may not use io_uring (kernel.io_uring_disabled is 1): sysctl -w \
             kernel.io_uring_group=GID, or --user root"
        ))),
    }
}

/// The directories above it need not be open to the user: the file is handed down open.
fn may_execute(user: &User) -> anyhow::Result<()> {
    let file = std::fs::metadata("/proc/self/exe")?;
    let bit = match (file.uid() == user.uid, file.gid() == user.gid) {
        (true, _) => 0o100,
        (false, true) => 0o010,
        (false, false) => 0o001,
    };
    if file.mode() & bit == 0 {
        let exe = std::env::current_exe()?;
        let exe = exe.display();
        let what = format!("{user} may not execute {exe}: chmod a+rx {exe}, or --user root");
        return Err(UsageError::error(what));
    }
    Ok(())
}

/// How a child becomes the user.
pub(crate) struct Descent {
    ids: Option<(Uid, Gid)>,
    groups: Vec<Gid>,
    keeps_all: bool,
    kept: CapabilitySet,
}

impl Descent {
    /// Whether the child becomes somebody else.
    pub(crate) fn changes_user(&self) -> bool {
        self.ids.is_some()
    }

    /// Becomes the user. Only system calls: fit for a child between fork and exec, which has one
    /// thread, so that what is said of the thread is said of the process.
    ///
    /// # Errors
    /// What the kernel says. The child must not go on then.
    pub(crate) fn go(&self) -> io::Result<()> {
        let nothing = CapabilitySet::empty();
        if let Some((uid, gid)) = self.ids {
            // The last capabilities that there are come first to their end.
            for number in 0..u64::BITS {
                let one = CapabilitySet::from_bits_retain(1 << number);
                if !self.kept.contains(one) {
                    // There are fewer, or this process may not: no program can gain any anyway.
                    let _ = rustix::thread::remove_capability_from_bounding_set(one);
                }
            }
            rustix::thread::set_keep_capabilities(self.kept != nothing)?;
            rustix::thread::set_thread_groups(&self.groups)?;
            rustix::thread::set_thread_res_gid(gid, gid, gid)?;
            rustix::thread::set_thread_res_uid(uid, uid, uid)?;
        }
        if !self.keeps_all {
            // Kernels before 4.3 have none; what is inherited is set below.
            let _ = rustix::thread::clear_ambient_capability_set();
            let kept = CapabilitySets {
                effective: self.kept,
                permitted: self.kept,
                inheritable: self.kept,
            };
            rustix::thread::set_capabilities(None, kept)?;
            for one in self.kept {
                rustix::thread::configure_capability_in_ambient_set(one, true)?;
            }
        }
        Ok(rustix::thread::set_no_new_privs(true)?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_is_chosen() {
        let is_root = rustix::process::geteuid().is_root();
        let chosen = Privileges::choose(None).expect("somebody");
        assert_eq!(chosen.are_dropped(), is_root, "{chosen:?}");
        assert_ne!(chosen.to_json()["uid"], 0);
        assert_eq!(chosen.to_json()["no_new_privs"], true);
        assert_eq!(chosen.to_json()["capabilities"], json!([]));
        let error = Privileges::choose(Some("no such one")).expect_err("nobody").to_string();
        assert!(error.contains("--user no such one: no such user"), "{error}");
        let root = Privileges::choose(Some("root"));
        assert_eq!(root.is_ok(), is_root, "{root:?}");
        if let Ok(root) = root {
            assert!(!root.are_dropped());
            let kept = root.to_json()["capabilities"].to_string();
            assert!(kept.contains("CAP_SYS_ADMIN"), "{kept}");
            assert_eq!(root.findings()[0].state, State::Less);
        }
    }

    #[test]
    fn what_is_kept_is_named_once() {
        let mut some = Privileges::choose(None).expect("somebody");
        some.drops = true;
        some.keep_sys_admin("files".to_owned());
        some.keep_sys_admin("more files".to_owned());
        let name = "none such";
        let error = some.keep_for_congestion(name).expect_err("unknown").to_string();
        assert!(error.contains("none such: the kernel has no such congestion control"), "{error}");
        some.keep(CapabilitySet::NET_ADMIN, "links".to_owned());
        let kept = some.to_json()["capabilities"].clone();
        assert_eq!(kept[0], json!({ "name": "CAP_SYS_ADMIN", "because": "files" }));
        assert_eq!(kept[1]["name"], "CAP_NET_ADMIN");
        assert_eq!(kept.as_array().map(Vec::len), Some(2));
        let descent = some.descent();
        assert_eq!(descent.kept, CapabilitySet::SYS_ADMIN | CapabilitySet::NET_ADMIN);
        let mut both = some.with_nothing();
        assert_eq!(both.descent().kept, CapabilitySet::empty());
        both.add_kept(&some);
        assert_eq!(both.to_json(), some.to_json());
        // Memory of no rings is within every limit.
        some.keep_for_rings(Some(0));
        assert_eq!(some.descent().kept, descent.kept);
    }
}
