// ---- the chooser: shows the rows of the chosen block, which were computed with the report ------------------------

function cell(text, numeric = false) {
  const made = document.createElement("td");
  made.textContent = text ?? "–";
  if (numeric) made.className = "number";
  return made;
}

const signed = (value) => (value > 0 ? "+" : "") + value.toFixed(1);
const against = (gap) => (gap ? `${signed(gap[0])} (${signed(gap[1])} to ${signed(gap[2])}), ${gap[3]}` : null);
const times = (value) => (value === null ? null : `${value.toFixed(1)}×`);

function choiceRow(row) {
  const made = document.createElement("tr");
  const head = document.createElement("th");
  head.scope = "row";
  head.textContent = row.method;
  const [score, low, high] = row.score;
  made.append(
    head, cell(`${score.toFixed(1)} (${low.toFixed(1)} to ${high.toFixed(1)})`, true),
    cell(against(row.first)), cell(against(row.teacher)),
    cell(times(row.speedup), true), cell(times(row.measured), true),
    cell(row.milliseconds === null ? null : row.milliseconds.toPrecision(3), true), cell(row.models),
  );
  return made;
}

// The folder of this page as an argument of a shell command.
function folder() {
  if (location.protocol !== "file:") return "FOLDER";
  const path = decodeURIComponent(location.pathname).replace(/\/[^/]*$/, "");
  return /^[\w./-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function answer(choice) {
  const picked = new FormData(document.getElementById("choices"));
  const block = choice.blocks[["costs", "budgets", "tasks", "metrics"].map((name) => picked.get(name)).join(" ")];
  const notes = [];
  document.getElementById("answer").textContent = block ? block.answer : "No method has a point on every one of these tasks at this budget.";
  document.getElementById("choice-table").hidden = !block;
  document.getElementById("choice-rows").replaceChildren(...(block ? block.rows.map(choiceRow) : []));
  if (block) {
    notes.push(`Tasks: ${block.tasks.join(", ")}.`);
    const without = block.without.map(([name, why]) => (why ? `${name} (${why})` : name));
    if (without.length) notes.push(`Without a point on every task at this budget: ${without.join("; ")}.`);
    if (block.few.length) notes.push(`Fewer seeds than planned: ${block.few.join("; ")}.`);
    if (picked.get("costs") === "milliseconds") notes.push(choice.clock);
    if (choice.training) notes.push(choice.training);
    notes.push(`Corrected for ${block.comparisons} comparison${block.comparisons === 1 ? "" : "s"}.`);
    if (picked.get("costs") === "flops" && picked.get("metrics") === "score") {
      notes.push(`The same differences, corrected for its own comparisons alone: ${block.command} --results ${folder()}`);
    }
  }
  document.getElementById("choice-notes").replaceChildren(...notes.map((note) => {
    const made = document.createElement("li");
    made.textContent = note;
    return made;
  }));
}

unpacked("blocks").then((text) => {
  const choice = JSON.parse(text);
  document.getElementById("choices").addEventListener("change", () => answer(choice));
  answer(choice);
}).catch((error) => {
  document.getElementById("answer").textContent = `The chooser needs a browser of 2023 or later (${error.message}); the tables hold the same results.`;
});
