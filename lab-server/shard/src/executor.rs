//! Threads: one glommio executor a shard, each on its core, each with its own descriptor table.

use std::future::Future;
use std::io;
use std::sync::mpsc::{Receiver, Sender, channel};

use glommio::{ExecutorJoinHandle, GlommioError, LocalExecutorBuilder};
use platform::Placement;
use rustix::thread::{Pid, gettid};

use crate::descriptors::unshare_table;

/// What glommio may lock for file I/O, of which a shard does none; the least it accepts is used.
const IO_MEMORY: usize = 0;

/// Entries of each of glommio's three rings: a shard has one poll and a few timers under way.
const RING_DEPTH: usize = 128;

/// Why shards could not be started. None is running then.
#[derive(Debug, thiserror::Error)]
pub enum SpawnError {
    /// glommio or the thread could not be started.
    #[error("cannot start the executor of shard {shard}: {reason}")]
    Executor {
        /// Which one.
        shard: usize,
        /// What glommio says.
        reason: String,
    },
    /// The thread started and its executor could not be made.
    #[error(
        "the executor of shard {0} could not be made: io_uring may be forbidden \
         (sysctl kernel.io_uring_disabled), or memory may not be locked (ulimit -l, 512 KiB needed)"
    )]
    Lost(usize),
    /// The thread could not have a table of its own.
    #[error("shard {shard} cannot have a descriptor table of its own")]
    Table {
        /// Which one.
        shard: usize,
        /// What `unshare` says.
        source: io::Error,
    },
}

/// What a shard knows of its thread.
#[derive(Clone, Copy, Debug)]
pub struct ShardContext {
    /// Which shard it is, from 0.
    pub shard: usize,
    /// How many there are.
    pub shards: usize,
    /// The thread, as other processes see it.
    pub thread: Pid,
    /// The CPU it is pinned to.
    pub cpu: Option<usize>,
}

/// Running shards.
#[derive(Debug)]
pub struct ShardThreads<T: Send + 'static> {
    handles: Vec<ExecutorJoinHandle<Option<T>>>,
    threads: Vec<Pid>,
}

impl<T: Send + 'static> ShardThreads<T> {
    /// The threads, shard by shard.
    pub fn threads(&self) -> &[Pid] {
        &self.threads
    }

    /// Waits for all shards to end and returns what each returned.
    ///
    /// # Errors
    /// What the first shard that panicked said.
    pub fn join(self) -> Result<Vec<T>, GlommioError<()>> {
        let joined: Result<Vec<_>, _> =
            self.handles.into_iter().map(ExecutorJoinHandle::join).collect();
        Ok(joined?.into_iter().flatten().collect())
    }
}

/// The main thread's side of a gate at which a new shard waits for all the others.
struct Gate {
    /// The shard stands at the gate: its executor exists.
    arrived: Receiver<Pid>,
    go: Sender<()>,
    /// Whether it has its own table.
    parted: Receiver<io::Result<()>>,
}

/// The shard's side.
struct ShardGate {
    arrived: Sender<Pid>,
    go: Receiver<()>,
    parted: Sender<io::Result<()>>,
}

impl Gate {
    fn new() -> (Gate, ShardGate) {
        let (arrived_tx, arrived) = channel();
        let (go, go_rx) = channel();
        let (parted_tx, parted) = channel();
        let shard = ShardGate { arrived: arrived_tx, go: go_rx, parted: parted_tx };
        (Gate { arrived, go, parted }, shard)
    }
}

impl ShardGate {
    /// Waits for the others and gives the thread its own table. `None` ends the shard.
    fn pass(&self) -> Option<()> {
        self.arrived.send(gettid()).ok()?;
        self.go.recv().ok()?;
        let parted = unshare_table();
        let ok = parted.is_ok();
        self.parted.send(parted.map_err(io::Error::from)).ok()?;
        ok.then_some(())
    }
}

/// Starts `shards` executors named `name`, and `run` on each of them once all exist and each has a
/// table of descriptors of its own.
///
/// The order matters: glommio wakes a foreign executor by writing to its eventfd by number, from
/// the writer's table. Tables that part only after all executors were made agree on those numbers;
/// parting earlier would write eight bytes into another socket.
///
/// # Errors
/// [`SpawnError`]; no shard is left running.
pub fn spawn<F, T>(
    name: &'static str,
    shards: usize,
    placement: &Placement,
    run: impl Fn(ShardContext) -> F + Clone + Send + 'static,
) -> Result<ShardThreads<T>, SpawnError>
where
    F: Future<Output = T> + 'static,
    T: Send + 'static,
{
    let _signals = SignalsBlocked::new();
    let mut handles = Vec::new();
    let mut gates = Vec::new();
    let mut spawned = Ok(());
    for shard in 0..shards {
        let cpu = placement.cpu_of(shard);
        let (gate, shard_gate) = Gate::new();
        let run = run.clone();
        let bound = cpu.map_or(glommio::Placement::Unbound, glommio::Placement::Fixed);
        let executor = LocalExecutorBuilder::new(bound)
            .name(name)
            .io_memory(IO_MEMORY)
            .ring_depth(RING_DEPTH)
            .spawn(move || async move {
                shard_gate.pass()?;
                let context = ShardContext { shard, shards, thread: gettid(), cpu };
                Some(run(context).await)
            });
        match executor {
            Ok(handle) => {
                handles.push(handle);
                gates.push(gate);
            }
            Err(error) => {
                spawned = Err(SpawnError::Executor { shard, reason: error.to_string() });
                break;
            }
        }
    }
    match spawned.and_then(|()| open_gates(&gates)) {
        Ok(threads) => Ok(ShardThreads { handles, threads }),
        Err(error) => {
            // Without a gate the shards that wait end. A table that could not part is the one
            // failure after the gate; the shards that passed it run on until the process ends.
            drop(gates);
            Err(error)
        }
    }
}

/// While this lives, new threads are born with all signals blocked, and keep them so.
///
/// A signal handler that wakes an event loop writes to a pipe by number; run by a thread with
/// another table of descriptors it would write into another socket.
struct SignalsBlocked {
    before: libc::sigset_t,
}

impl SignalsBlocked {
    fn new() -> Self {
        // SAFETY: both sets are valid for writing, and `sigfillset` fills the first before it is
        // read.
        let before = unsafe {
            let mut all = std::mem::zeroed();
            let mut before = std::mem::zeroed();
            libc::sigfillset(&raw mut all);
            libc::pthread_sigmask(libc::SIG_BLOCK, &raw const all, &raw mut before);
            before
        };
        Self { before }
    }
}

impl Drop for SignalsBlocked {
    fn drop(&mut self) {
        // SAFETY: the set was filled by `pthread_sigmask`.
        unsafe {
            libc::pthread_sigmask(libc::SIG_SETMASK, &raw const self.before, std::ptr::null_mut());
        }
    }
}

/// Lets all shards through once all have arrived.
fn open_gates(gates: &[Gate]) -> Result<Vec<Pid>, SpawnError> {
    let numbered = || gates.iter().enumerate();
    let threads = numbered()
        .map(|(shard, gate)| gate.arrived.recv().map_err(|_| SpawnError::Lost(shard)))
        .collect::<Result<Vec<_>, _>>()?;
    for (shard, gate) in numbered() {
        gate.go.send(()).map_err(|_| SpawnError::Lost(shard))?;
    }
    for (shard, gate) in numbered() {
        let parted = gate.parted.recv().map_err(|_| SpawnError::Lost(shard))?;
        parted.map_err(|source| SpawnError::Table { shard, source })?;
    }
    Ok(threads)
}
