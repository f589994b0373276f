// The lights of the station in words.

import { h } from "./dom.js";
import { currentLanguage, t } from "./texts.js";

const LIGHTS = { broker: "light.broker", disk: "light.disk", model: "light.model", page: "light.page" };
const ADVICE = { camera: "advice.camera", broker: "advice.broker", disk: "advice.disk", model: "advice.model" };

/** The name of a light for people. */
export function lightName(name) {
  if (name.startsWith("camera ")) return t("light.camera", { name: name.slice(7) });
  return name in LIGHTS ? t(LIGHTS[name]) : name;
}

/** What to do, from the agent or, because it speaks English only, from our texts: `{text, english}`. */
function adviceOf({ name, state: kind, advice }) {
  const key = ADVICE[name.split(" ")[0]];
  const isOwn = kind === "fail" && key !== undefined && currentLanguage() !== "en";
  return isOwn ? { text: t(key), english: false } : { text: advice, english: true };
}

/** The text and the advice of a light, each marked with its language. */
export function lightText(light) {
  const { text, english } = adviceOf(light);
  const advice = light.state === "ok" || !text ? null : h("span", english ? { lang: "en" } : {}, text);
  return [h("span", { lang: "en" }, light.text, advice ? ". " : ""), advice];
}
