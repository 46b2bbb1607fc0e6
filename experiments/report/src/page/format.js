"use strict";
// Elements, numbers and words.

function el(tag, attributes, ...children) {
    const it = document.createElement(tag);
    for (const [name, value] of Object.entries(attributes || {})) {
        if (name.startsWith("on")) {
            it.addEventListener(name.slice(2), value);
        } else if (value === true) {
            it.setAttribute(name, "");
        } else if (value !== false && value != null) {
            it.setAttribute(name, value);
        }
    }
    it.append(...children.flat().filter(child => child != null));
    return it;
}

const NONE = "–";

function thousands(value) {
    return value == null ? NONE : Math.round(value).toLocaleString("en-US");
}

// 1234567 as 1.23M, for axes and values beside a chart.
function short(value) {
    if (value == null) return NONE;
    const size = Math.abs(value);
    for (const [unit, name] of [[1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
        if (size >= unit * 9.9995 || (size >= unit && unit > 1e3)) {
            return trimmed(value / unit, 3) + name;
        }
    }
    return size >= 1000 ? thousands(value) : trimmed(value, 3);
}

function trimmed(value, digits) {
    return String(Number(value.toPrecision(digits)));
}

function ms(value) {
    if (value == null) return NONE;
    return value >= 1000 ? trimmed(value / 1000, 3) + " s" : trimmed(value, 3) + " ms";
}

function us(value) {
    return value == null ? NONE : ms(value / 1000);
}

function percent(value) {
    return value == null ? NONE : trimmed(value * 100, 3) + "%";
}

function bytes(value) {
    if (value == null) return NONE;
    for (const [unit, name] of [[2 ** 30, " GiB"], [2 ** 20, " MiB"], [2 ** 10, " KiB"]]) {
        if (Math.abs(value) >= unit) return trimmed(value / unit, 3) + name;
    }
    return value + " B";
}

function money(cents) {
    if (cents == null) return NONE;
    return (cents / 100).toLocaleString("en-US",
        { minimumFractionDigits: 2, maximumFractionDigits: 2 });
}

// Seconds since the run began as 1:05, or 1:00:05.
function since(seconds) {
    const sign = seconds < 0 ? "-" : "";
    const s = Math.abs(Math.round(seconds));
    const two = value => String(value).padStart(2, "0");
    const [hours, minutes] = [Math.floor(s / 3600), Math.floor(s / 60) % 60];
    return sign + (hours ? hours + ":" + two(minutes) : minutes) + ":" + two(s % 60);
}

function clock(unix) {
    return new Date(unix * 1000).toISOString().slice(11, 19) + " UTC";
}

function instant(unix) {
    return new Date(unix * 1000).toISOString().slice(0, 19).replace("T", " ") + " UTC";
}

function words(name) {
    return name.replaceAll("_", " ");
}

// Cells beside each other in more columns than these are cards on a narrow screen and on paper.
const CARDS_BEYOND = 4;

// A table. Roles are said, because a card is no longer laid out as a row of a table, and browsers
// then forget that it is one.
function table(caption, head, rows, options) {
    const { left = [], classes = [], name = caption, heads = true } = options || {};
    const side = index => (left.includes(index) ? "text" : null);
    const cell = (value, index) => {
        const is = heads && index === 0 ? ["th", "rowheader"] : ["td", "cell"];
        return el(is[0], { class: side(index), role: is[1], scope: is[0] === "th" ? "row" : null,
            "data-label": head[index] || null }, value == null ? NONE : value);
    };
    const cards = head.length > CARDS_BEYOND ? " cards" : "";
    return el("div", { class: "scroll" + cards, tabindex: "0", role: "region",
        "aria-label": name },
    el("table", { role: "table" }, caption ? el("caption", {}, caption) : null,
        el("thead", { role: "rowgroup" }, el("tr", { role: "row" }, head.map((text, index) =>
            el("th", { scope: "col", role: "columnheader",
                class: left.includes(index) ? "left" : null }, text)))),
        el("tbody", { role: "rowgroup" }, rows.map((row, at) =>
            el("tr", { class: classes[at] || null, role: "row" }, row.map(cell))))));
}
