// Requests to our own server: with the token if there is one; an error has the server's message.

import { learn } from "./times.js";

const TOKEN = "mistry-token";

/** Methods that change nothing. */
const READS = ["GET", "HEAD"];

/** The token of this page alone, if the browser refuses storage. */
let unkept = null;

/** The token that this browser stores for this server, or null. */
export function token() {
    try {
        return localStorage.getItem(TOKEN);
    } catch {
        return unkept;
    }
}

/** Stores a token; null removes it. */
export function keep(value) {
    unkept = value;
    try {
        if (value === null) {
            localStorage.removeItem(TOKEN);
        } else {
            localStorage.setItem(TOKEN, value);
        }
    } catch {
        // Without storage, the reader is asked on each page.
    }
}

/**
 * Aborted when the page is left. A browser keeps a page for the way back, together with its streams; it has six
 * connections to a server, so the seventh page would wait until one is closed.
 */
let leaving = new AbortController();
addEventListener("pagehide", () => leaving.abort());
addEventListener("pageshow", () => {
    if (leaving.signal.aborted) {
        leaving = new AbortController();
    }
});

/** A refusal, with the server's message. */
export class Refused extends Error {
    constructor(status, sentence) {
        super(sentence);
        this.status = status;
    }
}

/**
 * Sends a request and returns the response; throws `Refused` when the server refuses. A token that the server
 * does not know any more is forgotten, and what was to be read is requested once more without it.
 */
export async function ask(path, options = {}) {
    for (;;) {
        const response = await send(path, token(), options);
        if (response.ok) {
            return response;
        }
        const refused = await refusal(response);
        const isReading = READS.includes(options.method ?? "GET");
        if (refused.status !== 401 || !isReading || !token()) {
            throw refused;
        }
        // What is public, or what the cookie allows to read, needs no token.
        keep(null);
    }
}

/** The timeout of a request for a page, in milliseconds. */
export const PATIENCE = 30_000;

/** The current version of a page, to copy parts from. */
export async function page(path) {
    const response = await ask(path, { accept: "text/html", signal: AbortSignal.timeout(PATIENCE) });
    return new DOMParser().parseFromString(await response.text(), "text/html");
}

/** Signs in with a token and stores it; from then on a cookie allows this browser to open pages. */
export async function signIn(secret) {
    const response = await send("/session", secret, { method: "POST" });
    if (!response.ok) {
        throw await refusal(response);
    }
    keep(secret);
}

/** Whether a page can be opened by the cookie alone, without a token. */
export async function isLetIn(path) {
    const response = await send(path, null, { method: "HEAD" });
    return response.status !== 401;
}

/** Removes the token, and has the server remove its cookie. */
export async function signOut() {
    keep(null);
    await send("/session", null, { method: "DELETE" });
}

async function refusal(response) {
    const sentence = await sentenceOf(response).catch(() => null);
    return new Refused(response.status, sentence || `the server answered ${response.status}`);
}

/** The message of a refusal; a request for a page is refused with a page. */
async function sentenceOf(response) {
    if (response.headers.get("Content-Type")?.startsWith("text/html")) {
        const page = new DOMParser().parseFromString(await response.text(), "text/html");
        return page.querySelector("[role=alert]")?.textContent.trim();
    }
    return (await response.json()).error;
}

async function send(path, secret, { method = "GET", headers = {}, body, signal, accept = "application/json" }) {
    const sent = { Accept: accept, ...headers };
    if (secret) {
        sent.Authorization = `Bearer ${secret}`;
    }
    if (!READS.includes(method)) {
        sent["Content-Type"] = "application/json";
    }
    // A request for a change is not aborted when the page is left.
    const ends = READS.includes(method) ? [signal, leaving.signal] : [signal];
    const end = AbortSignal.any(ends.filter(Boolean));
    const response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal: end, cache: "no-store" });
    learn(response);
    return response;
}

/** First and longest wait before a retry, in milliseconds. */
export const AGAIN = [250, 8000];

/** Event streams that are silent for longer count as dead, in milliseconds: the server sends something each 15 s. */
const SILENT = 45_000;

