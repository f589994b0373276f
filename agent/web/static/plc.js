// Set up: the test of the PLC's wiring.

import * as api from "./api.js";
import { answer, answerPlace, attempt, button, card, field, h, icon, said, setSaid, setText, sync } from "./dom.js";
import { VERDICTS } from "./format.js";
import { t } from "./texts.js";

const EVERY_MS = 500;
const OFF_MS = 5000; // while the camera has no handshake
const SILENT_S = 5; // then the PLC is missing, as for the light
const DOORS = { modbus: "Modbus TCP", opcua: "OPC UA" };
const PROPOSED = "0.0.0.0:1502"; // a port below 1024 needs a right
const AWAITED = ["Trigger", "ResultsAck"];
const VERDICT_NAMES = ["ok", "anomalous", "unknown"];

/** The line of a door: where it listens, and when a client has spoken last. */
function doorItem({ name, listen, fault, silent_s: silentS }) {
  const works = fault === null && silentS !== null && silentS < SILENT_S;
  const asked = () => (works ? t("plc.asks") : t("plc.asked", { n: Math.round(silentS) }));
  const about = fault ? said("p", fault) : h("p", {}, silentS === null ? t("plc.never") : asked());
  return h(
    "li",
    { class: `light ${works ? "ok" : "warn"}` },
    icon(works ? "tick" : "warning"),
    h("div", {}, h("strong", {}, t("plc.door", { name: DOORS[name], listen })), about),
  );
}

/** A table of signals. `columns`: [heading, {name: value}]. */
function signalTable(caption, columns) {
  const names = Object.keys(columns[0]?.[1] ?? {});
  const shown = (value) => String(Math.round(Number(value) * 1000) / 1000);
  const headings = [t("plc.signal"), ...columns.map(([heading]) => heading)];
  return h(
    "table",
    {},
    h("caption", {}, caption),
    h("thead", {}, h("tr", {}, headings.map((heading) => h("th", { scope: "col" }, heading)))),
    h(
      "tbody",
      {},
      names.map((name) =>
        h("tr", {}, h("th", { scope: "row" }, name), columns.map(([, values]) => h("td", {}, shown(values[name])))),
      ),
    ),
  );
}

/** Ticks that turn green when the PLC has set a signal since `startMs`. */
function awaited() {
  const list = h("ul", { class: "lights", "aria-live": "polite" });
  let startMs = Date.now();
  return {
    list,
    again() {
      startMs = Date.now();
    },
    update({ seen_s: seenS }) {
      const entries = AWAITED.map((name) => ({ name, isSeen: seenS[name] * 1000 < Date.now() - startMs }));
      sync(list, entries, JSON.stringify, ({ name, isSeen }) =>
        h(
          "li",
          { class: `light ${isSeen ? "ok" : "off"}` },
          icon(isSeen ? "tick" : "question"),
          h("span", {}, t(isSeen ? "plc.seen" : "plc.waiting", { name })),
        ),
      );
    },
  };
}

/** Asks where the PLC connects. `save` gets the settings that switch the handshake on. */
export function doorForm(save) {
  const listen = h("input", { value: PROPOSED, autocomplete: "off", spellcheck: "false" });
  const form = h(
    "form",
    { hidden: true },
    field(t("plc.listen"), listen, t("plc.listen_hint")),
    h("p", { class: "hint" }, t("plc.opcua"), " ", h("a", { href: "#config" }, t("place.config"))),
    h("button", { class: "strong" }, t("plc.switch_on")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    save({ trigger: "plc", modbus_listen: listen.value.trim() });
  });
  return form;
}

/** The step of Set up: `{section, leave}`. */
export function plcPart(app, camera) {
  const doors = h("ul", { class: "lights" });
  const outside = h("p", { hidden: true }, t("plc.no_camera"));
  const failure = h("p", { class: "hint" });
  const left = h("p", { class: "hint" });
  const place = answerPlace();
  const ticks = awaited();
  const signals = h("div", { class: "scroll", role: "group", "aria-label": t("plc.signals"), tabindex: 0 });
  const table = h("details", {}, h("summary", {}, t("plc.signals")), signals);
  let timer = null;
  let isLeft = false;

  const show = (found) => {
    const own = found.cameras.find((one) => one.camera === camera.name);
    outside.hidden = own !== undefined;
    body.hidden = own === undefined;
    sync(doors, found.doors, JSON.stringify, doorItem);
    if (!own) return;
    ticks.update(own);
    const leftS = own.dry_test_left_s;
    if (!end.hidden && leftS === null) answer(place, "good", t("plc.ended"));
    end.hidden = leftS === null;
    setText(left, leftS === null ? "" : t("plc.left", { n: Math.ceil(leftS) }));
    if (table.open)
      signals.replaceChildren(
        signalTable(t("plc.from"), Object.entries(own.from_plc)),
        signalTable(t("plc.to"), [[t("plc.value"), own.to_plc]]),
      );
  };
  const test = (verdict) =>
    attempt(
      place,
      async () => {
        ticks.again();
        show(await api.startDryTest(camera.name, verdict));
      },
      t("plc.started", { verdict: t(VERDICTS[verdict].text) }),
    );
  const stop = () => attempt(place, async () => show(await api.endDryTest(camera.name)), t("plc.ended"));
  const end = button(t("plc.end"), stop, { hidden: true });
  const tests = h(
    "div",
    { class: "row" },
    VERDICT_NAMES.map((verdict) => button(t(VERDICTS[verdict].text), () => test(verdict))),
    end,
  );
  const body = h(
    "div",
    { hidden: true },
    h("p", {}, h("a", { href: api.PLC_MAP, target: "_blank" }, t("plc.map"))),
    h("h3", {}, t("plc.awaited")),
    ticks.list,
    h("div", { class: "row" }, button(t("plc.again"), ticks.again)),
    h("h3", {}, t("plc.dry")),
    h("p", {}, t("plc.dry_text")),
    tests,
    left,
    place,
    table,
  );
  const read = async () => {
    try {
      if (!document.hidden) show(await api.plc());
      setText(failure, "");
    } catch (error) {
      (error.status > 0 ? setSaid : setText)(failure, error.message);
    }
    if (!isLeft) timer = setTimeout(read, body.hidden ? OFF_MS : EVERY_MS);
  };
  read();
  return {
    section: card(t("setup.plc"), doors, outside, body, failure),
    leave() {
      isLeft = true;
      clearTimeout(timer);
    },
  };
}
