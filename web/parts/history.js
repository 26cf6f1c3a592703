// A list of verdicts in this browser's own storage, without the photos: only where it was switched on.
const PLACE = "faces-history", SWITCH = "faces-history-on", MOST_KEPT = 500;
const stored = (name) => { try { return localStorage.getItem(name); } catch { return null; } };
const store = (name, text) => {
  try { text === null ? localStorage.removeItem(name) : localStorage.setItem(name, text); } catch { /* full, or forbidden */ }
};
const past = () => { try { return JSON.parse(stored(PLACE) ?? "[]"); } catch { return []; } };
const showPast = () => {
  const on = stored(SWITCH) === "yes", all = on ? past() : [];
  $("remember").checked = on;
  $("past").hidden = $("forget").hidden = !all.length;
  $("past").replaceChildren(...all.slice(-100).reverse().map((one) => make("li", {
    textContent: `${one.at.slice(0, 16).replace("T", " ")}  ${plain(one.name)}: ${one.headline} (detector ${one.detector.slice(0, 8)})` })));
};
const remember = (item) => {
  if (stored(SWITCH) !== "yes") return;
  const { headline, verdict } = shown(item).photo;
  const entry = { at: new Date().toISOString(), name: item.file.name, headline, verdict, detector: model.detector.sha256 };
  store(PLACE, JSON.stringify([...past(), entry].slice(-MOST_KEPT)));
  showPast();
};
$("remember").addEventListener("change", () => {
  store(SWITCH, $("remember").checked ? "yes" : null);
  if (!$("remember").checked) store(PLACE, null); // switched off, nothing is left
  showPast();
});
$("forget").addEventListener("click", () => { store(PLACE, null); showPast(); });
showPast();
