// One result: its card in a gallery, its dialog with the picture, and the marks of people.

import * as api from "./api.js";
import { answerPlace, attempt, button, choice, h, icon, newId, said } from "./dom.js";
import { VERDICTS, clock, dayAndClock, partName, scoreText } from "./format.js";
import { t } from "./texts.js";

/** Sign and word of a verdict. */
export function verdictChip(verdict) {
  const { sign, text } = VERDICTS[verdict];
  return h("span", { class: `chip ${verdict}` }, icon(sign), t(text));
}

/** Two buttons by which a person says what a part was. `onMark` gets the new mark. */
export function markButtons(result, place, onMark = () => {}) {
  const buttons = {};
  const show = (mark) => {
    for (const [kind, element] of Object.entries(buttons)) element.setAttribute("aria-pressed", String(kind === mark));
  };
  const make = (kind, text, sign) => {
    buttons[kind] = button("", () =>
      attempt(place, async () => {
        const marked = await api.mark(result.id, kind === "good");
        result.mark = marked.mark;
        show(marked.mark);
        onMark(marked.mark);
        return { english: marked.text };
      }),
    );
    buttons[kind].append(icon(sign), t(text));
  };
  make("good", "mark.good", "tick");
  make("bad", "mark.bad", "cross");
  show(result.mark);
  return h("div", { class: "marks" }, buttons.good, buttons.bad);
}

/** A picture of a result. The evidence may be written a moment after the event: one more attempt. */
export function thumbnail(result, width = 240) {
  const source = api.resultPictureUrl(result.id, { overlay: true, width });
  const picture = h("img", { src: source, alt: "", loading: "lazy", class: "thumbnail" });
  let failed = 0;
  picture.addEventListener("error", () => {
    failed += 1;
    if (failed === 1) setTimeout(() => (picture.src = `${source}&again=1`), 1500);
    else picture.replaceWith(h("span", { class: "thumbnail none" }, t("picture.none")));
  });
  return picture;
}

/** The card of a result in a gallery. */
export function resultCard(result) {
  const name = partName(result);
  const place = answerPlace();
  const open = h(
    "button",
    {
      type: "button",
      class: "open",
      "aria-label": t("detail.open", { name, time: clock(result.captured_at) }),
      onclick: () => showDetail(result),
    },
    thumbnail(result),
  );
  return h(
    "li",
    { class: "result" },
    open,
    h("p", { class: "name" }, name),
    h(
      "p",
      { class: "facts" },
      verdictChip(result.verdict),
      " ",
      scoreText(result.anomaly_score),
      " · ",
      clock(result.captured_at),
    ),
    markButtons(result, place),
    place,
  );
}

function facts(result) {
  const rows = [
    ["detail.score", `${scoreText(result.anomaly_score)} (${t("threshold")} ${scoreText(result.threshold)})`],
    ["detail.at", dayAndClock(result.captured_at)],
    ["camera", result.camera],
    ["product", result.product],
    ["detail.part", partName(result)],
    ["detail.regions", String(result.regions.length)],
    ["detail.id", result.id],
  ];
  if (result.reason) rows.unshift(["detail.reason", said("span", result.reason)]);
  return h(
    "dl",
    { class: "facts" },
    rows.flatMap(([key, value]) => [h("dt", {}, t(key)), h("dd", {}, value)]),
  );
}

/** Opens a dialog with everything about a result. */
export function showDetail(result, onMark) {
  const id = newId();
  const place = answerPlace();
  const picture = h("img", { class: "large", alt: t("detail.picture", { name: partName(result) }) });
  const none = h("p", { class: "hint", hidden: true }, t("picture.none"));
  const show = (overlay) => {
    picture.src = api.resultPictureUrl(result.id, { overlay, width: 960 });
  };
  picture.addEventListener("error", () => {
    picture.hidden = true;
    none.hidden = false;
  });
  show(true);
  const dialog = h(
    "dialog",
    { class: "detail", "aria-labelledby": id },
    h(
      "div",
      { class: "top" },
      h("h2", { id }, verdictChip(result.verdict), " ", partName(result)),
      h("form", { method: "dialog" }, h("button", {}, t("close"))),
    ),
    picture,
    none,
    choice(t("inspect.heatmap"), { type: "checkbox", checked: true, onchange: (event) => show(event.target.checked) }),
    markButtons(result, place, onMark),
    place,
    facts(result),
  );
  dialog.addEventListener("close", () => dialog.remove());
  document.body.append(dialog);
  dialog.showModal();
}
