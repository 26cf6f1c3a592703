// Photos in: chosen, dropped, pasted, from an address, or made; judged two at a time.
const AT_ONCE = 2;
const queue = [];
let running = 0, number = 0;

const add = (files) => {
  for (const file of files) {
    const item = { id: number++, file, told: null, other: null, otherError: "", error: null, thumb: null, maps: {}, evidence: null, stability: null, kind: "WAITING" };
    items.push(item);
    queue.push(item);
  }
  if (files.length && !items.includes(selected)) select(items[0]);
  next();
};
const next = () => {
  while (running < AT_ONCE && queue.length) {
    running++;
    judge(queue.shift()).finally(() => { running--; next(); });
  }
  refresh();
};
const judge = async (item) => {
  try {
    await begun; // a photo may be dropped before the server has told what it is
    if (!model) throw new Error("the server does not answer; load the page again");
    const answers = await Promise.allSettled([detect(item.file, { explain: FIRST() }),
      ...(other ? [detect(item.file, { detector: "other" })] : [])]);
    if (!items.includes(item)) return; // cleared meanwhile
    if (answers[0].status === "rejected") throw answers[0].reason;
    item.told = answers[0].value;
    if (item.told.results.some((row) => row.explain?.patch_map)) item.maps.patches = item.told.results.map((row) => row.explain);
    if (answers[1]) answers[1].status === "fulfilled" ? (item.other = answers[1].value) : (item.otherError = answers[1].reason.message);
    await thumbnail(item);
    remember(item);
  } catch (error) {
    const said = `${item.file.name}: `; // which the page says already
    item.error = error.message.startsWith(said) ? error.message.slice(said.length) : error.message;
  }
  if (item === selected) select(item);
};
const judgeAgain = () => { // other faces are looked for
  for (const item of items) Object.assign(item, { told: null, other: null, error: null, maps: {}, evidence: null, stability: null });
  queue.splice(0, queue.length, ...items);
  if (selected) select(selected);
  next();
};

$("choose").addEventListener("change", (event) => {
  add([...event.target.files]);
  event.target.value = "";
});
document.addEventListener("paste", (event) => {
  const files = [...(event.clipboardData?.files ?? [])];
  if (files.length) { event.preventDefault(); add(files); }
});
let depth = 0;
const over = (on) => $("drop").classList.toggle("over", on);
addEventListener("dragenter", (event) => { event.preventDefault(); depth++; over(true); });
addEventListener("dragleave", () => { depth = Math.max(0, depth - 1); if (!depth) over(false); });
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  depth = 0;
  over(false);
  add([...(event.dataTransfer?.files ?? [])]);
});
$("address").addEventListener("submit", async (event) => {
  event.preventDefault();
  const url = $("url").value.trim();
  $("fetched").textContent = "Being fetched by the server …";
  try {
    const body = JSON.stringify({ url }), headers = { "Content-Type": "application/json" };
    const found = await (await asked("v1/fetch", { method: "POST", body, headers })).blob();
    $("fetched").textContent = "";
    add([new File([found], decodeURIComponent(new URL(url).pathname.split("/").pop()) || "photo")]);
  } catch (error) { $("fetched").textContent = error.message; }
});
