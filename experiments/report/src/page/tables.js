// Everything that is not a chart: verdicts, figures, books, settings.

function outcomeInWords(run) {
    const { summary, manifest } = run;
    const outcome = (summary && summary.outcome) || manifest.outcome;
    const because = (summary && summary.outcome_because) || manifest.outcome_because;
    const said = {
        completed: "All phases were carried out.",
        aborted: "The run was aborted by a condition of the experiment.",
        interrupted: "The run was interrupted.",
        incomplete: "The run was killed, or goes on: this is what is on record.",
    }[outcome] || "How the run ended is not known.";
    return because ? `${said} ${because}.` : said;
}

function drawTop(run) {
    const { manifest } = run;
    const host = (manifest.hosts || [])[0] || {};
    const facts = [
        ["began", manifest.started ? instant(manifest.started) : null],
        ["recorded", run.length ? since(run.length) : null],
        ["host", host.host],
        ["kernel", host.kernel],
        ["CPUs", host.cpus && `${host.cpus.length} × ${host.cpu_model || "unknown"}`],
        ["memory", host.memory_bytes && bytes(host.memory_bytes)],
        ["lab", manifest.version],
        ["file", manifest.file],
        ["changed", manifest.settings && manifest.settings.join(" ")],
    ].filter(([, value]) => value);
    document.getElementById("top").replaceChildren(
        el("h1", {}, run.experiment.name || "A run"),
        run.experiment.about ? el("p", {}, run.experiment.about) : "");
    document.getElementById("facts").replaceChildren(...facts.map(([name, value]) =>
        el("li", {}, name + " ", el("b", {}, value))));
}

const QUESTIONS = ["Did it hold?", "Why not?", "Was it sound?", "Was the money right?"];

// What a reader wants to know first, in words: the first screen.
function drawAnswers(run) {
    const section = document.getElementById("answers");
    const without = { word: "Not known", tone: "void", said: ["No summary could be made."] };
    const all = run.answers || QUESTIONS.map(question => ({ question, ...without }));
    section.hidden = false;
    section.replaceChildren(el("h2", { id: "answers-title", class: "unseen" }, "In short"),
        ...all.map(({ question, word, tone, said }) =>
            el("div", { class: "answer " + tone },
                el("h3", {}, question),
                el("p", { class: "state" }, word),
                el("p", {}, said.join(" ")))));
}

function drawProblems(run) {
    const section = document.getElementById("problems");
    section.hidden = !run.problems.length;
    section.replaceChildren(el("div", { class: "problem", role: "alert" },
        el("b", {}, "Not everything of this run could be read."),
        el("ul", {}, run.problems.map(text => el("li", {}, text)))));
}

function drawVerdicts(run) {
    const section = document.getElementById("verdicts");
    const parts = [el("h2", { id: "verdicts-title" }, "Phase by phase"),
        el("p", {}, outcomeInWords(run))];
    const kinds = { held: "good", "did not hold": "bad", "not valid": "void", "not run": "void" };
    for (const it of run.verdicts) {
        const box = el("div", { class: "verdict " + (kinds[it.state] || "") },
            el("h3", {}, it.phase + ": ", el("span", { class: "state" }, it.state)),
            it.invalid.map(text => el("p", {}, "Not valid: " + text + ".")),
            it.state === "not valid" ? el("p", {}, "The load was not what was asked for, so the "
                + "figures are no verdict on the server.") : null,
            el("p", {}, it.held),
            it.why ? el("p", { class: "note" }, "Why: " + it.why + ".") : null,
            (it.others || []).map(text => el("p", { class: "note" }, text + ".")),
            it.machine.map(text => el("p", { class: "note" }, text + ".")));
        parts.push(box);
    }
    if (!run.verdicts.length) {
        parts.push(el("p", { class: "absent" }, "There is no verdict: no summary could be made."));
    }
    const limits = run.summary && run.summary.validity;
    if (limits) {
        const looser = limits.because ? ` Looser than by default: ${limits.because}.` : "";
        parts.push(el("p", { class: "note" }, "A phase is valid when at most "
            + `${percent(limits.late_share)} of the requests left over ${us(limits.late_us)} late `
            + "by the client's own doing, "
            + `${percent(limits.connections_share)} of the connections were there, and no client `
            + `thread was busy over ${percent(limits.client_busy_share)} of the time.${looser}`));
    }
    parts.push(phases(run), causesOf(run), ledger(run));
    section.hidden = false;
    section.replaceChildren(...parts.filter(part => part));
}

// A percentile of a phase: what it is at least where shakes without an answer decide it, and marked
// where it is of the client as much as of the server.
function percentile(phase, key) {
    const at = phase.latency_us[key];
    const least = (phase.latency_at_least_us || {})[key];
    const shown = at == null && least != null ? "≥ " + us(least) : us(at);
    if ((phase.percentiles_valid || {})[key] !== false) return shown;
    return el("span", {}, shown + " ", el("span", { class: "mark" }, "(not valid)"));
}

