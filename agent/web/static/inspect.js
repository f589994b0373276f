// Inspect: verdict, picture, scores, last rejects, counts, and the lights.

import * as api from "./api.js";
import { answerPlace, attempt, button, card, choice, choiceOf, field, h, icon, said, setSaid, setText, sync } from "./dom.js";
import { resultCard } from "./detail.js";
import { VERDICTS, ago, clock, partName, percent, scoreText, startOf } from "./format.js";
import { LivePicture, drawRegions } from "./frame.js";
import { lightName, lightText } from "./lights.js";
import { ScorePlot } from "./plot.js";
import { MOST_REJECTS, PLOT_S, addToPlot, cameraOf, liveOf, shownVerdict, withRejects } from "./state.js";
import { t } from "./texts.js";

const REPORT_MS = 30000;
const OLD_MS = 3000; // a picture that is so much older than the newest result is marked
const GALLERY_MS = 800; // between two changes of the gallery
const A_PICTURE_MS = 200; // and so much more for each new picture, with the agent's own pause
const SIGNS = { ok: "tick", warn: "warning", fail: "cross", off: "off" };
const LIGHT_STATES = { ok: "light.is_ok", warn: "light.is_warn", fail: "light.is_fail", off: "light.is_off" };

function verdictPart() {
  const sign = h("span", { class: "sign" });
  const word = h("h2", { class: "word", id: "verdict-word" });
  const text = h("p", { class: "text" });
  const score = h("p", { class: "score" });
  const bar = h("span", { class: "bar-value" });
  const line = h("span", { class: "bar-line" });
  const about = h("p", { class: "about" });
  const untaught = h("span");
  const note = h("p", { class: "note", hidden: true }, untaught, " ", h("a", { href: "#teach" }, t("place.teach")));
  const section = h(
    "section",
    { class: "verdict", "aria-labelledby": "verdict-word" },
    h("div", { class: "head" }, sign, word),
    text,
    score,
    h("div", { class: "bar", "aria-hidden": "true" }, bar, line),
    about,
    note,
  );
  let drawn = null;
  const draw = ({ verdict, key, text: reason, result }) => {
    section.className = `verdict ${verdict}`;
    sign.replaceChildren(icon(VERDICTS[verdict].sign));
    setText(word, t(VERDICTS[verdict].text));
    if (key) Object.assign(text, { textContent: t(key), lang: document.documentElement.lang });
    else setSaid(text, reason);
    section.dataset.resultId = result?.id ?? "";
    setText(
      score,
      result
        ? t("inspect.score", { score: scoreText(result.anomaly_score), threshold: scoreText(result.threshold) })
        : "",
    );
    bar.parentElement.hidden = !result;
    bar.style.width = `${100 * (result?.anomaly_score ?? 0)}%`;
    line.style.left = `${100 * (result?.threshold ?? 0)}%`;
    note.hidden = !result?.provisional;
    const n = result?.provisional_frames;
    setText(untaught, n ? t("inspect.provisional_from", { n }) : t("inspect.provisional"));
  };
  const update = (state) => {
    const shown = shownVerdict(state);
    const { result } = shown;
    const facts = JSON.stringify([shown.verdict, shown.key, shown.text, result?.id]);
    if (facts !== drawn) draw(shown);
    drawn = facts;
    setText(
      about,
      result
        ? `${result.product} · ${partName(result)} · ${ago((Date.now() - Date.parse(result.captured_at)) / 1000)}`
        : "",
    );
  };
  return { section, update };
}

