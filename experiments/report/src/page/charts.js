// Which charts there are, and lines, areas and curves.

// Every cause of a late answer: its colour, and what it means.
const CAUSES = {
    client_runqueue: { ink: "--c-blue", means: "another program had the client's CPU" },
    client_busy: { ink: "--c-sky", means: "the client's threads had too much to do" },
    network_loss: { ink: "--c-red", means: "a packet was lost on the way" },
    network_delay: { ink: "--c-orange", means: "the way was slow, without loss" },
    server_runqueue: { ink: "--c-green", means: "another program had the server's CPU" },
    server_busy: { ink: "--c-mint", means: "the server's threads had too much to do" },
    unexplained: { ink: "--c-grey", means: "the probes saw no reason" },
    client_throttled: { ink: "--c-plum", means: "the client's quota of CPU time was used up" },
    client_stopped: { ink: "--c-pink", means: "the client was stopped, traced or frozen" },
    client_blocked: { ink: "--c-brown",
        means: "the client slept in the kernel: disk, memory or a lock" },
    client_interrupts: { ink: "--c-olive", means: "interrupts had the client's CPU" },
    client_stalled: { ink: "--c-ink", means: "the client's CPU itself did not run" },
    client_pacing: { ink: "--c-sand", means: "the client slept by its own choice" },
    server_throttled: { ink: "--c-violet", means: "the server's quota of CPU time was used up" },
    server_stopped: { ink: "--c-rose", means: "the server was stopped, traced or frozen" },
    server_blocked: { ink: "--c-tan",
        means: "the server slept in the kernel: disk, memory or a lock" },
    server_interrupts: { ink: "--c-lime", means: "interrupts had the server's CPU" },
    server_stalled: { ink: "--c-slate", means: "the server's CPU itself did not run" },
};
const causeInk = cause => (CAUSES[cause] || { ink: "--c-ink" }).ink;
const INKS = ["--c-blue", "--c-orange", "--c-green", "--c-red", "--c-pink", "--c-sky", "--c-mint",
    "--c-grey", "--c-ink"];
const SEGMENTS = [
    ["send_lag", "client send lag", "--c-blue"],
    ["network", "network", "--c-orange"],
    ["server_wait", "server wait", "--c-green"],
    ["server_service", "server service", "--c-mint"],
    ["client_receive_lag", "client receive lag", "--c-sky"],
];

const LATENCIES = [["max", "largest", "--c-grey", "dotted"], ["p999", "p99.9", "--c-red"],
    ["p99", "p99", "--c-orange"], ["p90", "p90", "--c-green"], ["p50", "median", "--c-blue"]];

// The length of a second as it is drawn: the next one begins beside its end.
const STEP = 0.9999;

// Lines, or areas on each other, over time.
class TimeChart extends Chart {
    constructor(run, spec) {
        super(run, spec);
        this.overTime = true;
    }

    // The series that there are: their columns as measured.
    series() {
        const found = this.spec.series(this.run, this.mode);
        return found.filter(it => it.values.some(value => value != null));
    }

    build() {
        const why = this.run.length ? null : "nothing was recorded";
        const missing = why || (this.spec.missing && this.spec.missing(this.run));
        const all = missing ? [] : this.series();
        if (!all.length) {
            const { empty } = this.spec;
            this.absent(!missing && empty
                ? empty
                : "Not measured: " + (missing || "nothing of it was recorded"));
            return;
        }
        this.destroy();
        all.forEach(it => {
            it.ink = ink(it.colour);
        });
        this.all = all;
        this.drawLegend();
        const shown = all.filter(it => !this.hidden.has(it.label));
        this.shown = shown;
        const { spec } = this;
        const log = spec.log;
        const unit = spec.unit(this.mode);
        const stacked = spec.stacked;
        const series = shown.map(it => ({
            label: it.label,
            stroke: it.ink,
            width: (stacked ? 0 : 1.8) * enlarged,
            dash: (DASHES[it.dash] || []).map(length => length * enlarged),
            fill: stacked ? it.ink : undefined,
            points: { show: false },
        }));
        const options = this.options({
            series: [{}, ...series],
            bands: stacked ? shown.slice(1).map((_, at) => ({ series: [at + 2, at + 1] })) : [],
            scales: {
                x: { time: false },
                y: log
                    ? { distr: 3, range: (u, min, max) => uPlot.rangeLog(min, max, 10, true) }
                    : { range: (u, min, max) => this.range(min, max) },
            },
            cursor: {
                dataIdx: (u, at, near, x) => Math.max(0, 2 * Math.floor(x - this.run.first)),
            },
            axes: [timeAxis(this.run), {
                ...axis(),
                size: 52 * enlarged,
                space: 28 * enlarged,
                ...(log ? { splits: (u, at, min, max) => powersOfTen(min, max) } : {}),
                ...(spec.incrs ? { incrs: spec.incrs } : {}),
                values: (u, splits) => splits.map(value => (value == null ? "" : unit(value))),
            }],
        });
        this.plot = new uPlot(options, this.data(), this.box);
    }

