// Photos with their numbered faces, and maps over them.
const SIDE = 1024; // pixels of a drawn photo's longest side
const WIDTHS = { FAKE: 2, UNSURE: 1.5, REAL: 1 };

// map: null, or for each row {values [h][w], signed: from -1 for REAL to 1 for FAKE, else from 0 to 1} or null.
const draw = (canvas, bitmap, size, rows, map, strength) => {
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
    rows.forEach((row, i) => {
      if (map[i]?.values && map[i].region) layOver(pen, coloured(map[i]), map[i].region, shrink, strength);
    });
  }
  const stroke = Math.max(2, Math.round(canvas.width / 250));
  for (const row of worstFirst(rows).reverse()) if (row.face?.box) box(pen, row, shrink, stroke, rows.length > 1); // FAKE on top
};
const layOver = (pen, image, region, shrink, strength) => {
  const [a, b, , d] = region.map(([x, y]) => [x * shrink, y * shrink]);
  pen.save();
  pen.globalAlpha = strength;
  pen.setTransform((b[0] - a[0]) / image.width, (b[1] - a[1]) / image.width,
    (d[0] - a[0]) / image.height, (d[1] - a[1]) / image.height, a[0], a[1]);
  pen.drawImage(image, 0, 0);
  pen.restore();
};
const box = (pen, row, shrink, stroke, numbered) => {
  const [x0, y0, x1, y1] = row.face.box.map((x) => x * shrink);
  const ink = `rgb(${COLOURS[row.verdict] ?? [255, 255, 255]})`, wide = (WIDTHS[row.verdict] ?? 1) * stroke;
  for (const [width, colour] of [[wide + 2 * stroke, "#000"], [wide, ink]]) { // seen on light and on dark
    pen.lineWidth = width;
    pen.strokeStyle = colour;
    pen.setLineDash(row.verdict === "UNSURE" && colour === ink ? [4 * stroke, 3 * stroke] : []);
    pen.strokeRect(x0, y0, x1 - x0, y1 - y0);
  }
  pen.setLineDash([]);
  if (!numbered) return;
  pen.font = `bold ${6 * stroke}px sans-serif`;
  pen.textBaseline = "top";
  const text = String(row.face.index), broad = pen.measureText(text).width + 3 * stroke;
  const [x, y] = [Math.max(x0, 0), Math.max(y0, 0)];
  pen.fillStyle = "#000";
  pen.fillRect(x - stroke, y - stroke, broad + 2 * stroke, 10 * stroke);
  pen.fillStyle = ink;
  pen.fillRect(x, y, broad, 8 * stroke);
  pen.fillStyle = row.verdict === "UNSURE" ? "#000" : "#fff";
  pen.fillText(text, x + 1.5 * stroke, y + stroke);
};
const coloured = ({ values, signed }) => {
  const canvas = make("canvas", { width: values[0].length, height: values.length });
  const pen = canvas.getContext("2d"), data = pen.createImageData(canvas.width, canvas.height);
  values.flat().forEach((value, i) => {
    const colour = !signed ? COLOURS.EITHER : value >= 0 ? COLOURS.FAKE : COLOURS.REAL;
    data.data.set([...colour, 255 * Math.min(1, Math.abs(value))], 4 * i);
  });
  pen.putImageData(data, 0, 0);
  return canvas;
};
// The three ways in which the server tells a map, as one: of a row's `explain`, by the method's name.
const mapOf = (told, name) => {
  if (!told?.region) return null;
  if (name === "patches") {
    const rows = told.patch_map?.map((line) => line.map((x) => 2 * x - 1));
    return rows ? { values: rows, signed: true, region: told.region } : null;
  }
  if (name === "gradcam") {
    const side = told.gradcam_towards === "REAL" ? -1 : 1, rows = told.gradcam?.map((line) => line.map((x) => side * x));
    return rows ? { values: rows, signed: true, region: told.region } : null;
  }
  const one = told.maps?.[name];
  return one ? { ...one, region: told.region } : null;
};
