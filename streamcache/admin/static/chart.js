// What happened over the last ten minutes, from counts that only grow.

const WIDTH = 600;
const HEIGHT = 120;
const NAMESPACE = "http://www.w3.org/2000/svg";

// [seconds before the end, change per second] of a count; after a restart it begins anew.
export function rates(samples, name) {
  const found = [];
  for (let index = 1; index < samples.length; index += 1) {
    const [before, now] = [samples[index - 1], samples[index]];
    const seconds = now.time - before.time;
    if (seconds > 0 && now[name] >= before[name]) {
      found.push([now.time, (now[name] - before[name]) / seconds]);
    }
  }
  return found;
}

// [time, share] of hits among the requests of `span` samples.
export function ratios(samples, span = 10) {
  const found = [];
  for (let index = span; index < samples.length; index += 1) {
    const [before, now] = [samples[index - span], samples[index]];
    const requests = now.requests - before.requests;
    if (requests > 0) found.push([now.time, (now.hits - before.hits) / requests]);
  }
  return found;
}

// Lines into an SVG, the last `span` seconds; `lines` is {class: [[time, value], ...]}. A gap of over
// 15 s is one.
export function draw(svg, end, span, lines, top) {
  for (const [name, points] of Object.entries(lines)) {
    let path = svg.querySelector(`path.${name}`);
    if (path === null) {
      path = svg.appendChild(document.createElementNS(NAMESPACE, "path"));
      path.setAttribute("class", name);
    }
    let [drawn, last] = ["", -Infinity];
    for (const [time, value] of points) {
      const x = WIDTH * (1 - (end - time) / span);
      if (x < 0) continue;
      const y = HEIGHT - 2 - (HEIGHT - 6) * Math.min(1, top > 0 ? value / top : 0);
      drawn += `${time - last > 15 ? "M" : "L"}${x.toFixed(1)} ${y.toFixed(1)}`;
      last = time;
    }
    path.setAttribute("d", drawn);
  }
}
