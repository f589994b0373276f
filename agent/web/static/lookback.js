// Look back: results by filter, and the report.

import * as api from "./api.js";
import { answerPlace, attempt, button, card, choice, choiceOf, field, h, said } from "./dom.js";
import { markButtons, showDetail, thumbnail, verdictChip } from "./detail.js";
import { dayAndClock, partName, scoreText } from "./format.js";
import { reportPart } from "./report.js";
import { currentLanguage, t } from "./texts.js";

const A_PAGE = 50;
const MARKS = { good: "mark.is_good", bad: "mark.is_bad" };

/** The value of a `datetime-local` input for a time. */
function localInput(time) {
  const date = new Date(time);
  return new Date(date.getTime() - date.getTimezoneOffset() * 60000).toISOString().slice(0, 16);
}

/** What the form asks for, as the API wants it. */
function filtersOf(data) {
  const time = (name) => (data.get(name) ? new Date(data.get(name)).toISOString() : null);
  const text = (name) => data.get(name)?.trim() || null;
  return {
    from: time("from"),
    to: time("to"),
    camera: text("camera"),
    verdict: data.getAll("verdict"),
    product: text("product"),
    name: text("name"),
    mark: text("mark"),
  };
}

function filterForm(app) {
  const cameras = (app.state.cameras ?? []).map(({ name }) => [name, name]);
  const midnight = new Date().setHours(0, 0, 0, 0);
  const isChecked = (verdict) => verdict !== "ok";
  return h(
    "form",
    { class: "card filters", "aria-label": t("filters") },
    field(t("filter.from"), h("input", { type: "datetime-local", name: "from", value: localInput(midnight) })),
    field(t("filter.to"), h("input", { type: "datetime-local", name: "to" })),
    field(t("camera"), choiceOf([["", t("filter.all")], ...cameras], "", { name: "camera" })),
    field(t("product"), h("input", { name: "product", autocomplete: "off" })),
    field(t("filter.name"), h("input", { name: "name", autocomplete: "off" })),
    field(
      t("filter.mark"),
      choiceOf(
        [
          ["", t("filter.all")],
          ["good", t("mark.is_good")],
          ["bad", t("mark.is_bad")],
        ],
        "",
        { name: "mark" },
      ),
    ),
    h(
      "fieldset",
      { class: "row" },
      h("legend", {}, t("filter.verdict")),
      [
        ["ok", "verdict.ok"],
        ["anomalous", "verdict.anomalous"],
        ["unknown", "verdict.unknown"],
      ].map(([value, text]) =>
        choice(t(text), { type: "checkbox", name: "verdict", value, checked: isChecked(value) }),
      ),
    ),
    h("button", { class: "strong" }, t("filter.show")),
  );
}

function resultRow(result) {
  const place = answerPlace();
  const markText = () => (result.mark ? t(MARKS[result.mark]) : "");
  const mark = h("span", {}, markText());
  const name = partName(result);
  const onMark = () => (mark.textContent = markText());
  const cell = (label, ...content) => h("td", { role: "cell", "data-label": t(label) }, ...content);
  const opener = h(
    "button",
    {
      type: "button",
      class: "open",
      onclick: () => showDetail(result, onMark),
      "aria-label": t("detail.open", { name, time: dayAndClock(result.captured_at) }),
    },
    result.has_picture ? thumbnail(result, 160) : h("span", { class: "thumbnail none" }, t("picture.open")),
  );
  return h(
    "tr",
    { role: "row" },
    cell("table.picture", opener),
    cell("table.time", dayAndClock(result.captured_at)),
    cell(
      "filter.verdict",
      verdictChip(result.verdict),
      result.reason ? said("p", result.reason, { class: "hint" }) : null,
    ),
    cell("detail.score", scoreText(result.anomaly_score)),
    cell("camera", result.camera),
    cell("product", result.product),
    cell("detail.part", name),
    cell("filter.mark", mark, markButtons(result, place, onMark), place),
  );
}

const COLUMNS = [
  "table.picture",
  "table.time",
  "filter.verdict",
  "detail.score",
  "camera",
  "product",
  "detail.part",
  "filter.mark",
];

function resultTable() {
  const rows = h("tbody", { role: "rowgroup" });
  const element = h(
    "table",
    { role: "table", class: "results", "aria-label": t("lookback.results") },
    h(
      "thead",
      { role: "rowgroup" },
      h(
        "tr",
        { role: "row" },
        COLUMNS.map((key) => h("th", { scope: "col", role: "columnheader" }, t(key))),
      ),
    ),
    rows,
  );
  return { element, rows };
}

export function lookBackPage(main, app) {
  const form = filterForm(app);
  const { element, rows } = resultTable();
  const place = answerPlace();
  const csv = h("a", { class: "as-button", download: "results.csv" }, t("lookback.csv"));
  const more = button(t("lookback.more"), () => read(false));
  let next = null;
  let asked = 0;
  let filters = null; // of what is shown
  const read = (afresh) =>
    attempt(place, async () => {
      if (afresh) filters = filtersOf(new FormData(form));
      const mine = (asked += 1);
      if (afresh) more.hidden = true;
      const ask = (before) => api.results({ ...filters, limit: A_PAGE, before });
      let found = await ask(afresh ? null : next);
      // The agent stops a long search now and then.
      while (mine === asked && found.results.length === 0 && found.next !== null) found = await ask(found.next);
      if (mine === asked) {
        // the answer to an older question may come later
        if (afresh) rows.replaceChildren();
        rows.append(...found.results.map(resultRow));
        next = found.next;
        more.hidden = next === null;
        csv.href = api.csvUrl({ ...filters, decimal: currentLanguage() === "de" ? "comma" : null });
      }
      return t("lookback.count", { n: rows.children.length });
    });
  const report = reportPart(app, () => filtersOf(new FormData(form)));
  const results = card(
    t("lookback.results"),
    h("div", { class: "row" }, csv),
    place,
    element,
    h("div", { class: "row" }, more),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    read(true);
    report.read();
  });
  const views = { results, report: report.section };
  const switches = [
    ["results", t("lookback.results")],
    ["report", t("lookback.report")],
  ].map(([name, text]) => button(text, () => show(name), { "data-view": name }));
  const show = (name) => {
    for (const [view, section] of Object.entries(views)) section.hidden = view !== name;
    for (const element of switches) element.setAttribute("aria-pressed", String(element.dataset.view === name));
  };
  show("results");
  main.append(
    h("h1", {}, t("place.lookback")),
    form,
    h("div", { class: "row views" }, switches),
    results,
    report.section,
  );
  read(true);
  report.read();
  return { leave: () => (asked += 1) }; // a long search ends
}
