// The page of the host, live: slots and queue as they change.

import { badge, connection } from "./badge.js";
import { buttons } from "./buttons.js";
import { ask, follow } from "./server.js";

export function mount(page) {
    buttons(page);
    follow("/events", {
        onstate: connection,
        onevent(name, data) {
            if (name !== "host") {
                return;
            }
            const { Slots, Running, Queued, Backlog, Paused, EngineAway } = JSON.parse(data);
            page.querySelector("#slots").textContent = `${Running} of ${Slots}`;
            page.querySelector("#queue").textContent = `${Queued} of ${Backlog}`;
            if (page.dataset.told !== `${Paused} ${EngineAway}`) {
                // Without a server, the stream that comes back tells it again.
                again(page).catch(() => {});
            }
            badge(EngineAway ? "bad" : Running > 0 ? "running" : "idle");
        },
    }).catch((refused) => {
        document.querySelector("#link").textContent = refused.message;
    });
}

/** Paused, or without an Engine: what the server says of it now. */
async function again(page) {
    const { told } = page.dataset;
    const response = await ask(location.pathname, { accept: "text/html" });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").querySelector("[data-host]");
    if (page.dataset.told !== told) {
        // A later answer was here first.
        return;
    }
    page.dataset.told = fresh.dataset.told;
    page.replaceChildren(...document.adoptNode(fresh).childNodes);
    buttons(page);
}