function picturePart(app) {
  const canvas = h("canvas", { role: "img", width: 640, height: 480 });
  const failure = h("p", { class: "hint over", hidden: true });
  const heatmap = choice(t("inspect.heatmap"), {
    type: "checkbox",
    role: "switch",
    checked: true,
    onchange: () => (legend.hidden = !isOn(heatmap)),
  });
  const regions = choice(t("inspect.regions"), {
    type: "checkbox",
    role: "switch",
    checked: true,
    onchange: () => live.redraw(),
  });
  const isOn = (label) => label.querySelector("input").checked;
  const resultOf = (id) => liveOf(app.state, app.state.camera).recent.find((one) => one.id === id);
  let early = null; // the id of a picture that came before its result
  let drawn = { id: null, at: Infinity }; // the picture, and when its part passed
  const legend = h(
    "div",
    { class: "legend" },
    h("span", {}, t("legend.low")),
    h("span", { class: "scale", role: "img", "aria-label": t("legend.text") }),
    h("span", {}, t("legend.high")),
  );
  const live = new LivePicture(
    canvas,
    () => {
      const { state } = app;
      if (state.camera === null || state.connection === "lost") return null;
      const width = Math.min(1280, Math.ceil((canvas.parentElement.clientWidth * devicePixelRatio) / 160) * 160 || 640);
      return {
        camera: state.camera,
        overlay: isOn(heatmap),
        width,
        newest: liveOf(state, state.camera).recent.at(-1)?.id ?? null,
      };
    },
    (id, error) => {
      if (error !== null || failure.textContent !== t("inspect.stale")) failure.hidden = error === null;
      if (error !== null) {
        (error.status > 0 ? setSaid : setText)(failure, error.message);
        return;
      }
      const result = resultOf(id);
      early = result ? null : id;
      drawn = { id, at: result ? Date.parse(result.captured_at) : Infinity };
      const isShown = isOn(regions) && result && result.verdict !== "ok"; // a box on a good part would mislead
      if (isShown) drawRegions(canvas, result);
      canvas.setAttribute(
        "aria-label",
        t("inspect.picture", { camera: app.state.camera, n: isShown ? result.regions.length : 0 }),
      );
    },
  );
  const section = h(
    "section",
    { class: "card picture", "aria-label": t("inspect.picture_title") },
    h("div", { class: "canvas-box" }, canvas, failure),
    h("div", { class: "row" }, heatmap, regions),
    legend,
  );
  canvas.setAttribute("aria-label", t("inspect.waiting"));
  /** Whether newer parts have no picture, for example because the frame was damaged. */
  const isOld = (state, nowMs) => {
    const { recent, heardMs } = liveOf(state, state.camera);
    const newest = recent.at(-1);
    const laterMs = newest && newest.id !== drawn.id ? Date.parse(newest.captured_at) - drawn.at : 0;
    return laterMs > OLD_MS || (laterMs > 0 && nowMs - heardMs > OLD_MS);
  };
  const update = (state, nowMs) => {
    live.look();
    if (early !== null && resultOf(early)) live.redraw();
    const isStale = shownVerdict(state).result === undefined || isOld(state, nowMs);
    if (section.classList.toggle("stale", isStale) && failure.hidden) {
      failure.hidden = false;
      setText(failure, t("inspect.stale"));
    } else if (!isStale && failure.textContent === t("inspect.stale")) failure.hidden = true;
  };
  return { section, update, leave: () => live.stop() };
}

function countRow(name, counts) {
  const total = counts.ok + counts.anomalous + counts.unknown;
  const share = (kind) => {
    const part = h("span", { class: kind });
    part.style.flexGrow = counts[kind];
    return part;
  };
  return h(
    "div",
    { class: "counts-row" },
    h("h3", {}, name),
    h("p", {}, t("counts.text", counts), total ? ` · ${t("yield")} ${percent(counts.ok / total)}` : ""),
    h("div", { class: "stack", "aria-hidden": "true" }, share("ok"), share("unknown"), share("anomalous")),
  );
}

