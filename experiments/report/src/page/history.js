// The page of a history: what moved, figures from run to run, a row a run.

const FIGURES = [
    ["answered/s", phase => phase.answered_per_s, thousands],
    ["p50", phase => phase.latency_us.p50, us],
    ["p99", phase => phase.latency_us.p99, us],
    ["p99.9", phase => phase.latency_us.p999, us],
    ["server CPU a request", phase => phase.server_cpu_us, value => trimmed(value, 3) + " µs"],
];

const TITLES = {
    rate: ["answered/s", value => thousands(value)],
    typical_rate: ["answered/s, median second", value => thousands(value)],
    p50: ["p50", us],
    p99: ["p99", us],
    p999: ["p99.9", us],
    server_cpu: ["server CPU a request", value => trimmed(value, 3) + " µs"],
    client_cpu: ["client CPU a request", value => trimmed(value, 3) + " µs"],
    server_memory: ["server memory a connection", bytesRounded],
    kernel_memory: ["kernel memory a socket", bytesRounded],
    retransmissions: ["retransmissions/s", value => trimmed(value, 3)],
};

const CHART_OF = {
    rate: "answered/s", p50: "p50", p99: "p99", p999: "p99.9", server_cpu: "server CPU a request",
};

function bytesRounded(value) {
    return value == null ? NONE : bytes(Math.round(value));
}

function signed(scale, value) {
    if (value == null) return NONE;
    const sign = value < 0 ? "−" : "+";
    const size = Math.abs(value);
    return sign + (scale === "ratio" ? trimmed(size * 100, 3) + "%" : trimmed(size, 3));
}

function plural(count, one) {
    return `${thousands(count)} ${one}${count === 1 ? "" : "s"}`;
}

function numbers(runs) {
    if (runs.length > 2 && runs.at(-1) - runs[0] + 1 === runs.length) {
        return `${runs[0]} to ${runs.at(-1)}`;
    }
    return runs.join(", ");
}

function value(json) {
    const text = json == null ? "absent" : typeof json === "string" ? json : JSON.stringify(json);
    return text.length > 80 ? text.slice(0, 79) + "…" : text;
}

function moves(step) {
    return step.phases.flatMap(phase => phase.figures
        .filter(figure => figure.verdict === "shown")
        .map(figure => ({ phase: phase.name, ...figure })));
}

function asked(step) {
    return step.phases.flatMap(phase => phase.figures)
        .filter(figure => figure.verdict !== "unknown").length;
}

function drawTop(history) {
    const moved = history.steps.filter(step => moves(step).length > 0).length;
    const first = history.runs[0].started;
    const last = history.runs.at(-1).started;
    const said = moved > 0
        ? `Figures moved beyond chance in ${moved} of ${plural(history.steps.length, "change")}.`
        : history.steps.length > 0
            ? `No figure moved beyond chance in ${plural(history.steps.length, "change")}.`
            : "Nothing changed from run to run.";
    document.getElementById("top").replaceChildren(
        el("h1", {}, `History of ${history.directory}`),
        el("p", {}, said),
        el("ul", { class: "facts" },
            el("li", {}, el("b", {}, thousands(history.runs.length)), " runs"),
            el("li", {}, "first ", el("b", {}, instant(first))),
            el("li", {}, "last ", el("b", {}, instant(last))),
            el("li", {}, el("b", {}, thousands(history.questions)), " figures asked about")));
}

function drawProblems(history) {
    const damaged = history.runs.flatMap(run => run.damage.map(what => `${run.name}: ${what}`));
    const all = [...history.left_out.map(what => `left out: ${what}`), ...damaged];
    const old = history.runs.filter(run => run.record_format === 1).length;
    if (old > 0) {
        all.push(`${plural(old, "run")} of format 1 (marked ¹): latencies are of the shakes that `
            + "were sent");
    }
    if (all.length === 0) return;
    const section = document.getElementById("problems");
    section.hidden = false;
    section.append(el("div", { class: "problem" }, el("ul", {}, all.map(it => el("li", {}, it)))));
}

