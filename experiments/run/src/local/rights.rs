//! The rights of a run's programs: none, but what nothing else can stand in for. Must not know: how
//! a program becomes somebody else.

use host::links::Links;
use host::privileges::Privileges;
use platform::DescriptorLimits;
use spec::Experiment;
use spec::configure::{client_config, server_config};
use spec::machine::Machine;
use spec::preflight::files_needed;

use crate::links::Namespaces;

/// What the rings of a shard lock: half of it, and room for others of the same user.
const LOCKED_BYTES_PER_SHARD: u64 = 512 << 10;

/// What the rings of all programs lock: the kernel counts it by user.
fn locked_bytes(experiment: &Experiment, machine: &Machine) -> u64 {
    let limits = DescriptorLimits { soft: machine.descriptors, hard: machine.descriptors };
    let server = server_config(experiment).resolve(&machine.cpus, limits);
    let client = client_config(experiment, 0).resolve(&machine.cpus, limits, machine.ports);
    // What cannot be resolved is refused before.
    let shards = server.map_or(0, |it| it.shards)
        + client.map_or(0, |it| it.shards) * experiment.client.processes.get() as usize;
    shards as u64 * LOCKED_BYTES_PER_SHARD
}

/// As whom programs run, and what stands in for the rights that they do not have.
#[derive(Debug)]
pub(crate) struct Rights {
    pub(crate) privileges: Privileges,
    /// The routes choose the congestion control, so sockets need not.
    by_routes: bool,
}

impl Rights {
    /// As whom programs will run.
    ///
    /// # Errors
    /// A user that there is not, or that a program cannot be.
    pub(crate) fn choose(user: Option<&str>) -> anyhow::Result<Self> {
        Ok(Self { privileges: Privileges::choose(user)?, by_routes: false })
    }

    /// Does beforehand what programs could only do as root, and has them keep what cannot be done
    /// so. The machine is tuned, and the namespaces are there.
    ///
    /// # Errors
    /// A congestion control that the kernel does not have, or what else it says.
    pub(crate) fn prepare(
        &mut self,
        experiment: &Experiment,
        namespaces: &Namespaces,
    ) -> anyhow::Result<()> {
        let congestion = experiment.network.congestion.as_deref();
        congestion.map_or(Ok(()), host::congestion::check)?;
        if !self.privileges.are_dropped() {
            return Ok(());
        }
        let machine = Machine::this();
        let (most, used) = machine.files;
        let needs = files_needed(experiment);
        if needs > most.saturating_sub(used) {
            self.privileges.keep_sys_admin(format!(
                "{needs} files are beyond fs.file-max ({most}, {used} of them used): --tune-host \
                 with the profile million-sockets, or sysctl -w fs.file-max={}",
                used + needs
            ));
        }
        self.privileges.keep_for_rings(Some(locked_bytes(experiment, &machine)));
        let Some(name) = congestion else { return Ok(()) };
        if machine.congestion.1.iter().any(|it| it == name) {
            return Ok(());
        }
        let own = namespaces.server.iter().chain(&namespaces.clients);
        for namespace in own {
            namespace.run(|| Links::open()?.set_congestion(name))??;
            self.by_routes = true;
        }
        if !self.by_routes {
            self.privileges.keep_for_congestion(name)?;
        }
        Ok(())
    }

    /// For a program that has neither sockets nor rings.
    pub(crate) fn of_hogs(&self) -> Privileges {
        self.privileges.with_nothing()
    }

    /// The congestion control that sockets choose for themselves, if any.
    pub(crate) fn choose_congestion(&self, of_sockets: &mut Option<String>) {
        if self.by_routes {
            *of_sockets = None;
        }
    }
}
