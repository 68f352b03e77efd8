// Jobs that bring files into the cache before anybody asks.

import * as api from "./api.js";
import { asked, chosen, guarded, say } from "./titles.js";
import { bytes, count, duration, percent, rate } from "./units.js";

const find = (id) => document.getElementById(id);

export async function begin() {
  find("warm-pattern").value = find("pattern").value;
  if (await asked(find("warm-dialog")) !== "warm") return;
  const { path, ...some } = chosen(find("warm-pattern").value.trim());
  const what = path === undefined ? some : { paths: [path] };
  const limit = Number(find("warm-bandwidth").value);
  await api.post("api/warm", limit ? { ...what, max_bandwidth: limit * 1e6 } : what);
  say("Warming has begun.");
}

export function show(jobs) {
  find("jobs-section").hidden = jobs.length === 0;
  const items = new Map([...find("jobs").children].map((item) => [item.dataset.id, item]));
  for (const job of jobs) {
    const item = items.get(job.id) ?? find("jobs").appendChild(made(job));
    items.delete(job.id);
    update(item, job);
  }
  for (const item of items.values()) item.remove();
}

function made(job) {
  const item = document.createElement("li");
  item.dataset.id = job.id;
  const line = item.appendChild(document.createElement("p"));
  line.className = "line";
  for (const name of ["path", "detail"]) {
    line.appendChild(document.createElement("span")).className = name;
  }
  item.querySelector(".path").textContent = job.what;
  const bar = item.appendChild(document.createElement("progress"));
  bar.setAttribute("aria-label", `Warming ${job.what}`);
  const cancel = item.appendChild(document.createElement("button"));
  cancel.type = "button";
  cancel.textContent = "Cancel";
  cancel.setAttribute("aria-label", `Cancel warming ${job.what}`);
  cancel.addEventListener("click", guarded(() => api.remove(`api/warm/${job.id}`)));
  return item;
}

function update(item, job) {
  const running = job.ended === null;
  const doing = job.waiting ? `waiting: ${job.waiting}` : rate(job.rate);
  const share = job.bytes ? job.bytes_done / job.bytes : 1;
  item.querySelector(".detail").textContent =
    `${count(job.files_done)} of ${count(job.files)}${job.walked ? "" : " or more"} files, ` +
    `${bytes(job.bytes_done)}, ` + (running ? doing : job.state) + (job.dry_run ? ", dry run" : "") +
    (running && job.remaining !== null ? `, ${duration(job.remaining)} left` : "") +
    (job.failures ? `, ${count(job.failures)} failed` : "");
  const bar = item.querySelector("progress");
  bar.value = share;
  bar.textContent = percent(share);
  item.querySelector("button").hidden = !running;
}
