// Teach: show good parts, check outliers, set the threshold, take it into use.

import * as api from "./api.js";
import { answer, answerPlace, attempt, button, card, confirmed, field, h, said, setSaid, setText, sync } from "./dom.js";
import { percent, promiseText, recallText, scoreText } from "./format.js";
import { thresholdSlider } from "./histogram.js";
import { cameraOf, teachInOf } from "./state.js";
import { t } from "./texts.js";
import { badPictures, pictureItem, pictureKey, uploader } from "./uploads.js";

const COUNT = { normal: 30, least: 3, most: 1000 };
const PICTURES_MS = 1500; // between two readings of the list of pictures
const NOW = { gathering: "teach.gathering_text", learning: "teach.learning_text", offered: "teach.learned_text" };
const PROMISE_MS = 120; // after the line has moved

/** What to teach, and from how many parts. `onStart` gets both. */
function startForm(camera, onStart) {
  const names = h("datalist", { id: "products" });
  const product = h("input", {
    list: "products",
    value: camera.product,
    maxlength: 200,
    autocomplete: "off",
    required: true,
  });
  const count = h("input", {
    type: "number",
    min: COUNT.least,
    max: COUNT.most,
    value: COUNT.normal,
    inputmode: "numeric",
    required: true,
  });
  const form = h(
    "form",
    {},
    field(t("product"), product, t("teach.product_hint")),
    names,
    field(t("teach.count"), count, t("teach.count_hint")),
    h("button", { class: "strong" }, t("teach.start")),
  );
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    onStart({ product: product.value.trim(), count: Number(count.value) });
  });
  api.products().then(
    (found) => names.append(...found.map(({ name }) => h("option", { value: name }))),
    () => {}, // a name can still be written
  );
  return form;
}

/** Step 1: the start, the progress, and files. */
function showPart(app, camera, onChange) {
  const place = answerPlace();
  const act = (values, onRefusal = (error) => Promise.reject(error)) =>
    attempt(place, async () => {
      await takeAnswer(app, camera, api.teachAction(camera, values).catch(onRefusal));
    });
  const start = startForm(cameraOf(app.state), (values) =>
    act({ action: "start", ...values }, async (error) => {
      if (error.status !== 409 || !(await confirmed(t("teach.restart_ask"), t("teach.cancel")))) throw error;
      await api.teachAction(camera, { action: "cancel" }); // somebody has started it elsewhere
      return api.teachAction(camera, { action: "start", ...values });
    }),
  );
  const bar = h("progress", { max: 1, value: 0 });
  const text = h("p", { class: "progress-text" });
  const told = h("p", { class: "hint" });
  const ofLine = h("p", { class: "hint", hidden: true });
  const finish = button("", () => act({ action: "finish" }), { class: "strong" });
  const cancel = button(t("teach.cancel"), async () => {
    if (await confirmed(t("teach.cancel_ask"), t("teach.cancel"))) act({ action: "cancel" });
  });
  const now = h("p");
  const progress = h(
    "div",
    { hidden: true },
    now,
    bar,
    text,
    h("div", { class: "row" }, finish, cancel),
  );
  const files = uploader({ camera, kind: "good", text: t("teach.upload_good"), onDone: onChange });
  const update = (state) => {
    const { isOn, isOfLine, canStart } = teachInOf(state);
    start.hidden = !canStart;
    progress.hidden = !isOn;
    files.hidden = !isOn;
    ofLine.hidden = !isOfLine;
    if (isOfLine) setText(ofLine, t("teach.of_line", { n: state.pictures, needed: state.needed }));
    setSaid(told, state.phase === "offered" ? null : state.text); // step 4 says it
    if (!isOn) return;
    setText(now, t(NOW[state.phase]));
    bar.max = Math.max(1, state.needed);
    bar.value = Math.min(state.pictures, state.needed);
    bar.setAttribute("aria-label", t("teach.progress", { n: state.pictures, needed: state.needed }));
    setText(text, t("teach.progress", { n: state.pictures, needed: state.needed }));
    finish.hidden = state.phase !== "gathering";
    finish.disabled = state.pictures < COUNT.least || !app.isAdmin();
    setText(finish, t("teach.finish", { n: state.pictures }));
  };
  return {
    section: card(t("teach.step1"), h("p", {}, t("teach.step1_text")), start, ofLine, progress, files, told, place),
    update,
  };
}

