// The chart of a usage report: calls as bars, cost as a line; the figures come with the page.
for (const at of document.querySelectorAll(".chart")) {
  const data = JSON.parse(at.dataset.series);
  const ink = getComputedStyle(at).color, line = getComputedStyle(at.closest(".card")).borderTopColor;
  const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
  const fromZero = (_, low, high) => [0, high || 1];
  new uPlot({
    width: at.clientWidth, height: 220, tzDate: (seconds) => uPlot.tzDate(new Date(seconds * 1000), "Etc/UTC"),
    scales: { y: { range: fromZero }, usd: { range: fromZero } },
    axes: [
      { ...axis, values: (_, ticks) => ticks.map((s) => new Date(s * 1000).toISOString().slice(5, 10)), space: 70 },
      { ...axis, size: 60 },
      { ...axis, scale: "usd", side: 1, size: 80, grid: { show: false }, values: (_, ticks) => ticks.map((v) => "$" + v) },
    ],
    series: [
      { label: "Day", value: (_, s) => s == null ? "–" : new Date(s * 1000).toISOString().slice(0, 10) },
      { label: "Calls", fill: "#4299e155", stroke: "#4299e1", paths: uPlot.paths.bars({ size: [0.7, 40] }), points: { show: false } },
      { label: "Cost, USD", stroke: "#f76707", width: 2, scale: "usd", points: { show: false } },
    ],
  }, data.slice(0, 3), at);
}
