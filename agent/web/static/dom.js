// Small tools that make elements. Text is always set as text, never as HTML.

import { reason, t } from "./texts.js";

const SVG = "http://www.w3.org/2000/svg";

const PATHS = {
  tick: "M5 13l5 5L20 7",
  cross: "M6 6l12 12M18 6L6 18",
  question: "M8 9a4 4 0 1 1 5.5 3.7c-1 .5-1.5 1-1.5 2.3M12 19v.5",
  pause: "M8 5v14M16 5v14",
  warning: "M12 3L2 21h20zM12 10v5M12 18v.5",
  off: "M6 12h12",
  inspect: "M10.5 4a6.5 6.5 0 1 0 0 13 6.5 6.5 0 0 0 0-13zM15.5 15.5L21 21",
  teach: "M2 9l10-5 10 5-10 5zM6 11.5V17c3 2.5 9 2.5 12 0v-5.5M22 9v6",
  setup: "M4 7h10M18 7h2M4 17h2M10 17h10M16 4.5v5M8 14.5v5",
  lookback: "M4 12a8 8 0 1 0 2.5-5.8M4 4v4h4M12 8v4.5l3 2",
  menu: "M4 6h16M4 12h16M4 18h16",
};

/** An element. `on…` are listeners, `class` and other names are attributes; null and false are left out. */
export function h(tag, attributes = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (value === null || value === undefined || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "value" || name === "checked" || name === "disabled") element[name] = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.flat().filter((child) => child !== null && child !== undefined && child !== false));
  return element;
}

/** An element of SVG. */
export function s(tag, attributes = {}, ...children) {
  const element = document.createElementNS(SVG, tag);
  for (const [name, value] of Object.entries(attributes)) element.setAttribute(name, value);
  element.append(...children);
  return element;
}

/** A sign that says nothing to a screen reader: a text beside it does. */
export function icon(name) {
  return s(
    "svg",
    { viewBox: "0 0 24 24", class: `icon icon-${name}`, "aria-hidden": "true" },
    s("path", { d: PATHS[name] }),
  );
}

/** Sets a text only if it has changed, so that a screen reader and the layout are left alone. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

export function button(text, onclick, attributes = {}) {
  return h("button", { type: "button", onclick, ...attributes }, text);
}

let lastId = 0;

export function newId() {
  lastId += 1;
  return `e${lastId}`;
}

/** A label with its input and, if given, an explanation that belongs to it. */
export function field(label, input, hint = null) {
  input.id ||= newId();
  const explained = hint === null ? null : h("span", { class: "hint", id: newId() }, hint);
  if (explained) input.setAttribute("aria-describedby", explained.id);
  return h("div", { class: "field" }, h("label", { for: input.id }, label), input, explained);
}

/** A check box or radio button with its label, large enough for a finger. */
export function choice(label, attributes) {
  return h("label", { class: "choice" }, h("input", attributes), h("span", {}, label));
}

export function choiceOf(options, selected, attributes = {}) {
  const select = h("select", attributes);
  for (const [value, text] of options) {
    select.append(h("option", { value, selected: value === selected }, text));
  }
  return select;
}

/** An element with a text of the agent. */
export function said(name, words, attributes = {}) {
  const { text, lang } = reason(words);
  return h(name, { ...attributes, lang }, text);
}

/** Shows a text of the agent in an element. */
export function setSaid(element, words) {
  const { text, lang } = reason(words);
  setText(element, text);
  element.lang = lang;
}

/** A place for the answer to an action, read aloud when it comes. */
export function answerPlace() {
  return h("p", { class: "answer", role: "status" });
}

/** Shows what came of an action; an empty text shows nothing. `kind`: good, bad or busy. Texts of the agent are English. */
export function answer(place, kind, text, english = false) {
  place.className = `answer ${kind}`;
  if (text === "") {
    place.replaceChildren();
    return;
  }
  const sign = { good: "tick", bad: "cross", busy: "lookback" }[kind];
  place.replaceChildren(icon(sign), english ? said("span", text) : h("span", {}, text));
}

/** Runs an action of a button: says that it runs, and what came of it: the text that the action returns, else `done`.
 * Returns whether it succeeded. */
export async function attempt(place, action, done = t("answer.done")) {
  answer(place, "busy", t("answer.busy"));
  try {
    const text = await action();
    if (text?.english) answer(place, "good", text.english, true);
    else answer(place, "good", typeof text === "string" ? text : done);
    return true;
  } catch (error) {
    answer(place, "bad", error.message, error.status > 0);
    return false;
  }
}

/** Asks before something that cannot be undone. */
export function confirmed(question, yes) {
  return new Promise((resolve) => {
    const id = newId();
    const dialog = h(
      "dialog",
      { class: "ask", "aria-labelledby": id },
      h("p", { id }, question),
      h(
        "form",
        { method: "dialog", class: "row" },
        h("button", { value: "yes", class: "strong" }, yes),
        h("button", { value: "no" }, t("cancel")),
      ),
    );
    dialog.addEventListener("close", () => {
      dialog.remove();
      resolve(dialog.returnValue === "yes");
    });
    document.body.append(dialog);
    dialog.showModal();
  });
}

/** Makes the children of `list` those of `entries`. A child whose key is still there stays, with its focus. */
export function sync(list, entries, keyOf, make) {
  const known = new Map([...list.children].map((child) => [child.dataset.key, child]));
  const wanted = entries.map((entry) => {
    const key = keyOf(entry);
    if (!known.has(key)) {
      known.set(key, make(entry));
      known.get(key).dataset.key = key;
    }
    return known.get(key);
  });
  const kept = new Set(wanted);
  for (const child of [...list.children]) if (!kept.has(child)) child.remove();
  wanted.forEach((child, place) => {
    if (list.children[place] !== child) list.insertBefore(child, list.children[place] ?? null);
  });
}

/** A titled part of a page. */
export function card(title, ...children) {
  const id = newId();
  return h("section", { class: "card", "aria-labelledby": id }, h("h2", { id }, title), ...children);
}