    range(min, max) {
        if (min == null) return [0, 1];
        if (this.spec.full) return [0, this.spec.full];
        const room = this.headroom();
        if (this.spec.fit && this.mode === this.spec.fit) {
            const edge = Math.max((max - min) * 0.08, max * 0.001, 1e-9);
            return [min - edge, min + (max - min + edge) * room];
        }
        return [0, max > 0 ? max * room : 1];
    }

    // Names of phases and faults stand above the lines, not on them.
    headroom() {
        if (this.spec.labels === false) return 1.03;
        const lines = this.run.bands.length ? 2 : 1;
        const plot = height(this.spec.height) - 32 * enlarged;
        return plot / Math.max(plot / 2, plot - (6 + 16 * lines) * enlarged);
    }

    data() {
        const { run, shown, spec } = this;
        // A second is a step from where it begins to where it ends.
        const steps = column => column.flatMap(value => [value, value]);
        const times = run.times.flatMap(t => [t, t + STEP]);
        if (!spec.stacked) return [times, ...shown.map(it => steps(it.values))];
        const sums = new Array(run.length).fill(0);
        const any = run.times.map((_, at) => shown.some(it => it.values[at] != null));
        const stacks = shown.map(it => it.values.map((value, at) => {
            sums[at] += value || 0;
            return any[at] ? sums[at] : null;
        }));
        return [times, ...stacks.map(steps)];
    }

    // New seconds have come.
    update() {
        const why = this.run.length ? null : "nothing was recorded";
        const missing = why || (this.spec.missing && this.spec.missing(this.run));
        const all = missing ? [] : this.series();
        const same = this.plot && this.all.length === all.length
            && all.every((it, at) => it.label === this.all[at].label);
        if (!same) {
            this.build();
            return;
        }
        all.forEach((it, at) => {
            this.all[at].values = it.values;
        });
        this.plot.setData(this.data(), !zoomed);
        if (zoomed) this.plot.redraw();
        this.show(this.at());
    }

    drawLegend() {
        this.legend.replaceChildren(...this.all.map(it => {
            it.value = el("span", { class: "value" });
            const button = el("button", {
                type: "button", "aria-pressed": String(!this.hidden.has(it.label)),
                onclick: () => this.toggle(it.label),
            }, swatch(it, this.spec.stacked), it.label, it.value);
            return el("li", {}, button);
        }));
    }

    toggle(label) {
        if (!this.hidden.delete(label)) this.hidden.add(label);
        if (this.all.every(it => this.hidden.has(it.label))) this.hidden.delete(label);
        this.build();
    }

    value(it, at) {
        const read = this.spec.value || this.spec.unit;
        return it.values[at] == null ? "" : read(this.mode)(it.values[at]);
    }

    show(at) {
        for (const it of this.all || []) {
            it.value.textContent = at == null ? "" : this.value(it, at);
        }
    }

    words(at) {
        const parts = this.all.filter(it => it.values[at] != null)
            .map(it => `${it.label} ${this.value(it, at)}`);
        return `${super.words(at)}: ${parts.join(", ") || "nothing measured"}`;
    }
}

