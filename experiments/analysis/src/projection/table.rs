//! A projection for people.

use std::fmt::Write;

use super::measured::IntervalEstimate;
use super::plan::{ProjectedServers, Projection, Resource, ResourceShare};
use text::{Align, Table, bytes, minutes, thousands};

/// Beyond this a rate is called extrapolated.
const NEAR: f64 = 1.1;

fn whole(value: f64) -> String {
    thousands(value.round() as u64)
}

fn with_margin(figure: IntervalEstimate, show: impl Fn(f64) -> String) -> String {
    let margin = figure.interval.map(|(low, high)| (show(low), show(high)));
    match margin {
        Some((low, high)) if low != high => format!("{} ({low} to {high})", show(figure.value)),
        _ => show(figure.value),
    }
}

fn in_minutes(value: f64) -> String {
    minutes((value * 60.0).round() as u64)
}

fn needs(needs: &[ResourceShare]) -> String {
    let name = |resource| match resource {
        Resource::Cpu => "CPU",
        Resource::Memory => "memory",
        Resource::Network => "network",
        Resource::Ports => "ports",
    };
    let parts = needs.iter().map(|it| format!("{} {:.0}%", name(it.resource), it.share * 100.0));
    parts.collect::<Vec<_>>().join(", ")
}

fn clients(answer: &ProjectedServers, servers: f64) -> String {
    answer.clients_per_server.map_or_else(
        || "unknown: no client's CPU was measured".to_owned(),
        |each| format!("{} ({each:.2} a server)", whole((each * servers).ceil())),
    )
}

/// The projection as a table, with its caveats below.
pub fn table(plan: &Projection) -> String {
    let measured = &plan.measured;
    let machine = &plan.machine;
    let mut table = Table::new([Align::Left; 3]);
    table.row(["", "as measured", "by CPU"]);
    let mut row = |what: String, of: &dyn Fn(&ProjectedServers) -> String| {
        table.row([what, of(&plan.as_measured), of(&plan.by_cpu)]);
    };
    row("shakes/s a server".to_owned(), &|it| with_margin(it.rate, whole));
    let time = in_minutes(plan.minutes);
    row(format!("servers for {time}"), &|it| with_margin(it.servers, |n| whole(n.ceil())));
    row("client machines for these".to_owned(), &|it| clients(it, it.servers.value.ceil()));
    row(format!("time of {} servers", whole(plan.servers)), &|it| {
        with_margin(it.minutes, in_minutes)
    });
    row("client machines for these".to_owned(), &|it| clients(it, plan.servers));
    row("a server uses".to_owned(), &|it| needs(&it.server));
    row("a client machine uses".to_owned(), &|it| needs(&it.client));
    let mut out = String::new();
    // Writing to a string does not fail.
    let _ = writeln!(
        out,
        "{} shakes, from {} {} of {} (phase {}: {} connections, {} shakes/s)",
        whole(plan.shakes),
        measured.runs,
        if measured.runs == 1 { "run" } else { "runs" },
        measured.experiment,
        measured.phase,
        thousands(measured.connections),
        whole(measured.rate.value),
    );
    let _ = writeln!(
        out,
        "machines: {} CPUs busy up to {:.0}%, {}, {} Gbit/s, {} connections a server, {} \
         address(es) a client machine",
        machine.cores,
        machine.busy * 100.0,
        machine.memory_bytes.map_or("unknown memory".to_owned(), |it| bytes(it as u64)),
        machine.network_bytes * 8.0 / 1e9,
        whole(machine.connections),
        machine.addresses,
    );
    out += &table.to_string();
    notes(plan, &mut out);
    out
}

fn notes(plan: &Projection, out: &mut String) {
    let measured = &plan.measured;
    let mut say = |line: &str| {
        let _ = writeln!(out, "{line}");
    };
    if measured.saturated {
        say("as measured: the load waited for answers, so a server like this did no more");
    } else {
        say("as measured: what the load asked for was answered; the server may be able to do more");
    }
    if plan.by_cpu.extrapolated > NEAR {
        say(&format!(
            "by CPU: a server is taken to answer {:.1} times what was measured, at the measured \
             {:.1} µs a request",
            plan.by_cpu.extrapolated, measured.server_us.value
        ));
    }
    say(match (measured.within_run, measured.server_us.interval) {
        (_, None) => "margins are unknown: one run, too short to tell how it varies",
        (true, _) => {
            "margins (95%) are from the variation within one run; other runs can differ by more"
        }
        (false, _) => "margins (95%) are from the variation between runs",
    });
    for (side, answer) in [("as measured", &plan.as_measured), ("by CPU", &plan.by_cpu)] {
        for need in answer.server.iter().filter(|need| need.share > 1.0) {
            say(&format!(
                "{side}: a server does not fit: it needs {:.0}% of what there is ({})",
                need.share * 100.0,
                needs(&[*need])
            ));
        }
    }
    match plan.connect_s {
        Some(seconds) => {
            say(&format!("connecting takes {seconds:.0} s before, at the rate measured"));
        }
        None => say("how long connecting takes is not known: no phase has a rate of logins"),
    }
    for damage in &plan.damage {
        say(&format!("damaged, though nothing of it is in this: {damage}"));
    }
    say("the articles: 10,000,000,000 shakes in 7 minutes with 600 servers, 39,683 a second each");
}
