// Asks the server how it is while the page is looked at, and shows it.

import * as api from "./api.js";
import { draw, rates, ratios } from "./chart.js";
import * as copies from "./copies.js";
import * as titles from "./titles.js";
import * as warming from "./warming.js";
import { bytes, count, duration, percent, rate } from "./units.js";

const STATUS = 1000;  // ms between two looks
const SESSIONS = 500;
const JOBS = 2000;
const KEPT = 600;  // samples: ten minutes
const YOUNG = 60;  // s that the charts show at least

const find = (id) => document.getElementById(id);
const samples = [];

function sampleOf(status) {
  const { requests, bytes: sent, bytes_from_source: source } = status.totals;
  const sum = (some) => Object.values(some).reduce((total, each) => total + each, 0);
  return { time: Date.now() / 1000, bytes_out: sum(sent), requests: sum(requests),
    hits: (requests.hit ?? 0) + (requests.stale ?? 0), source_bytes: source };
}

async function status() {
  const now = await api.get("api/status");
  samples.push(sampleOf(now));
  samples.splice(0, Math.max(0, samples.length - KEPT));
  const { cache, source, workers } = now;
  find("where").textContent =
    `${source.path} on ${now.url}, version ${now.version}, up for ${duration(now.uptime)}`;
  document.title = `streamcache: ${now.url}`;
  const words = [now.draining ? "Draining" : "Serving"];
  if (!source.answers) words.push("– the source does not answer; what is cached is served on");
  if (!cache.disk.normal) {
    const { failing, reason } = cache.disk;
    const where = failing.length < workers.filter(({ pid }) => pid).length ? ` in ${failing.join(", ")}` : "";
    words.push(`– the cache disk is degraded${where}${reason && ` (${reason})`}; files come straight from the source`);
  }
  tell(find("state"), words.join(" "));

  const out = rates(samples, "bytes_out");
  const from = rates(samples, "source_bytes");
  const hits = ratios(samples);
  find("out").textContent = rate(out.at(-1)?.[1] ?? 0);
  find("in").textContent = rate(from.at(-1)?.[1] ?? 0);
  find("ratio").textContent = hits.length ? percent(hits.at(-1)[1]) : "–";
  find("requests").textContent = `${count(Math.round(rates(samples, "requests").at(-1)?.[1] ?? 0))}/s`;
  find("connections").textContent = count(now.totals.connections);
  find("objects").textContent = count(cache.objects);
  usage(cache);

  const end = samples.at(-1).time;
  const span = Math.min(KEPT, Math.max(YOUNG, end - samples[0].time));
  for (const begin of document.querySelectorAll(".begin")) begin.textContent = `${duration(span)} ago`;
  const top = Math.max(1, ...out.map(([, value]) => value), ...from.map(([, value]) => value));
  draw(find("throughput"), end, span, { out, in: from }, top);
  draw(find("hits"), end, span, { ratio: hits }, 1);
  find("throughput-top").textContent = `top: ${rate(top)}`;
  find("throughput").setAttribute("aria-label",
    `Throughput of the last ${duration(span)}: now ${find("out").textContent} to clients and ` +
    `${find("in").textContent} from the source, at most ${rate(top)}`);
  find("hits").setAttribute("aria-label", `Hit ratio of the last ${duration(span)}: now ${find("ratio").textContent}`);

  find("workers").replaceChildren(...workers.map((worker) => {
    const line = document.createElement("tr");
    for (const text of [worker.name, worker.state, worker.pid ?? "–", worker.connections ?? "–",
      worker.hub_lag === undefined ? "–" : duration(worker.hub_lag)]) {
      line.appendChild(document.createElement("td")).textContent = text;
    }
    return line;
  }));
}

// A live region speaks when it is written to, so that must have a reason.
function tell(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function usage({ usage: used, reserved, limit, low_watermark: low, high_watermark: high, objects }) {
  const [figure, share] = [find("usage"), (part) => `${limit ? Math.min(100, (100 * part) / limit) : 0}%`];
  figure.querySelector(".used").style.width = share(used - reserved);
  figure.querySelector(".reserved").style.left = share(used - reserved);
  figure.querySelector(".reserved").style.width = share(reserved);
  figure.querySelector(".low").style.left = share(low * limit);
  figure.querySelector(".high").style.left = share(high * limit);
  find("usage-text").textContent =
    `${bytes(used)} of ${bytes(limit)} in ${count(objects)} files, ${bytes(reserved)} of it promised to copies; ` +
    `eviction starts at ${percent(high)} and stops at ${percent(low)}`;
}

async function sessions() {
  const answer = await api.get("api/sessions");
  copies.show(find("copies"), find("no-copies"), answer.sessions);
  const silent = answer.unanswered.join(", ");
  tell(find("unanswered"), silent && `Copies of ${silent} are not shown: no answer in time.`);
}

async function jobs() {
  warming.show((await api.get("api/warm")).jobs);
}

// Runs `look` again and again while somebody looks; one at a time, and slower while it fails.
async function watch(look, pause) {
  for (;;) {
    let failed = false;
    if (!document.hidden) {
      try {
        await look();
        if (look === status) find("problem").hidden = true;
      } catch (error) {
        if (!(error instanceof api.Refused)) throw error;
        failed = true;
        find("problem").textContent = error.message;
        find("problem").hidden = false;
      }
    }
    await new Promise((resolve) => { setTimeout(resolve, failed ? 4 * pause : pause); });
  }
}

find("find").addEventListener("submit", titles.guarded(() => titles.list()));
find("sort").addEventListener("change", titles.guarded(() => titles.list()));
find("more").addEventListener("click", titles.guarded(() => titles.list(true)));
find("warm").addEventListener("click", titles.guarded(warming.begin));
find("purge-shown").addEventListener("click", titles.guarded(
  () => titles.purge(titles.chosen(find("pattern").value.trim()))));

try {
  samples.push(...(await api.get("api/history")).samples);
} catch (error) {
  if (!(error instanceof api.Refused)) throw error;
}
watch(status, STATUS);
watch(sessions, SESSIONS);
watch(jobs, JOBS);
titles.guarded(() => titles.list())();
