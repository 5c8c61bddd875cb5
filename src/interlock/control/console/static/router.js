// Lines over time: shares of models, quality, drift. Lines differ in dash as well as in colour; figures come with the page.
const INKS = ["#4299e1", "#f76707", "#2fb344", "#ae3ec9", "#d63939", "#0ca678", "#6c7a91", "#f59f00"];
const DASHES = [[], [8, 4], [2, 3], [12, 3, 2, 3], [5, 5], [1, 4]];
const charts = [];

function draw() {
  for (const chart of charts.splice(0)) chart.destroy();
  for (const at of document.querySelectorAll(".lines-chart")) {
    const { at: times, unit, span, lines } = JSON.parse(at.dataset.series);
    const ink = getComputedStyle(at).color, line = getComputedStyle(at.closest(".card")).borderTopColor;
    const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
    const stamp = (s) => new Date(s * 1000).toISOString();
    const [from, to] = span.length ? span : [times[0], times[times.length - 1]];
    const label = to - from > 172800 ? (s) => stamp(s).slice(5, 10) : to - from > 600 ? (s) => stamp(s).slice(11, 16) : (s) => stamp(s).slice(11, 19);
    const told = (v) => (v == null ? "–" : unit ? `${v} ${unit}` : v.toFixed(2));
    const chart = new uPlot({
      width: at.clientWidth, height: 200, cursor: { y: false }, tzDate: (s) => uPlot.tzDate(new Date(s * 1000), "Etc/UTC"),
      scales: { x: { range: () => [from, to > from ? to : from + 1] }, y: { range: () => [0, unit ? 100 : 1] } },
      axes: [
        { ...axis, space: 70, values: (_, ticks) => ticks.map(label) },
        { ...axis, size: 54, values: (_, ticks) => ticks.map((v) => (unit ? `${v} ${unit}` : v.toFixed(1))) },
      ],
      series: [
        { label: "UTC", value: (_, s) => (s == null ? "–" : stamp(s).slice(0, 16).replace("T", " ")) },
        ...lines.map(({ label }, n) => ({
          label, stroke: INKS[n % INKS.length], dash: DASHES[n % DASHES.length], width: 2, spanGaps: true,
          points: { show: times.length < 40, size: 5 }, value: (_, v) => told(v),
        })),
      ],
    }, [times, ...lines.map(({ values }) => values)], at);
    const latest = () => chart.setLegend({ idx: times.length - 1 }, false);
    chart.over.addEventListener("mouseleave", latest);
    requestAnimationFrame(latest); // the legend is there when the chart was drawn
    charts.push(chart);
  }
}

draw();
addEventListener("resize", () => charts.forEach((chart) => chart.setSize({ width: chart.root.parentElement.clientWidth, height: 200 })));
new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });
