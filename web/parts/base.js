// Small tools. Names of files, and all that the server says, are put on the page as text only.
const $ = (id) => document.getElementById(id);
const make = (tag, props = {}, ...children) => {
  const node = Object.assign(document.createElement(tag), props);
  node.append(...children);
  return node;
};
const button = (text, act, props = {}) => {
  const node = make("button", { type: "button", textContent: text, ...props });
  node.addEventListener("click", () => act(node));
  return node;
};
const svg = (tag, attributes, ...children) => {
  const node = document.createElementNS("http://www.w3.org/2000/svg", tag);
  for (const [name, value] of Object.entries(attributes)) node.setAttribute(name, value);
  node.append(...children);
  return node;
};
const percent = (x) => `${Number((100 * x).toPrecision(2))}\u00a0%`;
// a name may turn the direction of writing, and so show another ending than it has
const plain = (name) => (name || "pasted").replace(/[\u0000-\u001f\u007f-\u009f\u061c\u200e\u200f\u202a-\u202e\u2066-\u2069]/g,
  (c) => `\\u${c.codePointAt(0).toString(16).padStart(4, "0")}`);
// as discriminator/boxes.py and detect.py --explain draw: colours that stay apart under every colour blindness
const COLOURS = { FAKE: [213, 94, 0], UNSURE: [240, 228, 66], REAL: [0, 114, 178], EITHER: [204, 121, 167] };

const keep = (content, type, name) => {
  const url = URL.createObjectURL(new Blob([content], { type }));
  make("a", { href: url, download: name }).click();
  setTimeout(() => URL.revokeObjectURL(url), 10000);
};
const csv = (rows) => rows.map((row) => row.map((cell) => {
  const text = String(cell ?? ""), safe = /^[=+\-@\t\r]/.test(text) ? `'${text}` : text; // no formula for a spreadsheet
  return /[",\r\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
}).join(",")).join("\r\n") + "\r\n";
