// A run as columns of seconds: what is measured, what follows from it.

class Run {
    constructor(content) {
        this.experiment = content.experiment || {};
        this.manifest = content.manifest || {};
        this.summary = content.summary || null;
        this.verdicts = content.verdicts || [];
        this.answers = content.answers || null;
        this.problems = content.problems || [];
        this.flames = content.flames || [];
        this.columns = {};
        this.first = 0;
        this.length = 0;
        this.slow = new Map();
        this.curves = {};
        this.merge(content.data || { columns: {}, length: 0, first: 0 });
    }

    // Takes what is known from a second on; what was known before it stays.
    merge(data) {
        const keep = this.length && data.length && data.first >= this.first
            ? data.first - this.first : 0;
        if (!keep) {
            this.columns = {};
            this.first = data.first;
        }
        const end = keep + data.length;
        const known = new Set([...Object.keys(this.columns), ...Object.keys(data.columns)]);
        for (const name of known) {
            const column = (this.columns[name] || []).slice(0, keep);
            while (column.length < keep) column.push(null);
            for (const value of data.columns[name] || []) column.push(value);
            while (column.length < end) column.push(null);
            this.columns[name] = column;
        }
        this.length = end;
        for (const t of [...this.slow.keys()]) {
            if (t >= data.first) this.slow.delete(t);
        }
        const fields = data.slow_fields || [];
        for (const row of data.slow || []) {
            const request = Object.fromEntries(fields.map((name, at) => [name, row[at]]));
            if (!this.slow.has(request.t)) this.slow.set(request.t, []);
            this.slow.get(request.t).push(request);
        }
        Object.assign(this.curves, data.curves || {});
        for (const name of ["phases", "bands", "notes", "rows", "causes"]) {
            this[name] = data[name] || this[name] || [];
        }
        this.nics = data.nics || this.nics || {};
        this.explained = data.explained;
        this.notesLeftOut = data.notes_left_out || 0;
        this.kernelConnections = data.kernel_connections;
        this.slowUs = data.slow_us;
        this.times = Array.from({ length: end }, (_, at) => this.first + at);
    }

    has(name) {
        return name in this.columns;
    }

    column(name) {
        return this.columns[name] || new Array(this.length).fill(null);
    }

    names(beginning) {
        return Object.keys(this.columns).filter(name => name.startsWith(beginning)).sort();
    }

    at(name, t) {
        const column = this.columns[name];
        const value = column && column[t - this.first];
        return value === undefined ? null : value;
    }

    // Something since the beginning.
    total(name) {
        let sum = 0;
        return this.column(name).map(value => (value == null ? null : (sum += value)));
    }

    scaled(name, factor) {
        return this.column(name).map(value => (value == null ? null : value * factor));
    }

    end(phase) {
        return phase.end == null ? this.first + this.length : phase.end;
    }

    phaseAt(t) {
        return this.phases.findLast(phase => phase.start <= t && t < this.end(phase));
    }

    // Whether the summary says that a phase is not valid.
    isVoid(name) {
        const phases = (this.summary && this.summary.phases) || [];
        const phase = phases.find(it => it.name === name);
        return phase ? phase.valid === false : false;
    }

    // Why something was not measured.
    missing(...names) {
        const missing = (this.summary && this.summary.missing) || {};
        for (const name of names) {
            if (missing[name]) return missing[name];
        }
        const probes = this.manifest.probes;
        return (probes && probes.because) || null;
    }
}
