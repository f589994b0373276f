// Keeps one event stream open, and notices within two seconds when the agent does not answer.

import * as api from "./api.js";
import { judge } from "./state.js";

const LOOK_MS = 250;
const SILENT_MS = 650; // without an event for so long, the agent is asked
const ANSWER_MS = 1000; // it has so long to answer
const RETRY_MS = 1000; // between two attempts to open the stream

/** Opens the stream; `heard` is called before each listener. */
function openStream(listeners, heard, outcome) {
  const heardBy = {};
  for (const [name, listener] of Object.entries(listeners)) {
    heardBy[name] = (data) => {
      heard();
      listener(data);
    };
  }
  return api.openEvents(heardBy, outcome);
}

/** Starts. `listeners`: of events; `onState` gets the state on each change, `onSession` each answer to the ping.
 * `onReopened`: the stream is open again, and events were missed. */
export function connect(listeners, { onState, onSession, onReopened }) {
  let stream = null;
  let streamOpen = false;
  let wasOpen = false;
  let attempts = 0;
  let answers = true;
  let role; // undefined until the first answer
  let heardMs = performance.now();
  let triedMs = -Infinity;
  let asking = false;
  let state = null;

  const heard = () => {
    heardMs = performance.now();
    answers = true;
  };
  const tell = () => {
    const next = judge({ answers, role, streamOpen, attempts });
    if (next !== state) onState((state = next));
  };
  const drop = () => {
    stream?.close();
    stream = null;
    streamOpen = false;
  };
  const open = () => {
    triedMs = performance.now();
    attempts += 1;
    stream = openStream(listeners, heard, {
      opened() {
        heard();
        streamOpen = true;
        attempts = 0;
        tell();
        if (wasOpen) onReopened();
        wasOpen = true;
      },
      failed() {
        drop();
        heardMs = -Infinity; // ask at once
      },
    });
  };
  const ask = async () => {
    asking = true;
    const askedMs = performance.now();
    try {
      const session = await api.session(ANSWER_MS);
      heard();
      role = session.role;
      onSession(session);
      if (role === null) drop();
    } catch (error) {
      if (error.status > 0) heard();
      else if (heardMs < askedMs) {
        answers = false;
        drop();
      }
    }
    asking = false;
    tell();
  };
  const look = () => {
    if (document.hidden) return;
    const now = performance.now();
    if (!asking && now - heardMs > SILENT_MS) ask();
    if (stream === null && answers && role && now - triedMs > RETRY_MS) open();
  };
  ask();
  setInterval(look, LOOK_MS);
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) heardMs = Math.min(heardMs, performance.now() - SILENT_MS);
    look();
  });
  return { ask };
}
