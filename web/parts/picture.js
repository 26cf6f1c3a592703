// A photo at a useful size, and above it a tab for each explanation that the server has; slow ones when they are asked for.
const LEGENDS = {
  patches: "What each patch looks like by itself: blue photographed, orange generated. Pale says nothing.",
  signed: "Orange: places that spoke for «generated»; blue: for «no trace». It says where, not how much.",
  either: "Purple: places that mattered, either way.",
};
const picture = (item) => {
  const node = make("div", { className: "picture" }), canvas = make("canvas", { width: 320, height: 240 });
  canvas.setAttribute("role", "img");
  const rows = () => shown(item).rows;
  const slider = make("input", { type: "range", min: 0, max: 100, value: 60 });
  const strength = make("label", { hidden: true }, "Strength of the map ", slider);
  const legend = make("p", { className: "small" }), frame = make("div", { id: "frame" }, canvas);
  let bitmap = null, size = item.told.results[0].explain, name = "";
  const redraw = () => {
    const labels = rows().map((row, i) => (row.face ? `face ${i + 1}: ` : "") + row.headline);
    canvas.setAttribute("aria-label", `the photo; ${labels.join(", ")}`);
    const map = name ? (item.maps[name] ?? []).map((told) => mapOf(told, name)) : null;
    if (size) draw(canvas, bitmap, size, rows(), map, slider.value / 100);
    strength.hidden = !map;
    if (!map) { legend.textContent = ""; return; }
    const first = map.find(Boolean), notes = [...new Set(map.map((one) => one?.note).filter(Boolean))];
    legend.textContent = [name === "patches" ? LEGENDS.patches : !first?.values ? "No map here."
      : first.signed ? LEGENDS.signed : LEGENDS.either, ...notes].join(" ");
  };
  slider.addEventListener("input", redraw);

  const tabs = make("div", { className: "tabs" });
  tabs.setAttribute("role", "tablist");
  tabs.setAttribute("aria-label", "What is shown over the photo");
  const choose = async (tab, wanted) => {
    for (const one of tabs.children) {
      one.setAttribute("aria-selected", one === tab);
      one.tabIndex = one === tab ? 0 : -1;
    }
    if (wanted && !item.maps[wanted]) {
      legend.textContent = "Being computed; that may take some seconds …";
      try {
        item.maps[wanted] = (await detect(item.file, { explain: wanted })).results.map((row) => row.explain);
      } catch (error) {
        legend.textContent = `No map: ${error.message}`;
        return;
      }
      if (tab.getAttribute("aria-selected") !== "true") return;
    }
    name = wanted;
    redraw();
  };
  const judged = item.told.results.some((row) => row.verdict);
  const names = judged ? model.maps.filter((one) => one !== "patches" || item.told.results.some((row) => row.explain?.patch_map)) : [];
  for (const one of ["", ...names]) {
    const text = one ? model.map_titles[one].split(":")[0] : "photo";
    const tab = button(text, (it) => choose(it, one), { tabIndex: one ? -1 : 0 });
    tab.setAttribute("role", "tab");
    tab.setAttribute("aria-selected", !one);
    tab.setAttribute("aria-controls", "frame");
    tabs.append(tab);
  }
  tabs.addEventListener("keydown", (event) => {
    const all = [...tabs.children], at = all.indexOf(document.activeElement);
    const to = { ArrowRight: at + 1, ArrowLeft: at - 1, Home: 0, End: all.length - 1 }[event.key];
    if (to === undefined || at < 0) return;
    event.preventDefault();
    const next = all[(to + all.length) % all.length];
    next.focus();
    next.click();
  });
  if (names.length) node.append(tabs);
  node.append(frame, strength, legend);
  node.redraw = redraw;
  createImageBitmap(item.file).catch(() => null).then((found) => {
    bitmap = found;
    size ??= bitmap && { width: bitmap.width, height: bitmap.height };
    if (!bitmap) node.append(make("p", { className: "small", textContent: "This browser cannot show this kind of photo." }));
    redraw();
  });
  redraw();
  return node;
};
const strip = (frames) => make("ol", { className: "strip", tabIndex: 0, ariaLabel: "the frames that were looked at" },
  ...frames.map((frame) => {
    const at = `${Math.floor(frame.seconds / 60)}:${(frame.seconds % 60).toFixed(1).padStart(4, "0")}`;
    const said = make("strong", { className: frame.verdict.replace(" ", ""), textContent: frame.headline });
    const text = make("span", { className: "small" }, `${at} `, said, frame.score ? ` (${frame.score})` : "");
    return make("li", {}, ...(frame.picture ? [make("img", { src: frame.picture, alt: "" })] : []), text);
  }));
