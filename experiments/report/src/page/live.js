// The live page: seconds as they come, and orders to the run.

const TOKEN = "lab-token";

// A stream that was refused is asked for again after this time.
const REFUSED_MS = 5000;
let pending = false;

function takeToken() {
    const given = /[#&]token=([0-9a-f]+)/.exec(location.hash);
    if (!given) return;
    sessionStorage.setItem(TOKEN, given[1]);
    // Not for the history, nor for whoever looks over a shoulder.
    history.replaceState(null, "", location.pathname);
}

function say(text, bad) {
    const said = document.getElementById("said");
    said.textContent = text;
    said.className = "said" + (bad ? " bad" : "");
}

async function order(body) {
    const token = sessionStorage.getItem(TOKEN) || document.getElementById("token").value.trim();
    try {
        const response = await fetch("order", {
            method: "POST",
            headers: { "content-type": "application/json", authorization: "Bearer " + token },
            body: JSON.stringify(body),
        });
        const answer = await response.json();
        if (response.status === 403) sessionStorage.removeItem(TOKEN);
        if (response.status === 401 || response.status === 403) showToken();
        say(answer.done || answer.error, !response.ok);
    } catch (error) {
        say("the run cannot be reached: " + error.message, true);
    }
}

function showToken() {
    document.getElementById("token-form").hidden = Boolean(sessionStorage.getItem(TOKEN));
}

function field(label, id, value, more) {
    return el("label", {}, label, el("input", { id, value, type: "number", min: "1", step: "1",
        required: true, ...more }));
}

function number(id) {
    const { value } = document.getElementById(id);
    return value === "" ? null : Number(value);
}

function form(id, fields, button, body) {
    return el("form", { id, onsubmit: event => {
        event.preventDefault();
        order(body());
    } }, fields, el("button", { type: "submit" }, button));
}

function recipients() {
    const text = document.getElementById("send-to").value;
    return text.split(/[\s,]+/).filter(it => it).map(Number);
}

function drawControls() {
    const section = document.getElementById("controls");
    const token = el("form", { id: "token-form", onsubmit: event => {
        event.preventDefault();
        sessionStorage.setItem(TOKEN, document.getElementById("token").value.trim());
        showToken();
    } }, el("label", {}, "token, as printed at the start",
        el("input", { id: "token", autocomplete: "off", type: "password" })),
    el("button", { type: "submit" }, "Use it"));
    section.hidden = false;
    section.replaceChildren(
        el("p", { id: "now", class: "now" }, "Waiting for the first second …"),
        el("p", { id: "link", class: "sub", role: "status" }),
        el("div", { class: "controls" }, token,
            form("rate", [field("shakes per second", "rate-qps", "1000")], "Set the rate",
                () => ({ rate: { qps: number("rate-qps") } })),
            form("generator", [field("packets per second", "generator-rate", "200"),
                field("in all", "generator-total", "", { required: false,
                    placeholder: "no end" })],
            "Start a generator", () => ({ start_generator: {
                rate: number("generator-rate"), total: number("generator-total") } })),
            el("form", {}, el("button", { type: "button", id: "stop-generators",
                onclick: () => order({ stop_generators: {} }) }, "Stop all generators")),
            form("send", [field("cents", "send-amount", "300"),
                el("label", {}, "to users", el("input", { id: "send-to", value: "0 1 2",
                    required: true, pattern: "[0-9 ,]+" }))],
            "Send a packet", () => ({ send_packet: {
                amount: number("send-amount"), recipients: recipients() } })),
            el("form", {}, el("button", { type: "button", id: "end-phase",
                onclick: () => order({ end_phase: {} }) }, "End the phase"))),
        el("p", { id: "said", class: "said", role: "status" }));
    showToken();
}

// The last second that everybody has reported, in words.
function drawNow() {
    const t = run.first + run.length - 2;
    const phase = run.phaseAt(t);
    const outcome = run.manifest.outcome;
    const parts = [];
    if (outcome) {
        parts.push(outcomeInWords(run));
    } else if (phase) {
        const of = phase.end == null ? "" : " of " + since(phase.end - phase.start);
        parts.push(`${phase.name}: ${since(t + 1 - phase.start)}${of}`);
    } else {
        parts.push("Between phases");
    }
    const due = run.at("client.offered", t);
    const users = run.at("client.online", t);
    // Latencies of a second come a little after its counts.
    const p99 = [t, t - 1, t - 2].map(it => latencyOf(run, "p99", it)).find(it => it !== NONE);
    const facts = [
        due ? `${thousands(run.at("client.answered", t))} of ${thousands(due)} answered` : null,
        p99 == null ? null : `p99 ${p99}`,
        users == null ? null : `${thousands(users)} users`,
    ];
    document.getElementById("now").textContent = parts.concat(outcome ? []
        : facts.filter(it => it)).join(" · ");
    for (const button of document.querySelectorAll("#controls .controls button")) {
        button.disabled = Boolean(outcome) && !button.closest("#token-form");
    }
}

// Charts that nobody sees are drawn when somebody looks again.
function draw() {
    if (document.hidden || pending) return;
    pending = true;
    requestAnimationFrame(() => {
        pending = false;
        for (const chart of charts) chart.update();
        drawNow();
    });
}

function follow() {
    const source = new EventSource("events");
    const link = document.getElementById("link");
    source.addEventListener("run", event => {
        const said = JSON.parse(event.data);
        for (const name of ["experiment", "manifest", "summary", "problems"]) {
            run[name] = said[name] || run[name];
        }
        run.verdicts = said.verdicts || [];
        run.answers = said.answers || null;
        drawAll(run);
        draw();
    });
    source.addEventListener("data", event => {
        run.merge(JSON.parse(event.data));
        drawTables(run, ["faults", "nics", "notes"]);
        refreshSecond();
        draw();
    });
    source.addEventListener("open", () => {
        link.textContent = "";
    });
    source.addEventListener("error", () => {
        if (run.manifest.outcome) {
            source.close();
            link.textContent = "The run is over, and so is its page; report.html in its directory "
                + "shows the same.";
        } else if (source.readyState === EventSource.CLOSED) {
            // Refused: a browser does not try that again by itself.
            link.textContent = "This page is not told of the run: too many pages follow it, or the "
                + "address lacks its token; trying again …";
            setTimeout(follow, REFUSED_MS);
        } else {
            link.textContent = "The run is not heard of; trying again …";
        }
    });
}

takeToken();
drawControls();
follow();
document.addEventListener("visibilitychange", draw);
