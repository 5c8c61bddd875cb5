// The live page: reads the stream, puts changed sections in place without losing focus or scroll, moves the charts.
document.addEventListener("DOMContentLoaded", () => {
  const at = document.getElementById("live"), state = document.getElementById("live-state");
  const words = document.getElementById("live-words"), pause = document.getElementById("live-pause");
  const SILENT_MS = 25000, PAUSES_MS = [1000, 2000, 5000, 10000];
  let paused = false, over = false, tries = 0, ending = null, held = new Map(), timer = 0;

  function tell(kind, text) {
    state.dataset.state = kind;
    if (words.textContent !== text) words.textContent = text;
  }

  // Makes an element's content what another's is, keeping what is the same: focus, selection and scroll stay.
  function patch(old, fresh) {
    const keyed = new Map();
    for (const child of old.children) if (child.dataset.key) keyed.set(child.dataset.key, child);
    let here = old.firstChild;
    for (const next of [...fresh.childNodes]) {
      const kept = next.nodeType === 1 && next.dataset.key ? keyed.get(next.dataset.key) : null;
      if (kept && kept !== here) here = old.insertBefore(kept, here);
      const keyOf = (node) => node.nodeType === 1 ? node.dataset.key : undefined;
      if (here && here.nodeName === next.nodeName && keyOf(here) === keyOf(next)) {
        if (here.nodeType === 1) {
          for (const { name } of [...here.attributes]) if (!next.hasAttribute(name) && name !== "open") here.removeAttribute(name);  // what somebody unfolded stays
          for (const { name, value } of next.attributes) if (here.getAttribute(name) !== value) here.setAttribute(name, value);
          patch(here, next);
        } else if (here.nodeValue !== next.nodeValue) here.nodeValue = next.nodeValue;
        here = here.nextSibling;
      } else old.insertBefore(next, here);
    }
    while (here) { const gone = here; here = here.nextSibling; gone.remove(); }
  }

  function place(sections) {
    for (const [name, html] of sections) {
      const section = at.querySelector(`[data-section="${CSS.escape(name)}"]`), made = document.createElement("template");
      made.innerHTML = html;
      if (section) patch(section, made.content);
    }
  }

  // Charts. A point: [second, calls, failures, refusals, tokens, p50, p95, first token].
  const points = new Map(JSON.parse(at.dataset.points).map((point) => [point[0], point]));
  const CHARTS = {
    calls: [["Calls", 1, "#2f7ed8"], ["Failed", 2, "#d63939"], ["Refused", 3, "#c98a00"]],
    tokens: [["Tokens", 4, "#2f9e6e"]],
    latency: [["p50", 5, "#2f7ed8"], ["p95", 6, "#ae3ec9"], ["First token, p50", 7, "#c98a00"]],
  };
  const charts = [];
  function columns(series) {
    const all = [...points.values()].sort((a, b) => a[0] - b[0]);
    return [all.map((point) => point[0]), ...series.map(([, index]) => all.map((point) => point[index]))];
  }
  function latest(chart) {  // without a pointer the legend says how it is now
    if (chart.data[0].length) chart.setLegend({ idx: chart.data[0].length - 1 }, false);
  }
  function draw() {
    for (const { chart } of charts.splice(0)) chart.destroy();
    for (const box of at.querySelectorAll(".live-chart")) {
      const series = CHARTS[box.dataset.chart], ink = getComputedStyle(document.body).color;
      const line = getComputedStyle(box.closest(".card")).borderTopColor;
      const axis = { stroke: ink, grid: { stroke: line, width: 1 }, ticks: { stroke: line, width: 1 } };
      const chart = new uPlot({
        width: box.clientWidth, height: 150, cursor: { y: false },
        scales: { y: { range: (_, low, high) => [0, high > 0 ? high * 1.1 : 1] } },
        axes: [{ ...axis, space: 60, values: (_, ticks) => ticks.map((s) => new Date(s * 1000).toISOString().slice(11, 16)) }, { ...axis, size: 46 }],
        series: [
          { label: "UTC", value: (_, s) => s == null ? "–" : new Date(s * 1000).toISOString().slice(11, 19) },
          ...series.map(([label, , stroke], n) => ({ label, stroke, width: 1.5, spanGaps: false, fill: n ? undefined : stroke + "22", points: { show: box.dataset.chart === "latency", size: 4 }, value: (_, v) => v == null ? "–" : +v.toFixed(3) })),
        ],
      }, columns(series), box);
      charts.push({ chart, series });
      chart.over.addEventListener("mouseleave", () => latest(chart));
      latest(chart);
    }
  }
  function move(fresh) {
    for (const point of fresh) points.set(point[0], point);
    const newest = Math.max(...points.keys());
    for (const second of points.keys()) if (second < newest - at.dataset.window) points.delete(second);
    if (fresh.length) for (const { chart, series } of charts) {
      chart.setData(columns(series));
      if (chart.cursor.idx == null) latest(chart);
    }
  }
  draw();
  addEventListener("resize", () => charts.forEach(({ chart }) => chart.setSize({ width: chart.root.parentElement.clientWidth, height: 150 })));
  new MutationObserver(draw).observe(document.documentElement, { attributeFilter: ["data-bs-theme"] });

  function take(kind, data) {
    if (kind === "over") {
      over = data.kind === "gone";
      tell("lost", data.words);
      return;
    }
    tries = 0;
    for (const [name, html] of Object.entries(data.sections)) held.set(name, html);
    if (!paused) { place(held); held.clear(); }
    move(data.points);
    tell(paused ? "paused" : "live", paused ? "paused" : "live");
  }

  async function read() {
    ending = new AbortController();
    const watch = () => { clearTimeout(timer); timer = setTimeout(() => ending.abort(), SILENT_MS); };
    watch();
    try {
      const answer = await fetch(at.dataset.stream, { signal: ending.signal, headers: { accept: "text/event-stream" } });
      if (answer.redirected || !(answer.headers.get("content-type") || "").startsWith("text/event-stream")) {
        if (answer.redirected || [401, 403, 404].includes(answer.status)) { over = true; tell("lost", "signed out: load the page again"); }
        else tell("lost", answer.status === 429 ? "too many live pages of yours are open: close one" : answer.status === 503 ? "too many live pages are open: trying again" : "not connected: trying again");
        return;
      }
      const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
      let text = "";
      for (;;) {
        const { done, value } = await reader.read();
        if (done) break;
        watch();
        text += value;
        for (let end; (end = text.indexOf("\n\n")) >= 0; text = text.slice(end + 2)) {
          const [, kind, data] = /^event: (\w+)\ndata: (.*)$/.exec(text.slice(0, end)) || [];
          if (kind) take(kind, JSON.parse(data));
        }
      }
      if (!over) tell("lost", "connection lost: trying again");
    } catch (error) {
      if (!(error instanceof TypeError) && error.name !== "AbortError") throw error;
      tell("lost", "connection lost: trying again");
    } finally {
      clearTimeout(timer);
    }
  }

  pause.addEventListener("click", () => {
    paused = !paused;
    pause.setAttribute("aria-pressed", String(paused));
    pause.textContent = paused ? "Go on" : "Pause";
    if (!paused) { place(held); held.clear(); }
    if (state.dataset.state !== "lost") tell(paused ? "paused" : "live", paused ? "paused" : "live");
  });

  (async () => {
    while (!over) {
      await read();
      const base = PAUSES_MS[Math.min(tries++, PAUSES_MS.length - 1)];
      if (!over) await new Promise((go) => setTimeout(go, base * (0.75 + Math.random() / 2)));
    }
  })();
});
