// The titles in the cache: found, sorted, purged, pinned.

import * as api from "./api.js";
import { bytes, count, duration, files } from "./units.js";

const PAGE = 20;
const find = (id) => document.getElementById(id);

// A pattern that has a wildcard is a glob, one that ends with "/" is a folder, else a path.
export function chosen(pattern) {
  if (/[*?[]/.test(pattern)) return { glob: pattern };
  return pattern === "" || pattern.endsWith("/") ? { prefix: pattern || "/" } : { path: pattern };
}

let next = null;

export async function list(more = false) {
  const what = chosen(find("pattern").value.trim());
  const sort = find("sort").value;
  const query = { sort, order: sort === "path" ? "asc" : "desc", limit: PAGE, after: more ? next : "" };
  // A path is shown with all that begins like it: half a name finds it too.
  if (what.path !== undefined) query.prefix = what.path;
  else Object.assign(query, what);
  const found = await api.get("api/entries", query);
  next = found.next;
  const rows = found.entries.map(row);
  if (more) find("titles").append(...rows);
  else find("titles").replaceChildren(...rows);
  find("titles-count").textContent = `${count(find("titles").rows.length)} of ${files(found.count)}`;
  find("more").hidden = next === null;
}

function row(entry) {
  const line = document.createElement("tr");
  const ago = Math.max(0, Date.now() / 1000 - entry.used);
  for (const text of [entry.path, bytes(entry.size), count(entry.hits), `${duration(ago)} ago`]) {
    line.appendChild(document.createElement("td")).textContent = text;
  }
  line.cells[0].className = "path";
  const actions = line.appendChild(document.createElement("td"));
  const pin = button("Pin", `Pin ${entry.path}: it is not evicted`, async () => {
    const pinned = pin.getAttribute("aria-pressed") !== "true";
    await api.post(pinned ? "api/pin" : "api/unpin", { path: entry.path });
    pin.setAttribute("aria-pressed", String(pinned));
    say(`${entry.path} is ${pinned ? "pinned" : "no longer pinned"}.`);
  });
  pin.setAttribute("aria-pressed", String(entry.pinned));
  actions.append(pin, button("Purge…", `Purge ${entry.path}`, () => purge({ path: entry.path })));
  return line;
}

function button(text, label, act) {
  const made = document.createElement("button");
  made.type = "button";
  made.textContent = text;
  made.setAttribute("aria-label", label);
  made.addEventListener("click", guarded(act));
  return made;
}

// Errors of an action are told, never lost.
export const guarded = (act) => async (event) => {
  event?.preventDefault();
  try {
    await act(event);
  } catch (error) {
    if (!(error instanceof api.Refused)) throw error;
    say(error.message);
  }
};

export const say = (text) => { find("done").textContent = text; };

// What the user chose in a dialog: the value of the button, "cancel" for Escape.
export function asked(dialog) {
  dialog.returnValue = "cancel";
  dialog.showModal();
  return new Promise((resolve) => {
    dialog.addEventListener("close", () => resolve(dialog.returnValue), { once: true });
  });
}

export async function purge(what) {
  const [name] = Object.values(what);
  const would = await api.post("api/purge", { ...what, mode: "hard", dry_run: true });
  if (!would.matched) return say(`Nothing in the cache is called ${name}.`);
  const dialog = find("purge-dialog");
  find("purge-what").textContent =
    `${name}: ${files(would.matched)}, ${bytes(would.bytes)} on the disk. Nothing at the source is touched.`;
  if (await asked(dialog) !== "purge") return undefined;
  const mode = new FormData(dialog.querySelector("form")).get("mode");
  const done = await api.post("api/purge", { ...what, mode, dry_run: false });
  await list();
  return say(mode === "hard"
    ? `${files(done.removed)} removed, ${bytes(done.bytes)}.`
    : `The source is asked again about ${files(done.matched)} before the next use.`);
}
