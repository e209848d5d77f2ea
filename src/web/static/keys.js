// Keys as commands. Each is one letter with a description; `?` lists the keys of the page.

const commands = new Map();

/** Binds `key` to `action`; `what` is its description in the list of keys. */
export function bind(key, what, action) {
    commands.set(key, { what, action });
}

function isTyping(target) {
    return target.isContentEditable || ["INPUT", "TEXTAREA", "SELECT"].includes(target.tagName);
}

addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.metaKey || event.altKey || isTyping(event.target) || document.querySelector("dialog[open]")) {
        return;
    }
    const command = commands.get(event.key);
    if (command) {
        event.preventDefault();
        command.action(event);
    }
});

function help() {
    const dialog = document.createElement("dialog");
    dialog.setAttribute("aria-labelledby", "keys-title");
    const title = document.createElement("h2");
    title.id = "keys-title";
    title.textContent = "Keys";
    const list = document.createElement("dl");
    for (const [key, { what }] of commands) {
        const name = document.createElement("dt");
        const cap = document.createElement("kbd");
        cap.textContent = key;
        name.append(cap);
        const told = document.createElement("dd");
        told.textContent = what;
        list.append(name, told);
    }
    const close = document.createElement("button");
    close.textContent = "Close";
    close.addEventListener("click", () => dialog.close());
    dialog.append(title, list, close);
    dialog.addEventListener("close", () => dialog.remove());
    document.body.append(dialog);
    dialog.showModal();
}

bind("?", "show the keys of this page", help);
