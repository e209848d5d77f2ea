// The page of a build, updated from the server's events until the build is over.

import { buttons } from "./buttons.js";
import { badge, connection } from "./badge.js";
import { copyable } from "./copy.js";
import { count } from "./progress.js";
import { PATIENCE, follow, isFinal, page as written, pause } from "./server.js";
import { local } from "./times.js";

/** Windows that are too narrow for the details beside the log, as `style.css` has it. */
const NARROW = "(max-width: 60rem)";

export function mount(page) {
    const [project, id] = page.dataset.build.split("/");
    buttons(page);
    fold(page);
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

/** Beside the log the details are open; below it they are closed until the reader opens them. */
function fold(page) {
    const narrow = matchMedia(NARROW);
    const set = () => (page.querySelector("#facts > details").open = !narrow.matches);
    narrow.addEventListener("change", set);
    set();
    page.querySelector(".to-facts")?.addEventListener("click", () => (page.querySelector("#facts > details").open = true));
}

/**
 * The page of an attempt; of the current build if the attempt is not kept. After a rebuild that failed, the address
 * without a number shows the build before it.
 */
async function attemptOrCurrent(query, attempt) {
    query.set("attempt", attempt);
    try {
        return await written(`${location.pathname}?${query}`);
    } catch (refused) {
        if (refused.status !== 404) {
            throw refused;
        }
        query.delete("attempt");
        return written(`${location.pathname}?${query}`);
    }
}

/** Takes over the summary as the server writes it now; false when the build is over. */
async function refresh(page) {
    const query = new URLSearchParams(location.search);
    query.set("log", "none");
    const fresh = await attemptOrCurrent(query, page.querySelector("#summary").dataset.attempt);
    const summary = fresh.querySelector("#summary");
    const facts = fresh.querySelector("#facts");
    [summary, facts].forEach(local);
    // What the reader has opened stays open.
    const open = [...page.querySelectorAll("#facts details")].map((details) => details.open);
    facts.querySelectorAll("details").forEach((details, at) => (details.open = open[at] ?? details.open));
    take(page.querySelector("#summary"), summary);
    take(page.querySelector("#facts"), facts);
    copyable(page.querySelector("#facts"));
    const runsFrom = fresh.querySelector("#log")?.dataset.runsFrom;
    if (runsFrom !== undefined) {
        page.querySelector("#log").dataset.runsFrom = runsFrom;
    }
    buttons(page);
    document.title = fresh.title;
    badge(summary.dataset.icon);
    page.toggleAttribute("data-live", "live" in summary.dataset);
    if ("live" in summary.dataset) {
        return true;
    }
    // From now on the address names this attempt, also when the job is built again.
    query.delete("log");
    query.set("attempt", summary.dataset.attempt);
    history.replaceState(null, "", `?${query}${location.hash}`);
    return false;
}

/** Takes over contents and attributes; the element stays, since others observe it. */
function take(element, fresh) {
    for (const name of Object.keys(element.dataset)) {
        delete element.dataset[name];
    }
    Object.assign(element.dataset, fresh.dataset);
    element.replaceChildren(...document.adoptNode(fresh).childNodes);
}
