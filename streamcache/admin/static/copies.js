// The live picture of every copy: its blocks as a bar, and its readers on it.

import { bytes, percent, rate } from "./units.js";

const NAMESPACE = "http://www.w3.org/2000/svg";
const FRESH = 2000;  // ms for which a block counts as just arrived

const shown = new Map();  // path and version -> {item, seen: [[when, blocks], ...]}

// Workers that copy the same version share its blocks: one bar, with the readers of all.
export function together(sessions) {
  const found = new Map();
  for (const session of sessions) {
    const key = `${session.path} ${session.version}`;
    const other = found.get(key);
    if (other === undefined) {
      found.set(key, { ...session, key, readers: [...session.readers] });
      continue;
    }
    other.readers.push(...session.readers);
    other.rate += session.rate;
    // Each worker learns of the others' blocks when it needs them.
    if (session.block === other.block) {
      other.blocks = combined(session.blocks, other.blocks, (one, another) => one || another);
      other.present = Math.max(other.present, session.present, bytesOf(other));
    }
  }
  return [...found.values()];
}

export function show(list, empty, sessions) {
  const copies = together(sessions);
  empty.hidden = copies.length > 0;
  const keys = new Set(copies.map((copy) => copy.key));
  for (const [key, { item }] of shown) {
    if (!keys.has(key)) {
      item.remove();
      shown.delete(key);
    }
  }
  for (const copy of copies) {
    if (!shown.has(copy.key)) {
      shown.set(copy.key, { item: list.appendChild(made()), seen: [] });
    }
    update(shown.get(copy.key), copy);
  }
}

function made() {
  const item = document.createElement("li");
  const line = item.appendChild(document.createElement("p"));
  line.className = "line";
  for (const name of ["path", "detail"]) {
    line.appendChild(document.createElement("span")).className = name;
  }
  const blocks = item.appendChild(document.createElement("div"));
  blocks.className = "blocks";
  const svg = blocks.appendChild(document.createElementNS(NAMESPACE, "svg"));
  svg.setAttribute("role", "img");
  svg.setAttribute("preserveAspectRatio", "none");
  for (const name of ["present", "fresh"]) {
    svg.appendChild(document.createElementNS(NAMESPACE, "path")).setAttribute("class", name);
  }
  return item;
}

function update(entry, copy) {
  const { item, seen } = entry;
  const share = copy.size ? copy.present / copy.size : 1;
  const waiting = copy.readers.filter((reader) => reader.waits).length;
  const readers = `${copy.readers.length} ${copy.readers.length === 1 ? "reader" : "readers"}`;
  item.querySelector(".path").textContent = copy.path;
  item.querySelector(".detail").textContent =
    `${percent(share)} of ${bytes(copy.size)}, ${rate(copy.rate)}, ${readers}` +
    (waiting ? `, ${waiting} waiting` : "") + (copy.state === "copying" ? "" : `, ${copy.state}`);

  const count = copy.blocks.reduce((sum, [, length]) => sum + length, 0);
  const svg = item.querySelector("svg");
  svg.setAttribute("viewBox", `0 0 ${Math.max(1, count)} 1`);
  const now = performance.now();
  seen.push([now, copy.blocks]);
  while (seen.length > 1 && now - seen[1][0] > FRESH) seen.shift();
  svg.querySelector(".present").setAttribute("d", area(copy.blocks));
  svg.querySelector(".fresh").setAttribute("d", area(combined(copy.blocks, seen[0][1], (is, was) => is && !was)));
  const pieces = copy.blocks.filter(([present]) => present).length;
  svg.setAttribute("aria-label",
    `${copy.path}: ${percent(share)} present, in ${pieces} ${pieces === 1 ? "piece" : "pieces"}; ` +
    (copy.readers.length ? `readers at ${copy.readers.map((r) => at(r, copy)).join(", ")}` : "no reader"));

  const box = item.querySelector(".blocks");
  const marks = box.querySelectorAll("i");
  copy.readers.forEach((reader, index) => {
    const mark = marks[index] ?? box.appendChild(document.createElement("i"));
    mark.className = reader.waits ? "waits" : "";
    mark.title = `${reader.client} at ${bytes(reader.offset)}${reader.waits ? ", waiting" : ""}`;
    mark.style.left = `${copy.size ? (100 * reader.offset) / copy.size : 0}%`;
  });
  [...marks].slice(copy.readers.length).forEach((mark) => mark.remove());
}

const at = (reader, copy) =>
  percent(copy.size ? reader.offset / copy.size : 0) + (reader.waits ? " (waiting)" : "");

// The runs of present blocks as an SVG path, one unit a block.
function area(runs) {
  let [path, start] = ["", 0];
  for (const [present, length] of runs) {
    if (present) path += `M${start} 0h${length}v1h${-length}z`;
    start += length;
  }
  return path;
}

// Runs of what `choose(is it present in a, is it present in b)` says of each block.
export function combined(a, b, choose) {
  const edges = new Set([0]);
  for (const runs of [a, b]) {
    let end = 0;
    for (const [, length] of runs) edges.add(end += length);
  }
  const sorted = [...edges].sort((one, another) => one - another);
  const [inA, inB] = [cursor(a), cursor(b)];
  const found = [];
  for (let index = 1; index < sorted.length; index += 1) {
    const start = sorted[index - 1];
    const [present, length] = [choose(inA(start), inB(start)) ? 1 : 0, sorted[index] - start];
    if (found.length && found.at(-1)[0] === present) found.at(-1)[1] += length;
    else found.push([present, length]);
  }
  return found;
}

function bytesOf({ blocks, block, size }) {
  const present = blocks.reduce((sum, [there, length]) => sum + there * length, 0);
  return Math.min(size, present * block);
}

// Whether the block is present; asked for in rising order.
function cursor(runs) {
  let [index, end] = [0, runs.length ? runs[0][1] : 0];
  return (block) => {
    while (index < runs.length && block >= end) {
      index += 1;
      end += index < runs.length ? runs[index][1] : 0;
    }
    return index < runs.length && runs[index][0] === 1;
  };
}
