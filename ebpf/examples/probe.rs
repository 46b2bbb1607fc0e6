//! Prints what the probes count on a port, once a second: `probe PORT [SECONDS]`.

use std::{thread::sleep, time::Duration};

use ebpf::{Options, Probes};

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let port = arguments.next().ok_or("usage: probe PORT [SECONDS]")?.parse()?;
    let seconds: u32 = arguments.next().map_or(Ok(3), |text| text.parse())?;
    let mut options = Options::of_port(port);
    options.absent = arguments.collect();
    let mut probes = Probes::attach(&options)?;
    for state in probes.report() {
        println!("{}", serde_json::to_string(&state)?);
    }
    let mut before = probes.read();
    for _ in 0..seconds {
        sleep(Duration::from_secs(1));
        let now = probes.read();
        println!("{}", serde_json::to_string(&now.since(&before))?);
        for loss in probes.take_losses() {
            println!("{}", serde_json::to_string(&loss)?);
        }
        before = now;
    }
    for state in probes.report() {
        println!(
            "{} runs {:?} ns {:?} missed {:?}",
            state.name, state.runs, state.run_time_ns, state.missed
        );
    }
    Ok(())
}
