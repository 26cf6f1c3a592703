// The detector's facts, and what the page's own buttons do.
const about = async () => {
  try {
    model = await (await asked("v1/model")).json();
    if (model.compare) other = await (await asked("v1/model?detector=other")).json();
  } catch (error) {
    $("status").textContent = `The server does not answer (${error.message}); load the page again.`;
    return;
  }
  const { limits, detector, meta } = model;
  $("limits").textContent = `up to ${Math.floor(limits.bytes / 2 ** 20)} MB and ` +
    `${Math.round(limits.pixels / 1e6)} million pixels each; of a video at most ${limits.video_frames} frames`;
  model.points.forEach((one, i) => $("point").append(make("option", { value: String(i), textContent: one.target_fpr === null
    ? `${one.threshold.toFixed(3)}, the server's own` : `${i ? "" : "the usual: "}${percent(one.target_fpr)} false alarms` })));
  $("point").append(make("option", { value: "-1", textContent: "a score of your own" }));
  $("own").value = model.points[0].threshold.toFixed(2);
  const [auto] = $("face").options;
  if (model.faces.finder === "none") $("face").options[1].remove();
  auto.textContent = model.face === "auto" ? auto.textContent : `as the server was told: ${model.face}`;
  const rows = [
    ["File", detector.file], ["SHA-256", detector.sha256],
    ["Looks at", `${detector.resolution} x ${detector.resolution} pixels`],
    ["Trained on", [meta.trained_on, meta.data].find((x) => typeof x === "string") ?? "not said"],
    ["Network", typeof meta.model === "string" ? meta.model : "not said"],
    ["Threshold", model.in_words],
    ["Faces found by", model.faces.finder + (model.faces.fallback ? ` (${model.faces.fallback})` : "")],
    ["Runs on", model.runtime === "onnx" ? "ONNX Runtime" : "PyTorch"],
    ...model.measured.lines.map((text) => ["Measured", text]),
    ...(typeof meta.version === "string" ? [["Made by version", meta.version]] : []),
    ...(other ? [["Compared with", `${other.detector.file}, SHA-256 ${other.detector.sha256}`]] : []),
  ];
  for (const [name, text] of rows) $("model").append(make("dt", { textContent: name }), make("dd", { textContent: text }));
  $("address").hidden = !model.allow_urls;
  $("maker").hidden = !model.generator;
  $("class-label").hidden = !model.generator?.classes;
  $("compared-head").hidden = !other;
  document.body.classList.toggle("two", Boolean(other)); // room for both answers beside a picture of useful size
};

$("point").addEventListener("change", relabel);
$("own").addEventListener("input", relabel);
$("face").addEventListener("change", judgeAgain);
for (const id of ["kind", "find"]) $(id).addEventListener("input", refresh);
for (const th of document.querySelectorAll("#table th[data-key]")) {
  th.firstElementChild.addEventListener("click", () => {
    sorting = [th.dataset.key, sorting[0] === th.dataset.key ? -sorting[1] : 1];
    refresh();
  });
}
$("report").addEventListener("click", async () => {
  $("report").disabled = true;
  try { $("said").textContent = await saveReport(visible().filter((item) => item.told), "report.html"); }
  catch (error) { $("said").textContent = `No report: ${error.message}`; }
  finally { $("report").disabled = false; }
});
$("save").addEventListener("click", () => keep(JSON.stringify(items.map(told), null, 2), "application/json", "verdicts.json"));
$("table-save").addEventListener("click", () => keep(csv(table()), "text/csv", "verdicts.csv"));
$("clear").addEventListener("click", () => {
  queue.length = items.length = 0;
  select(null);
});
const begun = about().then(() => { window.ready = true; });
