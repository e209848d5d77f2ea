// The page that asks for a token before anything can be read. A stored token is tried first, without a question.

import { isLetIn, keep, signIn, token } from "./server.js";

export function mount(form) {
    const field = form.querySelector("input");
    const told = form.querySelector("[role=alert]");
    form.hidden = false;
    form.addEventListener("submit", (event) => {
        event.preventDefault();
        enter(field.value.trim());
    });
    if (token()) {
        enter(token());
    } else {
        field.focus();
    }

    async function enter(secret) {
        try {
            await signIn(secret);
        } catch (error) {
            if (error.status === 401) {
                keep(null);
            }
            told.textContent = error.message;
            field.value = "";
            field.focus();
            return;
        }
        // Otherwise the reload would return to this page for ever.
        if (await isLetIn(location.href)) {
            location.reload();
        } else {
            told.textContent = "The token is good, but this browser keeps no cookies for this server: its pages cannot be opened.";
        }
    }
}
