// The page's texts, in the language of the browser or the one that was chosen here.

const LANGUAGES = ["en", "de"];
const KEPT = "zsad-language";

let language = "en";
let messages = {};

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

/** From now on texts are those of `chosen`, a language of ours. */
export function useTexts(chosen, itsMessages) {
  language = chosen;
  messages = itsMessages;
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
  const address = new URL(`messages.${chosen}.json`, import.meta.url);
  useTexts(chosen, await (await fetch(address)).json());
  document.documentElement.lang = chosen;
}
