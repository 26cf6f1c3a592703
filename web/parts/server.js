// What the page asks of its server, and the threshold in force.
let model = null, other = null; // /v1/model of the detector, and of the second one where two are compared

const asked = async (path, options) => {
  const answer = await fetch(path, options);
  if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `status ${answer.status}`);
  return answer;
};
const point = () => {
  const at = Number($("point").value);
  if (at >= 0) return model.points[at];
  const threshold = Math.min(1, Math.max(0, Number($("own").value) || 0)), own = model.own_point;
  return { ...own, target_fpr: null, threshold, fpr: null, unsure_low: Math.min(own.unsure_low, threshold, model.words.even) };
};
// the second detector's own threshold for the same rate of false alarms, where it has one
const otherPoint = () => other.points.find((one) => one.target_fpr === point().target_fpr) ?? other.points[0];

const send = (what, files, more = {}) => {
  const by = point(), query = new URLSearchParams(more);
  if ($("face").value) query.set("face", $("face").value);
  if (more.detector === "other") query.set("fpr", otherPoint().target_fpr);
  else if (by.target_fpr !== null) query.set("fpr", by.target_fpr);
  else query.set("threshold", by.threshold);
  if (query.get("fpr") === "null") query.delete("fpr");
  const form = new FormData();
  for (const file of files) form.append("file", file, file.name || "pasted");
  return asked(`v1/${what}?${query}`, { method: "POST", body: form });
};
const detect = async (file, more) => {
  if (file.size > model.limits.bytes) throw new Error("larger than this server takes");
  return (await send("detect", [file], more)).json();
};
