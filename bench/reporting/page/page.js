"use strict";

// ---- tables: a click on a column's name sorts by it -------------------------------------------------------------

for (const table of document.querySelectorAll("details.table table")) {
  const heads = [...table.querySelectorAll("th")];
  heads.forEach((head, column) => head.firstElementChild.addEventListener("click", () => {
    const numeric = head.classList.contains("number");
    const now = head.getAttribute("aria-sort");
    // Numbers start with the highest, text with A.
    const order = now === "none" ? (numeric ? "descending" : "ascending") : now === "ascending" ? "descending" : "ascending";
    heads.forEach((each) => each.setAttribute("aria-sort", each === head ? order : "none"));
    const sign = order === "ascending" ? 1 : -1;
    const key = (row) => row.cells[column].dataset.key;
    const compare = (a, b) => {
      const [p, q] = [key(a), key(b)];
      if (p === "" || q === "") return (p === "") - (q === ""); // unknown values stay at the end
      return sign * (numeric ? p - q : p.localeCompare(q, "en", { numeric: true }));
    };
    table.tBodies[0].append(...[...table.tBodies[0].rows].sort(compare));
  }));
}

// ---- the interactive frontier -----------------------------------------------------------------------------------

// Points and library lie in the page as gzip.
async function unpacked(id) {
  const bytes = Uint8Array.from(atob(document.getElementById(id).textContent), (each) => each.charCodeAt(0));
  return new Response(new Blob([bytes]).stream().pipeThrough(new DecompressionStream("gzip"))).text();
}

let data;
const control = Object.fromEntries(["task", "x", "y", "split", "which"].map((id) => [id, document.getElementById(id)]));
const plot = document.getElementById("plot");
const AXES = {
  flops: "mean FLOPs an example (2 × multiply-adds, true lengths)",
  speedup: "speed-up over the teacher (FLOPs)",
  flops_128: "mean FLOPs, every example at length 128",
  parameters: "parameters",
  mean_exit: "mean exit",
};
const KINDS = { uniform: "one threshold", per_exit: "one threshold per exit", static: "full depth", fixed_exit: "fixed exit" };
const capital = (text) => text[0].toUpperCase() + text.slice(1);

function fill(select, options) {
  const before = select.value;
  select.replaceChildren(...options.map(([value, text]) => new Option(text, value)));
  if (options.some(([value]) => value === before)) select.value = before;
}

function big(value) {
  for (const [scale, unit] of [[1e12, "T"], [1e9, "G"], [1e6, "M"], [1e3, "k"]]) {
    if (Math.abs(value) >= scale) return `${+(value / scale).toPrecision(3)} ${unit}`;
  }
  return String(+value.toPrecision(3));
}

function chosen() {
  const task = data.tasks.find((each) => each.id === control.task.value);
  return { task, columns: data.points[task.id][control.split.value], average: task.id === "average" };
}

// The metrics that this task has, the ranking one first.
function offerMetrics() {
  const { task, columns, average } = chosen();
  const others = average ? [] : Object.keys(data.metrics).filter((name) => name in columns && name !== task.metric);
  const first = average ? "mean score" : `${data.metrics[task.metric]} (ranks)`;
  fill(control.y, [["score", first], ...others.map((name) => [name, data.metrics[name]])]);
  control.which.disabled = average;
}

