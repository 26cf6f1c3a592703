// Faces made by the server's generator, where it has one.
const pixels = (url) => Uint8Array.from(atob(url.split(",")[1]), (c) => c.charCodeAt(0));
const makeFaces = async () => {
  const query = new URLSearchParams({ seeds: $("seeds").value, truncation: $("truncation").value }), way = $("way").value;
  if (model.generator.classes) query.set("class_index", $("class").value);
  if (way === "mix") { query.set("mix", $("second").value); query.set("styles", $("styles").value); }
  if (way === "walk") { query.set("to", $("second").value); query.set("steps", "8"); }
  $("made-status").textContent = "Being made …";
  try {
    const { pictures } = await (await asked(`v1/faces?${query}`)).json();
    const files = pictures.map((one) => new File([pixels(one.picture)], one.name, { type: "image/png" }));
    $("made").replaceChildren(...pictures.map((one, i) => make("li", {},
      make("img", { src: one.picture, alt: `made face: ${one.caption}` }), make("span", { className: "small", textContent: one.caption }),
      button("Judge", () => add([files[i]]), { ariaLabel: `Judge ${one.caption}` }),
      button("Save", () => keep(pixels(one.picture), "image/png", one.name), { ariaLabel: `Save ${one.caption}` }))));
    $("made-status").textContent = "";
    $("judge-made").hidden = false;
    $("judge-made").onclick = () => add(files);
  } catch (error) { $("made-status").textContent = error.message; }
};
const wayChanged = () => {
  $("second-label").hidden = $("way").value === "plain";
  $("styles-label").hidden = $("way").value !== "mix";
};
$("generate").addEventListener("submit", (event) => { event.preventDefault(); makeFaces(); });
$("way").addEventListener("change", wayChanged);
wayChanged();