/** Counts of this hour and shift: from the report, and what came since then. */
function countsPart(app) {
  const rows = h("div");
  const section = card(t("inspect.counts"), rows);
  let base = null;
  let shown = "";
  const read = async () => {
    const { camera } = app.state;
    if (camera === null || document.hidden) return;
    const now = Date.now();
    try {
      const [hours, shifts] = await Promise.all([
        api.reports({ camera, by: "hour", from: startOf("hour", now) }),
        api.reports({ camera, by: "shift", from: new Date(now - 86400000).toISOString() }),
      ]);
      const present = (report) =>
        report.rows.findLast((row) => Date.parse(row.end) > now) ?? { ok: 0, anomalous: 0, unknown: 0 };
      base = { hour: present(hours), shift: present(shifts), shifts: shifts.shifts };
      app.dispatch({ type: "history", camera, changes: { tally: { ok: 0, anomalous: 0, unknown: 0 } } });
    } catch (error) {
      if (error.status > 0 && base === null) rows.replaceChildren(said("p", error.message, { class: "hint" }));
    }
  };
  const timer = setInterval(read, REPORT_MS);
  read();
  const update = (state) => {
    if (base === null) return;
    const { tally } = liveOf(state, state.camera);
    const key = JSON.stringify([base, tally]);
    if (key === shown) return;
    shown = key;
    const sum = (row) =>
      Object.fromEntries(["ok", "anomalous", "unknown"].map((kind) => [kind, row[kind] + (tally?.[kind] ?? 0)]));
    const since = base.shift.start
      ? t("counts.shift_since", { time: clock(base.shift.start).slice(0, 5) })
      : t("counts.shift");
    rows.replaceChildren(countRow(t("counts.hour"), sum(base.hour)), countRow(since, sum(base.shift)));
  };
  return { section, update, leave: () => clearInterval(timer) };
}

/** Product, pause, and one part on request. */
function linePart(app) {
  const place = answerPlace();
  const camera = cameraOf(app.state);
  const product = h("select");
  const fill = async () => {
    const names = (await api.products()).map((entry) => entry.name);
    const present = cameraOf(app.state)?.product;
    if (present && !names.includes(present)) names.unshift(present);
    product.replaceChildren(
      ...choiceOf(
        names.map((name) => [name, name]),
        present,
      ).options,
    );
    product.value = present;
  };
  fill().catch(() => {});
  product.addEventListener("change", async () => {
    if (!(await attempt(place, () => api.setProduct(camera.name, product.value))))
      product.value = cameraOf(app.state).product;
  });
  let chosen = null; // the product as it was told last
  const pause = button("", () => {
    const { paused } = cameraOf(app.state);
    return attempt(place, async () => {
      await api.setPaused(camera.name, !paused);
      await app.readCameras();
    });
  });
  const now = button(t("inspect.now"), () =>
    attempt(place, async () => {
      const result = await api.inspectNow(camera.name);
      return `${t(VERDICTS[result.verdict].text)} (${scoreText(result.anomaly_score)})`;
    }),
  );
  now.hidden = camera?.trigger === "free";
  const update = (state) => {
    const present = cameraOf(state);
    if (!present) return;
    setText(pause, t(present.paused ? "inspect.resume" : "inspect.pause"));
    if (product.options.length && present.product !== chosen) product.value = chosen = present.product;
  };
  return {
    section: card(t("inspect.line"), field(t("product"), product), h("div", { class: "row" }, pause, now), place),
    update,
  };
}

function lightsPart() {
  const list = h("ul", { class: "lights" });
  let shown = null;
  const update = ({ health, connection }) => {
    const lights = connection === "lost" ? [] : (health?.lights ?? []);
    const key = JSON.stringify(lights);
    if (key === shown) return;
    shown = key;
    list.replaceChildren(
      ...lights.map((light) =>
        h(
          "li",
          { class: `light ${light.state}` },
          icon(SIGNS[light.state]),
          h(
            "div",
            {},
            h("strong", {}, lightName(light.name)),
            " ",
            t(LIGHT_STATES[light.state]),
            light.text ? h("p", {}, lightText(light)) : null,
          ),
        ),
      ),
    );
  };
  return { section: card(t("inspect.lights"), list), update };
}

function plotPart(app) {
  const box = h("div", { class: "plot" });
  const plot = new ScorePlot(box);
  const { camera } = app.state;
  const read = () =>
    api.scores(camera, PLOT_S / 60).then(
      ({ at, score, verdict, threshold }) => {
        const old = at.map((time, place) => ({
          at: Math.floor(time / 1000),
          score: score[place],
          verdict: verdict[place],
          threshold: threshold[place],
        }));
        const plot = [...old, ...liveOf(app.state, camera).plot]
          .sort((one, other) => one.at - other.at)
          .reduce(addToPlot, []);
        app.dispatch({ type: "history", camera, changes: { plot } });
      },
      () => {}, // history is off: the plot begins now
    );
  if (camera !== null && liveOf(app.state, camera).plot.length < 60) read();
  const key = h(
    "p",
    { class: "plot-key" },
    h("span", { class: "key-score" }, t("plot.score")),
    h("span", { class: "key-threshold" }, t("threshold")),
    h("span", { class: "key-reject" }, t("verdict.anomalous")),
  );
  return {
    section: card(t("inspect.plot", { n: PLOT_S / 60 }), box, key),
    update: (state, nowMs) => plot.update(liveOf(state, state.camera).plot, nowMs),
    reread: read,
    leave: () => plot.leave(),
  };
}

