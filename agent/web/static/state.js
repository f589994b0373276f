// What the page knows. `reduce` is pure: it returns a new state and leaves the old one alone.

export const MOST_REJECTS = 12; // in the gallery
export const LEAST_SHOWN_MS = 200; // of a verdict: a screen that changes faster flashes, which can hurt people
const MOST_RECENT = 60; // results that are kept to find the one of a picture
export const PLOT_S = 600;
const LATE_MS = 1000; // results that waited longer were not drawn: the newest is shown, not the worst
const REFUSED = 3; // attempts after which the stream of events counts as refused
const WORST_FIRST = { anomalous: 2, unknown: 1, ok: 0 };

export const INITIAL = {
  connection: "connecting", // then "ok", "lost", "ended" or "refused"
  session: null,
  cameras: null, // null: not known yet
  camera: null, // the chosen one
  health: null,
  reloadsUntilMs: -Infinity, // a reload was asked for: until then a silent agent is no surprise
  live: {}, // by camera
  teach: {}, // by camera
};

const NOTHING = {
  shown: null,
  shownMs: -Infinity,
  heardMs: -Infinity,
  pending: [],
  pendingMs: -Infinity, // when the first of them came
  recent: [],
  rejects: [], // newest first
  plot: [],
  counted: 0,
  rejected: 0,
  tally: null, // counts since the report was read
};

/** What is known about a camera's results. */
export function liveOf(state, camera) {
  return state.live[camera] ?? NOTHING;
}

export function cameraOf(state) {
  return state.cameras?.find((camera) => camera.name === state.camera) ?? null;
}

function withLive(state, camera, changes) {
  return { ...state, live: { ...state.live, [camera]: { ...liveOf(state, camera), ...changes } } };
}

function withCamera(state, name, changes) {
  const cameras = state.cameras?.map((camera) => (camera.name === name ? { ...camera, ...changes } : camera));
  return { ...state, cameras: cameras ?? null };
}

/** The plot with one more point `{at, score, threshold, verdict}`. A second has one: that of the highest score. */
export function addToPlot(plot, point) {
  const { at } = point;
  const last = plot.at(-1);
  if (last && at <= last.at) {
    if ((point.score ?? -1) <= (last.score ?? -1)) return plot;
    return [...plot.slice(0, -1), { ...point, at: last.at }];
  }
  const kept = plot.length && plot[0].at < at - PLOT_S ? plot.filter((old) => old.at >= at - PLOT_S) : plot;
  return [...kept, point];
}

/** The result that the large verdict shows next: the worst of those that wait, and of equal ones the newest. */
function worst(pending) {
  return pending.reduce((found, result) =>
    WORST_FIRST[result.verdict] >= WORST_FIRST[found.verdict] ? result : found,
  );
}

/** Rejects, the newest first, each once: the history may tell one before the stream of events does. */
export function withRejects(rejects, more) {
  const known = new Set(rejects.map((result) => result.id));
  return [...rejects, ...more.filter((result) => !known.has(result.id))]
    .sort((one, other) => Date.parse(other.captured_at) - Date.parse(one.captured_at))
    .slice(0, MOST_REJECTS);
}

function addResult(state, result, nowMs) {
  const live = liveOf(state, result.camera);
  const isReject = result.verdict === "anomalous";
  const at = Math.floor(Date.parse(result.captured_at) / 1000);
  const point = { at, score: result.anomaly_score, threshold: result.threshold, verdict: result.verdict };
  return withLive(state, result.camera, {
    heardMs: nowMs,
    pending: [...live.pending.slice(1 - MOST_RECENT), result],
    pendingMs: live.pending.length ? live.pendingMs : nowMs,
    recent: [...live.recent.slice(1 - MOST_RECENT), result],
    rejects: isReject ? withRejects(live.rejects, [result]) : live.rejects,
    plot: addToPlot(live.plot, point),
    counted: live.counted + 1,
    rejected: live.rejected + (isReject ? 1 : 0),
    tally: live.tally && { ...live.tally, [result.verdict]: live.tally[result.verdict] + 1 },
  });
}

