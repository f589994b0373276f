// Log-in and passwords.

import * as api from "./api.js";
import { answer, answerPlace, attempt, card, choice, field, h } from "./dom.js";
import { t } from "./texts.js";

const LEAST_CHARACTERS = 8;

function passwordInput(autocomplete) {
  return h("input", { type: "password", autocomplete, required: true, maxlength: 200 });
}

/** Tells a password manager whose password it is. */
function nameForManagers() {
  return h("input", { type: "text", autocomplete: "username", value: "zsad-agent", hidden: true });
}

function shower(...inputs) {
  return choice(t("password.show"), {
    type: "checkbox",
    onchange: (event) => inputs.forEach((input) => (input.type = event.target.checked ? "text" : "password")),
  });
}

function roles(name, selected) {
  return h(
    "fieldset",
    { class: "row" },
    h("legend", {}, t("role")),
    choice(t("role.operator"), { type: "radio", name, value: "operator", checked: selected === "operator" }),
    choice(t("role.admin"), { type: "radio", name, value: "admin", checked: selected === "admin" }),
  );
}

/** The log-in; on a device without passwords, what to do first. */
export function logInPage(main, app) {
  main.append(h("h1", {}, t("place.login")));
  if (app.state.session === null) return;
  if (!app.state.session.passwords_set) {
    main.append(card(t("login.first"), h("p", {}, t("login.first_text"))));
    return;
  }
  const password = passwordInput("current-password");
  const place = answerPlace();
  const form = h(
    "form",
    { class: "card narrow", "aria-label": t("place.login") },
    nameForManagers(),
    roles("role", "operator"),
    field(t("password"), password),
    shower(password),
    h("button", { class: "strong" }, t("login.button")),
    place,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    const role = new FormData(form).get("role");
    const isIn = await attempt(place, async () => {
      await api.logIn(role, password.value);
      await app.askAgain();
    });
    if (!isIn) password.select();
  });
  main.append(form);
}

/** Sets the password of a role. The first one is set on the device itself. */
export function passwordsPage(main, app) {
  const password = passwordInput("new-password");
  const again = passwordInput("new-password");
  password.minLength = LEAST_CHARACTERS;
  const place = answerPlace();
  const form = h(
    "form",
    { class: "card narrow", "aria-label": t("place.passwords") },
    h("p", {}, t(app.state.session.passwords_set ? "passwords.text" : "passwords.first_text")),
    roles("role", app.state.session.passwords_set ? "operator" : "admin"),
    nameForManagers(),
    field(t("password.new"), password, t("password.rule", { n: LEAST_CHARACTERS })),
    field(t("password.again"), again),
    shower(password, again),
    h("button", { class: "strong" }, t("password.set")),
    place,
  );
  form.addEventListener("submit", async (event) => {
    event.preventDefault();
    if (password.value !== again.value) {
      answer(place, "bad", t("password.differ"));
      again.select();
      return;
    }
    const role = new FormData(form).get("role");
    const done = await attempt(place, () => api.setPassword(role, password.value), t("password.is_set"));
    if (done) {
      form.reset();
      password.type = again.type = "password";
      app.logInAgain();
    }
  });
  main.append(h("h1", {}, t("place.passwords")), form);
}