// The percentile curve of each phase, in HdrHistogram's own scale.
class CurveChart extends Chart {
    build() {
        const names = this.run.phases.map(phase => phase.name)
            .filter(name => this.run.curves[name]);
        if (!names.length) {
            this.absent(this.spec.empty);
            return;
        }
        this.destroy();
        const all = names.map((name, at) => ({
            label: name + (this.run.isVoid(name) ? " (not valid)" : ""),
            ink: ink(INKS[at % INKS.length]),
            dash: this.run.isVoid(name) ? "dotted" : null,
        }));
        this.legend.replaceChildren(...all.map(it =>
            el("li", { class: "sub" }, swatch(it, false), it.label)));
        const data = uPlot.join(names.map(name => {
            const { x, y } = this.run.curves[name];
            return [x, y.map(value => Math.max(value, 1) / 1000)];
        }));
        const place = x => trimmed((1 - 1 / x) * 100, 12) + "%";
        this.plot = new uPlot({
            width: this.width(),
            height: height(280),
            legend: { show: false },
            padding: [8 * enlarged, 34 * enlarged, 0, 0],
            cursor: { y: true, drag: { x: false, y: false } },
            scales: {
                x: { time: false, distr: 3 },
                y: { distr: 3, range: (u, min, max) => uPlot.rangeLog(min, max, 10, true) },
            },
            series: [{}, ...all.map(it => ({
                label: it.label, stroke: it.ink, width: 2 * enlarged, spanGaps: true,
                dash: (DASHES[it.dash] || []).map(length => length * enlarged),
                points: { show: false },
            }))],
            axes: [
                { ...axis(), size: 24 * enlarged, space: 64 * enlarged,
                    splits: (u, at, min, max) => powersOfTen(min, max),
                    values: (u, list) => list.map(place) },
                { ...axis(), size: 52 * enlarged,
                    splits: (u, at, min, max) => powersOfTen(min, max),
                    values: (u, list) => list.map(ms) },
            ],
            hooks: { setCursor: [u => this.point(u)] },
        }, data, this.box);
        this.names = names;
    }

    update() {
        this.build();
    }

    // The curves at one place of the scale.
    point(u) {
        const { left } = u.cursor;
        if (left == null || left < 0) {
            this.readout.textContent = "";
            return;
        }
        this.tell(u.posToVal(left, "x"));
    }

    tell(x) {
        const parts = this.names.map(name => {
            const curve = this.run.curves[name];
            const at = curve.x.findIndex(value => value >= x);
            return at < 0 ? null : `${name} ${us(curve.y[at])}`;
        });
        this.readout.textContent = `${trimmed((1 - 1 / x) * 100, 7)}% within: `
            + parts.filter(part => part).join(", ");
    }

    key(event) {
        if (!this.plot || !["ArrowLeft", "ArrowRight"].includes(event.key)) return;
        event.preventDefault();
        const { min, max } = this.plot.scales.x;
        this.place = this.place || min;
        this.place *= event.key === "ArrowRight" ? 10 ** 0.1 : 10 ** -0.1;
        this.place = Math.min(max, Math.max(min, this.place));
        const left = this.plot.valToPos(this.place, "x");
        this.plot.setCursor({ left, top: 10 });
    }
}

function powersOfTen(min, max) {
    const powers = [];
    const first = Math.ceil(Math.log10(min) - 1e-9);
    for (let power = first; power <= Math.log10(max) + 1e-9; power += 1) powers.push(10 ** power);
    return powers;
}

function line(run, name, label, colour, more) {
    return { label, colour, values: run.column(name), ...more };
}

function grouped(run, beginning, fixed) {
    return run.names(beginning).map((name, at) => {
        const key = name.slice(beginning.length);
        const colour = (fixed && fixed[key]) || INKS[at % INKS.length];
        return line(run, name, words(key), colour);
    });
}

const rates = run => [
    line(run, "client.offered", "due", "--c-grey", { dash: "dashed" }),
    line(run, "client.sent", "sent by clients", "--c-sky"),
    line(run, "server.shakes", "received by the server", "--c-orange"),
    line(run, "server.answered", "answered by the server", "--c-green"),
    line(run, "client.answered", "answers received by clients", "--c-blue"),
];
const count = () => short;
const exact = () => thousands;

