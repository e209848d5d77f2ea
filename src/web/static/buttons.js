// The actions of a page: cancel, build again, cold build, rebuild, pin; reset a group; rebuild an image; pause the queue.

import { ask } from "./server.js";

/** Shows the buttons below `page` and binds their actions; `own` are actions of the page alone. */
export function buttons(page, own = {}) {
    const bar = page.querySelector("#actions");
    bar.hidden = false;
    for (const button of page.querySelectorAll("#actions button, button[data-group]")) {
        button.hidden = false;
        // An action may make its button another one.
        const action = () => own[button.dataset.do] ?? ACTIONS[button.dataset.do];
        button.addEventListener("click", () => run(page, button, action()));
    }
}

/**
 * Requests a change. Where it needs a token, or one with more rights, the reader is asked for the token and the
 * request is sent again.
 */
async function change(path, method, body) {
    for (;;) {
        try {
            return await ask(path, { method, body });
        } catch (refused) {
            if (refused.status !== 401 && refused.status !== 403) {
                throw refused;
            }
            const { askForToken } = await import("./token.js");
            if (!(await askForToken(refused.message))) {
                throw refused;
            }
        }
    }
}

async function run(page, button, action) {
    button.disabled = true;
    try {
        // What an action has begun may leave its button disabled.
        button.disabled = (await action(page, button)) === STAYS;
    } catch (refused) {
        tell(button, refused.message);
        button.disabled = false;
    }
}

/** The result of an action that is done once. */
const STAYS = "stays";

const ACTIONS = {
    async cancel(page) {
        const reason = await question("Cancel this build?", [{ name: "reason", label: "Reason (optional)", type: "text" }], "Cancel the build");
        if (!reason) {
            return null;
        }
        await change(`/job/${page.dataset.build}/cancel`, "POST", { reason: reason.reason });
        stopping(page);
        return STAYS;
    },
    again: (page) => build(page, {}),
    cold: (page) => build(page, { cold: true }),
    rebuild: (page) => build(page, { rebuild: true }),
    async reset(page, button) {
        const group = decodeURIComponent(button.dataset.group);
        const shown = button.parentElement.querySelector("a").textContent;
        if (await question(`Reset group '${shown}'? Its next build starts empty; its builds stay.`, [], "Reset the group")) {
            await change(`/project/${page.dataset.project}/groups/reset`, "POST", { group });
            location.reload();
        }
    },
    async pin(page, button) {
        await change(`/job/${page.dataset.build}/pin`, "PUT");
        Object.assign(button, { textContent: "Unpin" }).dataset.do = "unpin";
    },
    async unpin(page, button) {
        await change(`/job/${page.dataset.build}/pin`, "DELETE");
        Object.assign(button, { textContent: "Pin" }).dataset.do = "pin";
    },
    async image(page, button) {
        tell(button, "building …");
        const report = await (await change(`/project/${page.dataset.project}/rebuild`, "POST")).json();
        tell(button, `the image is ${report.Image.replace("sha256:", "").slice(0, 12)}`);
    },
    async pause() {
        await change("/queue/pause", "POST");
        location.reload();
    },
    async resume() {
        await change("/queue/resume", "POST");
        location.reload();
    },
};

/** Shows that a build is being stopped, until the server's page does. */
function stopping(page) {
    const outcome = page.querySelector("h1 .outcome");
    if ("live" in page.querySelector("#summary").dataset && outcome.textContent !== "stopping") {
        outcome.className = "outcome stopping";
        outcome.textContent = "stopping";
    }
}

/** Submits the same job again. Secrets are not stored, so the reader enters them again. */
async function build(page, how) {
    const { BuildInfo: info } = await (await ask(`/job/${page.dataset.build}?log=none`)).json();
    const secrets = Object.keys(info.Params).filter((name) => info.Params[name] === null);
    let given = {};
    if (secrets.length > 0) {
        const fields = secrets.map((name) => ({ name, label: name, type: "password" }));
        given = await question("This build was given secrets, which are not stored. Enter them again.", fields, "Build");
        if (!given) {
            return;
        }
    }
    await submit({ project: info.Project, group: info.Group, params: { ...info.Params, ...given }, ...how });
}

/** Submits a job, and goes to its page. */
export async function submit(job) {
    const { URL } = await (await change("/jobs?async", "POST", job)).json();
    location.assign(`/${URL}`);
    if (location.pathname + location.search === `/${URL}`) {
        location.reload();
    }
}

/** Shows the result of an action beside its button. */
function tell(button, sentence) {
    const bar = button.parentElement;
    const told = bar.querySelector("[role=status]") ?? bar.appendChild(document.createElement("span"));
    told.setAttribute("role", "status");
    told.textContent = sentence;
}

/** Shows a dialog with fields; resolves to their values by name, or to null if the reader cancels. */
function question(sentence, fields, yes) {
    const dialog = document.createElement("dialog");
    const form = document.createElement("form");
    form.method = "dialog";
    const title = document.createElement("p");
    title.textContent = sentence;
    title.id = "question";
    dialog.setAttribute("aria-labelledby", title.id);
    form.append(title);
    const inputs = fields.map(({ name, label, type }) => {
        const line = document.createElement("p");
        const tag = line.appendChild(document.createElement("label"));
        const input = document.createElement("input");
        Object.assign(input, { name, type, autocomplete: "off" });
        tag.append(`${label} `, input);
        form.append(line);
        return input;
    });
    const bar = form.appendChild(document.createElement("p"));
    bar.className = "bar";
    for (const [value, text] of [["yes", yes], ["", "Back"]]) {
        bar.append(Object.assign(document.createElement("button"), { value, textContent: text }));
    }
    dialog.append(form);
    document.body.append(dialog);
    return new Promise((resolve) => {
        dialog.addEventListener("close", () => {
            const values = Object.fromEntries(inputs.map((input) => [input.name, input.value]));
            resolve(dialog.returnValue === "yes" ? values : null);
            dialog.remove();
        });
        dialog.showModal();
    });
}