function move(figure) {
    const [title, shown] = TITLES[figure.figure] || [figure.figure, String];
    const interval = figure.interval
        ? `, ${signed(figure.scale, figure.interval[0])} to `
            + signed(figure.scale, figure.interval[1])
        : "";
    return el("li", { class: "move" }, `${figure.phase}: ${title} moved from `
        + `${shown(figure.first)} to ${shown(figure.second)} `
        + `(${signed(figure.scale, figure.estimate)}${interval})`);
}

function drawSteps(history) {
    const section = document.getElementById("steps");
    if (history.steps.length === 0) {
        section.append(el("p", {}, "Nothing changed from run to run."));
    }
    for (const step of history.steps) {
        const moved = moves(step);
        const changes = step.changed.map(it => el("li", {}, el("code", {}, it.field), ": ",
            it.first.map(value).join(" or "), " → ", it.second.map(value).join(" or ")));
        const most = 6;
        const state = moved.length > 0 ? plural(moved.length, "figure") + " moved"
            : asked(step) > 0 ? `no figure moved beyond chance, of ${asked(step)}` : "not compared";
        const kind = moved.length > 0 ? "void" : asked(step) > 0 ? "good" : "";
        section.append(el("article", { class: `verdict step ${kind}` },
            el("h3", {}, `${step.experiment}: run ${numbers(step.from)} → ${numbers(step.to)}`),
            el("p", {}, el("span", { class: "state" }, state)),
            el("ul", {}, moved.map(move),
                step.not_compared.map(why => el("li", {}, `not compared: ${why}`))),
            el("p", {}, "What changed:"),
            el("ul", {}, changes.slice(0, most)),
            changes.length > most
                ? el("details", {}, el("summary", {}, `${changes.length - most} more`),
                    el("ul", {}, changes.slice(most)))
                : null));
    }
    const within = history.steps.some(step =>
        step.phases.some(phase => phase.variation === "within_runs"));
    if (within) {
        section.append(el("p", { class: "note" }, "Where a state has one run, differences are "
            + "compared with the variation within it only; another run of the same can differ by "
            + "more (lab run --repeat 5)."));
    }
    if (history.questions > 0) {
        section.append(el("p", { class: "note" }, `${thousands(history.questions)} figures are `
            + "asked about at once. What moved is corrected for that (Holm); intervals cover "
            + `${history.confidence * 100}% and are each for itself.`));
    }
}

const SVG = "http://www.w3.org/2000/svg";

function svg(tag, attributes, text) {
    const it = document.createElementNS(SVG, tag);
    for (const [name, own] of Object.entries(attributes)) it.setAttribute(name, own);
    if (text != null) it.textContent = text;
    return it;
}

// A figure of a phase over the runs of an experiment: from 0, so that a small change looks small.
function chart(title, shown, points, changes) {
    const [width, height, left, right, top, bottom] = [330, 130, 6, 6, 18, 18];
    const most = Math.max(...points.map(point => point.value)) * 1.06 || 1;
    const last = Math.max(points.at(-1).at, 1);
    const x = at => left + 8 + (width - left - right - 16) * (last === 0 ? 0.5 : at / last);
    const y = value => top + (height - top - bottom) * (1 - value / most);
    const values = points.map(point => `run ${point.number}: ${shown(point.value)}`).join(", ");
    const picture = svg("svg", {
        viewBox: `0 0 ${width} ${height}`, role: "img", "aria-label": `${title}: ${values}`,
    });
    picture.append(
        svg("line", { class: "axis", x1: left, x2: width - right, y1: y(0), y2: y(0) }),
        svg("text", { x: left, y: top - 6 }, shown(most / 1.06)),
        svg("text", { x: left, y: height - 4 }, `run ${points[0].number}`),
        svg("text", { x: width - right, y: height - 4, "text-anchor": "end" },
            `run ${points.at(-1).number}`));
    for (const at of changes) {
        picture.append(svg("line",
            { class: "change", x1: x(at - 0.5), x2: x(at - 0.5), y1: top, y2: y(0) }));
    }
    picture.append(svg("polyline", {
        class: "way", points: points.map(point => `${x(point.at)},${y(point.value)}`).join(" "),
    }));
    for (const point of points) {
        const kind = `run${point.valid ? "" : " void"}${point.moved ? " moved" : ""}`;
        const dot = svg("circle", { class: kind, cx: x(point.at), cy: y(point.value), r: 3.4 });
        dot.append(svg("title", {}, `run ${point.number}, ${point.name}: ${shown(point.value)}`
            + (point.moved ? ", moved beyond chance" : "") + (point.valid ? "" : ", not valid")));
        picture.append(dot);
    }
    return el("figure", {}, el("figcaption", {}, title), picture);
}