function label(columns, i, average) {
  const value = (name) => (columns[name] ? columns[name][i] : null);
  const lines = [];
  const add = (title, text) => { if (text !== null) lines.push(`${title} <b>${text}</b>`); };
  const number = (name, write) => (value(name) === null ? null : write(value(name)));
  const times = (x) => `${+x.toPrecision(3)}×`;
  let head;
  if (average) {
    head = `<b>${data.methods[columns.method[i]].name}</b>, at least ${times(columns.budget[i])}`;
    add("mean score", number("score", (x) => (100 * x).toFixed(1)));
  } else {
    const [, name, seed] = data.runs[columns.run[i]];
    head = `<b>${name}</b>, seed ${seed}, ${KINDS[columns.kind[i]]}`;
    add("threshold", number("threshold", (x) => x.toPrecision(3)));
    add("thresholds", columns.thresholds[i] || null);
    for (const [metric, title] of Object.entries(data.metrics)) add(title, number(metric, (x) => (100 * x).toFixed(1)));
  }
  add("FLOPs", number("flops", big));
  add("speed-up by FLOPs", number("speedup", times));
  add("measured at batch 1", number("latency_1", times));
  add("measured at batch 32", number("latency_32", times));
  add("mean exit", number("mean_exit", (x) => x.toFixed(2)));
  add("parameters", number("parameters", big));
  return [head, ...lines].join("<br>");
}

// One trace a method, always in the same order, so that hidden methods stay hidden.
function traces() {
  const { columns, average } = chosen();
  const [x, y] = [columns[control.x.value], columns[control.y.value]];
  const frontier = average || control.which.value === "front";
  const joined = frontier && ["flops", "flops_128", "speedup"].includes(control.x.value);
  const made = data.methods.map((method, m) => ({
    uid: `method-${m}`, name: method.name, x: [], y: [], text: [], hoverinfo: "text", type: "scatter",
    mode: joined && !method.reference ? "lines+markers" : "markers",
    visible: method.hidden ? "legendonly" : true,
    // At a budget between two points the cheaper one is used.
    line: { color: method.colour, dash: method.dash, width: 1.6, shape: control.x.value === "speedup" ? "vh" : "hv" },
    marker: {
      color: method.colour, symbol: method.symbol, opacity: frontier ? 1 : 0.65,
      size: method.reference ? 15 : average ? 6 : frontier ? 9 : 7, line: { width: method.symbol.endsWith("open") ? 1.5 : 0, color: method.colour },
    },
  }));
  for (let i = 0; i < x.length; i++) {
    if ((frontier && !average && !columns.front[i]) || x[i] === null || y[i] === null) continue;
    const [m, , seed] = average ? [columns.method[i], "", 0] : data.runs[columns.run[i]];
    (made[m].points ??= []).push({ seed, x: x[i], y: 100 * y[i], text: label(columns, i, average) });
  }
  for (const trace of made) {
    let seed = null;
    for (const point of (trace.points ?? []).sort((a, b) => a.seed - b.seed || a.x - b.x)) {
      if (seed !== null && seed !== point.seed) { // a gap between the lines of two seeds
        trace.x.push(null); trace.y.push(null); trace.text.push("");
      }
      trace.x.push(point.x); trace.y.push(point.y); trace.text.push(point.text);
      seed = point.seed;
    }
    if (!trace.x.length) { trace.x.push(null); trace.y.push(null); } // keeps its place in the legend
    delete trace.points;
  }
  return made;
}

