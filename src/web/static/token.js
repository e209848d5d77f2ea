// The dialog that asks for a token when an action needs one, and the button that removes the stored token.

import { signIn, signOut } from "./server.js";

let asking = null;

/**
 * Asks the reader for a token; `why` is the server's message. True when a valid one was entered and stored, false
 * when the reader cancelled. Concurrent calls share one dialog.
 */
export function askForToken(why) {
    asking ??= show(why).finally(() => (asking = null));
    return asking;
}

function show(why) {
    const dialog = element("dialog", { className: "signin" });
    dialog.setAttribute("aria-labelledby", "ask-title");
    const title = element("h2", { id: "ask-title", textContent: "A token is needed for this" });
    const told = element("p", { className: "odd", textContent: why });
    told.setAttribute("role", "alert");
    const form = element("form", { method: "dialog" });
    const label = element("label", { htmlFor: "ask-token", textContent: "Token" });
    const field = element("input", { id: "ask-token", type: "password", autocomplete: "off", required: true });
    field.autocapitalize = "none";
    const hint = element("p", { className: "faint" });
    hint.append("On the server, ", element("code", { textContent: "sudo mistryd token new NAME --scope build" }), " makes one. This browser keeps it for this server.");
    const enter = element("button", { textContent: "Go on" });
    const cancel = element("button", { type: "button", textContent: "Cancel" });
    const row = element("div", { className: "bar" });
    row.append(enter, cancel);
    form.append(label, field, hint, row);
    dialog.append(title, told, form);
    document.body.append(dialog);
    return new Promise((resolve) => {
        let isGood = false;
        cancel.addEventListener("click", () => dialog.close());
        dialog.addEventListener("close", () => {
            dialog.remove();
            resolve(isGood);
        });
        form.addEventListener("submit", async (event) => {
            event.preventDefault();
            enter.disabled = true;
            try {
                await signIn(field.value.trim());
                isGood = true;
                dialog.close();
            } catch (error) {
                told.textContent = error.message;
                field.value = "";
                field.focus();
            }
            enter.disabled = false;
        });
        dialog.showModal();
        field.focus();
    });
}

/** Adds a button to `place` that removes the token stored by this browser. */
export function offerSignOut(place) {
    const button = element("button", { className: "sign-out", textContent: "Sign out" });
    button.title = "Forget the token that this browser keeps for this server";
    button.addEventListener("click", async () => {
        await signOut();
        location.reload();
    });
    place.append(button);
}

function element(name, properties) {
    return Object.assign(document.createElement(name), properties);
}
