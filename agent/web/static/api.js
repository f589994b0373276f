// Every call of the agent's API. A failed call throws an ApiError with a text for people.

import { t } from "./texts.js";

const ROOT = new URL("api/v1/", document.baseURI).href;
const TIMEOUT_MS = 20000; // some actions wait for the camera or the broker

let csrf = null;
let pause = 0;
let onEnded = () => {};

class ApiError extends Error {
  /** `status`: of HTTP; 0 when the agent did not answer. */
  constructor(status, message) {
    super(message);
    this.status = status;
  }
}

/** `listener` is called when the session has ended. */
export function whenSessionEnds(listener) {
  onEnded = listener;
}

/** How long to wait between two pictures, as the agent said last: longer if many pages are open. */
export const pauseMs = () => pause;

async function send(method, path, { json, body, type, timeoutMs = TIMEOUT_MS, signal } = {}) {
  const headers = {};
  if (json !== undefined) headers["Content-Type"] = "application/json";
  else if (type) headers["Content-Type"] = type;
  if (method !== "GET" && csrf !== null) headers["X-CSRF-Token"] = csrf;
  const limit = AbortSignal.timeout(timeoutMs);
  let response;
  try {
    response = await fetch(ROOT + path, {
      method,
      headers,
      body: json === undefined ? body : JSON.stringify(json),
      signal: signal ? AbortSignal.any([signal, limit]) : limit,
      credentials: "same-origin",
      cache: "no-cache",
    });
  } catch {
    throw new ApiError(0, t("error.no_answer"));
  }
  if (response.ok) return response;
  let reason = t("error.status", { status: String(response.status) });
  try {
    reason = (await response.json()).error ?? reason;
  } catch {
    // not the agent's own answer
  }
  if (response.status === 401 && path !== "session") onEnded();
  throw new ApiError(response.status, reason);
}

async function get(path, options) {
  return (await send("GET", path, options)).json();
}

async function put(path, json) {
  const response = await send("PUT", path, { json });
  return response.status === 204 ? null : response.json();
}

async function post(path, json, options = {}) {
  const response = await send("POST", path, { json, ...options });
  return response.status === 204 ? null : response.json();
}

/** The picture, the id of its result, and the size of the whole frame, each where the agent says it. */
async function picture(response) {
  const { headers } = response;
  pause = Number(headers.get("X-Pause-Ms") ?? pause);
  return {
    bitmap: await createImageBitmap(await response.blob()),
    id: headers.get("X-Result-Id"),
    frame: headers.get("X-Frame-Size")?.split("x").map(Number),
  };
}

function query(values) {
  const pairs = new URLSearchParams();
  for (const [name, value] of Object.entries(values)) {
    for (const one of Array.isArray(value) ? value : [value]) {
      if (one !== null && one !== undefined && one !== "") pairs.append(name, one);
    }
  }
  const text = pairs.toString();
  return text ? `?${text}` : "";
}

const camera = (name) => `cameras/${encodeURIComponent(name)}`;

function remember(session) {
  csrf = session.csrf;
  return session;
}

// Access
export const session = async (timeoutMs) => remember(await get("session", { timeoutMs }));
export const logIn = async (role, password) => remember(await post("session", { role, password }));
export const logOut = () => send("DELETE", "session");
export const setPassword = (role, password) => put("passwords", { role, password });
export const audit = () => get(`audit${query({ limit: 200 })}`);

// State
export const health = () => get("health");
export const cameras = () => get("cameras");
export const products = () => get("products");

// Inspection
export const livePicture = async (name, { overlay, width, signal }) =>
  picture(
    await send("GET", `${camera(name)}/live.jpg${query({ overlay: overlay ? 1 : 0, width })}`, {
      signal,
      timeoutMs: 4000,
    }),
  );
export const frame = async (name, width) => picture(await send("GET", `${camera(name)}/frame.jpg${query({ width })}`));
export const inspectNow = (name) => post(`${camera(name)}/inspect`, { trigger_id: null, timeout_s: 5 });
export const setProduct = (name, value) => put(`${camera(name)}/product`, { value });
export const setPaused = (name, value) => put(`${camera(name)}/paused`, { value });
export const setThreshold = (name, value) => put(`${camera(name)}/threshold`, { value });
export const threshold = (name, value = null) => get(`${camera(name)}/threshold${query({ value })}`);
export const scores = (name, minutes) => get(`scores${query({ camera: name, minutes, points: 600 })}`);

// Teaching
export const teach = (name) => get(`${camera(name)}/teach`);
export const teachAction = (name, values) => post(`${camera(name)}/teach`, values, { timeoutMs: 60000 });
export const teachPictures = (name) => get(`${camera(name)}/teach/pictures`);
export const removeTeachPicture = (name, id) =>
  send("DELETE", `${camera(name)}/teach/pictures/${encodeURIComponent(id)}`);
export const uploadTeachPicture = (name, kind, file) =>
  send("POST", `${camera(name)}/teach/pictures${query({ kind, name: file.name })}`, {
    body: file,
    type: file.type || "application/octet-stream",
    timeoutMs: 60000,
  });
export const teachPictureUrl = (name, id) =>
  `${ROOT}${camera(name)}/teach/pictures/${encodeURIComponent(id)}.jpg?width=160`;

// History
export const results = (filters) => get(`results${query(filters)}`);
export const csvUrl = (filters) => `${ROOT}results.csv${query(filters)}`;
export const mark = (id, good) => post(`results/${encodeURIComponent(id)}/mark`, { good });
export const reports = (filters) => get(`reports${query(filters)}`);
export const resultPictureUrl = (id, { overlay, width }) =>
  `${ROOT}results/${encodeURIComponent(id)}/${overlay ? "overlay" : "picture"}.jpg${query({ width })}`;

// Settings
export const config = () => get("config");
export const checkConfig = (yaml) => post("config/check", { yaml });
export const writeConfig = (yaml, sha256) => put("config", { yaml, sha256 });
export const patchSettings = async (name, changes) =>
  (await send("PATCH", `${camera(name)}/settings`, { json: changes })).json();
export const devices = () => get("devices");
export const probeSource = async (source) => picture(await send("POST", "probe/source", { json: source }));
export const probeBroker = (values) => post("probe/broker", values);

// PLC
export const PLC_MAP = `${ROOT}plc/map`;
export const plc = () => get("plc");
export const startDryTest = (name, verdict) => post(`${camera(name)}/plc/dry-test`, { verdict });
export const endDryTest = async (name) => (await send("DELETE", `${camera(name)}/plc/dry-test`)).json();

/** The stream of events. `listeners`: name -> function of the data. Returns the stream, to be closed. */
export function openEvents(listeners, { opened, failed }) {
  const stream = new EventSource(`${ROOT}events`);
  for (const [name, listener] of Object.entries(listeners)) {
    stream.addEventListener(name, (event) => listener(JSON.parse(event.data)));
  }
  stream.addEventListener("open", opened);
  stream.addEventListener("error", () => {
    stream.close();
    failed();
  });
  return stream;
}
