// One photo or video in full: the answer on top, its faces, what the detector is known to miss, and what can be asked.
const shown = (item) => { // at the threshold in force
  const by = point(), base = item.stability?.at === keyOf(by) ? item.stability.rows : item.told.results;
  const rows = base.map((row) => rowAt(row, by, model.words));
  const compared = item.other ? item.other.results.map((row) => rowAt(row, otherPoint(), other.words)) : null;
  return { rows, photo: photoAt(rows, model.words), rows2: compared, photo2: compared && photoAt(compared, other.words) };
};
const keyOf = (by) => `${by.target_fpr}/${by.threshold}`;

const scale = (row) => {
  const art = svg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
  const part = (from, to, kind) => art.append(svg("rect", { x: 1000 * from, width: Math.max(0, 1000 * (to - from)), y: 0, height: 10, class: kind }));
  part(0, row.unsure_low, "r");
  part(row.unsure_low, row.threshold, "u");
  part(row.threshold, 1, "f");
  // where nothing was found the whole range is marked: how little was found says nothing of other generators
  if (row.probability < row.unsure_low) part(0, row.unsure_low, "low");
  else {
    const at = Math.min(0.992, Math.max(0, row.probability - 0.004));
    part(at, at + 0.008, "at");
  }
  return make("div", { className: "scale" }, art);
};
const answer = (photo) => make("p", { className: "answer" },
  make("span", { className: `verdict ${photo.verdict ?? "NOFACE"}`, textContent: photo.headline }));
// all words are the server's (discriminator/words.py)
const faces = (rows) => {
  const said = new Set(), several = rows.length > 1;
  return worstFirst(rows).map((row) => {
    const node = make("div", { className: "face" });
    if (several) {
      node.append(make("p", {}, make("span", { className: "number" }, row.face ? `Face ${row.face.index}: ` : ""),
        make("span", { className: `verdict below ${row.verdict ?? "NOFACE"}`, textContent: row.headline })));
    }
    if (!row.verdict) return node;
    if (!said.has(row.says)) node.append(make("p", { textContent: row.says }));
    said.add(row.says); // once is enough
    node.append(scale(row));
    const note = beyond(row);
    if (note) node.append(make("p", { className: "small", textContent: `Note: ${note}.` }));
    return node;
  });
};
const known = (about, by) => { // what it finds, and where it is known to fail: next to the verdict
  const node = make("div", { className: "known" }, make("p", {}, make("strong", { textContent: by.measured.says })));
  if (about.known_failures.length) {
    node.append(make("h4", { textContent: "Where this detector is known to fail" }),
      make("ul", {}, ...about.known_failures.map((text) => make("li", { textContent: text }))));
  }
  node.append(make("details", { className: "small" }, make("summary", { textContent: "How that was measured" }),
    make("ul", {}, ...by.measured.lines.map((line) => make("li", { textContent: line })))));
  return node;
};

const detail = (item) => {
  const title = make("h3", { textContent: plain(item.file.name), dir: "auto" }), node = make("article", { className: "card" });
  if (item.error !== null) {
    node.append(make("div", {}, title, make("p", {}, make("span", { className: "verdict FAILED", textContent: "Not judged" })),
      make("p", { textContent: item.error })));
    return node;
  }
  if (!item.told) {
    node.append(make("div", {}, title, make("p", { className: "small", textContent: "waiting …" })));
    return node;
  }
  const words = make("div", { className: "words" }), video = item.told.results[0].frames;
  const view = video ? make("div", { className: "picture" }) : picture(item);
  const beside = make("div", { className: "beside" });
  node.append(make("div", { className: "head" }), view, words, beside);
  node.update = () => { // at another threshold
    const now = shown(item);
    node.querySelector(".head").replaceChildren(title, answer(now.photo));
    if (video) view.replaceChildren(strip(now.rows[0].frames));
    else view.redraw();
    words.replaceChildren(...verdicts(item, now), ...(now.rows.some((row) => row.verdict) ? [known(model, point())] : []));
    beside.replaceChildren(...extras(item, now));
  };
  node.classList.toggle("compared", Boolean(item.other));
  node.classList.toggle("video", Boolean(video));
  node.update();
  words.after(buttons(item, node));
  return node;
};
const verdicts = (item, now) => {
  if (!now.rows2) return item.otherError ? [...faces(now.rows), make("p", { textContent: `The other detector: ${item.otherError}` })] : faces(now.rows);
  const alike = now.photo.verdict === now.photo2.verdict;
  const side = (about, by, photo, rows) => make("div", { className: "side" }, make("h4", { textContent: about.detector.file }),
    answer(photo), ...faces(rows), make("p", { className: "small", textContent: `${by.in_words ?? "a threshold of your own"}. ${by.measured.says}` }));
  return [make("p", {}, make("strong", { textContent: alike ? "Both detectors answer alike." : "The two detectors answer differently." })),
    make("div", { className: "sides" }, side(model, point(), now.photo, now.rows), side(other, otherPoint(), now.photo2, now.rows2))];
};
const extras = (item, now) => [
  ...(item.evidence ? [evidence(item.evidence)] : []),
  ...(now.rows.some((row) => row.stability) && item.stability?.at === keyOf(point()) ? [survival(now.rows)] : []),
];
const buttons = (item, node) => {
  const note = make("p", { className: "small", role: "status" });
  const working = (text, work) => async (it) => {
    it.disabled = true;
    note.textContent = text;
    try {
      note.textContent = (await work()) ?? "";
      if (node.isConnected) node.update();
    } catch (error) { note.textContent = error.message; } finally { it.disabled = false; }
  };
  const name = item.file.name || "pasted", photo = !item.told.results[0].frames;
  const tell = working("The file is read …", async () => {
    item.evidence = (await detect(item.file, { evidence: true })).results[0].evidence ?? [];
  });
  const tries = working("Judged in other versions …", async () => {
    const at = keyOf(point());
    item.stability = { at, rows: (await detect(item.file, { explain: FIRST(), stability: true })).results };
    refresh();
  });
  const report = working("The report is being made …", () => saveReport([item], `${name}.html`));
  return make("div", {}, make("div", { className: "buttons" },
    ...(photo ? [button("What the file tells", tell), button("Would it survive?", tries)] : []),
    button("Save report", report), button("Save as JSON", () => keep(JSON.stringify(told(item), null, 2), "application/json", `${name}.json`))), note);
};
const FIRST = () => (model.maps.includes("patches") ? "patches,frames" : "frames");
const told = (item) => { // as the server told it, at the threshold in force
  if (!item.told) return { file: item.file.name, error: item.error };
  const { measured, ...by } = point(), now = shown(item), { photo } = now;
  const rows = now.rows.map((row) => (row.photo ? { ...row, photo } : row));
  return { ...item.told, results: rows, operating_point: { ...item.told.operating_point, ...by }, measured,
    ...(item.other ? { compared: { ...item.other, results: now.rows2 } } : {}) };
};
const saveReport = async (items, name) => {
  const files = items.map((item) => item.file), most = files.slice(0, model.limits.files);
  const maps = new Set(items.flatMap((item) => Object.keys(item.maps)));
  const more = { explain: [...maps].join(",") || (model.maps.includes("patches") ? "patches" : "") };
  if (items.some((item) => item.evidence)) more.evidence = true;
  if (items.some((item) => item.stability)) more.stability = true;
  keep(await (await send("report", most, more)).text(), "text/html", name);
  return most.length < files.length ? `The report has the first ${most.length} of ${files.length}: this server takes no more `
    + "at once; detect.py --report has no such limit." : "Saved.";
};
