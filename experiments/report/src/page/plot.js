// Charts over time: their frame, phases and faults behind them, one cursor for all, keyboard.

const SYNC = "run";
const dark = matchMedia("(prefers-color-scheme: dark)");
const charts = [];
// How much larger things are drawn, for print, where the result is made smaller again.
let enlarged = 1;
let chosen = null;
let zooming = false;
// Whether a reader has chosen a stretch of time: new seconds do not move it then.
let zoomed = false;
// The row that the arrow keys have reached: of a long run, several lie in one pixel.
let keyed = null;

function ink(name) {
    return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

function font() {
    return `${11 * enlarged}px system-ui, -apple-system, "Segoe UI", "DejaVu Sans", sans-serif`;
}

const DASHES = { dashed: [7, 5], dotted: [2, 3] };

function swatch(series, filled) {
    const line = filled
        ? `<rect y="1" width="14" height="10" fill="${series.ink}"/>`
        : `<path d="M0 6h18" stroke="${series.ink}" stroke-width="3"
            stroke-dasharray="${(DASHES[series.dash] || []).join(" ")}"/>`;
    const it = el("span", { "aria-hidden": "true" });
    it.innerHTML = `<svg width="18" height="12">${line}</svg>`;
    return it;
}

function hatch(c, left, top, width, height, colour) {
    c.save();
    c.beginPath();
    c.rect(left, top, width, height);
    c.clip();
    c.strokeStyle = colour;
    c.lineWidth = devicePixelRatio;
    c.setLineDash([]);
    const step = 12 * devicePixelRatio * enlarged;
    c.beginPath();
    for (let x = left - height; x < left + width; x += step) {
        c.moveTo(x, top + height);
        c.lineTo(x + height, top);
    }
    c.stroke();
    c.restore();
}

// Phases and faults, behind the lines.
function drawBehind(u, run) {
    const { left, top, width, height } = u.bbox;
    const c = u.ctx;
    const x = t => Math.min(left + width, Math.max(left, u.valToPos(t, "x", true)));
    c.save();
    run.phases.forEach((phase, at) => {
        const [from, until] = [x(phase.start), x(run.end(phase))];
        if (until <= from) return;
        if (at % 2 === 0) {
            c.fillStyle = ink("--phase");
            c.fillRect(from, top, until - from, height);
        }
        if (run.isVoid(phase.name)) {
            hatch(c, from, top, until - from, height, ink("--void"));
        }
    });
    for (const band of run.bands) {
        const [from, until] = [x(band.start), x(band.end == null ? run.first + run.length
            : band.end)];
        c.fillStyle = ink("--fault");
        c.fillRect(from, top, Math.max(1, until - from), height);
    }
    c.restore();
}

// Names of phases and faults, and the chosen second, before the lines.
function drawBefore(u, run, labels) {
    const { left, top, width, height } = u.bbox;
    const c = u.ctx;
    const k = devicePixelRatio;
    const x = t => u.valToPos(t, "x", true);
    const inside = position => position >= left && position <= left + width;
    c.save();
    c.beginPath();
    c.rect(left, top, width, height);
    c.clip();
    c.font = `${11 * k * enlarged}px system-ui, "DejaVu Sans", sans-serif`;
    c.textBaseline = "top";
    c.textAlign = "left";
    c.setLineDash([]);
    for (const phase of run.phases) {
        const from = x(phase.start);
        const until = Math.min(left + width, x(run.end(phase)));
        if (inside(from)) {
            c.strokeStyle = ink("--faint");
            c.lineWidth = k;
            c.beginPath();
            c.moveTo(from, top);
            c.lineTo(from, top + height);
            c.stroke();
        }
        if (!labels) continue;
        const text = phase.name + (run.isVoid(phase.name) ? " (not valid)" : "");
        label(c, text, Math.max(from, left) + 4 * k, top + 3 * k, until, ink("--ink"));
    }
    for (const band of labels ? run.bands : []) {
        const until = x(band.end == null ? run.first + run.length : band.end);
        label(c, words(band.kind), Math.max(x(band.start), left) + 3 * k,
            top + 18 * k * enlarged, until, ink("--bad"));
    }
    if (chosen != null && inside(x(chosen))) {
        c.strokeStyle = ink("--accent");
        c.lineWidth = 2 * k;
        c.beginPath();
        c.moveTo(x(chosen), top);
        c.lineTo(x(chosen), top + height);
        c.stroke();
    }
    c.restore();
}

// Text with a ground of its own, where there is room for it.
function label(c, text, left, top, until, colour) {
    const width = c.measureText(text).width;
    if (left + width > until) return;
    const size = parseFloat(c.font);
    c.globalAlpha = 0.8;
    c.fillStyle = ink("--paper");
    c.fillRect(left - 2, top - 1, width + 4, size + 3);
    c.globalAlpha = 1;
    c.fillStyle = colour;
    c.fillText(text, left, top);
}

function timeAxis(run) {
    const steps = [1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400];
    return {
        ...axis(),
        incrs: steps,
        space: 46 * enlarged,
        size: 24 * enlarged,
        splits: (u, at, min, max, step) => {
            const splits = [];
            const from = run.first + Math.ceil((min - run.first) / step) * step;
            for (let t = from; t <= max; t += step) splits.push(t);
            return splits;
        },
        values: (u, splits) => splits.map(t => since(t - run.first)),
    };
}

function axis() {
    return {
        font: font(),
        stroke: ink("--faint"),
        grid: { stroke: ink("--line"), width: 1 / devicePixelRatio },
        ticks: { stroke: ink("--line"), width: 1, size: 4 * enlarged },
        gap: 4 * enlarged,
    };
}

function height(asked) {
    return Math.round((innerWidth < 600 ? asked * 0.85 : asked) * enlarged);
}

// A figure that can be built again: for another theme, another size, other data.
class Chart {
    constructor(run, spec) {
        this.run = run;
        this.spec = spec;
        this.hidden = new Set();
        this.mode = 0;
        this.plot = null;
        const id = "chart-" + spec.id;
        this.readout = el("p", { class: "sub", role: "status", id: id + "-now" });
        this.box = el("div", {
            class: "plot", tabindex: "0", role: "group", "aria-roledescription": "chart",
            "aria-labelledby": id + "-title", "aria-describedby": id + "-now",
            onkeydown: event => this.key(event),
        });
        this.legend = el("ul", { class: "legend" });
        this.tools = el("span", { class: "tools" });
        this.root = el("figure", { id },
            el("figcaption", {}, this.tools, el("h3", { id: id + "-title" }, spec.title),
                spec.note ? el("p", { class: "note" }, spec.note) : null),
            this.legend, this.box, this.readout);
        (spec.modes || []).forEach((name, at) => {
            this.tools.append(el("button", {
                type: "button", "aria-pressed": String(at === 0), onclick: () => this.setMode(at),
            }, name));
        });
        charts.push(this);
    }

    setMode(at) {
        this.mode = at;
        [...this.tools.children].forEach((button, index) =>
            button.setAttribute("aria-pressed", String(index === at)));
        this.build();
    }

    width() {
        return this.print ? this.print * enlarged : Math.max(200, this.box.clientWidth);
    }

    destroy() {
        if (this.plot) this.plot.destroy();
        this.plot = null;
        this.box.replaceChildren();
    }

    // Says in the place of a picture why there is none.
    absent(text) {
        this.destroy();
        this.legend.replaceChildren();
        this.box.replaceChildren(el("div", { class: "absent" }, text));
    }

    resize() {
        const width = this.width();
        if (this.plot && this.plot.width !== width) {
            this.plot.setSize({ width, height: this.plot.height });
        }
    }

    // What all charts over time share.
    options(extra) {
        const run = this.run;
        const labels = this.spec.labels !== false;
        return {
            width: this.width(),
            height: height(this.spec.height || 220),
            legend: { show: false },
            padding: [8 * enlarged, 18 * enlarged, 0, 0],
            ...extra,
            cursor: {
                y: false,
                drag: { x: true, y: false, dist: 6 },
                sync: {
                    key: SYNC, setSeries: false,
                    filters: { pub: type => type === "mousemove" || type === "mouseleave" },
                },
                points: { size: 7 },
                ...extra.cursor,
            },
            hooks: {
                drawClear: [u => drawBehind(u, run)],
                draw: [...((extra.hooks && extra.hooks.draw) || []),
                    u => drawBefore(u, run, labels)],
                setCursor: [u => this.show(this.at())],
                setScale: [(u, key) => {
                    if (key === "x") zoom(u.scales.x.min, u.scales.x.max, this);
                }],
                ready: [u => this.ready(u)],
            },
        };
    }

    ready(u) {
        let down = null;
        u.over.addEventListener("mousemove", () => {
            keyed = null;
        }, { capture: true });
        u.over.addEventListener("mousedown", event => {
            down = event.clientX;
        });
        u.over.addEventListener("click", event => {
            const left = event.clientX - u.over.getBoundingClientRect().left;
            const moved = down != null && Math.abs(event.clientX - down) > 5;
            if (!moved && this.run.length) openSecond(this.second(u, left), this.box);
        });
    }

    show() {}

    // The second at a place: the one that has begun there.
    second(u, left) {
        const { run } = this;
        const t = Math.floor(u.posToVal(left, "x"));
        return Math.min(run.first + run.length - 1, Math.max(run.first, t));
    }

    // The row under the cursor, if it is in this chart.
    at() {
        if (keyed != null) return keyed;
        const { cursor } = this.plot;
        const inside = this.run.length && cursor.left != null && cursor.left >= 0;
        return inside ? this.second(this.plot, cursor.left) - this.run.first : null;
    }

    key(event) {
        const run = this.run;
        if (!this.plot || event.target !== this.box || !run.length) return;
        const { min, max } = this.plot.scales.x;
        const low = Math.max(0, Math.ceil(min) - run.first);
        const high = Math.min(run.length - 1, Math.ceil(max) - 1 - run.first);
        const now = this.at();
        const step = event.shiftKey ? 10 : 1;
        const go = at => moveTo(run, Math.min(high, Math.max(low, at)));
        const middle = now == null ? (min + max) / 2 : run.times[now];
        const keys = {
            ArrowRight: () => go(now == null ? low : now + step),
            ArrowLeft: () => go(now == null ? high : now - step),
            Home: () => go(low),
            End: () => go(high),
            Enter: () => now != null && openSecond(run.times[now], this.box, true),
            " ": () => now != null && openSecond(run.times[now], this.box, true),
            "+": () => zoom(middle - (max - min) / 4, middle + (max - min) / 4),
            "-": () => zoom(middle - (max - min), middle + (max - min)),
            Escape: () => zoom(null, null),
        };
        const act = keys[event.key];
        if (!act) return;
        event.preventDefault();
        act();
        this.speak();
    }

    // What a person who does not see the chart hears of the second under the cursor.
    speak() {
        const at = this.plot && this.at();
        this.readout.textContent = at == null ? "" : this.words(at);
    }

    words(at) {
        return where(this.run, this.run.times[at]);
    }
}

function where(run, t) {
    const phase = run.phaseAt(t);
    return `${since(t - run.first)} (${clock(t)})` + (phase ? `, phase ${phase.name}` : "");
}

// Puts the cursor of all charts on a second.
function moveTo(run, at) {
    keyed = at;
    for (const chart of charts) {
        if (!chart.plot || !chart.overTime) continue;
        const left = chart.plot.valToPos(run.times[at] + 0.5, "x");
        chart.plot.setCursor({ left, top: chart.plot.over.clientHeight / 2 });
    }
}

// Shows the same stretch of time in all charts; all of it without one.
function zoom(min, max, except) {
    if (zooming) return;
    zooming = true;
    const { run } = charts[0];
    zoomed = min != null && (min > run.first + 0.01 || max < run.first + run.length - 0.01);
    for (const chart of charts) {
        const { plot, run } = chart;
        if (!plot || !chart.overTime || chart === except || !run.length) continue;
        const [first, last] = [run.first, run.first + run.length];
        const low = min == null ? first : Math.max(first, min);
        const high = max == null ? last : Math.min(last, max);
        if (high > low) plot.setScale("x", { min: low, max: high });
    }
    // The scales are set in a microtask, and say so then.
    queueMicrotask(() => queueMicrotask(() => {
        zooming = false;
    }));
}

function redraw() {
    for (const chart of charts) {
        if (chart.plot) chart.plot.redraw(false);
    }
}

function rebuild() {
    for (const chart of charts) chart.build();
}

dark.addEventListener("change", rebuild);
addEventListener("resize", () => charts.forEach(chart => chart.resize()));
addEventListener("beforeprint", () => {
    enlarged = 2;
    for (const chart of charts) {
        chart.box.style.zoom = "0.5";
        // An upright A4 page without its margins.
        chart.print = 700;
        chart.build();
    }
});
addEventListener("afterprint", () => {
    enlarged = 1;
    for (const chart of charts) {
        chart.box.style.zoom = "";
        chart.print = null;
        chart.build();
    }
});