function drawCharts(history) {
    const section = document.getElementById("charts");
    const experiments = [...new Set(history.runs.map(run => run.experiment))];
    let any = false;
    for (const experiment of experiments) {
        const runs = history.runs.filter(run => run.experiment === experiment);
        if (runs.length < 2) continue;
        const steps = history.steps.filter(step => step.experiment === experiment);
        const changes = runs.flatMap((run, at) =>
            (at > 0 && run.state !== runs[at - 1].state ? [at] : []));
        const phases = [...new Set(runs.flatMap(run => run.phases.map(phase => phase.name)))];
        const charts = [];
        for (const name of phases) {
            for (const [title, of, shown] of FIGURES) {
                const movedTo = new Set(steps.filter(step => moves(step).some(figure =>
                    figure.phase === name && CHART_OF[figure.figure] === title))
                    .flatMap(step => step.to));
                const points = runs.flatMap((run, at) => {
                    const phase = run.phases.find(phase => phase.name === name);
                    const value = phase && phase.answered_per_s != null ? of(phase) : null;
                    return value == null ? [] : [{
                        at, value, number: run.number, name: run.name,
                        valid: phase.valid && run.outcome === "completed",
                        moved: movedTo.has(run.number),
                    }];
                });
                if (points.length > 1) {
                    charts.push(chart(`${name}: ${title}`, shown, points, changes));
                }
            }
        }
        if (charts.length === 0) continue;
        any = true;
        if (experiments.length > 1) section.append(el("h3", {}, experiment));
        section.append(el("div", { class: "small" }, charts));
    }
    if (!any) section.replaceChildren();
}

function percentileOf(phase, name) {
    const known = phase.latency_us[name];
    const least = phase.latency_at_least_us[name];
    if (known == null && least == null) return NONE;
    const mark = phase.percentiles_valid[name] === false ? " !" : "";
    return (known == null ? "≥ " : "") + us(known ?? least) + mark;
}

function validity(run, phase) {
    if (run.outcome !== "completed") return run.outcome;
    return phase.valid ? "yes" : "NO";
}

function drawRuns(history) {
    const rows = [];
    const classes = [];
    for (const run of history.runs) {
        const with_shakes = run.phases.filter(phase => phase.answered_per_s != null);
        const shown = with_shakes.length > 0 ? with_shakes : run.phases.slice(0, 1);
        const about = [run.number, instant(run.started).slice(0, 16),
            run.name + (run.record_format === 1 ? " ¹" : ""), run.experiment, run.version,
            run.kernels.join(", "),
            run.hosts.length > 2 ? plural(run.hosts.length, "host") : run.hosts.join(", ")];
        for (const phase of shown) {
            const valid = validity(run, phase);
            rows.push([...about, phase.name,
                thousands(phase.answered_per_s), ...["p50", "p99", "p999"].map(name =>
                    percentileOf(phase, name)), valid]);
            classes.push(valid === "yes" ? null : "void");
        }
    }
    const head = ["#", "began (UTC)", "run", "experiment", "version", "kernel", "host", "phase",
        "answered/s", "p50", "p99", "p99.9", "valid"];
    document.getElementById("runs").append(
        table("A row a run and phase", head, rows, { left: [1, 2, 3, 4, 5, 6, 7], classes }),
        el("p", { class: "note" }, "≥ is so much or more: shakes without an answer decide it. "
            + "! is as much the clients' lateness as the server's."));
}

const history_ = JSON.parse(document.getElementById("content").textContent);
drawTop(history_);
drawProblems(history_);
drawSteps(history_);
drawCharts(history_);
drawRuns(history_);
document.getElementById("end").textContent =
    "Figures come from the raw files of the runs; lab history makes this page again.";
