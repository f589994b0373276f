// Pictures that a person gives: by a file picker, or dropped on the page.

import * as api from "./api.js";
import { answer, answerPlace, attempt, button, h, newId, said, sync } from "./dom.js";
import { scoreText } from "./format.js";
import { t } from "./texts.js";

/** A place for files. `onDone` is called after the last one. */
export function uploader({ camera, kind, text, onDone = () => {} }) {
  const place = answerPlace();
  const faults = h("ul", { class: "faults" });
  const id = newId();
  const input = h("input", { type: "file", accept: "image/*", multiple: true, id });
  const send = async (files) => {
    faults.replaceChildren();
    input.disabled = true;
    let taken = 0;
    for (const [place_, file] of files.entries()) {
      answer(place, "busy", t("upload.busy", { n: place_ + 1, total: files.length }));
      try {
        await api.uploadTeachPicture(camera, kind, file);
        taken += 1;
      } catch (error) {
        faults.append(h("li", {}, `${file.name}: `, said("span", error.message)));
      }
    }
    input.disabled = false;
    input.value = "";
    answer(place, taken === files.length ? "good" : "bad", t("upload.done", { n: taken, total: files.length }));
    onDone();
  };
  input.addEventListener("change", () => input.files.length && send([...input.files]));
  const box = h("div", { class: "drop" }, h("label", { for: id }, text), input, place, faults);
  box.addEventListener("dragover", (event) => {
    event.preventDefault();
    box.classList.add("over");
  });
  box.addEventListener("dragleave", () => box.classList.remove("over"));
  box.addEventListener("drop", (event) => {
    event.preventDefault();
    box.classList.remove("over");
    if (!input.disabled && event.dataTransfer.files.length) send([...event.dataTransfer.files]);
  });
  return box;
}

/** One picture of a teach-in, with the buttons `{text, act}` that change it. */
export function pictureItem(camera, picture, buttons) {
  return h(
    "li",
    { class: "result" },
    h("img", { src: api.teachPictureUrl(camera, picture.id), alt: picture.id, loading: "lazy", class: "thumbnail" }),
    picture.reason ? said("p", picture.reason, { class: "reason" }) : null,
    picture.score === null ? null : h("p", { class: "facts" }, t("detail.score"), " ", scoreText(picture.score)),
    buttons.length === 0
      ? null
      : h(
          "div",
          { class: "marks" },
          buttons.map(({ text, act }) => button(text, act, { "aria-label": `${text}: ${picture.id}` })),
        ),
  );
}

/** A picture is drawn again when this changes. */
export const pictureKey = ({ id, state, score, reason }) => JSON.stringify([id, state, score, reason]);

/** The bad parts of a teach-in, with a place for more. `update` gets the pictures of both kinds. */
export function badPictures({ camera, canChange, onChange }) {
  const list = h("ul", { class: "gallery small" });
  const place = answerPlace();
  const remove = (picture) =>
    attempt(place, async () => {
      await api.removeTeachPicture(camera, picture.id);
      onChange();
    });
  const make = (picture) =>
    pictureItem(camera, picture, canChange ? [{ text: t("teach.remove"), act: () => remove(picture) }] : []);
  const files = canChange ? uploader({ camera, kind: "bad", text: t("teach.upload_bad"), onDone: onChange }) : null;
  return {
    element: h("div", {}, h("h3", {}, t("teach.bad")), h("p", {}, t("teach.bad_text")), files, list, place),
    update: (pictures) =>
      sync(
        list,
        pictures.filter(({ kind }) => kind === "bad"),
        pictureKey,
        make,
      ),
  };
}
