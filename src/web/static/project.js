// The page of a project: its buttons, the form that starts a build, and keys through its builds.

import { buttons, submit } from "./buttons.js";
import { walkable } from "./rows.js";

export function mount(page) {
    const form = page.querySelector("#start");
    buttons(page, {
        start: (_, button) => {
            form.hidden = !form.hidden;
            button.setAttribute("aria-expanded", String(!form.hidden));
            form.querySelector("input, textarea, select").focus();
        },
    });
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        start(page.dataset.project, form);
    });
    form.querySelector("[data-add]")?.addEventListener("click", () => form.querySelector(".bar").before(freeRow()));
    walkable();
}

/** The params of the filled fields. */
function paramsOf(form) {
    const params = {};
    for (const line of form.querySelectorAll("[data-param]")) {
        const name = line.dataset.param || line.querySelector("[data-name]").value.trim();
        const { value } = line.querySelector(":is(input, select, textarea):not([data-name])");
        if (name !== "" && value !== "") {
            params[name] = value;
        }
    }
    return params;
}

async function start(project, form) {
    const told = form.querySelector("[role=status]");
    const button = form.querySelector("button");
    button.disabled = true;
    told.textContent = "";
    try {
        await submit({ project, group: form.elements.group.value.trim(), params: paramsOf(form) });
    } catch (refused) {
        told.textContent = refused.message;
    }
    button.disabled = false;
}

/** A row for any param. The value of one that begins with `_` is a secret. */
function freeRow() {
    const line = Object.assign(document.createElement("p"), { className: "free" });
    line.dataset.param = "";
    const name = document.createElement("input");
    Object.assign(name, { ariaLabel: "Name of the param", placeholder: "name", autocomplete: "off", spellcheck: false });
    name.dataset.name = "";
    const value = document.createElement("input");
    Object.assign(value, { ariaLabel: "Value of the param", placeholder: "value", autocomplete: "off", spellcheck: false });
    name.addEventListener("input", () => (value.type = name.value.startsWith("_") ? "password" : "text"));
    const right = document.createElement("span");
    right.append(value);
    line.append(name, right);
    return line;
}