function causes(run, mode) {
    const from = mode === 0 ? "cause." : "over.";
    const columns = run.causes.map(cause => run.column(from + cause));
    const all = run.times.map((_, at) =>
        columns.reduce((sum, column) => sum + (column[at] || 0), 0));
    const asked = run.times.map((_, at) => columns.some(column => column[at] != null));
    // A cause of no slow request has no place in the legend.
    const occurs = index => columns[index].some(value => value > 0);
    return run.causes.map((cause, index) => ({
        label: words(cause),
        colour: causeInk(cause),
        values: columns[index].map((value, at) => {
            if (!occurs(index) || !asked[at] || !all[at]) return null;
            return mode === 2 ? (value || 0) / 1000 : (value || 0) / all[at];
        }),
    }));
}

const unseen = run => run.missing("phases.attribution") || "the probes saw no request";

const CHARTS = [
    {
        id: "rate", title: "Requests per second, at clients and server",
        note: "Every series counts the same shakes: where two part, requests were late or missing.",
        height: 300, modes: ["from 0", "to fit"], fit: 1, series: rates, unit: count, value: exact,
    },
    {
        id: "blame-rate", title: "Why answers were late", height: 120,
        note: "Below the rate: what each cause took of the slowest requests beyond its median, "
            + "second by second. Faults on purpose are shaded and named.",
        series: run => [rates(run)[0], rates(run)[4]], unit: count, value: exact,
    },
    {
        id: "blame", title: "Shares of the causes", height: 220,
        modes: ["slowest 1%", "all over 1 ms", "all over 1 ms, time"],
        stacked: true, series: causes, labels: false,
        missing: run => (run.explained ? null : unseen(run)),
        empty: "No request was slow enough to ask why",
        unit: mode => (mode === 2 ? ms : percent),
    },
    {
        id: "latency", title: "Latency over time, from the instant a request was due",
        note: "Of every request that was due. Where requests without an answer decide a percentile, "
            + "a dashed line with ≥ says what it is at least.",
        height: 280, log: true, unit: () => ms,
        series: run => [["latency.", "", null], ["latency_at_least.", " ≥", "dashed"]]
            .flatMap(([group, bound, dash]) => LATENCIES.map(([key, label, colour, dots]) => ({
                label: label + bound, colour, dash: dash || dots,
                values: run.column(group + key).map(value =>
                    (value == null ? null : Math.max(value, 1) / 1000)),
            }))),
        empty: "No request was answered",
    },
    { id: "curve", title: "Latency by percentile, phase by phase", curve: true,
        note: "HdrHistogram's scale: each step to the right leaves a tenth of the requests.",
        empty: "No request was answered" },
    {
        id: "segments", title: "Where a request spends its time, on average", height: 220,
        stacked: true, unit: () => ms,
        series: run => SEGMENTS.map(([key, label, colour]) =>
            ({ label, colour, values: run.scaled("segment." + key, 0.001) })),
        missing: run => (run.has("segment.network") ? null
            : run.missing("phases.segments_us.network") || "the probes saw no request"),
    },
    {
        id: "missing", title: "Requests that were not answered, per second", height: 160,
        stacked: true, unit: count, value: exact,
        series: run => [["skipped_waiting", "not sent: user still waited", "--c-sky"],
            ["skipped_offline", "not sent: user not connected", "--c-grey"],
            ["skipped_late", "not sent: client too late", "--c-blue"],
            ["timed_out", "timed out", "--c-red"],
            ["lost", "lost with their connection", "--c-orange"],
            ["overloaded", "refused: over the limit", "--c-pink"]]
            .map(([key, label, colour]) => line(run, "client." + key, label, colour)),
    },
    {
        id: "connections", title: "Connections", height: 200, unit: count, value: exact,
        series: run => [line(run, "client.online", "users logged in", "--c-blue"),
            line(run, "server.connections", "connections at the server", "--c-orange",
                { dash: "dashed" }),
            line(run, "client.logins", "logins in the second", "--c-green"),
            line(run, "client.connections_lost", "connections lost in the second", "--c-red")],
    },
    {
        id: "packets", title: "Red packets, created and received", height: 200,
        modes: ["per second", "in all"], unit: count, value: exact,
        note: "In shares: a packet for three is three.",
        series: (run, mode) => {
            const of = name => (mode === 0 ? run.column(name) : run.total(name));
            const claimed = of("client.claims_granted");
            return [
                { label: "created", colour: "--c-red", values: of("shares.created") },
                { label: "received by clients", colour: "--c-blue",
                    values: of("client.granted").map((value, at) =>
                        (value == null ? null : value + (claimed[at] || 0))) },
            ];
        },
    },
    {
        id: "money", title: "Money, created and given out", height: 200,
        modes: ["per second", "in all"], unit: () => short,
        value: () => value => money(value * 100),
        note: "By the server's books; what clients received by their own is in the ledger.",
        series: (run, mode) => [["cents.created", "created", "--c-red"],
            ["cents.given", "granted and claimed", "--c-blue"]].map(([key, label, colour]) => ({
            label, colour,
            values: (mode === 0 ? run.column(key) : run.total(key)).map(value =>
                (value == null ? null : value / 100)),
        })),
    },
    {
        id: "drops", title: "Packets dropped, by reason", height: 150, stacked: true, unit: count,
        value: exact, series: run => grouped(run, "drops."),
        missing: run => (run.has("probe.seen") ? null
            : run.missing("phases.kernel.drops") || "the probes were not there"),
        empty: "None: the probes watched, and no packet of the run was dropped",
    },
    {
        id: "retransmits", title: "Segments sent again, by kind", height: 150, stacked: true,
        unit: count, value: exact,
        series: run => (run.names("retransmits.").length || run.has("probe.seen")
            ? grouped(run, "retransmits.")
            : [line(run, "tcp.retrans_segs", "all (from /proc)", "--c-red")]),
        empty: "None: the probes watched, and nothing was sent again",
    },
    { id: "runqueue", title: "Waiting for a CPU, shard by shard", heat: true,
        note: "How long threads could have run and did not." },
    {
        id: "cpu", title: "CPU, in cores", height: 200, unit: () => value => trimmed(value, 3),
        series: run => [line(run, "cpu.server", "server", "--c-green"),
            line(run, "cpu.client", "clients", "--c-blue"),
            line(run, "cpu.lab", "the lab itself", "--c-orange"),
            line(run, "cpu.others", "other programs", "--c-red"),
            line(run, "cpu.stalled", "stood still", "--c-ink", { dash: "dotted" }),
            line(run, "cpu.idle", "idle", "--c-grey", { dash: "dashed" }),
            line(run, "cpu.steal", "stolen by the host", "--c-pink", { dash: "dotted" })],
    },
    {
        id: "memory", title: "Memory", height: 180, unit: () => bytes,
        incrs: Array.from({ length: 45 }, (_, at) => 2 ** at),
        series: run => [line(run, "memory.server", "server", "--c-green"),
            line(run, "memory.client", "clients", "--c-blue"),
            line(run, "memory.kernel", "the kernel's objects", "--c-orange")],
    },
    {
        id: "nic", title: "Network interfaces: packets per second", height: 200, unit: count,
        value: exact,
        note: "Interfaces that carried packets of the seconds recorded; all counters are below.",
        series: run => {
            const names = run.names("nic.").filter(name => /\.[rt]x_packets$/.test(name)
                && run.columns[name].some(value => value > 0));
            return names.map((name, at) => line(run, name,
                name.slice(4).replace(/\.rx_packets$/, " received")
                    .replace(/\.tx_packets$/, " sent"),
                INKS[at % INKS.length], { dash: name.endsWith("tx_packets") ? "dashed" : null }));
        },
        empty: "no interface carried a packet",
    },
];

function makeChart(run, spec) {
    if (spec.curve) return new CurveChart(run, spec);
    return spec.heat ? new HeatChart(run, spec) : new TimeChart(run, spec);
}
