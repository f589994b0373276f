// The region that is inspected: drawn on a frame with mouse or finger, or given by numbers.

import { button, field, h } from "./dom.js";
import { rectangle } from "./format.js";
import { paint } from "./frame.js";
import { t } from "./texts.js";

const GRAB = 22; // CSS pixels around a corner: a finger's width
const NAMES = ["region.x", "region.y", "region.width", "region.height"];

/** Position of a pointer in pixels of the frame. */
export function framePosition(canvas, event, [width, height]) {
  const box = canvas.getBoundingClientRect();
  return [((event.clientX - box.left) / box.width) * width, ((event.clientY - box.top) / box.height) * height];
}

/** Four number fields of a rectangle. `onInput` gets `[x, y, width, height]`, or null while they are no rectangle. */
export function rectangleFields([width, height], onInput) {
  const limits = [width - 8, height - 8, width, height];
  const inputs = NAMES.map((name, place) =>
    h("input", {
      type: "number",
      min: place < 2 ? 0 : 8,
      max: limits[place],
      inputmode: "numeric",
      oninput: () => onInput(read()),
    }),
  );
  const read = () => {
    if (inputs.some((input) => input.value === "")) return null;
    const [x, y, wide, high] = inputs.map((input) => Number(input.value));
    return rectangle([x, y], [x + wide, y + high], [width, height]);
  };
  return {
    element: h(
      "div",
      { class: "numbers" },
      inputs.map((input, place) => field(t(NAMES[place]), input)),
    ),
    read,
    write(region) {
      inputs.forEach((input, place) => (input.value = region === null ? "" : String(region[place])));
    },
  };
}

/** What a press at `point` begins: a corner to move, the whole region, or a new one. */
function grip(point, region, reach) {
  if (region === null) return { kind: "new", from: point };
  const [x, y, width, height] = region;
  for (const [cx, cy, ox, oy] of [
    [x, y, x + width, y + height],
    [x + width, y, x, y + height],
    [x, y + height, x + width, y],
    [x + width, y + height, x, y],
  ]) {
    if (Math.hypot(point[0] - cx, point[1] - cy) <= reach) return { kind: "new", from: [ox, oy] };
  }
  const isInside = point[0] > x && point[0] < x + width && point[1] > y && point[1] < y + height;
  return isInside ? { kind: "move", from: point, region } : { kind: "new", from: point };
}

function moved({ from, region }, point, [width, height]) {
  const x = Math.min(width - region[2], Math.max(0, region[0] + point[0] - from[0]));
  const y = Math.min(height - region[3], Math.max(0, region[1] + point[1] - from[1]));
  return [Math.round(x), Math.round(y), region[2], region[3]];
}

function draw(canvas, bitmap, region, frame) {
  paint(canvas, bitmap);
  if (region === null) return;
  const context = canvas.getContext("2d");
  const scale = canvas.width / frame[0];
  const [x, y, width, height] = region.map((value) => value * scale);
  context.fillStyle = "rgb(0 0 0 / 55%)";
  context.beginPath();
  context.rect(0, 0, canvas.width, canvas.height);
  context.rect(x, y, width, height);
  context.fill("evenodd");
  for (const [colour, line] of [
    ["#000", 5],
    ["#fff", 2.5],
  ]) {
    context.strokeStyle = colour;
    context.lineWidth = line;
    context.strokeRect(x, y, width, height);
  }
  context.fillStyle = "#fff";
  for (const cx of [x, x + width]) {
    for (const cy of [y, y + height]) context.fillRect(cx - 6, cy - 6, 12, 12);
  }
}

/** The editor. `region`: the present one, or null for the whole frame. Returns `{element, value()}`. */
export function regionEditor({ bitmap, frame, region }) {
  let present = region;
  let held = null;
  const canvas = h("canvas", { class: "draw", role: "img", "aria-label": t("region.canvas") });
  const fields = rectangleFields(frame, (next) => {
    present = next;
    draw(canvas, bitmap, present, frame);
  });
  const show = () => {
    draw(canvas, bitmap, present, frame);
    fields.write(present);
  };
  canvas.addEventListener("pointerdown", (event) => {
    const reach = (GRAB * frame[0]) / canvas.getBoundingClientRect().width;
    held = grip(framePosition(canvas, event, frame), present, reach);
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (held === null) return;
    const point = framePosition(canvas, event, frame);
    present = held.kind === "move" ? moved(held, point, frame) : (rectangle(held.from, point, frame) ?? present);
    show();
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (held = null));
  const whole = button(t("region.whole"), () => {
    present = null;
    show();
  });
  show();
  return { element: h("div", {}, canvas, h("div", { class: "row" }, whole), fields.element), value: () => present };
}
