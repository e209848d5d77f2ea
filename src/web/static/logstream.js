// What a running build prints, from the byte on where we are, until it is over.
//
// A stream that ends may have been cut: by the network, or because the daemon was restarted. The build is asked
// whether it is over; if not, the stream goes on at the byte where it broke. It breaks off by itself while the page
// is not seen, so that tabs in the background leave connections to others, and when the page's events had to be
// asked for again: the connections of a network that is gone are dead without a word.

import { AGAIN, RECONNECTED, ask, isFinal, pause } from "./server.js";

/** A page that is not seen looks whether it is, in milliseconds; it is told at once, too. */
const HIDDEN = 60_000;

/** How long bytes that are there are taken without letting the page draw, in milliseconds. */
const AT_ONCE = 12;

/** Follows `blocks` until the build `job` is over. `onstate(word)` is told `live`, `cut` and `over`. */
export async function follow(blocks, job, { onbytes, onstate, signal }) {
    let wait = AGAIN[0];
    for (let isOver = false; ; ) {
        let isWhole = false;
        await seen(signal);
        const breaking = new Breaking(signal);
        try {
            isWhole = await stream(blocks, breaking.signal, () => onstate("live"), () => {
                wait = AGAIN[0];
                onbytes();
            });
        } catch (error) {
            if (isOver && error.status === 412) {
                // A rebuild that failed makes room for the build that stays, and its log with it; what it
                // printed is here.
                isWhole = true;
            } else {
                giveUp(error, signal);
            }
            if (breaking.isMeant) {
                continue;
            }
        } finally {
            breaking.end();
        }
        if (isWhole && isOver) {
            blocks.finish();
            onstate("over");
            return;
        }
        try {
            isOver = await over(job, signal);
        } catch (error) {
            giveUp(error, signal);
        }
        if (!isOver) {
            onstate("cut");
            await pause(wait, signal);
            wait = Math.min(wait * 2, AGAIN[1]);
        }
    }
}

/** Waits until the page is seen. */
async function seen(signal) {
    while (document.hidden && !signal.aborted) {
        await pause(HIDDEN, signal);
    }
}

/** Aborts its signal where the stream is better asked for again, and when `outer` aborts. */
class Breaking {
    #controller = new AbortController();
    isMeant = false;

    constructor(outer) {
        const { signal } = this;
        const breakOff = () => {
            this.isMeant = true;
            this.end();
        };
        outer.addEventListener("abort", () => this.end(), { signal });
        if (outer.aborted) {
            this.end();
        }
        addEventListener(RECONNECTED, breakOff, { signal });
        document.addEventListener("visibilitychange", () => document.hidden && breakOff(), { signal });
    }

    get signal() {
        return this.#controller.signal;
    }

    end() {
        this.#controller.abort();
    }
}

/** Only what may be better later is tried again. */
function giveUp(error, signal) {
    if (signal.aborted || isFinal(error)) {
        throw error;
    }
}

async function stream(blocks, signal, onopen, onbytes) {
    const headers = blocks.same;
    const response = await ask(`${blocks.path}?text&follow&from=${blocks.length}`, { headers, signal, accept: "text/plain, application/json" });
    onopen();
    const reader = response.body.getReader();
    for (let begun = performance.now(); ; ) {
        const { value, done } = await reader.read();
        if (done) {
            return true;
        }
        blocks.push(value);
        onbytes();
        if (performance.now() - begun > AT_ONCE ) {
            await new Promise((resolve) => setTimeout(resolve));
            begun = performance.now();
        }
    }
}

/** Whether the build is over. Its log ends a moment before it does: then it is waited for. */
async function over(job, signal) {
    const told = async (query) => (await ask(`${job}?${query}`, { signal })).json();
    const view = await told("log=none");
    if (view.State !== "ready" && view.BuildInfo.Phase === "finishing") {
        return (await told("wait&log=none")).State === "ready";
    }
    return view.State === "ready";
}