/** The last rejects. While a pointer or the focus is inside, nothing moves: a button must stay where it is. */
function galleryPart(app) {
  const list = h("ul", { class: "gallery" });
  const none = h("p", { class: "hint" }, t("gallery.none"));
  const held = h("p", { class: "hint", hidden: true }, t("gallery.held"));
  const section = card(t("inspect.rejects"), none, list, held);
  section.classList.add("gallery-card");
  const { camera } = app.state;
  let changedMs = -Infinity;
  const read = () =>
    api.results({ camera, verdict: "anomalous", limit: MOST_REJECTS }).then(
      ({ results }) => {
        const rejects = withRejects(liveOf(app.state, camera).rejects, results);
        app.dispatch({ type: "history", camera, changes: { rejects } });
      },
      () => {}, // history is off: the gallery begins now
    );
  if (camera !== null && liveOf(app.state, camera).rejects.length < MOST_REJECTS) read();
  const update = (state, nowMs) => {
    const { rejects } = liveOf(state, state.camera);
    const present = new Set([...list.children].map((item) => item.dataset.key));
    const added = rejects.filter((result) => !present.has(result.id)).length;
    const isHeld = list.matches(":hover, :focus-within") && present.size > 0;
    held.hidden = !(added > 0 && isHeld);
    if (added === 0 || isHeld || nowMs - changedMs < GALLERY_MS + added * (A_PICTURE_MS + api.pauseMs()))
      return;
    changedMs = nowMs;
    none.hidden = true;
    sync(list, rejects, ({ id }) => id, resultCard);
  };
  return { section, update, reread: read };
}

/** Shows the last part of a quiet line, if it passed lately, and after the part that is shown. */
async function readLast(app) {
  const { camera } = app.state;
  const { results } = camera === null ? { results: [] } : await api.results({ camera, limit: 1 });
  if (results.length === 0) return;
  const passed = Date.parse(results[0].captured_at);
  const { shown, recent, pending, pendingMs } = liveOf(app.state, camera);
  if (Date.now() - passed > 1000 * PLOT_S || (shown !== null && passed <= Date.parse(shown.captured_at))) return;
  if (recent.some(({ id }) => id === results[0].id)) return;
  const waits = { pending: [...pending, ...results], pendingMs: pending.length ? pendingMs : performance.now() };
  app.dispatch({ type: "history", camera, changes: { ...waits, recent: [...recent, ...results] } });
}

export function inspectPage(main, app) {
  const readNewest = () => readLast(app).catch(() => {}); // history is off: the next part is the first
  if (app.state.camera !== null && liveOf(app.state, app.state.camera).shown === null) readNewest();
  const parts = [
    verdictPart(),
    picturePart(app),
    countsPart(app),
    linePart(app),
    plotPart(app),
    lightsPart(),
    galleryPart(app),
  ];
  const names = ["verdict", "picture", "counts", "line", "plot", "lights", "rejects"];
  parts.forEach((part, place) => part.section.classList.add(`area-${names[place]}`));
  const choiceOfCamera = app.cameraChoice();
  main.append(
    h("div", { class: choiceOfCamera ? "top" : "hidden" }, h("h1", {}, t("place.inspect")), choiceOfCamera),
    h(
      "div",
      { class: "inspect" },
      parts.map((part) => part.section),
    ),
  );
  return {
    update: (state, nowMs) => parts.forEach((part) => part.update?.(state, nowMs)),
    /** Events were missed: what came meanwhile is read from the history. */
    reread() {
      readNewest();
      parts.forEach((part) => part.reread?.());
    },
    leave: () => parts.forEach((part) => part.leave?.()),
  };
}
