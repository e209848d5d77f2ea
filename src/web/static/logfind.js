// Finds a text in a log: the server searches the existing lines, later lines are searched here.

import { visible } from "./ansi.js";
import { ask } from "./server.js";

/** A regular expression for a literal text, upper and lower case of ASCII alike, as the server takes it. */
export function pattern(text) {
    const literal = text.replace(/[\\^$.*+?()[\]{}|/-]/g, "\\$&");
    return new RegExp(literal.replace(/[A-Za-z]/g, (letter) => `[${letter.toLowerCase()}${letter.toUpperCase()}]`), "g");
}

/** Most matches that can be gone to; further ones are only counted. The server has the same limit. */
const MAX_LINES = 1000;

export class Find {
    #asking = null;
    /** The last line that the server has searched. */
    #last = null;
    #late = [];
    #length = null;

    /** Searches the log of these blocks. */
    constructor(blocks) {
        this.blocks = blocks;
        this.clear();
    }

    /** Ends the search. */
    clear() {
        this.#asking?.abort();
        this.text = "";
        this.needle = null;
        this.lines = [];
        this.count = 0;
        this.at = -1;
        this.#late = [];
        this.#last = null;
        this.#length = null;
    }

    /** Searches for a text; false if another search was begun meanwhile. */
    async begin(text) {
        this.clear();
        const asking = new AbortController();
        this.#asking = asking;
        this.text = text;
        this.needle = pattern(text);
        try {
            const path = `${this.blocks.address}find=${encodeURIComponent(text)}`;
            const told = await (await ask(path, { headers: this.blocks.same, signal: asking.signal })).json();
            this.lines = told.Matches.map((found) => found.Line);
            this.count = told.Count;
            this.#last = this.lines.at(-1) ?? null;
            this.#length = told.Length;
            this.#late.forEach((found) => this.#add(found));
            this.#late = [];
            return true;
        } catch (error) {
            if (asking.signal.aborted) {
                return false;
            }
            this.clear();
            throw error;
        }
    }

    /** Checks a line that has just ended; true if it contains the text. */
    see(number, line, start, end) {
        if (!this.needle || visible(line.text).search(this.needle) < 0) {
            return false;
        }
        const found = { number, start, end };
        if (this.#length === null) {
            this.#late.push(found);
            return false;
        }
        return this.#add(found);
    }

    /** Goes to the match after the current one, or to the first one from line `first` on; `step` is 1 or -1. */
    next(step, first) {
        const { lines } = this;
        if (lines.length === 0) {
            return null;
        }
        if (this.at >= 0) {
            this.at = (this.at + step + lines.length) % lines.length;
        } else {
            const after = lines.findIndex((line) => line >= first);
            const from = after < 0 ? lines.length : after;
            this.at = (step > 0 ? from : from - 1 + lines.length) % lines.length;
        }
        return lines[this.at];
    }

    /** "3 of 120". */
    get told() {
        if (!this.needle) {
            return "";
        }
        const count = this.count.toLocaleString("en-GB");
        const more = this.count > this.lines.length ? ` (first ${this.lines.length.toLocaleString("en-GB")})` : "";
        return this.count === 0 ? "none" : `${this.at < 0 ? "" : `${this.at + 1} of `}${count}${more}`;
    }

    #add({ number, start, end }) {
        // The server has searched the line; the last line only as far as it went then.
        const isTold = end < this.#length || (start < this.#length && number === this.#last);
        if (isTold) {
            return false;
        }
        if (this.lines.length === this.count && this.count < MAX_LINES) {
            this.lines.push(number);
        }
        this.count += 1;
        return true;
    }
}
