// The page's texts, in the language of the browser or the one that was chosen here.

const LANGUAGES = ["en", "de"];
const KEPT = "zsad-language";

let language = "en";
let messages = {};
let sayings = []; // of the agent: [pattern, names of its places, translation]

/** The best of our languages for a browser's list, such as ["de-AT", "en"]. */
export function bestLanguage(wanted) {
  for (const tag of wanted) {
    const short = tag.slice(0, 2).toLowerCase();
    if (LANGUAGES.includes(short)) return short;
  }
  return "en";
}

/** Puts values into a message. An object `{one, other}` is chosen by `n`. */
export function fill(message, values, inLanguage) {
  const form = typeof message === "string" ? message : message[new Intl.PluralRules(inLanguage).select(values.n)];
  return (form ?? message.other).replace(/\{(\w+)\}/g, (whole, name) => {
    const value = values[name] ?? whole;
    return typeof value === "number" ? new Intl.NumberFormat(inLanguage).format(value) : value;
  });
}

/** The text of `key`. */
export function t(key, values = {}) {
  return key in messages ? fill(messages[key], values, language) : key;
}

export function currentLanguage() {
  return language;
}

export function otherLanguage() {
  return LANGUAGES.find((other) => other !== language);
}

export function keepLanguage(chosen) {
  try {
    localStorage.setItem(KEPT, chosen);
  } catch {
    // a private window: the choice is forgotten
  }
}

/** From now on texts are those of `chosen`, a language of ours. `reasons`: English texts of the agent, translated. */
export function useTexts(chosen, itsMessages, reasons = {}) {
  language = chosen;
  messages = itsMessages;
  sayings = Object.entries(reasons).map(([english, translation]) => {
    const parts = english.split(/\{(\w+)\}/);
    const pattern = parts.map((part, place) => (place % 2 ? "(.+?)" : part.replace(/[.*+?^${}()|[\]\\]/g, "\\$&")));
    return [new RegExp(`^${pattern.join("")}$`, "s"), parts.filter((_, place) => place % 2), translation];
  });
}

function translated(text) {
  for (const [pattern, names, translation] of sayings) {
    const found = pattern.exec(text);
    if (!found) continue;
    const values = Object.fromEntries(names.map((name, place) => [name, translated(found[place + 1]) ?? found[place + 1]]));
    return fill(translation, values, language);
  }
  const parts = text.split("; ");
  if (parts.length === 1) return null;
  const known = parts.map(translated);
  return known.some((part) => part !== null) ? known.map((part, place) => part ?? parts[place]).join("; ") : null;
}

/** A text of the agent, which speaks English: `{text, lang}`, translated if it is known. */
export function reason(text) {
  const found = text ? translated(text) : null;
  return found === null ? { text: text ?? "", lang: "en" } : { text: found, lang: language };
}

/** Reads the messages. */
export async function loadTexts() {
  let kept = null;
  try {
    kept = localStorage.getItem(KEPT);
  } catch {
    // as above
  }
  const chosen = LANGUAGES.includes(kept) ? kept : bestLanguage(navigator.languages);
  const read = async (name) => (await fetch(new URL(name, import.meta.url))).json();
  const [ours, reasons] = await Promise.all([
    read(`messages.${chosen}.json`),
    chosen === "en" ? {} : read(`reasons.${chosen}.json`),
  ]);
  useTexts(chosen, ours, reasons);
  document.documentElement.lang = chosen;
}
