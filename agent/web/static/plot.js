// The score over time, with uPlot.

import { clock, scoreText } from "./format.js";
import { PLOT_S } from "./state.js";
import { t } from "./texts.js";

const EVERY_MS = 500; // between two drawings
const HEIGHT = 230; // CSS pixels

function colour(name) {
  return getComputedStyle(document.documentElement).getPropertyValue(name).trim();
}

/** A cross for each reject, so that not only the colour tells it. */
function drawCrosses(plot, series) {
  const { ctx, data } = plot;
  const size = 4 * devicePixelRatio;
  ctx.save();
  ctx.strokeStyle = colour("--reject-line");
  ctx.lineWidth = 2 * devicePixelRatio;
  ctx.beginPath();
  data[series].forEach((score, place) => {
    if (score === null) return;
    const x = plot.valToPos(data[0][place], "x", true);
    const y = plot.valToPos(score, "y", true);
    ctx.moveTo(x - size, y - size);
    ctx.lineTo(x + size, y + size);
    ctx.moveTo(x - size, y + size);
    ctx.lineTo(x + size, y - size);
  });
  ctx.stroke();
  ctx.restore();
}

function options(width) {
  const axis = {
    stroke: colour("--muted"),
    grid: { stroke: colour("--line"), width: 1 },
    ticks: { stroke: colour("--line") },
    font: "13px system-ui, sans-serif",
  };
  return {
    width,
    height: HEIGHT,
    legend: { show: false },
    cursor: { show: false },
    padding: [8, 8, 0, 0],
    scales: { x: { time: true, range: (plot, first, last) => [last - PLOT_S, last] }, y: { range: [0, 1] } },
    axes: [
      { ...axis, space: 90, values: (plot, times) => times.map((time) => clock(time * 1000).slice(0, 5)) },
      {
        ...axis,
        size: 50,
        splits: () => [0, 0.25, 0.5, 0.75, 1],
        values: (plot, values) => values.map((value) => scoreText(value).slice(0, 4)),
      },
    ],
    series: [
      {},
      { stroke: colour("--score-line"), width: 2, points: { show: false } },
      { stroke: colour("--text"), width: 1.5, dash: [6, 4], points: { show: false } },
      { points: { show: false }, paths: () => null },
    ],
    hooks: { draw: [(plot) => drawCrosses(plot, 3)] },
  };
}

/** Columns of uPlot: times in seconds, scores, thresholds, scores of rejects. */
function columns(points) {
  return [
    points.map((point) => point.at),
    points.map((point) => point.score),
    points.map((point) => point.threshold),
    points.map((point) => (point.verdict === "anomalous" ? point.score : null)),
  ];
}

/** A plot in `box`. `update` draws at most twice a second. */
export class ScorePlot {
  #box;
  #plot = null;
  #points = null;
  #drawnMs = -Infinity;
  #resized;
  #dark = matchMedia("(prefers-color-scheme: dark)");
  #remake = () => this.#make();

  constructor(box) {
    this.#box = box;
    box.setAttribute("role", "img");
    this.#resized = new ResizeObserver(() =>
      this.#plot?.setSize({ width: Math.max(120, box.clientWidth), height: HEIGHT }),
    );
    this.#resized.observe(box);
    this.#dark.addEventListener("change", this.#remake);
  }

  update(points, nowMs) {
    if (points === this.#points || nowMs - this.#drawnMs < EVERY_MS) return;
    this.#points = points;
    this.#drawnMs = nowMs;
    if (this.#plot === null) this.#make();
    else this.#plot.setData(columns(points));
    const scores = points.map((point) => point.score).filter((score) => score !== null);
    const newest = points.at(-1);
    this.#box.setAttribute(
      "aria-label",
      newest === undefined
        ? t("plot.empty")
        : t("plot.summary", {
            newest: scoreText(newest.score),
            highest: scoreText(scores.length ? Math.max(...scores) : null),
            threshold: scoreText(newest.threshold),
          }),
    );
  }

  leave() {
    this.#resized.disconnect();
    this.#dark.removeEventListener("change", this.#remake);
    this.#plot?.destroy();
  }

  #make() {
    this.#plot?.destroy();
    this.#plot = new uPlot(options(Math.max(120, this.#box.clientWidth)), columns(this.#points ?? []), this.#box);
  }
}
