// Waiting for a CPU by shard and second, as a map of colours.

class HeatChart extends Chart {
    constructor(run, spec) {
        super(run, { ...spec, modes: ["in all, per second", "p99 of one wait"], labels: false });
        this.overTime = true;
        this.ramp = el("p", { class: "ramp" });
        this.legend.replaceWith(this.ramp);
    }

    // Mode 0 is in milliseconds of a second, mode 1 in microseconds.
    column(row) {
        return this.run.column((this.mode === 0 ? "wait." : "delay.") + row[0]);
    }

    unit(value) {
        return this.mode === 0 ? ms(value) : us(value);
    }

    build() {
        const { run } = this;
        const rows = run.rows;
        const columns = rows.map(row => this.column(row));
        if (!columns.some(column => column.some(value => value != null))) {
            const why = this.mode === 1 ? run.missing("phases.kernel.runqueue_delay_us") : null;
            this.absent("Not measured: " + (why || "nothing of it was recorded"));
            this.ramp.replaceChildren();
            return;
        }
        this.destroy();
        this.take(columns);
        const each = Math.max(6, Math.min(26, 420 / rows.length));
        const names = rows.map(row => row[0].replace("client.", "client ").replace("server.",
            "server "));
        const options = this.options({
            height: Math.round(each * rows.length * enlarged) + 40 * enlarged,
            series: [{}, { show: true, points: { show: false }, paths: () => null }],
            scales: { x: { time: false }, y: { range: () => [0, rows.length] } },
            axes: [timeAxis(run), {
                ...axis(),
                size: 72 * enlarged,
                grid: { show: false },
                splits: () => {
                    const step = Math.ceil(11 / each);
                    return names.map((_, at) => at).filter(at => at % step === 0)
                        .map(at => rows.length - at - 0.5);
                },
                values: (u, splits) => splits.map(y => names[Math.round(rows.length - y - 0.5)]),
            }],
            cursor: { points: { show: false } },
            hooks: { draw: [u => this.paint(u)] },
        });
        const times = [...run.times, run.first + run.length];
        this.plot = new uPlot(options, [times, times.map(() => null)], this.box);
    }

    update() {
        const columns = this.run.rows.map(row => this.column(row));
        if (!this.plot || columns.length !== this.columns.length) {
            this.build();
            return;
        }
        this.take(columns);
        const times = [...this.run.times, this.run.first + this.run.length];
        this.plot.setData([times, times.map(() => null)], !zoomed);
        if (zoomed) this.plot.redraw();
    }

    take(columns) {
        this.columns = columns;
        this.most = 0;
        for (const column of columns) {
            for (const value of column) if (value > this.most) this.most = value;
        }
        this.drawRamp(this.most);
    }

    drawRamp(most) {
        const bar = el("i");
        const steps = [0, 0.25, 0.5, 0.75, 1].map(part => this.colour(part * most, most));
        bar.style.background = `linear-gradient(to right, ${steps.join(", ")})`;
        this.ramp.replaceChildren("0", bar, this.unit(most),
            el("span", {}, "(the root of the value makes the colour)"));
    }

    // Small waits matter as long as there are no large ones: by the root.
    colour(value, most) {
        const part = most > 0 ? Math.sqrt(value / most) * 100 : 0;
        const ground = this.inks || (this.inks = [ink("--heat-0"), ink("--heat-1")]);
        return mix(ground[0], ground[1], part / 100);
    }

    // As many cells as there are pixels at most: of several seconds in one, the worst.
    paint(u) {
        const { run, columns, most } = this;
        this.inks = null;
        const c = u.ctx;
        const { left, top, width, height } = u.bbox;
        const each = height / columns.length;
        const from = Math.max(0, Math.floor(u.scales.x.min) - run.first);
        const until = Math.min(run.length, Math.ceil(u.scales.x.max) - run.first + 1);
        const x = at => u.valToPos(run.first + at, "x", true);
        c.save();
        c.beginPath();
        c.rect(left, top, width, height);
        c.clip();
        columns.forEach((column, row) => {
            const y = top + row * each;
            let at = from;
            while (at < until) {
                const start = x(at);
                let worst = column[at];
                let next = at + 1;
                while (next < until && x(next + 1) - start <= 1) {
                    if (column[next] != null && (worst == null || column[next] > worst)) {
                        worst = column[next];
                    }
                    next += 1;
                }
                if (worst != null) {
                    c.fillStyle = this.colour(worst, most);
                    c.fillRect(start, y, Math.max(1, x(next) - start) + 0.5, each - 1);
                }
                at = next;
            }
        });
        c.restore();
    }

    words(at) {
        const worst = this.run.rows.map((row, index) => [this.columns[index][at], row[1]])
            .filter(([value]) => value != null).sort((a, b) => b[0] - a[0]).slice(0, 4);
        const parts = worst.map(([value, name]) => `${name} ${this.unit(value)}`);
        return `${super.words(at)}: ${parts.join(", ") || "nothing measured"}`;
    }

    show(at) {
        this.readout.textContent = at == null ? "" : this.words(at);
    }
}

function mix(from, to, part) {
    const parse = text => [1, 3, 5].map(at => parseInt(text.slice(at, at + 2), 16));
    const [a, b] = [parse(from), parse(to)];
    const mixed = a.map((value, at) => Math.round(value + (b[at] - value) * part));
    return `rgb(${mixed.join(",")})`;
}