/** Step 2: the pictures, those that were left out first, with the reason. */
function checkPart(app, camera, onChange) {
  const place = answerPlace();
  const outliers = h("ul", { class: "gallery" });
  const others = h("ul", { class: "gallery small" });
  const none = h("p", { class: "hint" }, t("teach.no_pictures"));
  const outlierText = h("p", { hidden: true }, t("teach.outliers_text"));
  const summary = h("summary", {});
  const all = h("details", { hidden: true }, summary, others);
  const remove = (picture) =>
    attempt(
      place,
      async () => {
        await api.removeTeachPicture(camera, picture.id);
        onChange();
      },
      t("teach.removed"),
    );
  const keep = (picture) =>
    attempt(
      place,
      async () => {
        await takeAnswer(app, camera, api.teachAction(camera, { action: "good", id: picture.id }));
        onChange();
      },
      t("teach.kept"),
    );
  const make = (picture) => {
    const buttons = [{ text: t("teach.remove"), act: () => remove(picture) }];
    if (picture.state === "left_out") buttons.push({ text: t("teach.keep"), act: () => keep(picture) });
    return pictureItem(camera, picture, app.isAdmin() ? buttons : []);
  };
  const update = (pictures, isOfLine) => {
    const goods = pictures.filter(({ kind }) => kind === "good");
    const left = goods.filter(({ state }) => state === "left_out");
    const learned = goods.filter(({ state }) => state !== "left_out");
    none.hidden = goods.length > 0;
    outlierText.hidden = left.length === 0;
    all.hidden = learned.length === 0;
    setText(summary, t(isOfLine ? "teach.line_pictures" : "teach.all_pictures", { n: learned.length }));
    sync(outliers, left, pictureKey, make);
    sync(others, learned, pictureKey, make);
  };
  all.open = true;
  return { section: card(t("teach.step2"), none, outlierText, outliers, all, place), update };
}

/** Step 3: the scores, the threshold, its promise, and bad parts. */
function thresholdPart(app, camera, onChange) {
  const place = answerPlace();
  const promise = h("p", { class: "promise", role: "status" });
  const recall = h("p", { class: "promise" });
  const source = h("p", { class: "hint" });
  const empty = h("p", { class: "hint" }, t("threshold.empty"));
  let timer = null;
  let asked = 0;
  let isMoved = false; // by the person, since the scores were read
  const ask = async (value) => {
    const number = (asked += 1);
    const found = await api.threshold(camera, value);
    if (number !== asked) return;
    setText(promise, promiseText(found.promise));
    setText(recall, recallText(found.recall));
    return found;
  };
  const slider = thresholdSlider({
    readOnly: !app.isAdmin(),
    onMove(value) {
      isMoved = true;
      clearTimeout(timer);
      timer = setTimeout(
        () => ask(value).catch((error) => answer(place, "bad", error.message, error.status > 0)),
        PROMISE_MS,
      );
    },
  });
  const set = async (value) => {
    await api.setThreshold(camera, value);
    await Promise.all([app.readCameras(), read(true)]);
    return t("threshold.is_set");
  };
  // While an offer waits, the line is for its scores: it is set with the button that takes the offer into use.
  const buttons = h(
    "div",
    { class: "row" },
    button(t("threshold.set"), () => attempt(place, () => set(slider.value)), { class: "strong" }),
    button(t("threshold.reset"), () => attempt(place, () => set(null))),
  );
  const bad = badPictures({ camera, canChange: app.isAdmin(), onChange });
  const body = h(
    "div",
    { hidden: true },
    h("p", {}, t("threshold.text")),
    slider.element,
    promise,
    recall,
    app.isAdmin() ? buttons : null,
    source,
    place,
  );
  const read = async (moves) => {
    const found = await ask(moves ? null : slider.value);
    if (!found) return;
    const isEmpty = found.goods_scores.length === 0;
    body.hidden = isEmpty;
    empty.hidden = !isEmpty;
    slider.set({ goods: found.goods_scores, value: moves ? found.value : slider.value });
    if (moves) isMoved = false;
    setText(source, t("threshold.in_use", { value: scoreText(cameraOf(app.state).threshold) }));
  };
  const showBads = (pictures) => {
    slider.set({
      bads: pictures.filter(({ kind, score }) => kind === "bad" && score !== null).map(({ score }) => score),
    });
    bad.update(pictures);
  };
  return {
    section: card(t("teach.step3"), empty, body, bad.element),
    read,
    waits(isOffered) {
      buttons.hidden = isOffered;
      source.hidden = isOffered;
    },
    dragged: () => (isMoved ? slider.value : null),
    showBads,
    leave: () => clearTimeout(timer),
  };
}

