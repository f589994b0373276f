// Set up: camera, region, ignore mask, trigger, product, broker; the PLC is in plc.js.

import * as api from "./api.js";
import { answer, answerPlace, attempt, button, card, choice, choiceOf, field, h, setSaid, setText, sync } from "./dom.js";
import { VERDICTS, scoreText } from "./format.js";
import { paint, watchFrames } from "./frame.js";
import { maskPainter } from "./mask.js";
import { doorForm, plcPart } from "./plc.js";
import { regionEditor } from "./region.js";
import { cameraOf } from "./state.js";
import { t } from "./texts.js";

const FRAME_WIDTH = 960;
const TRIGGERS = { free: "trigger.free", mqtt: "trigger.mqtt", plc: "trigger.plc", folder: "trigger.folder" };
const TRIGGER_HINTS = {
  free: "trigger.free_text",
  mqtt: "trigger.mqtt_text",
  plc: "trigger.plc_text",
  folder: "trigger.folder_text",
};

/** Changes settings of the camera, and says beside the field what came of it. */
function change(app, place, changes) {
  return attempt(
    place,
    async () => {
      await api.patchSettings(app.state.camera, changes);
      app.awaitReload();
    },
    t("saved.reloads"),
  );
}

/** A picture of a source that is tried out. */
function preview() {
  const canvas = h("canvas", { class: "preview", role: "img", "aria-label": t("source.preview"), hidden: true });
  return {
    canvas,
    async show(source) {
      canvas.hidden = true;
      const { bitmap } = await api.probeSource(source);
      paint(canvas, bitmap);
      canvas.hidden = false;
      return t("source.works", { width: String(bitmap.width), height: String(bitmap.height) });
    },
  };
}

function deviceItem(app, device) {
  const place = answerPlace();
  const shown = preview();
  const source = { [device.key]: device.by_id ?? device.path };
  const isHere = device.used_by === app.state.camera;
  return h(
    "li",
    { class: "device" },
    h("p", {}, h("strong", {}, device.name), h("span", { class: "hint" }, ` ${device.path}`)),
    device.used_by === null ? null : h("p", { class: "hint" }, t("source.used_by", { camera: device.used_by })),
    shown.canvas,
    h(
      "div",
      { class: "row" },
      device.used_by === null
        ? button(t("source.look"), () => attempt(place, () => shown.show(source)), {
            "aria-label": `${t("source.look")}: ${device.name}`,
          })
        : null,
      isHere
        ? null
        : button(t("source.use"), () => change(app, place, source), {
            "aria-label": `${t("source.use")}: ${device.name}`,
          }),
    ),
    place,
  );
}

function sourcePart(app, camera) {
  const list = h("ul", { class: "devices" });
  const place = answerPlace();
  const find = () =>
    attempt(place, async () => {
      const found = await api.devices();
      const hadFocus = list.contains(document.activeElement);
      sync(list, found, JSON.stringify, (device) => deviceItem(app, device));
      if (hadFocus && !list.contains(document.activeElement)) again.focus();
      if (!found.length) throw new Error(t("source.none"));
      return t("source.found", { n: found.length });
    });
  const again = button(t("source.find"), find);
  const present = h("code", {}, camera.source);
  const canvas = h("canvas", {
    class: "preview",
    role: "img",
    "aria-label": t("source.live"),
    width: 480,
    height: 360,
  });
  const failure = h("p", { class: "hint" });
  const leave = watchFrames(canvas, camera.name, (error) => {
    canvas.classList.toggle("stale", error !== null);
    (error?.status > 0 ? setSaid : setText)(failure, error?.message ?? "");
  });
  const update = ({ source }) => {
    if (present.textContent === source) return;
    present.textContent = source;
    find();
  };
  const address = h("input", {
    type: "text",
    inputmode: "url",
    autocomplete: "off",
    spellcheck: "false",
    value: /^\d+$|^\/dev\//.test(camera.source) ? "" : camera.source,
  });
  const shown = preview();
  const addressPlace = answerPlace();
  const form = h(
    "form",
    {},
    field(t("source.address"), address, t("source.address_hint")),
    shown.canvas,
    h(
      "div",
      { class: "row" },
      button(t("source.test"), () => attempt(addressPlace, () => shown.show({ source: address.value.trim() }))),
      h("button", {}, t("source.use_address")),
    ),
    addressPlace,
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(app, addressPlace, { source: address.value.trim() });
  });
  find();
  const section = card(
    t("setup.source"),
    h("p", {}, t("source.present"), " ", present),
    canvas,
    failure,
    h("h3", {}, t("source.cameras")),
    list,
    place,
    h("div", { class: "row" }, again),
    h("h3", {}, t("source.other")),
    form,
  );
  return { section, update, leave };
}

/** Region or mask: a frame is fetched, then the editor stands over it. */
function drawingPart(app, camera, { title, text, make, read }) {
  const place = answerPlace();
  const box = h("div");
  let editor = null;
  let size = ""; // of the frame under the editor
  const save = button(t("save"), () => change(app, place, read(editor)), { class: "strong", hidden: true });
  const load = () =>
    attempt(place, async () => {
      const { bitmap, frame = [bitmap.width, bitmap.height] } = await api.frame(camera.name, FRAME_WIDTH);
      const before = String(frame) === size ? editor : null;
      size = String(frame);
      editor = make({ bitmap, frame, before });
      box.replaceChildren(editor.element);
      save.hidden = false;
      return "";
    });
  load();
  let shown = JSON.stringify([camera.source, camera.frame_wh]);
  const update = ({ source, frame_wh: frame }) => {
    const key = JSON.stringify([source, frame]);
    if (frame === null || key === shown) return; // no frame yet after a reload: what was painted stays
    shown = key;
    load();
  };
  return {
    place,
    update,
    section: card(
      title,
      h("p", {}, text),
      box,
      h("div", { class: "row" }, save, button(t("frame.again"), load)),
      place,
    ),
  };
}

