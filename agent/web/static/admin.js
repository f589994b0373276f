// For administrators: the configuration as text, and the list of changes.

import * as api from "./api.js";
import { answer, answerPlace, attempt, button, card, field, h } from "./dom.js";
import { dayAndClock } from "./format.js";
import { t } from "./texts.js";

function faultList(faults) {
  return h(
    "ul",
    { class: "faults", lang: "en" },
    faults.map((fault) => h("li", {}, fault)),
  );
}

/** The config file: read, check, write. */
export function configPage(main, app) {
  const text = h("textarea", { spellcheck: "false", rows: 24, class: "code", autocapitalize: "off" });
  const place = answerPlace();
  const faults = h("div");
  let sha256 = null;
  const read = async () => {
    const config = await api.config();
    sha256 = config.sha256;
    text.value = config.yaml;
    text.readOnly = !config.writable;
    save.disabled = !config.writable;
    where.textContent = config.path;
    faults.replaceChildren(faultList(config.faults));
    return config.writable ? "" : t("config.read_only");
  };
  const check = async () => {
    const found = (await api.checkConfig(text.value)).faults;
    faults.replaceChildren(faultList(found));
    return found.length === 0;
  };
  const save = button(
    t("config.save"),
    async () => {
      const saved = await attempt(
        place,
        async () => {
          sha256 = (await api.writeConfig(text.value, sha256)).sha256;
          faults.replaceChildren();
        },
        t("saved.reloads"),
      );
      if (saved) app.awaitReload();
    },
    { class: "strong" },
  );
  const where = h("code");
  main.append(
    h("h1", {}, t("place.config")),
    card(
      t("config.file"),
      h("p", {}, where),
      field(t("config.text"), text, t("config.hint")),
      h(
        "div",
        { class: "row" },
        save,
        button(t("config.check"), async () => {
          try {
            const fits = await check();
            answer(place, fits ? "good" : "bad", t(fits ? "config.fits" : "config.faults"));
          } catch (error) {
            answer(place, "bad", error.message, true);
          }
        }),
        button(t("config.read"), () => attempt(place, read)),
      ),
      place,
      faults,
    ),
  );
  attempt(place, read);
}

function shownValue(value) {
  return value === null || value === undefined ? "–" : typeof value === "string" ? value : JSON.stringify(value);
}

/** Who changed what, and when. */
export function auditPage(main) {
  const place = answerPlace();
  const rows = h("tbody");
  main.append(
    h("h1", {}, t("place.audit")),
    place,
    h(
      "div",
      { class: "card scroll", role: "group", "aria-label": t("place.audit"), tabindex: 0 },
      h(
        "table",
        {},
        h(
          "thead",
          {},
          h(
            "tr",
            {},
            ["audit.at", "audit.who", "audit.address", "audit.what", "audit.before", "audit.after"].map((key) =>
              h("th", { scope: "col" }, t(key)),
            ),
          ),
        ),
        rows,
      ),
    ),
  );
  attempt(place, async () => {
    const entries = await api.audit();
    rows.replaceChildren(
      ...entries.map((entry) =>
        h(
          "tr",
          {},
          h("td", {}, dayAndClock(entry.at)),
          h("td", {}, t(entry.who === "admin" ? "role.admin" : "role.operator")),
          h("td", {}, entry.address),
          h("td", { lang: "en" }, entry.what),
          h("td", { class: "value" }, shownValue(entry.before)),
          h("td", { class: "value" }, shownValue(entry.after)),
        ),
      ),
    );
    return t("audit.count", { n: entries.length });
  });
}