function phases(run) {
    const all = (run.summary && run.summary.phases) || [];
    if (!all.length) return null;
    const rows = all.map(it => [
        it.name, it.valid ? "yes" : "NO", it.seconds, thousands(it.connections.established),
        thousands(it.shake.offered_rate), thousands(it.shake.answered),
        thousands(it.shake.skipped + it.shake.timed_out + it.shake.lost),
        thousands(it.shake.granted),
        ...["p50", "p90", "p99", "p999", "max"].map(key => percentile(it, key)),
        it.cpu_us_per_request.server == null ? null : trimmed(it.cpu_us_per_request.server, 3),
        it.cpu_us_per_request.client == null ? null : trimmed(it.cpu_us_per_request.client, 3),
        thousands(it.kernel.retransmits),
    ]);
    return table("Figures of each phase; a percentile with ≥ is so much or more", ["phase", "valid",
        "s", "users", "due/s", "answered", "not answered", "packets", "median", "p90", "p99",
        "p99.9", "largest", "server CPU µs", "client CPU µs", "sent again"], rows,
    { classes: all.map(it => (it.valid ? null : "void")), name: "Figures of each phase" });
}

// A share below this is no answer to why.
const SHARE_SHOWN = 0.005;

// What the slowest requests of each phase waited for, cause by cause.
function causesOf(run) {
    const all = ((run.summary && run.summary.phases) || []).filter(it =>
        it.attribution && it.attribution.tail && it.attribution.tail.shares);
    const share = (phase, cause) => phase.attribution.tail.shares[cause] || 0;
    const found = Object.keys(CAUSES).filter(cause =>
        all.some(phase => share(phase, cause) >= SHARE_SHOWN));
    if (!found.length) return null;
    const largest = cause => Math.max(...all.map(phase => share(phase, cause)));
    found.sort((a, b) => largest(b) - largest(a));
    const rows = found.map(cause => [
        el("span", {}, swatch({ ink: `var(${CAUSES[cause].ink})` }, true), cause),
        CAUSES[cause].means,
        ...all.map(phase => percent(Math.round(share(phase, cause) * 1000) / 1000)),
    ]);
    return table("Why the slowest requests took longer than is usual: the part of each cause",
        ["cause", "what it means", ...all.map(phase => phase.name)], rows,
        { left: [1], name: "Causes of the slowest requests" });
}

function ledger(run) {
    const books = run.summary && run.summary.ledger;
    if (!books) return null;
    const names = [["created", "created"], ["granted", "granted to users who shook"],
        ["claimed", "claimed by users it was sent to"], ["refunded", "refunded"],
        ["remaining", "remaining"], ["received_by_clients", "received, by the clients' own books"],
        ["undelivered", "given and not received"]];
    const rows = names.map(([key, name]) =>
        [name, books[key] && thousands(books[key].count), books[key] && money(books[key].amount)]);
    const said = { true: "The books balance: every share and every cent is somewhere, and once.",
        false: "THE BOOKS DO NOT BALANCE.", null: "The books were not closed on both sides: "
            + (run.missing("ledger") || "the run did not end in order") + "." };
    return el("div", {}, el("h2", {}, "The books"),
        el("div", { class: "verdict " + (books.balanced ? "good"
            : books.balanced === false ? "bad" : "void") },
        el("p", {}, said[String(books.balanced)] + (books.double_grants == null ? ""
            : ` Packets that two users received: ${thousands(books.double_grants)}.`)
            + (books.balanced === false && books.because ? ` Why: ${books.because}.` : ""))),
        table("Red packets", ["what became of them", "shares", "money"], rows));
}

const TABLES = { faults, nics, flames, tuning, missing, notes };

// All of the tables, or some of them: a table that is drawn again forgets what was opened in it.
function drawTables(run, names) {
    for (const name of names || Object.keys(TABLES)) {
        const id = "table-" + name;
        let section = document.getElementById(id);
        if (!section) {
            section = el("section", { id });
            document.getElementById("tables").append(section);
        }
        section.replaceChildren(...[TABLES[name](run)].flat().filter(part => part));
    }
}

function faults(run) {
    if (!run.bands.length) return null;
    const at = t => (t == null ? "?" : since(t - run.first));
    const rows = run.bands.map(band => [words(band.kind), band.phase,
        `${at(band.start)} to ${at(band.end)}`, band.text, band.truth]);
    return [el("h2", {}, "Faults on purpose"),
        table("What was injected, by the injectors' own count", ["fault", "phase", "time", "size asked for", "what it did"], rows, { left: [1, 2, 3, 4] })];
}