function regionPart(app, camera) {
  return drawingPart(app, camera, {
    title: t("setup.region"),
    text: t("region.text"),
    make: ({ bitmap, frame, before }) =>
      regionEditor({ bitmap, frame, region: before ? before.value() : (cameraOf(app.state) ?? camera).region_xywh }),
    read: (editor) => ({ region_xywh: editor.value() }),
  });
}

function maskPart(app, camera) {
  const part = drawingPart(app, camera, {
    title: t("setup.mask"),
    text: t(camera.ignore_mask ? "mask.text_present" : "mask.text"),
    make: maskPainter,
    read: (editor) => ({ ignore_mask_png: editor.png() }),
  });
  if (camera.ignore_mask)
    part.section.append(
      h(
        "div",
        { class: "row" },
        button(t("mask.remove"), () => change(app, part.place, { ignore_mask_png: null })),
      ),
    );
  return part;
}

function triggerPart(app, camera) {
  const place = answerPlace();
  const save = async (changes) => {
    if (await change(app, place, changes)) doors.hidden = true;
  };
  const doors = doorForm(save);
  const isOff = () => api.plc().then((found) => found.doors.length === 0, () => false);
  const choose = async (kind) => {
    doors.hidden = kind !== "plc" || !(await isOff());
    if (doors.hidden) save({ trigger: kind });
  };
  const options = Object.keys(TRIGGERS).map((kind) =>
    h(
      "div",
      {},
      choice(t(TRIGGERS[kind]), {
        type: "radio",
        name: "trigger",
        value: kind,
        checked: camera.trigger === kind,
        onchange: () => choose(kind),
      }),
      h("p", { class: "hint" }, t(TRIGGER_HINTS[kind])),
      kind === "plc" ? doors : null,
    ),
  );
  const now = button(t("inspect.now"), () =>
    attempt(place, async () => {
      const result = await api.inspectNow(camera.name);
      return `${t(VERDICTS[result.verdict].text)} (${scoreText(result.anomaly_score)})`;
    }),
  );
  return card(
    t("setup.trigger"),
    h("fieldset", {}, h("legend", {}, t("trigger.text")), options),
    h("div", { class: "row" }, now),
    place,
  );
}

function productPart(app, camera) {
  const place = answerPlace();
  const select = choiceOf([[camera.product, camera.product]], camera.product);
  const own = h("input", { maxlength: 200, autocomplete: "off" });
  api.products().then(
    (products) => {
      const entries = products.map(({ name, taught }) => [
        name,
        taught ? t("product.taught", { name, goods: taught.goods }) : t("product.not_taught", { name }),
      ]);
      if (!entries.some(([name]) => name === camera.product)) entries.unshift([camera.product, camera.product]);
      select.replaceChildren(...choiceOf(entries, camera.product).options);
      select.value = camera.product; // moving the options has chosen another
    },
    (error) => answer(place, "bad", error.message, error.status > 0),
  );
  const form = h(
    "form",
    {},
    field(t("product"), select),
    field(t("product.own"), own, t("product.own_hint")),
    h("button", { class: "strong" }, t("save")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    change(app, place, { product: own.value.trim() || select.value });
  });
  return card(t("setup.product"), form, place);
}

function brokerPart() {
  const place = answerPlace();
  const form = h(
    "form",
    { autocomplete: "off" },
    field(
      t("broker.address"),
      h("input", {
        name: "broker",
        inputmode: "url",
        spellcheck: "false",
      }),
      t("broker.address_hint"),
    ),
    field(t("broker.username"), h("input", { name: "username", autocomplete: "off" })),
    field(t("password"), h("input", { name: "password", type: "password", autocomplete: "new-password" })),
    field(t("broker.client_id"), h("input", { name: "client_id", autocomplete: "off" })),
    h("button", {}, t("broker.test")),
    place,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const values = Object.fromEntries([...new FormData(form)].filter(([, value]) => value !== ""));
    answer(place, "busy", t("answer.busy"));
    try {
      const { ok, text } = await api.probeBroker(values);
      answer(place, ok ? "good" : "bad", text, true);
    } catch (error) {
      answer(place, "bad", error.message, error.status > 0);
    }
  });
  return card(
    t("setup.broker"),
    h("p", {}, t("broker.text"), " ", h("a", { href: "#config" }, t("place.config"))),
    form,
  );
}

export function setUpPage(main, app) {
  main.append(
    h("div", { class: "top" }, h("h1", {}, t("place.setup")), app.cameraChoice()),
    h("p", {}, t("setup.text")),
  );
  const camera = cameraOf(app.state);
  if (camera === null) {
    main.append(h("p", { class: "note" }, t("setup.no_camera"), " ", h("a", { href: "#config" }, t("place.config"))));
    return null;
  }
  const live = [sourcePart, regionPart, maskPart].map((make) => make(app, camera));
  const plc = plcPart(app, camera);
  main.append(
    h(
      "div",
      { class: "steps" },
      live.map(({ section }) => section),
      triggerPart(app, camera),
      productPart(app, camera),
      brokerPart(),
      plc.section,
      card(
        t("setup.next"),
        h("p", {}, t("setup.next_text")),
        h("a", { href: "#teach", class: "as-button" }, t("place.teach")),
      ),
    ),
  );
  return {
    update(state) {
      const present = cameraOf(state);
      if (present) live.forEach((part) => part.update(present));
    },
    leave: () => [...live, plc].forEach((part) => part.leave?.()),
  };
}
