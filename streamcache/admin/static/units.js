// Numbers as people read them.

const PREFIXES = ["", "k", "M", "G", "T", "P"];

export function bytes(count) {
  let power = 0;
  while (count >= 999.5 && power < PREFIXES.length - 1) {
    count /= 1000;
    power += 1;
  }
  const digits = power === 0 || count >= 99.95 ? 0 : count >= 9.995 ? 1 : 2;
  return `${count.toFixed(digits)} ${PREFIXES[power]}B`;
}

export const rate = (perSecond) => `${bytes(perSecond)}/s`;

export const percent = (share) => `${(100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0)} %`;

export function duration(seconds) {
  if (seconds < 1) return `${Math.round(seconds * 1000)} ms`;
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60]]) {
    if (seconds >= length) return `${Math.floor(seconds / length)} ${unit}`;
  }
  return `${Math.floor(seconds)} s`;
}

export const count = (number) => number.toLocaleString("en");

export const files = (number) => `${count(number)} ${number === 1 ? "file" : "files"}`;
