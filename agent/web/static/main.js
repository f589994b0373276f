// Starts the page: texts, session, events, header, and the place that the address names.

import { logInPage, passwordsPage } from "./access.js";
import { auditPage, configPage } from "./admin.js";
import * as api from "./api.js";
import { connect } from "./connection.js";
import { button, choiceOf, h, icon, setText } from "./dom.js";
import { VERDICTS, scoreText } from "./format.js";
import { inspectPage } from "./inspect.js";
import { lightName, lightText } from "./lights.js";
import { lookBackPage } from "./lookback.js";
import { setUpPage } from "./setup.js";
import { INITIAL, LEAST_SHOWN_MS, liveOf, problems, reduce } from "./state.js";
import { teachPage } from "./teach.js";
import { currentLanguage, keepLanguage, loadTexts, otherLanguage, t } from "./texts.js";

const PLACES = {
  inspect: { make: inspectPage, title: "place.inspect", tab: true },
  teach: { make: teachPage, title: "place.teach", tab: true },
  setup: { make: setUpPage, title: "place.setup", tab: true, admin: true },
  lookback: { make: lookBackPage, title: "place.lookback", tab: true },
  login: { make: logInPage, title: "place.login", open: true },
  passwords: { make: passwordsPage, title: "place.passwords", admin: true, alone: true },
  config: { make: configPage, title: "place.config", admin: true, alone: true },
  audit: { make: auditPage, title: "place.audit", admin: true, alone: true },
};
const RELOAD_MS = 12000; // the longest time that a reload may take
const SPEAK_MS = 5000; // between two sentences to a screen reader

const main = document.getElementById("main");
const header = document.getElementById("header");
const banners = document.getElementById("banners");
const spoken = document.getElementById("spoken");

let state = INITIAL;
let page = null; // {update?, reread?, leave?}
let place = null;
let dirty = false;
let connection = null;
let bannersShown = "";
let ended = false; // the session ended while the page was open
let leaves = false; // the person has ended it
let reads = false; // cameras and health are on their way
const said = { atMs: 0, id: null, camera: null, counted: 0, rejected: 0 };

const app = {
  get state() {
    return state;
  },
  dispatch(action) {
    state = reduce(state, action);
    schedule();
  },
  go,
  readCameras,
  askAgain: () => connection.ask(),
  logInAgain,
  awaitReload,
  cameraChoice,
  isAdmin: () => state.session?.role === "admin",
};

function schedule() {
  if (!dirty) {
    dirty = true;
    requestAnimationFrame(render);
  }
}

function render() {
  dirty = false;
  const nowMs = performance.now();
  state = reduce(state, { type: "advance", nowMs });
  const waiting = Object.values(state.live).find((live) => live.pending.length);
  if (waiting) setTimeout(schedule, waiting.shownMs + LEAST_SHOWN_MS - nowMs);
  showBanners(nowMs);
  page?.update?.(state, nowMs);
}

/** A choice of the camera where there are several, else nothing. */
function cameraChoice() {
  const names = (state.cameras ?? []).map((camera) => camera.name);
  if (names.length < 2) return null;
  const change = (event) => {
    app.dispatch({ type: "camera", camera: event.target.value });
    show();
  };
  const id = "camera-choice";
  return h(
    "div",
    { class: "field inline" },
    h("label", { for: id }, t("camera")),
    choiceOf(
      names.map((name) => [name, name]),
      state.camera,
      { id, onchange: change },
    ),
  );
}

async function readCameras() {
  app.dispatch({ type: "cameras", cameras: await api.cameras() });
}

/** The agent loads new settings: it is silent for a moment, and its cameras have changed. */
function awaitReload() {
  app.dispatch({ type: "reload", untilMs: performance.now() + RELOAD_MS });
  for (const share of [0.25, 0.5, 1]) setTimeout(() => readCameras().catch(() => {}), share * RELOAD_MS);
}

/** Goes to a place. */
function go(name) {
  if (location.hash === `#${name}`) show();
  else location.hash = name;
}

