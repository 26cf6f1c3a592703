// Many photos: a table of bounded height with thumbnails, to be filtered and sorted; one photo at a time is shown in full.
const KINDS = { FAKE: "look generated", UNSURE: "can't be told", REAL: "without a trace of a GAN", NOFACE: "without a face", FAILED: "not judged" };
const items = [];
let selected = null, card = null, sorting = ["answer", 1];

const kindOf = (item) => (item.error !== null ? "FAILED" : !item.told ? "WAITING" : (shown(item).photo.verdict ?? "NOFACE"));
const scoreOf = (item) => {
  const scores = item.told ? item.told.results.map((row) => row.probability).filter((p) => p !== undefined) : [];
  return scores.length ? Math.max(...scores) : -1;
};
const KEYS = {
  name: (item) => item.file.name.toLowerCase(),
  answer: (item) => Object.keys(KINDS).indexOf(item.kind) - scoreOf(item) / 10,
  score: (item) => -scoreOf(item),
  faces: (item) => -(item.told?.results.length ?? 0),
  compared: (item) => (item.other ? ORDER.indexOf(shown(item).photo2.verdict) : 9),
};
const visible = () => {
  const kind = $("kind").value, text = $("find").value.toLowerCase(), [key, way] = sorting;
  const found = items.filter((item) => (!kind || item.kind === kind) && item.file.name.toLowerCase().includes(text));
  const value = new Map(found.map((item) => [item, KEYS[key](item)]));
  return found.sort((a, b) => way * (value.get(a) < value.get(b) ? -1 : value.get(a) > value.get(b) ? 1 : 0) || a.id - b.id);
};
const line = (item) => {
  const row = make("tr"), open = button(plain(item.file.name), () => select(item, true), { className: "name", dir: "auto" });
  open.setAttribute("aria-pressed", item === selected);
  const head = make("th", { scope: "row" }, open), cell = (text, cls = "") => make("td", { textContent: text, className: cls });
  row.append(make("td", {}, ...(item.thumb ? [item.thumb] : [])), head);
  const now = item.told && item.error === null ? shown(item) : null;
  row.append(cell(now?.photo.headline ?? (item.error !== null ? "not judged" : "waiting …"), `small verdict below ${item.kind}`));
  row.append(cell(now && scoreOf(item) >= 0 ? scoreAt(scoreOf(item), point(), model.words) : ""));
  row.append(cell(now ? String(item.told.results.filter((one) => one.face).length || "") : "", "faces"));
  if (other) row.append(cell(now?.photo2?.headline ?? item.otherError ?? ""));
  row.classList.toggle("selected", item === selected);
  return row;
};
const refresh = () => { // the table and the counts, after whatever changed
  for (const item of items) item.kind = kindOf(item);
  $("many").hidden = items.length < 2;
  if (items.length > 1) {
    const focused = document.activeElement?.closest?.("#rows") ? document.activeElement.textContent : null;
    $("rows").replaceChildren(...visible().map(line));
    if (focused !== null) [...$("rows").querySelectorAll("button")].find((one) => one.textContent === focused)?.focus();
    for (const option of $("kind").options) {
      const n = items.filter((item) => !option.value || item.kind === option.value).length;
      option.textContent = `${option.value ? KINDS[option.value] : "all"} (${n})`;
    }
    for (const th of document.querySelectorAll("#table th[data-key]")) {
      th.setAttribute("aria-sort", th.dataset.key !== sorting[0] ? "none" : sorting[1] > 0 ? "ascending" : "descending");
    }
  }
  const waiting = items.filter((item) => item.kind === "WAITING").length;
  const counts = Object.entries(KINDS).map(([kind, text]) => [items.filter((item) => item.kind === kind).length, text, kind]).filter(([n]) => n);
  const differ = other ? items.filter((item) => item.other && shown(item).photo.verdict !== shown(item).photo2.verdict).length : 0;
  $("status").textContent = waiting ? `${waiting} to be judged …`
    : items.length > 1 ? counts.map(([n, text, kind]) => `${n} ${kind === "FAKE" && n === 1 ? "looks generated" : text}`).join(", ") + (differ ? `; the two detectors differ on ${differ}` : "")
      : items.length ? "Judged." : "";
  $("all").hidden = !items.length;
};
const select = (item, scroll = false) => {
  selected = item;
  card = item ? detail(item) : null;
  $("detail").replaceChildren(...(card ? [card] : []));
  refresh();
  if (scroll && card) card.scrollIntoView({ block: "nearest", behavior: "auto" });
};
const relabel = () => { // another threshold: nothing is asked anew
  $("own-label").hidden = Number($("point").value) >= 0;
  card?.update?.();
  refresh();
};
const thumbnail = async (item) => {
  const canvas = make("canvas", { width: 48, height: 48, className: "thumb" }), pen = canvas.getContext("2d");
  canvas.setAttribute("aria-hidden", "true");
  const frame = item.told?.results[0].frames?.find((one) => one.picture);
  let image = null;
  if (frame) {
    image = make("img", { src: frame.picture });
    await image.decode().catch(() => null);
  } else image = await createImageBitmap(item.file).catch(() => null);
  if (image) {
    const side = Math.min(image.width, image.height);
    pen.drawImage(image, (image.width - side) / 2, (image.height - side) / 2, side, side, 0, 0, 48, 48);
    image.close?.();
  }
  item.thumb = canvas;
};
const table = () => [
  ["file", "answer", "verdict", "score", "faces", "generated", "unsure", "no trace", "threshold", "note", "compared", "detector sha256"],
  ...visible().map((item) => {
    if (!item.told) return [item.file.name, item.error ?? "waiting"];
    const { rows, photo, photo2 } = shown(item), count = (label) => rows.filter((row) => row.verdict === label).length;
    return [item.file.name, photo.headline, photo.verdict, scoreOf(item) >= 0 ? scoreAt(scoreOf(item), point(), model.words) : "",
      rows.filter((row) => row.face).length, ...ORDER.map(count), point().threshold, rows.map((row) => row.note).filter(Boolean).join("; "),
      photo2?.headline, model.detector.sha256];
  }),
];
