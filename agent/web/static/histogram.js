// The scores of good and bad parts, and the threshold as a line to drag.

import { h, s, setText } from "./dom.js";
import { histogram, scoreText, sliderStep } from "./format.js";
import { currentLanguage, t } from "./texts.js";

const BINS = 50;
const WIDTH = 1000; // of the drawing's own coordinates, as the next ones
const HEIGHT = 220;
const CROSS = 7;

function bars(scores, threshold) {
  const counts = histogram(scores, BINS);
  const most = Math.max(1, ...counts);
  const width = WIDTH / BINS;
  return counts.map((count, place) => {
    const height = (count / most) * (HEIGHT - 20);
    const isRejected = (place + 0.5) / BINS >= threshold;
    return s("rect", {
      x: place * width + 1,
      y: HEIGHT - height,
      width: width - 2,
      height,
      class: isRejected ? "good-rejected" : "good",
    });
  });
}

/** A cross for each bad part. `stretch`: how much wider than high the drawing is shown. */
function crosses(scores, stretch) {
  const half = CROSS / stretch;
  return scores.map((score) => {
    const x = score * WIDTH;
    const d = `M${x - half} ${HEIGHT - 3 - 2 * CROSS}l${2 * half} ${2 * CROSS}m0 ${-2 * CROSS}l${-2 * half} ${2 * CROSS}`;
    return s("path", { d, class: "bad" });
  });
}

/** The numbers below the drawing, and what its marks mean. */
function legend() {
  const marks = [0, 0.25, 0.5, 0.75, 1].map((mark) => h("span", {}, mark.toLocaleString(currentLanguage())));
  return [
    h("div", { class: "axis", "aria-hidden": "true" }, marks),
    h(
      "p",
      { class: "histogram-key" },
      h("span", { class: "key-good" }, t("histogram.good")),
      h("span", { class: "key-good-rejected" }, t("histogram.good_rejected")),
      h("span", { class: "key-bad" }, t("histogram.bad")),
    ),
  ];
}

/**
 * A histogram with a slider. `onMove(value)` is called while the line moves.
 * Returns `{element, set({goods, bads, value}), value}`.
 */
export function thresholdSlider({ onMove, readOnly }) {
  let goods = [];
  let bads = [];
  let value = 0.5;
  const drawing = s("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", "aria-hidden": "true" });
  const tag = h("span", { class: "tag" });
  const handle = h(
    "div",
    {
      class: "handle",
      role: "slider",
      tabindex: 0,
      "aria-label": t("threshold"),
      "aria-valuemin": 0,
      "aria-valuemax": 1,
      "aria-disabled": readOnly ? "true" : null,
    },
    tag,
  );
  const area = h("div", { class: "area" }, drawing, handle);
  const show = () => {
    drawing.replaceChildren(...bars(goods, value), ...crosses(bads, (area.clientWidth || WIDTH) / WIDTH));
    handle.style.left = `${100 * value}%`;
    handle.classList.toggle("right", value > 0.7);
    handle.setAttribute("aria-valuenow", String(value));
    handle.setAttribute("aria-valuetext", scoreText(value));
    setText(tag, scoreText(value));
  };
  const move = (next) => {
    if (readOnly || next === value) return;
    value = next;
    show();
    onMove(value);
  };
  const moveTo = (event) => {
    const { left, width } = area.getBoundingClientRect();
    move(Math.round(1000 * Math.min(1, Math.max(0, (event.clientX - left) / width))) / 1000);
  };
  area.addEventListener("pointerdown", (event) => {
    if (readOnly) return;
    area.setPointerCapture(event.pointerId);
    handle.focus();
    event.preventDefault();
    moveTo(event);
  });
  area.addEventListener("pointermove", (event) => {
    if (area.hasPointerCapture(event.pointerId)) moveTo(event);
  });
  handle.addEventListener("keydown", (event) => {
    const next = sliderStep(event.key, value);
    if (next === null) return;
    event.preventDefault();
    move(next);
  });
  const element = h("div", { class: "histogram" }, area, legend());
  return {
    element,
    get value() {
      return value;
    },
    set(next) {
      goods = next.goods ?? goods;
      bads = next.bads ?? bads;
      value = next.value ?? value;
      show();
    },
  };
}
