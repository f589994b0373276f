// The page's logic that needs no browser. Run by test_page_files.py, which copies the page's modules beside this file.

import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import { test } from "node:test";

import { ago, histogram, percent, promiseText, recallText, rectangle, scoreText, sliderStep } from "./format.js";
import { INITIAL, addToPlot, judge, liveOf, problems, reduce, shownVerdict, teachInOf, withRejects } from "./state.js";
import { bestLanguage, fill, reason, useTexts } from "./texts.js";

const MESSAGES = Object.fromEntries(
  ["en", "de"].map((language) => [
    language,
    JSON.parse(readFileSync(new URL(`messages.${language}.json`, import.meta.url))),
  ]),
);
const CAMERA = { name: "cam0", paused: false };

function result(verdict, changes = {}) {
  return {
    id: `r-${verdict}`,
    camera: "cam0",
    verdict,
    anomaly_score: 0.3,
    threshold: 0.5,
    captured_at: "2026-11-22T10:28:03.123Z",
    reason: null,
    ...changes,
  };
}

function stateAfter(...actions) {
  const first = [
    { type: "session", session: { role: "operator" } },
    { type: "connection", connection: "ok" },
    { type: "cameras", cameras: [CAMERA] },
  ];
  return [...first, ...actions].reduce(reduce, INITIAL);
}

test.beforeEach(() => useTexts("en", MESSAGES.en));

test("the browser's first language that there is wins", () => {
  assert.equal(bestLanguage(["fr-FR", "de-AT", "en"]), "de");
  assert.equal(bestLanguage([]), "en");
});

test("a message takes its values and its plural", () => {
  assert.equal(fill({ one: "{n} part", other: "{n} parts" }, { n: 1 }, "en"), "1 part");
  assert.equal(fill({ one: "{n} part", other: "{n} parts" }, { n: 1200 }, "de"), "1.200 parts");
  assert.equal(fill("{left}", {}, "en"), "{left}");
});

test("what the agent says often is told in the language of the page, also in parts, and the rest stays English", () => {
  const german = JSON.parse(readFileSync(new URL("reasons.de.json", import.meta.url)));
  useTexts("de", MESSAGES.de, german);
  assert.deepEqual(reason("camera lost: stream rtsp://10.0.0.8/a: no frame for 5 s"), {
    text: "Kamera verloren: stream rtsp://10.0.0.8/a: seit 5 s kein Bild",
    lang: "de",
  });
  assert.equal(
    reason("stream http://10.0.0.8/a: the connection ended: gives no more frames").text,
    "stream http://10.0.0.8/a: Die Verbindung ist beendet: Es kommen keine Bilder mehr",
  );
  assert.match(
    reason("Inspection goes on, and 1 result waits for the broker. Test the broker under Set up").text,
    /1 Ergebnis wartet auf den Broker/,
  );
  assert.match(reason("paused; something new: 3").text, /^angehalten; something new: 3$/);
  assert.match(
    reason("no part: what stands out covers 0.3% of the frame, good parts cover 20.1% to 23.0% of the frame").text,
    /^kein Teil: .* 0\.3% .* 20\.1% bis 23\.0%$/,
  );
  assert.deepEqual(reason("something (new) happened"), { text: "something (new) happened", lang: "en" });
  assert.deepEqual(reason(null), { text: "", lang: "en" });
  useTexts("en", MESSAGES.en);
  assert.deepEqual(reason("paused"), { text: "paused", lang: "en" });
});

test("a mark is answered in the language of the page", () => {
  useTexts("de", MESSAGES.de, JSON.parse(readFileSync(new URL("reasons.de.json", import.meta.url))));
  assert.equal(
    reason("line3-b1-7 is marked as bad, and its product learns from it").text,
    "line3-b1-7 ist als schlecht markiert, und sein Produkt lernt daraus",
  );
});

test("a share is never rounded to none or all", () => {
  assert.deepEqual([0, 0.0001, 0.0123, 0.2, 0.9999, 1].map(percent), ["0%", "0.1%", "1.2%", "20%", "99.9%", "100%"]);
  assert.equal(percent(null), "–");
});

