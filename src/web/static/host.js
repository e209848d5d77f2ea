// The page of the host, live: slots and queue as they change.

import { badge, connection } from "./badge.js";
import { buttons } from "./buttons.js";
import { count } from "./progress.js";
import { follow, page as written } from "./server.js";
import { local } from "./times.js";

export function mount(page) {
    buttons(page);
    count();
    let last = null;
    let isAsking = false;

    /** When something else runs or waits, the queue is paused or the Engine is away, the page is read again. */
    async function show() {
        draw(page, last);
        if (isAsking || page.dataset.told === said(last)) {
            return;
        }
        isAsking = true;
        try {
            const asked = said(last);
            await again(page);
            if (said(last) !== asked) {
                // The state changed while the page was being loaded.
                await again(page);
            }
        } catch {
            // If the server is not reachable, the next connection sends the state again.
            return;
        } finally {
            isAsking = false;
        }
        draw(page, last);
    }

    follow("/events", {
        onstate: connection,
        onevent(name, data) {
            if (name === "host") {
                last = JSON.parse(data);
                show();
            }
        },
    }).catch((refused) => {
        document.querySelector("#link").textContent = refused.message;
    });
}

const said = ({ Paused, EngineAway, Running, Queued }) => `${Paused} ${EngineAway} ${Running} ${Queued}`;

function draw(page, { Slots, Running, Queued, Backlog, EngineAway }) {
    page.querySelector("#slots").textContent = `${Running} of ${Slots}`;
    page.querySelector("#queue").textContent = `${Queued} of ${Backlog}`;
    badge(EngineAway ? "bad" : Running > 0 ? "running" : "idle");
}

async function again(page) {
    const fresh = (await written(location.pathname)).querySelector("[data-host]");
    local(fresh);
    page.dataset.told = fresh.dataset.told;
    page.replaceChildren(...document.adoptNode(fresh).childNodes);
    buttons(page);
}
