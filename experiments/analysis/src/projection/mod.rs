//! From measured runs to the articles' conclusion: how many machines, how long, for 10 billion
//! shakes, by how much that may be off, and what runs out first.
//!
//! Two answers side by side. **As measured**: servers that do what the measured one did, with
//! whatever else ran on its CPUs (both ends, mostly); nothing is extrapolated. **By CPU**: servers
//! whose CPUs are the server's alone, up to a busy share, at the measured cost of a request. That
//! is an extrapolation, and says by what factor: the cost of a request falls with the rate as work
//! comes in larger batches, and rises when caches and queues fill; more CPUs are taken to do more
//! in proportion, since shards share nothing.

mod measured;
mod plan;
mod table;

pub use measured::{IntervalEstimate, MeasuredPhase, WireUse};
pub use plan::{
    PlanArgs, PlannedMachine, ProjectedServers, Projection, Resource, ResourceShare, project,
};
pub use table::table;
