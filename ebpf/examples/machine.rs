//! What the machine says while a process runs, a JSON line a second and source, and what asking
//! costs: `machine <interface> <pid> [<seconds>]`.

use std::{env, error::Error, thread, time::Duration};

use ebpf::{
    nic::Nic,
    perf::ProcessCounters,
    proc::{MachineReading, NetworkReading, ProcReader, ThreadsReading},
};
use serde::Serialize;

/// All sources at one moment.
struct Readings {
    nic: ebpf::nic::NicReading,
    machine: MachineReading,
    network: NetworkReading,
    threads: ThreadsReading,
    perf: ebpf::perf::ProcessPerf,
}

fn read(nic: &mut Nic, perf: &mut ProcessCounters, pid: u32) -> Result<Readings, Box<dyn Error>> {
    let reader = ProcReader::default();
    let readings = Readings {
        nic: timed("nic", || nic.read())?,
        machine: timed("machine", || reader.machine()),
        network: timed("network", || reader.network(Some(pid))),
        threads: timed("threads", || reader.threads(pid)),
        perf: timed("perf", || perf.read())?,
    };
    Ok(readings)
}

fn timed<T>(name: &str, work: impl FnOnce() -> T) -> T {
    let start = std::time::Instant::now();
    let done = work();
    eprintln!("{name}: {} µs", start.elapsed().as_micros());
    done
}

fn print(source: &str, reading: &impl Serialize) -> Result<(), Box<dyn Error>> {
    println!("{}", serde_json::json!({ "source": source, "reading": reading }));
    Ok(())
}

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = env::args().skip(1).collect();
    let [interface, pid, rest @ ..] = arguments.as_slice() else {
        return Err("usage: machine <interface> <pid> [<seconds>]".into());
    };
    let pid: u32 = pid.parse()?;
    let seconds: u32 = rest.first().map_or(Ok(5), |seconds| seconds.parse())?;
    let mut nic = Nic::open(interface)?;
    let mut perf = ProcessCounters::open(pid)?;
    let bus = nic.read()?.driver.map(|driver| driver.bus).unwrap_or_default();
    let interrupts = ProcReader::default().interrupts(&[interface.as_str(), bus.as_str()]);
    print("interrupts", &interrupts)?;
    let mut before = read(&mut nic, &mut perf, pid)?;
    for _ in 0..seconds {
        thread::sleep(Duration::from_secs(1));
        let now = read(&mut nic, &mut perf, pid)?;
        let nic = now.nic.since(&before.nic);
        print("nic", &nic)?;
        print("losses", &nic.losses())?;
        print("machine", &now.machine.since(&before.machine))?;
        print("network", &now.network.since(&before.network))?;
        print("threads", &now.threads.since(&before.threads))?;
        print("perf", &now.perf.since(&before.perf))?;
        before = now;
    }
    Ok(())
}