/** The event that is sent to the window when a lost stream of events is connected again. */
export const RECONNECTED = "mistry:reconnected";

/** Client errors that may pass: a timeout, and too many requests. */
const PASSING = [408, 429];

/** Whether a retry cannot help. */
export function isFinal(error) {
    return error instanceof Refused && error.status < 500 && !PASSING.includes(error.status);
}

/**
 * Follows a stream of events until `signal` aborts: reconnects with `Last-Event-ID` when it breaks.
 * `since` is a time of the server: builds that ended from then on are sent first. `onevent(name, data)` is called
 * for each event, `onstate(connected)` for each change of the connection. A connection that is silent for too long
 * is closed.
 */
export async function follow(path, { onevent, onstate = () => {}, since = null, signal }) {
    let last = since;
    let wait = AGAIN[0];
    let wasConnected = false;
    while (!signal?.aborted) {
        const silence = new Silence(signal);
        try {
            const headers = last === null ? {} : { "Last-Event-ID": last };
            const response = await ask(path, { headers, signal: silence.signal, accept: "text/event-stream, application/json" });
            onstate(true);
            if (wasConnected) {
                dispatchEvent(new Event(RECONNECTED));
            }
            wasConnected = true;
            for await (const event of events(response.body, () => silence.heard())) {
                // A server that answers and disconnects at once does not shorten the wait.
                wait = event.name === "present" ? AGAIN[0] : wait;
                last = event.id ?? last;
                onevent(event.name, event.data);
            }
        } catch (error) {
            // After an abort, no more states are reported.
            if (signal?.aborted) {
                throw error;
            }
            if (isFinal(error)) {
                onstate(false);
                throw error;
            }
        } finally {
            silence.end();
        }
        if (signal?.aborted) {
            return;
        }
        onstate(false);
        await pause(wait, signal);
        wait = Math.min(wait * 2, AGAIN[1]);
    }
}

/** Aborts its signal when nothing was received for too long, and when `outer` aborts. */
class Silence {
    #controller = new AbortController();
    #timer;

    constructor(outer) {
        outer?.addEventListener("abort", () => this.end(), { signal: this.signal });
        this.heard();
    }

    get signal() {
        return this.#controller.signal;
    }

    heard() {
        clearTimeout(this.#timer);
        this.#timer = setTimeout(() => this.end(), SILENT);
    }

    /** Ends the connection in any state. */
    end() {
        clearTimeout(this.#timer);
        this.#controller.abort();
    }
}

/** Waits before a retry; ends early when the page becomes visible or the network is back. */
export function pause(milliseconds, signal) {
    return new Promise((resolve) => {
        const over = new AbortController();
        const end = () => {
            clearTimeout(timer);
            over.abort();
            resolve();
        };
        const timer = setTimeout(end, milliseconds);
        addEventListener("online", end, { signal: over.signal });
        addEventListener("pageshow", end, { signal: over.signal });
        document.addEventListener("visibilitychange", end, { signal: over.signal });
        signal?.addEventListener("abort", end, { signal: over.signal });
    });
}

/** Parses Server-Sent Events in a body, as the standard says; `onheard` is called for each chunk. */
async function* events(body, onheard) {
    let name = "message";
    let data = [];
    let id = null;
    for await (const line of lines(body, onheard)) {
        if (line === "") {
            if (data.length > 0) {
                yield { name, id, data: data.join("\n") };
            }
            name = "message";
            data = [];
            continue;
        }
        const at = line.indexOf(":");
        const field = at < 0 ? line : line.slice(0, at);
        const value = at < 0 ? "" : line.slice(at + 1).replace(/^ /, "");
        if (field === "event") {
            name = value;
        } else if (field === "data") {
            data.push(value);
        } else if (field === "id") {
            id = value;
        }
    }
}

async function* lines(body, onheard) {
    const reader = body.pipeThrough(new TextDecoderStream()).getReader();
    let rest = "";
    for (;;) {
        const { value, done } = await reader.read();
        if (done) {
            return;
        }
        onheard();
        const parts = (rest + value).split("\n");
        rest = parts.pop();
        yield* parts;
    }
}