function wantedPlace() {
  const name = location.hash.slice(1);
  const role = state.session?.role ?? null;
  if (role === null) return "login";
  if (!(name in PLACES) || name === "login") return startPlace();
  return PLACES[name].admin && role !== "admin" ? "inspect" : name;
}

/** Inspect once a camera runs, else Set up. */
function startPlace() {
  const runs = state.cameras?.some((camera) => camera.up || camera.results.ok + camera.results.anomalous > 0);
  return runs || !app.isAdmin() ? "inspect" : "setup";
}

/** Shows the place that the address names, from its beginning. */
function show() {
  page?.leave?.();
  place = wantedPlace();
  main.replaceChildren();
  main.className = `place-${place}`;
  document.title = `${t(PLACES[place].title)} – zsad-agent`;
  showHeader();
  page = PLACES[place].make(main, app) ?? null;
  schedule();
}

function onHash() {
  show();
  window.scrollTo(0, 0);
  main.focus({ preventScroll: true });
}

function showHeader() {
  const role = state.session?.role ?? null;
  const tabs = Object.entries(PLACES).filter(([, entry]) => entry.tab && (!entry.admin || role === "admin"));
  const links = tabs.map(([name, entry]) =>
    h(
      "a",
      { href: `#${name}`, "aria-current": name === place ? "page" : null },
      icon(name),
      h("span", {}, t(entry.title)),
    ),
  );
  header.replaceChildren(
    h(
      "div",
      { class: "brand" },
      h("img", { src: new URL("icon.svg", import.meta.url).href, alt: "", width: 28, height: 28 }),
      h("span", {}, state.session?.device_id ?? "zsad-agent"),
    ),
    role === null ? "" : h("nav", { "aria-label": t("nav") }, ...links),
    menu(role),
  );
  setText(document.getElementById("skip"), t("skip"));
}

/** The menu of language, session and administration. It opens and closes with a click, Enter or Escape. */
function menu(role) {
  const other = otherLanguage();
  const items = [
    button(t("menu.language"), changeLanguage, { lang: other }),
    ...(role === "admin" ? [link("passwords"), link("config"), link("audit")] : []),
    role === "operator" ? button(t("menu.as_admin"), logOut) : null,
    role !== null && state.session.passwords_set ? button(t("menu.log_out"), logOut) : null,
  ];
  const box = h(
    "details",
    { class: "menu" },
    h("summary", {}, icon("menu"), h("span", { class: "hidden" }, t("menu"))),
    h(
      "div",
      { class: "menu-items" },
      role === null ? null : h("p", { class: "hint" }, t(role === "admin" ? "role.admin" : "role.operator")),
      ...items,
    ),
  );
  box.addEventListener("keydown", (event) => {
    if (event.key === "Escape" && box.open) {
      box.open = false;
      box.querySelector("summary").focus();
    }
  });
  box.addEventListener("focusout", (event) => {
    if (event.relatedTarget && !box.contains(event.relatedTarget)) box.open = false;
  });
  box.addEventListener("click", (event) => {
    if (event.target.closest("a")) box.open = false;
  });
  return box;
}

function link(name) {
  return h("a", { href: `#${name}` }, t(PLACES[name].title));
}

async function changeLanguage() {
  keepLanguage(otherLanguage());
  await loadTexts();
  bannersShown = "";
  show();
  header.querySelector("summary").focus();
}

async function logOut() {
  await api.logOut().catch(() => {}); // without an answer the banner says so
  logInAgain();
}

/** The session has ended, as the person wanted. */
async function logInAgain() {
  leaves = true;
  await connection.ask();
  leaves &&= state.session?.role === null;
}

