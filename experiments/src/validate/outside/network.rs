//! Faults of the way: a shaper in front of the server, and a flood of packets whose softirqs have a
//! CPU. Both are made with the system's own `ip`, `tc` and `nft`.

use std::io::Write;
use std::net::UdpSocket;
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::Context;
use rustix::process::Pid;

use super::bursts::{Account, LONG, Made, bursts};
use super::holding::apart;

/// The server's interface in a run with namespaces of its own.
const INTERFACE: &str = "lab0";

/// What passes: less than 1,000 requests a second need, so that a queue grows and stays.
const RATE: &str = "1mbit";

/// The addresses of the flood's two ends, of those for benchmarks (RFC 2544).
const FLOOD: (&str, &str) = ("198.18.77.1", "198.18.77.2");

/// Rules that each packet of the flood is compared with.
const RULES: u32 = 4_000;

/// Packets of a burst of the flood, and the time between two.
const PACKETS: u32 = 80;
const APART: Duration = Duration::from_millis(50);

/// Runs a command; `words` are its program and arguments.
fn command(words: &[&str]) -> anyhow::Result<()> {
    let [program, arguments @ ..] = words else { return Ok(()) };
    let output = Command::new(program).args(arguments).stdin(Stdio::null()).output();
    let output = output.with_context(|| format!("{program} cannot be started"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    anyhow::ensure!(output.status.success(), "{}: {}", words.join(" "), said.trim());
    Ok(())
}

/// Waits until a time is over, or the run is.
fn wait(time: Duration, over: &AtomicBool) -> Duration {
    let began = Instant::now();
    while began.elapsed() < time && !over.load(Ordering::Relaxed) {
        std::thread::sleep(APART);
    }
    began.elapsed()
}

/// A shaper in front of the server that drops nothing: it has room for all that waits. It vanishes
/// with the run's namespace, and is taken away before.
pub(super) fn shaper(server: Pid, over: &AtomicBool) -> Made {
    let pid = server.to_string();
    let within = |words: &[&str]| command(&[&["nsenter", "-t", &pid, "-n"], words].concat());
    within(&["ip", "link", "add", "ifb0", "type", "ifb"])?;
    within(&["ip", "link", "set", "ifb0", "up"])?;
    let queue = ["burst", "2000", "limit", "1000000"];
    let root = ["tc", "qdisc", "add", "dev", "ifb0", "root", "tbf", "rate", RATE];
    within(&[&root[..], &queue].concat())?;
    within(&["tc", "qdisc", "add", "dev", INTERFACE, "ingress"])?;
    let filter = ["tc", "filter", "add", "dev", INTERFACE, "parent", "ffff:", "protocol", "ip"];
    let all = ["u32", "match", "u32", "0", "0"];
    let to = ["action", "mirred", "egress", "redirect", "dev", "ifb0"];
    within(&[&filter[..], &all, &to].concat())?;
    let held = wait(LONG, over);
    // Where the run has ended, so has its namespace.
    let _ = within(&["tc", "qdisc", "del", "dev", INTERFACE, "ingress"]);
    Ok(Account { bursts: 1, held_ms: held.as_millis() as u64 })
}

/// Packets of which one is dropped.
const DROPPED_ONE_IN: u32 = 10;

/// Drops packets that come in at a server, or that it sends, burst by burst. The rules vanish with
/// the run's namespace. The account is the count of the rule that drops.
pub(super) fn drops(hook: &str, server: Pid, over: &AtomicBool) -> Made {
    let pid = server.to_string();
    let nft = |rules: &str| {
        let within = ["nsenter", "-t", &pid, "-n", "nft", rules];
        let output = Command::new(within[0]).args(&within[1..]).stdin(Stdio::null()).output();
        let output = output.context("nsenter cannot be started")?;
        let said = String::from_utf8_lossy(&output.stderr);
        anyhow::ensure!(output.status.success(), "nft {rules}: {}", said.trim());
        anyhow::Ok(String::from_utf8_lossy(&output.stdout).into_owned())
    };
    let rules = format!(
        "add table ip labdrop; add chain ip labdrop c {{ type filter hook {hook} priority 0; }}; \
         add rule ip labdrop c meta l4proto tcp numgen random mod {DROPPED_ONE_IN} 0 counter drop"
    );
    let mut dropped = 0;
    let account = bursts(
        over,
        || nft(&rules).map(drop),
        || {
            // Where the run has ended, so has its namespace.
            dropped += nft("list table ip labdrop").map_or(0, |said| counted(&said));
            let _ = nft("delete table ip labdrop");
            Ok(())
        },
    )?;
    anyhow::ensure!(dropped > 0, "no packet was dropped");
    Ok(account)
}

/// What `nft` says that a rule has counted.
fn counted(said: &str) -> u64 {
    let after = said.split("counter packets ").nth(1);
    let count = after.and_then(|it| it.split_whitespace().next()?.parse().ok());
    count.unwrap_or(0)
}

/// The flood's namespace and pair of interfaces; both go when it is dropped.
struct Flooded(String);

impl Flooded {
    /// Packets that come in there are handled by `cpu`.
    fn new(cpu: usize) -> anyhow::Result<Self> {
        let number = std::process::id();
        let it = Self(format!("labfl{number}"));
        let name = it.0.clone();
        let (here, there) = (format!("lfa{number}"), format!("lfb{number}"));
        command(&["ip", "netns", "add", &name])?;
        let pair = ["ip", "link", "add", &here, "type", "veth", "peer", "name", &there];
        command(&[&pair[..], &["netns", &name]].concat())?;
        command(&["ip", "addr", "add", &format!("{}/24", FLOOD.0), "dev", &here])?;
        command(&["ip", "link", "set", &here, "up"])?;
        let within = |words: &[&str]| command(&[&["ip", "netns", "exec", &name], words].concat());
        within(&["ip", "addr", "add", &format!("{}/24", FLOOD.1), "dev", &there])?;
        within(&["ip", "link", "set", &there, "up"])?;
        let steer = format!("echo {:x} >/sys/class/net/{there}/queues/rx-0/rps_cpus", 1_u64 << cpu);
        within(&["sh", "-c", &steer])?;
        it.load(&rules())?;
        Ok(it)
    }

    /// Has `nft` read rules.
    fn load(&self, rules: &str) -> anyhow::Result<()> {
        let mut nft = Command::new("ip");
        nft.args(["netns", "exec", &self.0, "nft", "-f", "-"]);
        let mut nft = nft.stdin(Stdio::piped()).spawn().context("ip cannot be started")?;
        let mut input = nft.stdin.take().context("no pipe to nft")?;
        input.write_all(rules.as_bytes())?;
        drop(input);
        anyhow::ensure!(nft.wait()?.success(), "nft did not take the flood's rules");
        Ok(())
    }
}

impl Drop for Flooded {
    fn drop(&mut self) {
        // What cannot be removed was not made.
        let _ = command(&["ip", "netns", "del", &self.0]);
    }
}

/// Rules that no packet of the flood fits: each is compared with all of them, in the softirq.
fn rules() -> String {
    let chain = "add table ip t\nadd chain ip t i { type filter hook prerouting priority -300; }\n";
    let each = (1..=RULES).map(|port| format!("add rule ip t i udp sport {port} drop\n"));
    each.fold(chain.to_owned(), |all, rule| all + &rule)
}

/// A flood whose softirqs are handled by `cpu`; it is sent from another one.
pub(super) fn flood(cpu: usize, from: usize, over: &AtomicBool) -> Made {
    let flooded = Flooded::new(cpu)?;
    apart(move || {
        let _flooded = flooded;
        platform::pin_to(from)?;
        let socket = UdpSocket::bind((FLOOD.0, 0)).context("no socket for the flood")?;
        let began = Instant::now();
        while began.elapsed() < LONG && !over.load(Ordering::Relaxed) {
            for _ in 0..PACKETS {
                // A packet that found no room is one less.
                let _ = socket.send_to(b"x", (FLOOD.1, 9));
            }
            std::thread::sleep(APART);
        }
        Ok(Account { bursts: 1, held_ms: began.elapsed().as_millis() as u64 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_that_fails_says_which_and_why() {
        let error = command(&["sh", "-c", "echo no >&2; exit 3"]).expect_err("it fails");
        assert!(error.to_string().ends_with(": no"), "{error}");
        assert!(command(&["true"]).is_ok() && command(&["no-such-program"]).is_err());
        assert_eq!(rules().lines().count(), RULES as usize + 2);
        let said = "numgen random mod 10 0 counter packets 31 bytes 2204 drop";
        assert_eq!((counted(said), counted("table ip labdrop {}")), (31, 0));
    }
}
