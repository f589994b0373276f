// The ignore mask: areas of the frame in which defects do not count, painted with mouse or finger, or as rectangles.

import { button, choice, field, h } from "./dom.js";
import { paint } from "./frame.js";
import { framePosition, rectangleFields } from "./region.js";
import { t } from "./texts.js";

const STRIPE = 14; // pixels of the shown picture

/** A pattern of stripes, so that not only the colour shows the mask. */
function stripes(context) {
  const tile = document.createElement("canvas");
  tile.width = tile.height = STRIPE;
  const pen = tile.getContext("2d");
  pen.fillStyle = "rgb(0 90 200 / 55%)";
  pen.fillRect(0, 0, STRIPE, STRIPE);
  pen.strokeStyle = "rgb(255 255 255 / 80%)";
  pen.lineWidth = 2;
  for (const shift of [-STRIPE, 0, STRIPE]) {
    pen.moveTo(shift, STRIPE);
    pen.lineTo(shift + STRIPE, 0);
  }
  pen.stroke();
  return context.createPattern(tile, "repeat");
}

/** Draws one stroke `{points, size, erase}` or rectangle `{box, erase}` in white; the scale of `context` is that of the frame. */
function apply(context, stroke) {
  context.globalCompositeOperation = stroke.erase ? "destination-out" : "source-over";
  context.fillStyle = context.strokeStyle = "#fff";
  if (stroke.box) {
    context.fillRect(...stroke.box);
    return;
  }
  context.lineWidth = stroke.size;
  context.lineCap = context.lineJoin = "round";
  context.beginPath();
  context.moveTo(...stroke.points[0]);
  for (const point of stroke.points) context.lineTo(...point);
  context.stroke();
}

function newCanvas(width, height) {
  const canvas = document.createElement("canvas");
  canvas.width = width;
  canvas.height = height;
  return canvas;
}

/** The strokes as a PNG of the frame's size, base64: white areas are ignored, the rest is black. Null without strokes. */
function maskPng(strokes, [width, height]) {
  if (strokes.length === 0) return null;
  const layer = newCanvas(width, height);
  strokes.forEach((stroke) => apply(layer.getContext("2d"), stroke));
  const canvas = newCanvas(width, height);
  const context = canvas.getContext("2d");
  context.fillRect(0, 0, width, height);
  context.drawImage(layer, 0, 0);
  return canvas.toDataURL("image/png").split(",")[1];
}

/** The painter. Returns `{element, png()}`. */
export function maskPainter({ bitmap, frame }) {
  const strokes = [];
  const canvas = h("canvas", { class: "draw", role: "img", "aria-label": t("mask.canvas") });
  const size = h("input", { type: "range", min: 2, max: 40, value: 10 });
  const erase = choice(t("mask.erase"), { type: "checkbox" });
  const layer = newCanvas(bitmap.width, bitmap.height);
  let stroke = null;
  const show = () => {
    const scale = bitmap.width / frame[0];
    const pen = layer.getContext("2d");
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.clearRect(0, 0, layer.width, layer.height);
    pen.setTransform(scale, 0, 0, scale, 0, 0);
    strokes.forEach((one) => apply(pen, one));
    pen.setTransform(1, 0, 0, 1, 0, 0);
    pen.globalCompositeOperation = "source-in";
    pen.fillStyle = stripes(pen);
    pen.fillRect(0, 0, layer.width, layer.height);
    paint(canvas, bitmap);
    canvas.getContext("2d").drawImage(layer, 0, 0);
  };
  const isErasing = () => erase.querySelector("input").checked;
  canvas.addEventListener("pointerdown", (event) => {
    const point = framePosition(canvas, event, frame);
    stroke = { points: [point], size: (frame[0] * Number(size.value)) / 200, erase: isErasing() };
    strokes.push(stroke);
    canvas.setPointerCapture(event.pointerId);
    event.preventDefault();
    show();
  });
  canvas.addEventListener("pointermove", (event) => {
    if (stroke === null) return;
    stroke.points.push(framePosition(canvas, event, frame));
    requestAnimationFrame(show);
  });
  for (const end of ["pointerup", "pointercancel"]) canvas.addEventListener(end, () => (stroke = null));
  const fields = rectangleFields(frame, () => {});
  const add = button(t("mask.add"), () => {
    const box = fields.read();
    if (box === null) return;
    strokes.push({ box, erase: isErasing() });
    show();
  });
  const undo = button(t("mask.undo"), () => {
    strokes.pop();
    show();
  });
  const clear = button(t("mask.clear"), () => {
    strokes.length = 0;
    show();
  });
  show();
  return {
    element: h(
      "div",
      {},
      canvas,
      h("div", { class: "row" }, field(t("mask.brush"), size), erase, undo, clear),
      h("p", {}, t("mask.numbers")),
      fields.element,
      h("div", { class: "row" }, add),
    ),
    png: () => maskPng(strokes, frame),
  };
}
