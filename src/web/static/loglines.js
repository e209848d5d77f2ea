// Cuts the bytes of a log into lines as they arrive. A line is `{ text, before, more }`: its text as printed, the
// style at its beginning, and how many of its bytes are left out.

import { after } from "./ansi.js";

/** Most bytes of a line that are shown. */
export const SHOWN = 16 << 10;

const decoder = new TextDecoder();

function joined(a, b) {
    if (a.length === 0) {
        return b;
    }
    const both = new Uint8Array(a.length + b.length);
    both.set(a);
    both.set(b, a.length);
    return both;
}

/** A line that begins with `head` and ends with `tail`; of a short line, `head` is all of it. */
export function line(head, tail, size, before) {
    if (size <= SHOWN) {
        return { text: decoder.decode(head), before, more: 0 };
    }
    // Of a progress bar only the end is visible.
    const end = decoder.decode(tail);
    const back = end.indexOf("\r");
    if (back >= 0 && back < lastSeen(end)) {
        return { text: end.slice(back), before, more: 0 };
    }
    return { text: decoder.decode(head.subarray(0, SHOWN)).replace(/\ufffd$/, ""), before, more: size - SHOWN };
}

/** The position of the last letter that is no carriage return; -1 if there is none. */
function lastSeen(text) {
    let at = text.length - 1;
    while (at >= 0 && text[at] === "\r") {
        at -= 1;
    }
    return at;
}

/** Cuts bytes into lines, from the start of a line at byte `start` of the log. */
export class Cutter {
    lines = [];
    #head = new Uint8Array();
    #tail = new Uint8Array();
    #size = 0;
    #open = null;

    /** `onend(start, end)` is called for each completed line: the last of `lines`. */
    constructor(start, style, onend = () => {}) {
        this.at = start;
        this.style = style;
        this.onend = onend;
    }

    /** Where the incomplete line begins. */
    get start() {
        return this.at - this.#size;
    }

    /** The incomplete line, or null. */
    get open() {
        if (this.#size === 0) {
            return null;
        }
        this.#open ??= { ...line(this.#head, this.#tail, this.#size, this.style), from: this.start };
        return this.#open;
    }

    push(bytes) {
        let from = 0;
        for (;;) {
            const end = bytes.indexOf(10, from);
            if (end < 0) {
                break;
            }
            this.#take(bytes.subarray(from, end));
            this.#end(1);
            from = end + 1;
        }
        this.#take(bytes.subarray(from));
    }

    /** Skips `count` bytes of the incomplete line. */
    skip(count) {
        this.#size += count;
        this.at += count;
    }

    /** Ends the log. */
    finish() {
        if (this.#size > 0) {
            this.#end(0);
        }
    }

    #take(bytes) {
        if (bytes.length === 0) {
            return;
        }
        this.#open = null;
        this.#size += bytes.length;
        this.at += bytes.length;
        const room = SHOWN - this.#head.length;
        if (room > 0) {
            this.#head = joined(this.#head, bytes.slice(0, room));
        }
        if (this.#size > SHOWN) {
            this.#tail = joined(this.#tail, bytes.slice(-SHOWN)).slice(-SHOWN);
        }
    }

    #end(feed) {
        const ended = line(this.#head, this.#tail, this.#size, this.style);
        const start = this.start;
        this.lines.push({ ...ended, from: start });
        this.style = after(ended.text, this.style);
        this.#head = new Uint8Array();
        this.#tail = new Uint8Array();
        this.#size = 0;
        this.#open = null;
        const end = this.at;
        this.at += feed;
        this.onend(start, end);
    }
}
