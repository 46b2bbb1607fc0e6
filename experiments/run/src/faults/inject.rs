//! The beginning and the end of faults: each kind has its injector.

use std::sync::Arc;

use host::hog;
use host::privileges::Privileges;
use host::program::{Given, Program, Who};
use platform::SlowOrder;
use serde_json::{Value, json};
use service::Command as ServerCommand;
use spec::{FaultSpec, PhaseSpec, Share};
use workload::Command as ClientCommand;

use super::injectors::{PacketInjectors, per_billion};
use super::state::{Fault, Faults, HogLines};
use crate::links::Namespaces;
use crate::place::Run;
use crate::schedule::PhaseUnderWay;

/// The injectors of a fault.
struct Injectors {
    /// How many of them will report that they ended.
    open: usize,
    hog: Option<Program>,
    packets: PacketInjectors,
}

/// Prepares the faults of a phase.
///
/// # Errors
/// When one cannot be brought about.
pub(crate) async fn begin(
    faults: &mut Faults,
    spec: &PhaseSpec,
    phase: PhaseUnderWay,
    namespaces: &Namespaces,
    run: &mut Run,
) -> anyhow::Result<()> {
    for fault in &spec.faults {
        let id = u32::try_from(faults.begun.len())?;
        let (from_s, until_s) = fault.span();
        let from = phase.start + from_s;
        let until = until_s.map(|until| phase.start + until).or(phase.end);
        let until_ns = until.map_or(u64::MAX, |until| run.schedule.start_ns(until));
        let span_ns = (run.schedule.start_ns(from), until_ns);
        let name = (phase.index, spec.name.to_string());
        faults.begun.push(Fault::new(name, fault, until, span_ns));
        let hogs = (Arc::clone(&faults.hog_lines), &faults.privileges);
        let injectors = inject(fault, (id, span_ns), hogs, namespaces, run).await?;
        if let Some(begun) = faults.begun.get_mut(id as usize) {
            let Injectors { open, hog, packets } = injectors;
            (begun.open, begun.hog, begun.packets) = (open, hog, packets);
        }
        let fields = json!({
            "fault": id,
            "phase": spec.name,
            "kind": fault.kind(),
            "until": until,
            "spec": fault,
        });
        run.records.event_at(from, "fault_starts", fields)?;
    }
    Ok(())
}

/// Brings a fault about from one instant to another.
async fn inject(
    spec: &FaultSpec,
    (id, (from_ns, until_ns)): (u32, (u64, u64)),
    (hog_lines, privileges): (HogLines, &Privileges),
    namespaces: &Namespaces,
    run: &mut Run,
) -> anyhow::Result<Injectors> {
    let seed = run.schedule.experiment.seed.rotate_left(32) ^ u64::from(id);
    let slow = |us: u32, share: Share| SlowOrder {
        id,
        spin_ns: u64::from(us) * 1000,
        per_billion: per_billion(share),
        seed,
        from_ns,
        until_ns,
    };
    let mut injectors = Injectors { open: 0, hog: None, packets: PacketInjectors::default() };
    match spec {
        FaultSpec::Hog { cpus, busy, period_us, nice, threads, .. } => {
            let period_ns = u64::from(period_us.get()) * 1000;
            let order = hog::HogSpec {
                cpus: cpus.clone(),
                threads: threads.get(),
                period_ns,
                busy_ns: (period_ns as f64 * busy.get()) as u64,
                nice: *nice,
                from_ns,
                until_ns,
            };
            let on_line = move |line| hog_lines(id, line);
            // A level below this is for root alone.
            let nice = (*nice < 0).then_some(*nice);
            let given = Given { nice, leaves_background: true, ..Given::as_here(privileges) };
            let hog = Program::start(Who::Hog(id), &order, given, on_line)?;
            (injectors.open, injectors.hog) = (1, Some(hog));
        }
        FaultSpec::SlowHandler { us, share, .. } => {
            let order = slow(us.get(), *share);
            run.programs.tell_server(&ServerCommand::Slow(order)).await?;
            injectors.open = threads(&run.records.manifest.server);
        }
        FaultSpec::SlowClient { us, share, .. } => {
            let order = slow(us.get(), *share);
            run.programs.tell_clients(&ClientCommand::Slow(order)).await?;
            injectors.open = run.records.manifest.clients.iter().map(threads).sum();
        }
        FaultSpec::Loss { .. } | FaultSpec::Delay { .. } => {
            let port = run.programs.server_address.port();
            let mut packets = PacketInjectors::attach(namespaces, port, spec, id, seed)?;
            packets.during(from_ns, until_ns)?;
            (injectors.open, injectors.packets) = (packets.reports(), packets);
        }
    }
    Ok(injectors)
}

/// Ends the faults of a phase before its exclusive end, now that it is known.
///
/// # Errors
/// When an injector cannot be told.
pub(crate) async fn end(
    faults: &mut Faults,
    phase: u16,
    end: u64,
    run: &mut Run,
) -> anyhow::Result<()> {
    let until_ns = run.schedule.start_ns(end);
    for (id, fault) in faults.begun.iter_mut().enumerate() {
        if fault.phase != phase || fault.until.is_some_and(|until| until <= end) {
            continue;
        }
        (fault.until, fault.until_ns) = (Some(end), until_ns);
        fault.packets.during(fault.from_ns, until_ns)?;
        if let Some(hog) = &mut fault.hog {
            // One that does not listen has ended, and the end of its output is a message.
            let _ = hog.tell_line(until_ns.to_string()).await;
        }
        let id = u32::try_from(id)?;
        match fault.spec {
            FaultSpec::SlowHandler { .. } => {
                run.programs.tell_server(&ServerCommand::EndSlow { id, until_ns }).await?;
            }
            FaultSpec::SlowClient { .. } => {
                run.programs.tell_clients(&ClientCommand::EndSlow { id, until_ns }).await?;
            }
            FaultSpec::Hog { .. } | FaultSpec::Loss { .. } | FaultSpec::Delay { .. } => {}
        }
    }
    Ok(())
}

/// The number of threads that a program has told of when it was ready.
fn threads(ready: &Value) -> usize {
    ready["threads"].as_array().map_or(0, Vec::len)
}