test("a score below the threshold does not look like it", () => {
  assert.notEqual(scoreText(0.4996), scoreText(0.4985));
  assert.equal(scoreText(null), "–");
});

test("a time ago has the largest fitting unit", () => {
  assert.deepEqual([0, 30, 300, 7200].map(ago), ["now", "30 seconds ago", "5 minutes ago", "2 hours ago"]);
});

test("the promise says rate, bound and counts, in both languages", () => {
  const promise = { rate: 0.016, rate_90: 0.081, goods: 60, rejected: 0 };
  assert.match(promiseText(promise), /About 1\.6% .* not more than 8\.1%\. Measured on 60 good parts, 0/);
  useTexts("de", MESSAGES.de);
  assert.match(promiseText(promise), /Etwa 1,6\s% .* nicht mehr als 8,1\s%/);
  assert.match(promiseText(null), /keine Zusage/);
});

test("the recall says its interval, or that it is unknown", () => {
  assert.equal(
    recallText({ found: 17, total: 20, low: 0.68, high: 0.95 }),
    "Finds 17 of 20 bad parts (90% interval: 68% to 95%).",
  );
  assert.match(recallText(null), /unknown/);
});

test("scores at the ends fall into the first and last bin", () => {
  assert.deepEqual(histogram([0, 0.49, 0.5, 1], 2), [2, 2]);
});

test("the slider moves by keys and stays in its range", () => {
  assert.equal(sliderStep("ArrowRight", 0.5), 0.505);
  assert.equal(sliderStep("PageDown", 0.02), 0);
  assert.equal(sliderStep("End", 0.2), 1);
  assert.equal(sliderStep("Tab", 0.2), null);
});

test("a rectangle lies inside the frame whatever the direction of drawing", () => {
  assert.deepEqual(rectangle([700, 300], [-20, 10], [640, 480]), [0, 10, 640, 290]);
  assert.equal(rectangle([10, 10], [14, 200], [640, 480]), null);
});

test("the large verdict is held, and of the results meanwhile the worst is shown", () => {
  let state = stateAfter({ type: "result", result: result("ok"), nowMs: 1000 }, { type: "advance", nowMs: 1000 });
  assert.equal(shownVerdict(state).verdict, "ok");
  for (const verdict of ["anomalous", "unknown", "ok"])
    state = reduce(state, { type: "result", result: result(verdict), nowMs: 1050 });
  assert.equal(shownVerdict(reduce(state, { type: "advance", nowMs: 1100 })).verdict, "ok");
  state = reduce(state, { type: "advance", nowMs: 1200 });
  assert.equal(shownVerdict(state).verdict, "anomalous");
  assert.equal(liveOf(state, "cam0").rejects.length, 1);
  assert.equal(liveOf(state, "cam0").counted, 4);
});

test("no doubt is ever shown as OK", () => {
  const ok = [
    { type: "result", result: result("ok"), nowMs: 0 },
    { type: "advance", nowMs: 0 },
  ];
  assert.equal(shownVerdict(stateAfter()).verdict, "unknown");
  assert.equal(shownVerdict(stateAfter(...ok, { type: "connection", connection: "lost" })).verdict, "unknown");
  for (const blind of [true, false]) {
    const light = { name: "camera cam0", state: "warn", text: "no new picture", advice: "check the cable", blind };
    const state = stateAfter(...ok, { type: "health", health: { lights: [light] } });
    assert.equal(shownVerdict(state).verdict, blind ? "unknown" : "ok"); // it may warn of drift only
  }
  assert.equal(
    shownVerdict(stateAfter(...ok, { type: "settings", setting: { camera: "cam0", key: "paused", value: true } }))
      .verdict,
    "paused",
  );
  assert.equal(shownVerdict(stateAfter(...ok)).verdict, "ok");
});