/** Shows the state that a request answers, unless an event has told a newer one meanwhile. */
async function takeAnswer(app, camera, request) {
  const before = app.state.teach[camera];
  const state = await request;
  if (app.state.teach[camera] === before) app.dispatch({ type: "teach", camera, state });
}

/** Step 4: into use, with the threshold that the person has `dragged`, or back. */
function usePart(app, camera, dragged) {
  const place = answerPlace();
  let seen; // the hash of the offer that is shown
  let isBusy = false; // a second tap would be refused, and hide the answer to the first
  const act = async (action, done) => {
    if (isBusy) return;
    isBusy = true;
    const own = action === "commit" ? { offer: seen } : {};
    if (action === "commit" && dragged() !== null) own.threshold = dragged();
    const send = async () => {
      await takeAnswer(app, camera, api.teachAction(camera, { action, ...own }));
      await app.readCameras();
    };
    await attempt(place, send, done);
    isBusy = false;
  };
  const offer = h("div");
  const commit = button(t("teach.commit"), () => act("commit", t("teach.committed")), { class: "strong" });
  const back = button(t("teach.roll_back"), async () => {
    if (await confirmed(t("teach.roll_back_ask"), t("teach.roll_back"))) act("roll_back", t("teach.rolled_back"));
  });
  const update = (state) => {
    const found = state.offer;
    seen = found?.sha256;
    commit.disabled = state.phase !== "offered" || !app.isAdmin();
    back.disabled = !app.isAdmin() || !state.next.includes("roll_back");
    offer.replaceChildren(
      ...(found
        ? [
            h("p", {}, t("teach.offer", { product: found.product, goods: found.goods, left: found.left_out })),
            h(
              "p",
              {},
              t("promise.offer", {
                rate: percent(found.false_reject_rate),
                bound: percent(found.false_reject_rate_90),
              }),
            ),
            ...(found.needed > found.goods ? [h("p", { class: "hint" }, t("teach.more", { n: found.needed }))] : []),
            ...found.notes.map((note) => said("p", note, { class: "hint" })),
          ]
        : [h("p", { class: "hint" }, t("teach.no_offer"))]),
    );
  };
  return { section: card(t("teach.step4"), offer, h("div", { class: "row" }, commit, back), place), update };
}

export function teachPage(main, app) {
  const choice = app.cameraChoice();
  main.append(h("div", { class: "top" }, h("h1", {}, t("place.teach")), choice));
  const { camera } = app.state;
  if (camera === null) {
    main.append(h("p", {}, t("inspect.no_camera")));
    return null;
  }
  if (!app.isAdmin()) main.append(h("p", { class: "note" }, t("teach.admin_only")));
  const changed = () => Promise.all([readPictures(), limit.read(false)]).catch(fail);
  const show = showPart(app, camera, changed);
  const check = checkPart(app, camera, changed);
  const limit = thresholdPart(app, camera, changed);
  const use = usePart(app, camera, limit.dragged);
  if (!app.isAdmin()) show.section.querySelectorAll("button, input").forEach((control) => (control.disabled = true));
  main.append(h("div", { class: "steps" }, show.section, check.section, limit.section, use.section));
  const place = answerPlace();
  main.append(place);
  const fail = (error) => answer(place, "bad", error.message, error.status > 0);
  const readPictures = async () => {
    const pictures = await api.teachPictures(camera);
    check.update(pictures, known !== null && teachInOf(known).isOfLine);
    limit.showBads(pictures);
  };
  let known = null;
  let readMs = -Infinity;
  let due = true;
  takeAnswer(app, camera, api.teach(camera)).catch(fail);
  limit.read(true).catch(fail);
  return {
    update(state, nowMs) {
      const teach = state.teach[camera];
      if (teach && teach !== known) {
        if (known && (teach.phase !== known.phase || teach.offer?.sha256 !== known.offer?.sha256))
          limit.read(true).catch(fail);
        known = teach;
        due = true;
        show.update(teach);
        limit.waits(teach.phase === "offered");
        use.update(teach);
      }
      if (due && nowMs - readMs > PICTURES_MS) {
        due = false;
        readMs = nowMs;
        readPictures().catch(fail);
      }
    },
    leave: () => limit.leave(),
  };
}
