// Our own server, asked: with the token where there is one, with its own sentence where it refuses.

import { learn } from "./times.js";

const TOKEN = "mistry-token";

/** Methods that change nothing. */
const READS = ["GET", "HEAD"];

/** The token of this page alone, where the browser keeps nothing. */
let unkept = null;

/** The token that this browser keeps for this server, or null. */
export function token() {
    try {
        return localStorage.getItem(TOKEN);
    } catch {
        return unkept;
    }
}

/** Keeps a token; null forgets it. */
export function keep(value) {
    unkept = value;
    try {
        if (value === null) {
            localStorage.removeItem(TOKEN);
        } else {
            localStorage.setItem(TOKEN, value);
        }
    } catch {
        // A browser that keeps nothing asks on each page.
    }
}

/**
 * Aborted when the page is left. A browser keeps the page for who goes back, and its streams with it;
 * it has six connections to a server, so the seventh page would wait until one is given up.
 */
let leaving = new AbortController();
addEventListener("pagehide", () => leaving.abort());
addEventListener("pageshow", () => {
    if (leaving.signal.aborted) {
        leaving = new AbortController();
    }
});

/** What the server said instead of answering. */
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

/** A page that does not come within this many milliseconds does not come. */
export const PATIENCE = 30_000;

/** A page as the server writes it now, to take parts of. */
export async function page(path) {
    const response = await ask(path, { accept: "text/html", signal: AbortSignal.timeout(PATIENCE) });
    return new DOMParser().parseFromString(await response.text(), "text/html");
}

/** Shows the server a token and keeps it; a cookie lets this browser open pages from then on. */
export async function signIn(secret) {
    const response = await send("/session", secret, { method: "POST" });
    if (!response.ok) {
        throw await refusal(response);
    }
    keep(secret);
}

/** Whether a page can be opened: no token is sent with it. */
export async function isLetIn(path) {
    const response = await send(path, null, { method: "HEAD" });
    return response.status !== 401;
}

/** Forgets the token, and has the server take its cookie back. */
export async function signOut() {
    keep(null);
    await send("/session", null, { method: "DELETE" });
}

async function refusal(response) {
    const sentence = await sentenceOf(response).catch(() => null);
    return new Refused(response.status, sentence || `the server answered ${response.status}`);
}

/** Who asks for a page is refused with a page. */
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
    // What changes something is not taken back by leaving.
    const ends = READS.includes(method) ? [signal, leaving.signal] : [signal];
    const end = AbortSignal.any(ends.filter(Boolean));
    const response = await fetch(path, { method, headers: sent, body: body && JSON.stringify(body), signal: end, cache: "no-store" });
    learn(response);
    return response;
}

/** First and longest wait before what broke is asked for again, in milliseconds. */
export const AGAIN = [250, 8000];

/** Streams of events that are silent for longer are dead: the server says something each 15 s. In milliseconds. */
const SILENT = 45_000;

/** Told to the window when a stream of events that was lost is there again. */
export const RECONNECTED = "mistry:reconnected";

/** What is no failure for good: asked too late, or too often. */
const PASSING = [408, 429];

/** Whether asking again cannot help. */
export function isFinal(error) {
    return error instanceof Refused && error.status < 500 && !PASSING.includes(error.status);
}

/**
 * Follows a stream of events until `signal` aborts: reconnects with `Last-Event-ID` when it breaks.
 * `since` is a time of the server: what ended from then on is told first. `onevent(name, data)` gets each event,
 * `onstate(connected)` each change of the connection. A connection that died without a word breaks when it was
 * silent for too long.
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
                // A server that answers and breaks off at once is not asked faster for it.
                wait = event.name === "present" ? AGAIN[0] : wait;
                last = event.id ?? last;
                onevent(event.name, event.data);
            }
        } catch (error) {
            // Who has aborted it wants to hear nothing more.
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

/** Aborts its signal when nothing was heard for too long, and when `outer` aborts. */
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

    /** Ends the connection, whatever state it is in. */
    end() {
        clearTimeout(this.#timer);
        this.#controller.abort();
    }
}

/** Waits before the next try; a page that comes to the front, and a network that is back, try at once. */
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

/** Server-Sent Events out of a body, as the standard says; `onheard` is told of all that comes. */
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
