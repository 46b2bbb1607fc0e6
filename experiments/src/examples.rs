//! An example for every command, at the end of its help and of its man page. They are read as
//! command lines by a test. Must not know: what the commands do.

/// A command, and examples of it. Every command has a row.
const EXAMPLES: &[(&str, &[&str])] = &[
    ("lab", &["lab run experiments/smoke.ron", "lab explain client_stopped"]),
    ("lab check", &["lab check experiments/smoke.ron --set users=5000"]),
    (
        "lab run",
        &[
            "lab run experiments/smoke.ron --out results/first --live 127.0.0.1:8080",
            "lab run experiments/three-phases.ron --set users=100000 --repeat 5",
        ],
    ),
    ("lab agent", &["lab agent --nats nats://10.0.0.1:4222 --name client-01 --role client"]),
    ("lab hosts", &["lab hosts --nats nats://10.0.0.1:4222"]),
    ("lab compare", &["lab compare results/before results/after"]),
    ("lab history", &["lab history results", "lab history results --out history.html"]),
    ("lab plan", &["lab plan results/first --addresses 17"]),
    ("lab live", &["lab live results/first --listen 127.0.0.1:8080"]),
    ("lab report", &["lab report results/first"]),
    ("lab export", &["lab export results/first --out first.zip --anonymous"]),
    ("lab import", &["lab import first.zip --out results/of-a-colleague"]),
    (
        "lab profile",
        &[
            "sudo lab profile experiments/saturation.ron",
            "sudo lab profile experiments/cost-of-a-request.ron --hertz 997",
            "sudo lab profile --pid 4242 --seconds 10",
        ],
    ),
    ("lab probe", &["sudo lab probe --port 6379 --seconds 60"]),
    ("lab nic", &["lab nic eth0", "lab nic --json --seconds 10"]),
    ("lab validate", &["sudo lab validate --quick --only network_loss,server_busy"]),
    ("lab tune", &["lab tune check million-sockets"]),
    ("lab tune list", &["lab tune list"]),
    ("lab tune show", &["lab tune show low-latency"]),
    ("lab tune check", &["lab tune check million-sockets --strict"]),
    ("lab tune diff", &["lab tune diff million-sockets"]),
    ("lab tune apply", &["sudo lab tune apply million-sockets"]),
    ("lab tune revert", &["sudo lab tune revert --last"]),
    ("lab tune import", &["lab tune import /etc/sysctl.conf > mine.ron"]),
    ("lab tune status", &["lab tune status"]),
    (
        "lab tune ablate",
        &["lab tune ablate experiments/smoke.ron low-latency --out results/ablate --rounds 5"],
    ),
    ("lab tune script", &["lab tune script million-sockets > million-sockets.sh"]),
    ("lab clean", &["sudo lab clean --remove"]),
    ("lab doctor", &["lab doctor", "sudo lab doctor --json"]),
    (
        "lab explain",
        &["lab explain client_stopped", "lab explain shake.late_turns", "lab explain exit 4"],
    ),
    ("lab completions", &["lab completions bash > ~/.local/share/bash-completion/completions/lab"]),
    ("lab man", &["lab man ~/.local/share/man/man1"]),
    ("lab ledger", &["lab ledger verify /var/lib/lab-ledger"]),
    ("lab ledger verify", &["lab ledger verify /var/lib/lab-ledger --run results/first"]),
    ("lab server", &["lab server --listen 127.0.0.1:1025 --control 127.0.0.1:8989"]),
    ("lab client", &["lab client --server 127.0.0.1:1025 --users 0..10000 --rate 5000"]),
    ("lab hog", &["lab hog --config {}"]),
];

/// The command line with its examples, in the order of its commands.
pub(crate) fn added(command: clap::Command) -> clap::Command {
    let path = command.get_name().to_owned();
    added_below(command, &path)
}

fn added_below(command: clap::Command, path: &str) -> clap::Command {
    let of_it = EXAMPLES.iter().find(|(of, _)| *of == path);
    let command = match of_it {
        None => command,
        Some((_, examples)) => {
            let head = if examples.len() == 1 { "Example:" } else { "Examples:" };
            let before = command.get_after_help().map(|it| format!("{it}\n\n")).unwrap_or_default();
            command.after_help(format!("{before}{head}\n  {}", examples.join("\n  ")))
        }
    };
    command.mut_subcommands(|below| {
        let path = format!("{path} {}", below.get_name());
        added_below(below, &path)
    })
}
