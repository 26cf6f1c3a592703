// Beside the verdict: what the file itself tells, and whether the verdict would survive. Asked for by a button each.
const evidence = (lines) => {
  const list = make("dl", { className: "evidence" });
  for (const line of lines) {
    list.append(make("dt", { textContent: `${line.kind}: ${line.found}` }),
      make("dd", {}, make("span", { textContent: line.says }),
        make("span", { className: "small", textContent: `Proves ${line.proves}; cannot prove ${line.cannot_prove}.` })));
  }
  return make("section", { className: "part" }, make("h4", { textContent: "What the file itself tells" }),
    make("p", { className: "small", textContent: "Kept apart from the verdict: no score knows of it." }), list);
};

const survival = (rows) => {
  const node = make("section", { className: "part" }, make("h4", { textContent: "Would the verdict survive?" }));
  rows.forEach((row, i) => {
    const told = row.stability;
    if (!told) return;
    const which = rows.length > 1 ? `Face ${row.face?.index ?? i + 1}: ` : "";
    node.append(make("p", { textContent: `${which}${told.outcome}: ${told.reason}` }));
    if (!told.points.length) return;
    node.append(curve(told));
    const text = told.points.map((p) => `${p.version}: ${model.words.headlines[p.verdict]}`).join("; ");
    node.append(make("details", { className: "small" }, make("summary", { textContent: "Each version" }), make("p", { textContent: text })));
  });
  return node;
};
// scores of the versions, over the ranges of the three answers
const curve = ({ points, probability, threshold, unsure_low: low, reason }) => {
  const all = [{ version: "as it is", probability, verdict: null }, ...points], step = 560 / all.length;
  const y = (p) => 10 + 120 * (1 - p), art = svg("svg", { viewBox: "0 0 600 140", role: "img", class: "curve" });
  art.append(svg("title", {}, `scores of the photo and ${points.length} versions of it; ${reason}`));
  for (const [kind, from, to] of [["r", 0, low], ["u", low, threshold], ["f", threshold, 1]]) {
    art.append(svg("rect", { class: kind, x: 30, width: 570, y: y(to), height: Math.max(0, y(from) - y(to)) }));
  }
  // below `low` all scores are told alike: they lie on one line
  const at = all.map((p, i) => [50 + i * step, y(p.probability < low ? low / 2 : p.probability)]);
  art.append(svg("polyline", { class: "line", points: at.map((xy) => xy.join(",")).join(" ") }));
  all.forEach((p, i) => art.append(svg("circle", { class: "dot", cx: at[i][0], cy: at[i][1], r: i ? 5 : 8 },
    svg("title", {}, p.version))));
  for (const [text, p] of [["1", 1], ["0", 0]]) art.append(svg("text", { x: 4, y: y(p) + 4, class: "tick" }, text));
  return art;
};
