"use strict";
// Names of files, and all that the server says, are put on the page as text only.
(() => {
  const $ = (id) => document.getElementById(id);
  const make = (tag, props = {}, ...children) => {
    const node = Object.assign(document.createElement(tag), props);
    node.append(...children);
    return node;
  };
  const svg = (tag, attributes) => {
    const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
    for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
    return node;
  };
  const percent = (x) => `${Number((100 * x).toPrecision(2))}\u00a0%`;
  // a name may turn the direction of writing, and so show another ending than it has
  const plain = (name) => (name || "pasted").replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
    (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
  // as discriminator/boxes.py and detect.py --explain draw: colours that stay apart under every colour blindness
  const COLOURS = { FAKE: [213, 94, 0], UNSURE: [240, 228, 66], REAL: [0, 114, 178] }, { FAKE, REAL } = COLOURS;
  const WIDTHS = { FAKE: 2, UNSURE: 1.5, REAL: 1 }, ORDER = ["FAKE", "UNSURE", "REAL"];
  const SIDE = 1024; // pixels of a drawn photo's longest side
  const AT_ONCE = 2;
  let model = null, running = 0, number = 0;
  const queue = [], documents = new Map(), photos = new Map();

  // ---- the detector --------------------------------------------------------------------------------------------
  const about = async () => {
    try {
      const answer = await fetch("v1/model");
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      model = await answer.json();
    } catch (error) {
      $("status").textContent = `The server does not answer (${error.message}); load the page again.`;
      return;
    }
    const { limits, detector, meta, calibration, operating_point: point } = model;
    $("limits").textContent = `up to ${Math.floor(limits.bytes / 2 ** 20)} MB and ` +
      `${Math.round(limits.pixels / 1e6)} million pixels each; of a video at most ${limits.video_frames} frames`;
    const own = point.target_fpr === null;
    const usual = make("option", { value: "", textContent: own ? `${point.threshold.toFixed(3)}, the server's own`
      : `the usual: ${percent(point.target_fpr)} false alarms` });
    $("point").append(usual);
    for (const p of calibration.points) {
      if (p.target_fpr === point.target_fpr) continue;
      const option = make("option", { textContent: `${percent(p.target_fpr)} false alarms` });
      option.value = String(p.target_fpr);
      $("point").append(option);
    }
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
    ];
    rows.push(...model.measured.lines.map((line) => ["Measured", line]));
    if (typeof meta.version === "string") rows.push(["Made by version", meta.version]);
    for (const [name, text] of rows) {
      $("model").append(make("dt", { textContent: name }), make("dd", { textContent: text }));
    }
    $("failures").hidden = !model.known_failures.length;
    $("failure-list").append(...model.known_failures.map((text) => make("li", { textContent: text })));
  };

  // ---- photos in -----------------------------------------------------------------------------------------------
  const add = (files) => {
    for (const file of files) queue.push({ file, card: card(file), id: number++ });
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

  const next = () => {
    while (running < AT_ONCE && queue.length) {
      running++;
      judge(queue.shift()).finally(() => { running--; next(); });
    }
    const left = running + queue.length;
    $("status").textContent = left ? `${left} to be judged …` : documents.size ? counts() : "";
    $("all").hidden = !documents.size;
    $("report").hidden = !photos.size;
  };
  const counts = () => {
    const sum = { fake: 0, real: 0, unsure: 0, no_face: 0, unreadable: 0 };
    for (const { summary } of documents.values()) for (const key in sum) sum[key] += summary?.[key] ?? 0;
    const failed = [...documents.values()].filter((told) => told.error).length;
    return `${sum.fake} look generated, ${sum.unsure} can't be told, ${sum.real} without a trace of a GAN, ` +
      `${sum.no_face} without a face` +
      (failed ? `, ${failed} not judged` : "");
  };

  const send = (what, files, maps) => {
    const query = new URLSearchParams({ explain: maps });
    if ($("face").value) query.set("face", $("face").value);
    if ($("point").value) query.set("fpr", $("point").value);
    const form = new FormData();
    for (const file of files) form.append("file", file, file.name || "pasted");
    return fetch(`v1/${what}?${query}`, { method: "POST", body: form });
  };
  const ask = async (file, maps) => {
    if (model && file.size > model.limits.bytes) throw new Error("larger than this server takes");
    const answer = await send("detect", [file], maps);
    const told = await answer.json().catch(() => ({ error: `the server answered with status ${answer.status}` }));
    if (!answer.ok) throw new Error(told.error ?? `status ${answer.status}`);
    return told;
  };

  const judge = async (job) => {
    const has = model?.maps.includes("patches");
    try {
      const told = await ask(job.file, has ? "patches,frames" : "frames");
      if (!job.card.node.isConnected) return; // cleared meanwhile
      documents.set(job.id, told);
      photos.set(job.id, job.file);
      await show(job, told);
    } catch (error) {
      if (!job.card.node.isConnected) return;
      documents.set(job.id, { file: job.file.name, error: error.message });
      const named = `${job.file.name}: `; // which the card says already
      fail(job.card, error.message.startsWith(named) ? error.message.slice(named.length) : error.message);
    }
  };

  // ---- results out ---------------------------------------------------------------------------------------------
  const card = (file) => {
    const canvas = make("canvas", { width: 320, height: 240 });
    const words = make("div", {}, make("h3", { textContent: plain(file.name), dir: "auto" }),
      make("p", { className: "small", textContent: "waiting …" }));
    const node = make("li", { className: "card" }, make("div", {}, canvas), words);
    canvas.setAttribute("role", "img");
    canvas.setAttribute("aria-label", "the photo, not judged yet");
    $("results").prepend(node);
    return { node, canvas, words, picture: node.firstChild };
  };
  const fail = ({ words, canvas }, reason) => {
    words.lastChild.remove();
    words.append(make("p", {}, make("span", { className: "verdict FAILED", textContent: "Not judged" })),
      make("p", { textContent: reason }));
    canvas.setAttribute("aria-label", "the photo could not be judged");
  };

  const show = async (job, told) => {
    const { words, canvas, picture } = job.card;
    words.lastChild.remove();
    let results = told.results;
    const first = results[0].photo;
    if (first) {
      words.append(make("p", {}, make("span", { className: `verdict ${first.verdict}`, textContent: first.headline })));
    }
    const said = new Set();
    for (const one of worstFirst(results)) words.append(face(one, told, said));
    if (results.some((one) => one.verdict)) words.append(measured(told));
    const button = make("button", { type: "button", textContent: "Save as JSON" });
    button.addEventListener("click", () => save(told, `${job.file.name || "pasted"}.json`));
    const page = make("button", { type: "button", textContent: "Save report" });
    page.addEventListener("click", () => report(page, [job.file]));
    words.append(make("div", { className: "buttons" }, page, button));
    if (results[0]?.frames) {
      picture.remove();
      job.card.node.append(strip(results[0].frames));
      job.card.node.classList.add("video");
      return;
    }
    const bitmap = await createImageBitmap(job.file).catch(() => null);
    const size = results[0]?.explain ?? (bitmap && { width: bitmap.width, height: bitmap.height });
    const labels = results.map((one, i) => (one.face ? `face ${i + 1}: ` : "") + one.headline);
    canvas.setAttribute("aria-label", `the photo; ${labels.join(", ")}`);
    if (!size) return;

    const select = make("select");
    const slider = make("input", { type: "range", min: 0, max: 100, value: 60 });
    const redraw = () => draw(canvas, bitmap, size, results, select.value, slider.value / 100);
    const legend = make("p", { className: "small" });
    const explain = () => {
      slider.parentNode.hidden = select.value === "";
      legend.textContent = {
        "": "",
        patch_map: "What each patch looks like by itself: blue photographed, orange generated. Pale says nothing.",
        gradcam: "Grad-CAM: the places that spoke for the answer (orange: for FAKE, blue: for REAL). It says where, not how much.",
      }[select.value];
      redraw();
    };
    select.append(make("option", { value: "", textContent: "the photo" }));
    if (results.some((one) => one.explain?.patch_map)) {
      select.append(make("option", { value: "patch_map", textContent: "patches" }));
    }
    if (model?.maps.includes("gradcam") && results.some((one) => one.verdict)) {
      select.append(make("option", { value: "gradcam", textContent: "Grad-CAM" }));
    }
    select.addEventListener("change", async () => {
      if (select.value === "gradcam" && !results.some((one) => one.explain?.gradcam)) {
        legend.textContent = "Grad-CAM is being computed; the first one takes a few seconds …";
        select.disabled = true;
        try {
          results = (await ask(job.file, model.maps.includes("patches") ? "patches,gradcam" : "gradcam")).results;
        } catch (error) {
          select.value = "";
          explain();
          legend.textContent = error.message;
          return;
        } finally { select.disabled = false; }
      }
      explain();
    });
    slider.addEventListener("input", redraw);
    const strength = make("label", {}, "Strength ", slider);
    if (select.options.length > 1) picture.append(make("label", {}, "Show ", select), strength, legend);
    if (!bitmap) picture.append(make("p", { className: "small", textContent: "This browser cannot show this kind of photo." }));
    explain();
  };

  const strip = (frames) => make("ol", { className: "strip", tabIndex: 0, ariaLabel: "the frames that were looked at" },
    ...frames.map((frame) => {
      const at = `${Math.floor(frame.seconds / 60)}:${(frame.seconds % 60).toFixed(1).padStart(4, "0")}`;
      const said = make("strong", { className: frame.verdict.replace(" ", ""), textContent: frame.headline });
      const text = make("span", { className: "small" }, `${at} `, said, frame.score ? ` (${frame.score})` : "");
      return make("li", {}, ...(frame.picture ? [make("img", { src: frame.picture, alt: "" })] : []), text);
    }));

  const worstFirst = (results) => [...results].sort((a, b) =>
    (ORDER.indexOf(a.verdict) - ORDER.indexOf(b.verdict)) || (b.probability ?? 0) - (a.probability ?? 0));
  // all words are the server's (discriminator/words.py)
  const face = (one, told, said) => {
    const node = make("div", { className: "face" });
    const kind = one.verdict ?? "NOFACE", several = told.results.length > 1;
    const head = make("p", {}, make("span", { className: `verdict ${kind}${several ? " below" : ""}`, textContent: one.headline }));
    node.append(head);
    if (several && one.face) head.prepend(make("span", { className: "number" }, `Face ${one.face.index}: `));
    if (!one.verdict) return node;
    if (!said.has(one.says)) node.append(make("p", { textContent: one.says }));
    said.add(one.says); // once is enough
    node.append(scale(one));
    if (one.note) node.append(make("p", { className: "small", textContent: `Note: ${one.note}.` }));
    return node;
  };
  const measured = (told) => {
    const text = told.measured.says;
    return make("details", { className: "small" }, make("summary", { textContent: `Measured: ${text}` }),
      make("ul", {}, ...told.measured.lines.map((line) => make("li", { textContent: line }))));
  };
  const scale = (one) => {
    const box = make("div", { className: "scale" });
    const art = svg("svg", { viewBox: "0 0 1000 10", preserveAspectRatio: "none", "aria-hidden": "true" });
    const part = (from, to, kind) => art.append(svg("rect", { x: 1000 * from, width: Math.max(0, 1000 * (to - from)), y: 0, height: 10, class: kind }));
    part(0, one.unsure_low, "r");
    part(one.unsure_low, one.threshold, "u");
    part(one.threshold, 1, "f");
    // where nothing was found the whole range is marked: how little was found says nothing of other generators
    if (one.probability < one.unsure_low) part(0, one.unsure_low, "low");
    else {
      const at = Math.min(0.992, Math.max(0, one.probability - 0.004));
      part(at, at + 0.008, "at");
    }
    box.append(art);
    return box;
  };

  const draw = (canvas, bitmap, size, results, map, strength) => {
    const shrink = Math.min(1, SIDE / Math.max(size.width, size.height));
    canvas.width = Math.max(1, Math.round(size.width * shrink));
    canvas.height = Math.max(1, Math.round(size.height * shrink));
    const pen = canvas.getContext("2d");
    if (bitmap) pen.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
    if (map) { // grey underneath, so that no colour of the photo can be taken for evidence
      pen.globalCompositeOperation = "saturation";
      pen.fillStyle = "#808080";
      pen.fillRect(0, 0, canvas.width, canvas.height);
      pen.globalCompositeOperation = "source-over";
    }
    const stroke = Math.max(2, Math.round(canvas.width / 250));
    for (const one of worstFirst(results).reverse()) { // FAKE on top
      const told = one.explain;
      if (map && told?.[map] && told.region) {
        const image = coloured(told[map], map === "gradcam" ? told.gradcam_towards : null);
        const [a, b, , d] = told.region.map(([x, y]) => [x * shrink, y * shrink]);
        pen.save();
        pen.globalAlpha = strength;
        pen.setTransform((b[0] - a[0]) / image.width, (b[1] - a[1]) / image.width,
          (d[0] - a[0]) / image.height, (d[1] - a[1]) / image.height, a[0], a[1]);
        pen.drawImage(image, 0, 0);
        pen.restore();
      }
      if (!one.face?.box) continue;
      const [x0, y0, x1, y1] = one.face.box.map((x) => x * shrink);
      const ink = `rgb(${COLOURS[one.verdict] ?? [255, 255, 255]})`, wide = (WIDTHS[one.verdict] ?? 1) * stroke;
      for (const [width, colour] of [[wide + 2 * stroke, "#000"], [wide, ink]]) { // seen on light and on dark
        pen.lineWidth = width;
        pen.strokeStyle = colour;
        pen.setLineDash(one.verdict === "UNSURE" && colour === ink ? [4 * stroke, 3 * stroke] : []);
        pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
      }
      pen.setLineDash([]);
      if (results.length > 1) {
        pen.font = `bold ${6 * stroke}px sans-serif`;
        pen.textBaseline = "top";
        const text = String(one.face.index), broad = pen.measureText(text).width + 3 * stroke;
        const [x, y] = [Math.max(x0, 0), Math.max(y0, 0)];
        pen.fillStyle = "#000";
        pen.fillRect(x - stroke, y - stroke, broad + 2 * stroke, 10 * stroke);
        pen.fillStyle = ink;
        pen.fillRect(x, y, broad, 8 * stroke);
        pen.fillStyle = one.verdict === "UNSURE" ? "#000" : "#fff";
        pen.fillText(text, x + 1.5 * stroke, y + stroke);
      }
    }
  };
  const coloured = (rows, towards) => {
    const canvas = make("canvas", { width: rows[0].length, height: rows.length });
    const pen = canvas.getContext("2d"), data = pen.createImageData(canvas.width, canvas.height);
    rows.flat().forEach((value, i) => {
      const colour = (towards ? towards === "FAKE" : value >= 0.5) ? FAKE : REAL;
      data.data.set([...colour, 255 * (towards ? value : Math.abs(2 * value - 1))], 4 * i);
    });
    pen.putImageData(data, 0, 0);
    return canvas;
  };

  // ---- saving --------------------------------------------------------------------------------------------------
  const save = (told, name) => keep(JSON.stringify(told, null, 2), "application/json", name);
  const keep = (content, type, name) => {
    const url = URL.createObjectURL(new Blob([content], { type }));
    const link = make("a", { href: url, download: name });
    link.click();
    setTimeout(() => URL.revokeObjectURL(url), 10000);
  };
  const report = async (button, files) => {
    const most = files.slice(0, model.limits.files);
    button.disabled = true;
    try {
      const answer = await send("report", most, model.maps.includes("patches") ? "patches" : "");
      if (!answer.ok) throw new Error((await answer.json().catch(() => ({}))).error ?? `status ${answer.status}`);
      keep(await answer.text(), "text/html", most.length === 1 ? `${most[0].name || "pasted"}.html` : "report.html");
      $("status").textContent = most.length < files.length ? `The report has the first ${most.length} of ${files.length}: ` +
        "this server takes no more at once; detect.py --report has no such limit." : counts();
    } catch (error) {
      $("status").textContent = `No report: ${error.message}`;
    } finally { button.disabled = false; }
  };
  $("report").addEventListener("click", () => report($("report"), [...photos.values()]));
  $("save").addEventListener("click", () => save([...documents.values()], "verdicts.json"));
  $("clear").addEventListener("click", () => {
    queue.length = 0;
    documents.clear();
    photos.clear();
    $("results").replaceChildren();
    next();
  });
  about().then(() => { window.ready = true; });
})();