test("results that came while the page was hidden are not shown late: the newest is", () => {
  const state = stateAfter(
    { type: "result", result: result("anomalous"), nowMs: 1000 },
    { type: "result", result: result("ok"), nowMs: 9000 },
    { type: "advance", nowMs: 9001 },
  );
  assert.equal(shownVerdict(state).verdict, "ok");
  assert.equal(liveOf(state, "cam0").rejects.length, 1);
});

test("a verdict is not shown while no events can come", () => {
  const ok = { type: "result", result: result("ok"), nowMs: 0 };
  const state = stateAfter(ok, { type: "advance", nowMs: 0 }, { type: "connection", connection: "refused" });
  assert.equal(shownVerdict(state).verdict, "unknown");
});

test("problems come worst first, and old ones are not told when the agent is silent", () => {
  const lights = [
    { name: "disk", state: "warn", text: "", advice: "" },
    { name: "broker", state: "fail", text: "", advice: "" },
    { name: "model", state: "ok", text: "", advice: "" },
  ];
  const state = stateAfter({ type: "health", health: { lights } });
  assert.deepEqual(
    problems(state, 0).map(({ light }) => light.name),
    ["broker", "disk"],
  );
  const lost = reduce(state, { type: "connection", connection: "lost" });
  assert.deepEqual(problems(lost, 0), [{ kind: "fail", key: "banner.lost" }]);
  assert.equal(problems(reduce(lost, { type: "reload", untilMs: 10 }), 0)[0].kind, "note");
});

test("the gallery has each reject once, the newest first, whoever tells it first", () => {
  const at = (second) => result("anomalous", { id: `r${second}`, captured_at: `2026-11-22T10:28:0${second}.000Z` });
  const live = stateAfter(...[1, 3].map((second) => ({ type: "result", result: at(second), nowMs: 0 })));
  const merged = withRejects(liveOf(live, "cam0").rejects, [at(4), at(3), at(2)]);
  assert.deepEqual(merged.map(({ id }) => id), ["r4", "r3", "r2", "r1"]);
  const state = reduce(live, { type: "history", camera: "cam0", changes: { rejects: merged } });
  const later = reduce(state, { type: "result", result: at(4), nowMs: 0 });
  assert.deepEqual(liveOf(later, "cam0").rejects, merged);
});

test("the plot keeps the highest score of a second, and ten minutes", () => {
  const point = (at, score) => ({ at, score, threshold: 0.5, verdict: "ok" });
  const early = [point(10, 0.2), point(10, 0.9), point(10, 0.1), point(11, null)].reduce(addToPlot, []);
  assert.deepEqual(early, [point(10, 0.9), point(11, null)]);
  assert.deepEqual(addToPlot(early, point(611, 0.4)), [point(11, null), point(611, 0.4)]);
});

test("another session forgets what the one before saw", () => {
  const state = reduce(stateAfter({ type: "result", result: result("ok"), nowMs: 0 }), {
    type: "forget",
    session: { role: null },
  });
  assert.deepEqual([state.live, state.cameras, state.health], [{}, null, null]);
});

test("the connection is lost, ended or refused", () => {
  const fine = { answers: true, role: "operator", streamOpen: true, attempts: 0 };
  assert.equal(judge(fine), "ok");
  assert.equal(judge({ ...fine, answers: false }), "lost");
  assert.equal(judge({ ...fine, role: null }), "ended");
  assert.equal(judge({ ...fine, streamOpen: false, attempts: 1 }), "ok");
  assert.equal(judge({ ...fine, streamOpen: false, attempts: 3 }), "refused");
});

test("a person can start a teach-in while the agent gathers from the line by itself", () => {
  assert.deepEqual(teachInOf({ phase: "gathering", asked: false }), { isOn: false, isOfLine: true, canStart: true });
  assert.deepEqual(teachInOf({ phase: "gathering", asked: true }), { isOn: true, isOfLine: false, canStart: false });
  assert.deepEqual(teachInOf({ phase: "offered", asked: false }), { isOn: false, isOfLine: false, canStart: true });
  assert.deepEqual(teachInOf({ phase: "idle" }), { isOn: false, isOfLine: false, canStart: true });
  assert.equal(teachInOf({ phase: "off" }).canStart, false);
});