function draw() {
  const { task, average } = chosen();
  const cost = control.x.value;
  const constant = data.control[control.split.value][task.id];
  const ranks = control.y.value === "score";
  const made = traces();
  const shapes = [], annotations = [];
  if (ranks && constant !== undefined && constant !== null) {
    const seen = made.filter((trace) => trace.visible === true).flatMap((trace) => trace.y).filter((y) => y !== null);
    const [low, high] = [Math.min(...seen), Math.max(...seen)];
    // A constant baseline far below the points is only named, since its line would compress the scale.
    const far = 100 * constant < low - 0.6 * (high - low);
    const text = `constant baseline ${(100 * constant).toFixed(1)}`;
    const words = { xref: "paper", x: 0.005, showarrow: false, xanchor: "left", yanchor: "bottom", font: { color: "#5f5f5f", size: 12 } };
    annotations.push(far ? { ...words, text: `${text} ↓`, yref: "paper", y: 0 } : { ...words, text, y: 100 * constant });
    if (!far) shapes.push({ type: "line", xref: "paper", x0: 0, x1: 1, y0: 100 * constant, y1: 100 * constant, line: { color: "#767676", width: 1, dash: "dot" } });
  }
  const metric = ranks ? (average ? "mean score" : data.metrics[task.metric]) : data.metrics[control.y.value];
  const ratio = cost === "speedup";
  const narrow = plot.clientWidth < 700;
  Plotly.react(plot, made, {
    uirevision: "kept",
    title: { text: `<b>${task.title}</b>, ${control.split.value}`, x: 0, xref: "paper", xanchor: "left", font: { size: 16 } },
    font: { family: "system-ui, 'Segoe UI', 'DejaVu Sans', Arial, sans-serif", color: "#1f2328", size: 13 },
    xaxis: {
      title: { text: narrow ? control.x.selectedOptions[0].text : AXES[cost], standoff: 12 }, type: cost === "mean_exit" ? "linear" : "log", gridcolor: "#e6eaee", zeroline: false, linecolor: "#57606a",
      ticks: "outside", tickformat: ratio ? "~g" : cost === "mean_exit" ? "" : "~s", ticksuffix: ratio ? "×" : "", dtick: ratio ? Math.log10(2) : cost === "mean_exit" ? undefined : "D2", nticks: 10,
      uirevision: `${task.id} ${cost}`,
    },
    yaxis: { title: { text: `${metric} × 100`, standoff: 8 }, gridcolor: "#e6eaee", zeroline: false, linecolor: "#57606a", ticks: "outside", uirevision: `${task.id} ${control.y.value}` },
    hovermode: "closest", hoverlabel: { align: "left", bgcolor: "white", bordercolor: "#57606a", font: { color: "#1f2328", size: 13 } },
    legend: narrow ? { orientation: "h", y: -0.2 } : { x: 1.01, y: 1 },
    margin: { l: 62, r: 16, t: 46, b: 58 }, paper_bgcolor: "white", plot_bgcolor: "white", shapes, annotations,
  }, { responsive: true, displaylogo: false, displayModeBar: narrow ? false : "hover", modeBarButtons: [["toImage", "zoom2d", "pan2d", "resetScale2d"]] });
  const count = made.reduce((sum, trace) => sum + trace.x.filter((each) => each !== null).length, 0);
  const how = average ? `the mean of ${data.tasks.length - 1} tasks at matched budgets, chosen on ${data.selection}`
    : control.which.value === "front" ? `the frontier of each method and seed, chosen on ${data.selection}`
      : `all operating points, at most ${data.most} a run beside the frontier`;
  document.getElementById("status").textContent = `${task.title}: ${count} points on ${control.split.value}, ${how}.`;
}

async function start() {
  data = JSON.parse(await unpacked("data"));
  if (!data.tasks.length) {
    document.getElementById("status").textContent = "No run has an operating point: see the failed runs.";
    plot.hidden = true;
    return;
  }
  const library = document.createElement("script");
  library.textContent = await unpacked("plotly");
  document.head.append(library);
  fill(control.task, data.tasks.map((task) => [task.id, task.title]));
  fill(control.split, data.splits.map((split) => [split, capital(split)]));
  offerMetrics();
  draw();
  document.getElementById("controls").addEventListener("change", () => { offerMetrics(); draw(); });
  let wide = plot.clientWidth >= 700;
  window.addEventListener("resize", () => { // the legend's place depends on the width
    if ((plot.clientWidth >= 700) !== wide) { wide = !wide; draw(); }
  });
}

for (const image of document.querySelectorAll("figure img")) {
  const widen = () => image.closest("figure").classList.toggle("wide", image.naturalWidth > 1000);
  image.complete ? widen() : image.addEventListener("load", widen);
}
start().catch((error) => {
  document.getElementById("status").textContent = `The plot needs a browser of 2023 or later (${error.message}); tables and figures hold the same results.`;
});