/** Moves waiting results to the large verdict, if the present one was shown long enough. */
function advance(state, nowMs) {
  let next = state;
  for (const [camera, live] of Object.entries(state.live)) {
    if (live.pending.length && nowMs - live.shownMs >= LEAST_SHOWN_MS) {
      const shown = nowMs - live.pendingMs > LATE_MS ? live.pending.at(-1) : worst(live.pending);
      next = withLive(next, camera, { shown, shownMs: nowMs, pending: [] });
    }
  }
  return next;
}

function applySetting(state, { camera, key, value }) {
  if (key === "threshold" && value === null) return state; // the caller reads the cameras again
  return ["threshold", "product", "paused"].includes(key) ? withCamera(state, camera, { [key]: value }) : state;
}

function setCameras(state, cameras) {
  const known = cameras.some((camera) => camera.name === state.camera);
  return { ...state, cameras, camera: known ? state.camera : (cameras[0]?.name ?? null) };
}

/** The state after an action. */
export function reduce(state, action) {
  switch (action.type) {
    case "connection":
      return { ...state, connection: action.connection };
    case "session":
      return { ...state, session: action.session };
    case "cameras":
      return setCameras(state, action.cameras);
    case "camera":
      return { ...state, camera: action.camera };
    case "health":
      return { ...state, health: { ...state.health, ...action.health } };
    case "result":
      return addResult(state, action.result, action.nowMs);
    case "advance":
      return advance(state, action.nowMs);
    case "history":
      return withLive(state, action.camera, action.changes);
    case "reload":
      return { ...state, reloadsUntilMs: action.untilMs };
    case "settings":
      return applySetting(state, action.setting);
    case "teach":
      return { ...state, teach: { ...state.teach, [action.camera]: action.state } };
    case "forget":
      return { ...INITIAL, connection: state.connection, session: action.session };
    default:
      throw new Error(`unknown action ${action.type}`);
  }
}

/** What is known about the connection: "ok", "lost", "ended" (no session), or "refused" (the agent answers, without
 * events). `attempts`: failed ones to open the stream. */
export function judge({ answers, role, streamOpen, attempts }) {
  if (!answers) return "lost";
  if (role === null) return "ended";
  return streamOpen || attempts < REFUSED ? "ok" : "refused";
}

/** The light of a camera, or null. */
function lightOf(state, name) {
  return state.health?.lights?.find((light) => light.name === name) ?? null;
}

/** What the large verdict says: `{verdict, key?, text?, result?}`. It never says OK while something is in doubt. */
export function shownVerdict(state) {
  const camera = cameraOf(state);
  if (state.connection === "lost") return { verdict: "unknown", key: "inspect.no_connection" };
  if (state.connection === "refused") return { verdict: "unknown", key: "banner.refused" };
  if (camera === null) return { verdict: "unknown", key: "inspect.no_camera" };
  if (camera.paused) return { verdict: "paused", key: "inspect.paused" };
  const light = lightOf(state, `camera ${camera.name}`);
  if (light?.blind) return { verdict: "unknown", text: light.text };
  const { shown } = liveOf(state, camera.name);
  if (shown === null) return { verdict: "unknown", key: "inspect.waiting" };
  return { verdict: shown.verdict, text: shown.reason, result: shown };
}

/** The problems to show on every page: `{kind: fail|warn|note, key?, light?}`, the worst first. */
export function problems(state, nowMs) {
  const found = [];
  const isExpected = nowMs < state.reloadsUntilMs;
  if (state.connection === "lost")
    found.push(isExpected ? { kind: "note", key: "banner.reloads" } : { kind: "fail", key: "banner.lost" });
  if (state.connection === "refused") found.push({ kind: "warn", key: "banner.refused" });
  if (state.connection === "lost" || !state.session?.role) return found; // the lights are old
  for (const kind of ["fail", "warn"]) {
    for (const light of state.health?.lights ?? []) {
      if (light.state === kind) found.push({ kind, light });
    }
  }
  return found;
}

/** What step 1 of Teach offers. What the agent gathers from the line by itself may hold bad parts: a person starts anew. */
export function teachInOf({ phase, asked }) {
  const isOn = asked === true && phase !== "idle";
  return { isOn, isOfLine: phase === "gathering" && !isOn, canStart: !isOn && phase !== "off" };
}
