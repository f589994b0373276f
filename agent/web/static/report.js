// The report of an hour, day or shift: yield, rejects, what people said, and where defects were.

import * as api from "./api.js";
import { answerPlace, attempt, button, card, choiceOf, field, h, s, setText } from "./dom.js";
import { dayAndMinute, percent, scoreText } from "./format.js";
import { t } from "./texts.js";

const COLUMNS = [
  "report.start",
  "camera",
  "verdict.ok",
  "verdict.anomalous",
  "verdict.unknown",
  "yield",
  "report.overrides",
  "report.scores",
];

function row(entry, first) {
  const cells = [
    entry.camera ?? "",
    entry.ok,
    entry.anomalous,
    entry.unknown,
    percent(entry.yield),
    entry.overrides,
    `${scoreText(entry.score_p50)} / ${scoreText(entry.score_p95)}`,
  ].map((value) =>
    h("td", {}, typeof value === "number" ? value.toLocaleString(document.documentElement.lang) : value),
  );
  return h("tr", {}, h("th", { scope: "row" }, first), cells);
}

/** A map of the frame: the darker and the larger the mark, the more defects. */
function regionMap(regions, frame) {
  const [width, height] = frame;
  const most = Math.max(...regions.map(({ count }) => count));
  const cells = regions.flatMap(({ bbox_xywh: [x, y, wide, high], count }) => {
    const share = Math.sqrt(count / most);
    const mark = {
      x: x + (wide * (1 - share)) / 2,
      y: y + (high * (1 - share)) / 2,
      width: wide * share,
      height: high * share,
    };
    const text = s("text", { x: x + wide / 2, y: y + high / 2, "font-size": height / 22 });
    text.textContent = String(count);
    return [s("rect", { ...mark, class: "place" }), text];
  });
  return s(
    "svg",
    { viewBox: `0 0 ${width} ${height}`, class: "region-map", role: "img", "aria-label": t("report.map") },
    s("rect", { width, height, class: "frame" }),
    ...cells,
  );
}

function regionsPart(app, regions) {
  const cameras = [...new Set(regions.map(({ camera }) => camera))];
  return cameras.map((camera) => {
    const own = regions.filter((region) => region.camera === camera);
    const known = app.state.cameras?.find(({ name }) => name === camera)?.frame_wh;
    const frame =
      known ?? [0, 1].map((axis) => Math.max(...own.map(({ bbox_xywh: box }) => box[axis] + box[axis + 2])));
    return h("figure", {}, regionMap(own, frame), h("figcaption", {}, t("report.map_of", { camera })));
  });
}

/** The report over the time of the filters. `read` fills it. */
export function reportPart(app, filters) {
  const place = answerPlace();
  const rows = h("tbody");
  const period = h("p");
  const regions = h("div", { class: "maps" });
  const by = choiceOf(
    [
      ["hour", t("report.hour")],
      ["shift", t("report.shift")],
      ["day", t("report.day")],
    ],
    "shift",
  );
  let asked = 0;
  const read = () =>
    attempt(place, async () => {
      const { from, to, camera } = filters();
      const mine = (asked += 1);
      const found = await api.reports({ from, to, camera, by: by.value });
      if (mine !== asked) return ""; // a newer question is asked
      const start = from ?? found.rows[0]?.start;
      setText(
        period,
        start ? t("report.period", { from: dayAndMinute(start), to: dayAndMinute(to ?? Date.now()) }) : "",
      );
      rows.replaceChildren(
        ...found.rows.map((entry) => row(entry, dayAndMinute(entry.start))),
        row(found.total, t("report.total")),
      );
      rows.lastElementChild.className = "total";
      regions.replaceChildren(...regionsPart(app, found.regions));
      return "";
    });
  by.addEventListener("change", read);
  const table = h(
    "table",
    {},
    h(
      "thead",
      {},
      h(
        "tr",
        {},
        COLUMNS.map((key) => h("th", { scope: "col" }, t(key))),
      ),
    ),
    rows,
  );
  const section = card(
    t("lookback.report"),
    h(
      "div",
      { class: "row" },
      field(t("report.by"), by),
      button(t("report.print"), () => window.print()),
    ),
    place,
    period,
    h("div", { class: "scroll", role: "group", "aria-label": t("lookback.report"), tabindex: 0 }, table),
    regions,
  );
  section.classList.add("report");
  return { section, read };
}
