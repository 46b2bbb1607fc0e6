// Puts the page together.

function drawAll(run) {
    drawTop(run);
    drawProblems(run);
    if (run.summary || document.body.dataset.mode === "report") {
        drawAnswers(run);
        drawVerdicts(run);
    }
    drawTables(run);
    document.getElementById("end").replaceChildren("Figures come from the run's own files; ",
        `charts are drawn with ${document.body.dataset.plotted}.`);
}

function drawCharts(run) {
    const section = document.getElementById("charts");
    for (const spec of CHARTS) {
        const chart = makeChart(run, spec);
        section.append(chart.root);
        chart.build();
    }
}

const content = JSON.parse(document.getElementById("content").textContent);
const run = new Run(content || {});
drawAll(run);
drawCharts(run);
