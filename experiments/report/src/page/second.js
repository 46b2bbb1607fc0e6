// One second: what was counted in it, and its slowest requests.

let cameFrom = null;
// What was known of the chosen second when it was drawn.
let known = null;

function openSecond(t, from, focus) {
    const panel = document.getElementById("second");
    const run = charts[0].run;
    chosen = t;
    cameFrom = from || cameFrom;
    panel.hidden = false;
    panel.replaceChildren(el("div", { class: "inner" }, bar(run, t), counted(run, t),
        requests(run, t)));
    known = knownOf(run, t);
    if (focus) panel.focus();
    redraw();
}

// Latencies and slow requests of a second come a little after its counts.
function knownOf(run, t) {
    return [latencyOf(run, "p99", t), (run.slow.get(t) || []).length].join();
}

// News have come: the chosen second may be one that was not whole.
function refreshSecond() {
    const panel = document.getElementById("second");
    const { run } = charts[0];
    if (chosen == null || panel.hidden || knownOf(run, chosen) === known) return;
    openSecond(chosen, null, panel.contains(document.activeElement));
}

addEventListener("keydown", event => {
    const panel = document.getElementById("second");
    if (event.key === "Escape" && !panel.hidden) {
        event.stopPropagation();
        closeSecond();
    }
}, { capture: true });

function closeSecond() {
    const panel = document.getElementById("second");
    const inside = panel.contains(document.activeElement);
    panel.hidden = true;
    chosen = null;
    redraw();
    if (inside && cameFrom) cameFrom.focus();
}

function bar(run, t) {
    const go = by => () => {
        const next = t + by;
        if (next >= run.first && next < run.first + run.length) openSecond(next, null, true);
    };
    const worse = [...run.slow.keys()].sort((a, b) => a - b);
    const jump = next => () => next != null && openSecond(next, null, true);
    const [before, after] = [worse.findLast(it => it < t), worse.find(it => it > t)];
    const button = (label, text, act, off) =>
        el("button", { type: "button", "aria-label": label, title: label, onclick: act,
            disabled: Boolean(off) }, text);
    return el("div", { class: "bar" },
        el("h2", { id: "second-title" }, "Second " + where(run, t)),
        button("the last second before with slow requests", "«", jump(before), before == null),
        button("the second before", "‹", go(-1)),
        button("the second after", "›", go(1)),
        button("the next second with slow requests", "»", jump(after), after == null),
        button("close", "✕", closeSecond));
}

// A percentile of a second, or what it is at least where shakes without an answer decide it.
function latencyOf(run, key, t) {
    const at = run.at("latency." + key, t);
    const least = run.at("latency_at_least." + key, t);
    return at == null && least != null ? "≥ " + us(least) : us(at);
}

function counted(run, t) {
    const facts = [
        ["due", thousands(run.at("client.offered", t))],
        ["answered", thousands(run.at("client.answered", t))],
        ["received by the server", thousands(run.at("server.shakes", t))],
        ["median", latencyOf(run, "p50", t)],
        ["p99", latencyOf(run, "p99", t)],
        ["largest", latencyOf(run, "max", t)],
        ["timed out", thousands(run.at("client.timed_out", t))],
        ["users", thousands(run.at("client.online", t))],
    ];
    const faults = run.bands.filter(band => band.start <= t
        && t < (band.end == null ? run.first + run.length : band.end));
    return el("ul", { class: "facts" },
        facts.filter(([, value]) => value !== NONE).map(([name, value]) =>
            el("li", {}, name + " ", el("b", {}, value))),
        faults.map(band => el("li", {}, "fault on purpose ",
            el("b", {}, `${words(band.kind)} (${band.text})`))));
}

// The parts of a request as a bar; the words are in its title and in the cells beside it.
function split(run, request) {
    const it = el("div", { class: "split", role: "img" });
    const all = (request.causes_us || []).reduce((sum, value) => sum + value, 0);
    if (!all) return NONE;
    const parts = run.causes.map((cause, at) => [cause, request.causes_us[at]])
        .filter(([, value]) => value > 0);
    it.title = parts.map(([cause, value]) => `${words(cause)} ${us(value)}`).join(", ");
    it.setAttribute("aria-label", it.title);
    for (const [cause, value] of parts) {
        const part = el("i");
        part.style.width = (value / all) * 100 + "%";
        part.style.background = `var(${causeInk(cause)})`;
        it.append(part);
    }
    return it;
}

function requests(run, t) {
    const slow = run.slow.get(t) || [];
    if (!slow.length) {
        return el("p", { class: "sub" }, "No slow request is on record for this second: only those "
            + "over 1 ms are, the slowest of each shard.");
    }
    const segment = (request, at) => (request.segments_us ? us(request.segments_us[at]) : null);
    const rows = slow.map(request => [
        us(request.latency_us),
        request.blamed ? words(request.blamed) + (request.mixed ? " (mixed)" : "") : null,
        split(run, request),
        us(request.send_lag_us),
        segment(request, 0), segment(request, 1), segment(request, 2), segment(request, 3),
        request.losses,
        request.client_held_by, request.server_held_by,
        request.client_thread, request.server_thread,
        request.user, request.from, request.phase,
    ]);
    const head = ["latency", "most of it", "causes", "send lag", "network", "server wait",
        "server service", "receive lag", "losses", "client's CPU held by", "server's CPU held by",
        "client thread", "server thread", "user", "from", "due in phase"];
    // What none of them has would only take the room.
    const kept = head.map((_, at) => at).filter(at =>
        rows.some(row => row[at] != null && row[at] !== NONE));
    const left = kept.flatMap((at, place) => ([1, 9, 10, 14, 15].includes(at) ? [place] : []));
    return table("The slowest requests answered in this second", kept.map(at => head[at]),
        rows.map(row => kept.map(at => row[at])), { left, heads: false });
}