/** The problems, on every page. The texts are read aloud once, because nothing changes while they stay the same. */
function showBanners(nowMs) {
  const found = problems(state, nowMs);
  if (ended && state.session?.role === null && state.connection !== "lost")
    found.push({ kind: "warn", key: "banner.ended" });
  if (state.session?.role === "admin" && !state.session.passwords_set)
    found.push({ kind: "note", key: "banner.no_password", place: "passwords" });
  const shown = currentLanguage() + JSON.stringify(found);
  if (shown === bannersShown) return;
  bannersShown = shown;
  banners.replaceChildren(
    ...found.map(({ kind, key, light, place: target }) =>
      h(
        "div",
        { class: `banner ${kind}` },
        icon(kind === "fail" ? "cross" : "warning"),
        key
          ? h("p", {}, t(key), target ? [" ", link(target)] : null)
          : h("p", {}, h("strong", {}, `${lightName(light.name)}: `), lightText(light)),
      ),
    ),
  );
}

/** Says the verdict: the part's own if there is time, else how many there were. */
function speak() {
  const live = liveOf(state, state.camera);
  const nowMs = performance.now();
  if (place !== "inspect" || !live.shown || live.shown.id === said.id || nowMs - said.atMs < SPEAK_MS) return;
  const before = said.camera === state.camera ? said.counted : live.counted - 1;
  const count = live.counted - before;
  const verdict = t(VERDICTS[live.shown.verdict].text);
  const rejected = live.rejected - (said.camera === state.camera ? said.rejected : 0);
  setText(
    spoken,
    count <= 1
      ? t("spoken.one", { verdict, score: scoreText(live.shown.anomaly_score) })
      : t("spoken.many", { n: count, rejected, verdict }),
  );
  Object.assign(said, {
    atMs: nowMs,
    id: live.shown.id,
    counted: live.counted,
    rejected: live.rejected,
    camera: state.camera,
  });
}

function onSession(session) {
  const before = state.session;
  const same = before && ["role", "passwords_set", "device_id"].every((name) => before[name] === session[name]);
  if (same) return;
  if (before?.role && session.role === null) ended = !leaves;
  if (session.role !== null) ended = leaves = false;
  if (before?.role !== session.role) state = reduce(state, { type: "forget", session });
  else state = reduce(state, { type: "session", session });
  if (session.role !== null) readAll().then(showRead, showRead);
  else show();
}

async function readAll() {
  reads = true;
  try {
    const [, health] = await Promise.all([readCameras(), api.health()]);
    app.dispatch({ type: "health", health });
  } finally {
    reads = false;
  }
}

/** Reads the cameras as soon as the agent can tell them, for example after a reload in the wrong moment. */
function readMissing() {
  if (reads || state.connection !== "ok" || !state.session?.role || state.cameras !== null) return;
  readAll().then(showRead, () => {});
}

/** Shows what was read. A form that needs none of it stays as it is: somebody may be writing. */
function showRead() {
  if (place === null || !PLACES[place].alone || place !== wantedPlace()) show();
}

const LISTENERS = {
  result: (result) => app.dispatch({ type: "result", result, nowMs: performance.now() }),
  health: (health) => app.dispatch({ type: "health", health }),
  settings(setting) {
    app.dispatch({ type: "settings", setting });
    if (setting.value === null) readCameras().catch(() => {});
  },
  teach: (told) => app.dispatch({ type: "teach", ...told }),
  skipped() {}, // the counts come from the history
};

function onConnection(next) {
  const before = state.connection;
  app.dispatch({ type: "connection", connection: next });
  if (before === "lost" && next === "ok") readAll().catch(() => {});
}

async function start() {
  await textsAtLast();
  api.whenSessionEnds(() => connection.ask());
  connection = connect(LISTENERS, { onState: onConnection, onSession, onReopened: () => page?.reread?.() });
  window.addEventListener("hashchange", onHash);
  document.addEventListener("click", (event) => {
    const open = header.querySelector("details[open]");
    if (open && !open.contains(event.target)) open.open = false;
  });
  document.getElementById("skip").addEventListener("click", (event) => {
    event.preventDefault();
    main.focus();
  });
  setInterval(schedule, 1000); // ages of things
  setInterval(speak, 1000);
  setInterval(readMissing, 2000);
}

/** The texts, from an agent that may be just starting. */
async function textsAtLast() {
  for (;;) {
    try {
      return await loadTexts();
    } catch {
      await new Promise((resolve) => setTimeout(resolve, 1000));
    }
  }
}

start();
