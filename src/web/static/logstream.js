// Streams the output of a running build, from the byte reached so far until the build is over.
//
// A stream may end early: because of the network, or because the daemon was restarted. Then the state of the build
// is requested, and unless the build is over, the stream continues at the byte where it ended. It is closed while
// the page is hidden, so that background tabs leave connections to others, and when the page's events had to be
// requested again: connections of a lost network get no error.

import { AGAIN, RECONNECTED, ask, isFinal, pause } from "./server.js";

/** How often a hidden page checks whether it is visible, in milliseconds, in addition to the browser's event. */
const HIDDEN = 60_000;

/** How long available bytes are processed before the page may draw, in milliseconds. */
const AT_ONCE = 12;

/** Follows `blocks` until the build `job` is over. `onstate(word)` is called with `live`, `cut` and `over`. */
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
                // After a failed rebuild, the server has the log of the earlier build again; the output of
                // the rebuild is shown here already.
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

/** Waits until the page is visible. */
async function seen(signal) {
    while (document.hidden && !signal.aborted) {
        await pause(HIDDEN, signal);
    }
}

/** Aborts its signal when the stream should be requested again, and when `outer` aborts. */
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

/** Only errors that may pass are retried. */
function giveUp(error, signal) {
    if (signal.aborted || isFinal(error)) {
        throw error;
    }
}

async function stream(blocks, signal, onopen, onbytes) {
    const headers = blocks.same;
    const response = await ask(`${blocks.address}text&follow&from=${blocks.length}`, { headers, signal, accept: "text/plain, application/json" });
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

/** Whether the build is over. Its log ends shortly before the build does: then the end is waited for. */
async function over(job, signal) {
    const told = async (query) => (await ask(`${job}?${query}`, { signal })).json();
    const view = await told("log=none");
    if (view.State !== "ready" && view.BuildInfo.Phase === "finishing") {
        return (await told("wait&log=none")).State === "ready";
    }
    return view.State === "ready";
}
