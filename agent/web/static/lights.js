// The lights of the station in words.

import { said } from "./dom.js";
import { t } from "./texts.js";

const LIGHTS = {
  broker: "light.broker",
  disk: "light.disk",
  model: "light.model",
  page: "light.page",
  PLC: "light.plc",
  outputs: "light.outputs",
};

/** The name of a light for people. */
export function lightName(name) {
  if (name.startsWith("camera ")) return t("light.camera", { name: name.slice(7) });
  return name in LIGHTS ? t(LIGHTS[name]) : name;
}

/** The text and the advice of a light, each marked with its language. */
export function lightText({ state, text, advice }) {
  if (state === "ok" || !advice) return [said("span", text)];
  return [said("span", text), ". ", said("span", advice), "."];
}