function nics(run) {
    const known = ["rx_packets", "tx_packets", "rx_bytes", "tx_bytes", "lost_received",
        "lost_sent"];
    const moved = ([, counters]) => Object.values(counters).some(value => value !== 0);
    const busy = Object.entries(run.nics).filter(moved);
    const idle = Object.entries(run.nics).filter(it => !moved(it)).map(([name]) => name);
    const rows = busy.map(([name, counters]) => [name,
        ...known.map(counter => (counter in counters ? thousands(counters[counter])
            : counter.startsWith("lost") ? null : "0")),
        Object.entries(counters).filter(([counter, value]) => !known.includes(counter) && value)
            .map(([counter, value]) => `${counter} ${thousands(value)}`).join(", ") || "none"]);
    return [el("h2", {}, "Interfaces"),
        rows.length ? table("What their counters grew by", ["interface", "packets in",
            "packets out", "bytes in", "bytes out", "lost in", "lost out", "others that grew"],
        rows,
        { left: [7] }) : null,
        idle.length ? el("p", { class: "note" }, "All counters stayed 0: " + idle.join(", ") + ".")
            : null,
        !rows.length && !idle.length ? el("p", { class: "absent" }, "Not measured.") : null];
}

function flames(run) {
    const parts = [el("h2", {}, "Flame graphs")];
    for (const flame of run.flames) {
        const title = `phase ${flame.phase}, ${thousands(flame.samples)} samples`;
        const link = el("a", { href: encodeURIComponent(flame.file) }, flame.file);
        if (!flame.svg) {
            parts.push(el("p", {}, title + ": too large for this page, see ", link));
            continue;
        }
        const box = el("details", {}, el("summary", {}, title));
        box.addEventListener("toggle", () => {
            if (!box.open || box.querySelector("iframe")) return;
            // Without scripts and without a way out: it is a picture.
            const it = el("iframe", { class: "flame", sandbox: true, title,
                src: "data:image/svg+xml;base64," + flame.svg });
            const size = /viewBox="0 0 ([\d.]+) ([\d.]+)"/.exec(atob(flame.svg.slice(0, 800)));
            if (size) it.style.aspectRatio = `${size[1]} / ${size[2]}`;
            box.append(it);
        });
        parts.push(box);
    }
    if (!run.flames.length) {
        parts.push(el("p", { class: "absent" }, "Not sampled: `lab profile FILE` runs an "
            + "experiment and makes one for each phase (as root)."));
    }
    const most = Math.max(...run.flames.map(flame => flame.samples));
    const first = run.flames.findIndex(flame => flame.samples === most);
    if (first >= 0 && run.flames[first].svg) parts[first + 1].open = true;
    return parts;
}

// Any JSON as rows of names and values.
function flat(value, before) {
    if (value == null || typeof value !== "object") return [[before, String(value)]];
    if (Array.isArray(value) && value.every(it => it == null || typeof it !== "object")) {
        return [[before, value.join(" ")]];
    }
    return Object.entries(value).flatMap(([name, it]) =>
        flat(it, before ? before + "." + name : name));
}

function tuning(run) {
    const { manifest } = run;
    const parts = [el("h2", {}, "Tuning in force")];
    if (manifest.tuning) {
        parts.push(table("As applied", ["setting", "value"], flat(manifest.tuning, ""),
            { left: [1] }));
    }
    const sysctls = Object.entries(manifest.sysctls || {});
    if (sysctls.length) {
        parts.push(el("p", { class: "note" }, manifest.own_namespace
            ? "The run had a network namespace of its own; these are the settings in it."
            : "The run used the machine's own network; these are its settings."),
        el("details", {}, el("summary", {}, `${sysctls.length} settings of the kernel`),
            table("As they were when the run began", ["setting", "value"], sysctls,
                { left: [1] })));
    }
    const host = (manifest.hosts || [])[0];
    if (host) {
        parts.push(el("details", {}, el("summary", {}, "The machine"),
            table("", ["what", "value"], flat(host, ""),
                { left: [1], name: "The machine" })));
    }
    if (manifest.text) {
        parts.push(el("details", {}, el("summary", {}, "The experiment"),
            el("pre", { class: "scroll mono", tabindex: "0", role: "region",
                "aria-label": "The experiment" }, manifest.text)));
    }
    return parts;
}

function missing(run) {
    const all = Object.entries((run.summary && run.summary.missing) || {});
    return [el("h2", {}, "What was missing"), all.length
        ? table("Figures that are not there, and why", ["figure", "why"], all, { left: [1] })
        : el("p", { class: "note" }, run.summary ? "Nothing." : "Not known: there is no summary.")];
}

function notes(run) {
    if (!run.notes.length) return null;
    const rows = run.notes.map(([t, event, text]) => [since(t - run.first), words(event), text]);
    const more = run.notesLeftOut
        ? `, and ${thousands(run.notesLeftOut)} more in events.jsonl` : "";
    return [el("h2", {}, "Also noted"),
        table("Warnings and events" + more, ["time", "what", "more"], rows, { left: [1, 2] })];
}
