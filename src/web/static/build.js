// The page of a build, updated from the server's events until the build is over.

import { buttons } from "./buttons.js";
import { badge, connection } from "./badge.js";
import { count } from "./progress.js";
import { PATIENCE, follow, isFinal, page as written, pause } from "./server.js";
import { local } from "./times.js";

export function mount(page) {
    const [project, id] = page.dataset.build.split("/");
    buttons(page);
    if (!("live" in page.dataset)) {
        return;
    }
    const stopCounting = count();
    const over = new AbortController();
    const query = new URLSearchParams({ project, text: id });
    const tell = (sentence) => (document.querySelector("#link").textContent = sentence);
    let isStale = false;
    let isRefreshing = false;

    /** Updates run one after the other, so that an older response never replaces a newer one. */
    async function change() {
        isStale = true;
        if (isRefreshing) {
            return;
        }
        isRefreshing = true;
        while (isStale) {
            try {
                isStale = false;
                if (!(await refresh(page))) {
                    over.abort();
                    stopCounting();
                    tell("");
                }
            } catch (error) {
                if (isFinal(error)) {
                    tell(error.message);
                } else {
                    isStale = true;
                    await pause(PATIENCE / 10, over.signal);
                }
            }
        }
        isRefreshing = false;
    }

    follow(`/events?${query}`, {
        signal: over.signal,
        onstate: connection,
        onevent(name, data) {
            const told = JSON.parse(data);
            // Changes from before the connection are known once the `present` event has come.
            if (name === "job" || name === "present" || (name === "gone" && told.ID === id)) {
                change();
            }
        },
    }).catch((refused) => {
        if (!over.signal.aborted) {
            tell(refused.message);
        }
    });
}

/** Takes over the summary as the server writes it now; false when the build is over. */
async function refresh(page) {
    const fresh = await written(`${location.pathname}?log=none`);
    const summary = fresh.querySelector("#summary");
    local(summary);
    const wasOpen = page.querySelector("#summary details").open;
    summary.querySelector("details").open = wasOpen;
    page.querySelector("#summary").replaceWith(document.adoptNode(summary));
    buttons(page);
    document.title = fresh.title;
    badge(summary.dataset.icon);
    page.toggleAttribute("data-live", "live" in summary.dataset);
    return "live" in summary.dataset;
}
