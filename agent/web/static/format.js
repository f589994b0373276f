// Numbers, times and promises as text. Pure: the language comes from `texts.js`, nothing is read from the page.

import { currentLanguage, t } from "./texts.js";

export const VERDICTS = {
  ok: { sign: "tick", text: "verdict.ok" },
  anomalous: { sign: "cross", text: "verdict.anomalous" },
  unknown: { sign: "question", text: "verdict.unknown" },
  paused: { sign: "pause", text: "verdict.paused" },
};

/** A score or threshold in [0, 1], with three digits: 0.498 must not look like the threshold 0.5. */
export function scoreText(score) {
  if (score === null || score === undefined) return "–";
  const format = new Intl.NumberFormat(currentLanguage(), { minimumFractionDigits: 3, maximumFractionDigits: 3 });
  return format.format(score);
}

/** A share as percent; one digit below 10 %, and never "0 %" or "100 %" for a share between them. */
export function percent(share) {
  if (share === null || share === undefined) return "–";
  const exact = share === 0 || share === 1;
  const digits = exact || (share >= 0.1 && share < 0.995) ? 0 : 1;
  const shown = exact ? share : Math.min(0.999, Math.max(0.001, share));
  const format = new Intl.NumberFormat(currentLanguage(), {
    style: "percent",
    minimumFractionDigits: digits,
    maximumFractionDigits: digits,
  });
  return format.format(shown);
}

function inZone(time, options) {
  return new Intl.DateTimeFormat(currentLanguage(), { hourCycle: "h23", ...options }).format(new Date(time));
}

export const clock = (time) => inZone(time, { hour: "2-digit", minute: "2-digit", second: "2-digit" });
export const dayAndClock = (time) =>
  inZone(time, {
    year: "numeric",
    month: "2-digit",
    day: "2-digit",
    hour: "2-digit",
    minute: "2-digit",
    second: "2-digit",
  });
export const dayAndMinute = (time) =>
  inZone(time, { month: "short", day: "numeric", hour: "2-digit", minute: "2-digit" });

/** How long ago, in the largest fitting unit. */
export function ago(seconds) {
  if (seconds < 2) return t("ago.now");
  const [unit, size] = seconds < 90 ? ["second", 1] : seconds < 5400 ? ["minute", 60] : ["hour", 3600];
  return new Intl.RelativeTimeFormat(currentLanguage(), { numeric: "always" }).format(
    -Math.round(seconds / size),
    unit,
  );
}

/** What a threshold promises about good parts. `promise`: `{rate, rate_90, goods, rejected}` or null. */
export function promiseText(promise) {
  if (promise === null) return t("promise.none");
  return t("promise.text", {
    rate: percent(promise.rate),
    bound: percent(promise.rate_90),
    goods: promise.goods,
    rejected: promise.rejected,
  });
}

/** How many bad parts are found. `recall`: `{found, total, low, high}` or null. */
export function recallText(recall) {
  if (recall === null) return t("recall.none");
  return t("recall.text", {
    found: recall.found,
    total: recall.total,
    low: percent(recall.low),
    high: percent(recall.high),
  });
}

/** What names a part for a person: its file, its trigger, or the end of its id. */
export function partName(result) {
  return result.source_name ?? result.trigger_id ?? `#${result.seq}`;
}

/** Counts in `bins` equal bins of [0, 1]. */
export function histogram(scores, bins) {
  const counts = new Array(bins).fill(0);
  for (const score of scores) counts[Math.min(bins - 1, Math.max(0, Math.floor(score * bins)))] += 1;
  return counts;
}

/** The value of a slider after a key; null for a key that does not belong to it. */
export function sliderStep(key, value) {
  const steps = {
    ArrowRight: 0.005,
    ArrowUp: 0.005,
    ArrowLeft: -0.005,
    ArrowDown: -0.005,
    PageUp: 0.05,
    PageDown: -0.05,
  };
  const ends = { Home: 0, End: 1 };
  if (!(key in steps) && !(key in ends)) return null;
  const next = key in ends ? ends[key] : value + steps[key];
  return Math.round(Math.min(1, Math.max(0, next)) * 1000) / 1000;
}

/** A rectangle inside a frame, whole pixels, from two opposite corners; null if it is smaller than `least` pixels. */
export function rectangle([x1, y1], [x2, y2], [width, height], least = 8) {
  const clamp = (value, limit) => Math.round(Math.min(limit, Math.max(0, value)));
  const left = clamp(Math.min(x1, x2), width);
  const top = clamp(Math.min(y1, y2), height);
  const wide = clamp(Math.max(x1, x2), width) - left;
  const high = clamp(Math.max(y1, y2), height) - top;
  return wide < least || high < least ? null : [left, top, wide, high];
}

/** The start of the day, or of the present hour, in this browser's zone, as the API wants it. */
export function startOf(what, now) {
  const start = new Date(now);
  if (what === "day") start.setHours(0, 0, 0, 0);
  else start.setMinutes(0, 0, 0);
  return start.toISOString();
}
