// A log in blocks: which lines are in which block, a cache of recently read blocks, and new output at the end.
//
// The server sends where blocks begin; a block is requested when one of its lines is to be shown, and a few are
// cached. The output of a running build is cut into blocks here, by the rules of `build/lines/index.rs`.

import { PLAIN, apply } from "./ansi.js";
import { Cutter, SHOWN, line } from "./loglines.js";
import { ask } from "./server.js";

const BLOCK_LINES = 2000;
const BLOCK_BYTES = 64 << 10;

/** Most letters of cached blocks: more than a window shows of the longest lines, and little memory. */
const KEPT = 8 << 20;

/** The overhead of a line, counted as letters. */
const PER_LINE = 64;

export class Blocks {
    #offsets = [];
    #firsts = [];
    #styles = [];
    #kept = new Map();
    #letters = 0;
    #coming = new Map();
    #lines = 0;
    /** Those who wait for a length: `[length, resolve]`. */
    #awaited = [];
    /** Cuts new output into lines; null for a log that does not grow. */
    #end = null;

    /** `onend(number, line, start, end)` is called for each line that ends while the log grows. */
    constructor(path, onend = () => {}) {
        /** The address of the log, to which a query is appended. */
        this.address = path + (path.includes("?") ? "&" : "?");
        this.onend = onend;
        this.length = 0;
        this.tag = null;
    }

    /** Headers of requests for the same log: if the job was requested again and has another log, the answer is 412. */
    get same() {
        return this.tag === null ? {} : { "Mistry-Log": this.tag };
    }

    /** The number of lines. */
    get count() {
        return this.#end ? this.#firsts.at(-1) + this.#end.lines.length + (this.#end.open ? 1 : 0) : this.#lines;
    }

    /** Requests where lines begin; `grows` says that the log grows, so that output can be pushed. */
    async open(grows) {
        const response = await ask(`${this.address}lines`);
        const told = await response.json();
        this.tag = response.headers.get("Mistry-Log");
        this.length = told.Length;
        this.#lines = told.Lines;
        this.#offsets = told.Offsets;
        this.#firsts = told.Firsts;
        this.#styles = told.Colours.map((params) => (params === "" ? PLAIN : apply(PLAIN, params)));
        if (grows) {
            await this.#openEnd();
        }
    }

    /** The line, or undefined if it is not loaded: `need` loads it. */
    line(number) {
        const block = this.#blockOf(number);
        const at = number - this.#firsts[block];
        if (this.#end && block === this.#offsets.length - 1) {
            return this.#end.lines[at] ?? this.#end.open ?? undefined;
        }
        const lines = this.#kept.get(block);
        if (lines) {
            // The most recently used block is dropped last.
            this.#kept.delete(block);
            this.#kept.set(block, lines);
        }
        return lines?.[at];
    }

    /** Loads the missing ones of lines `from` to `to`; true if any was missing. */
    async need(from, to) {
        const missing = [];
        for (let block = this.#blockOf(from); block < this.#offsets.length && this.#firsts[block] < to; block++) {
            const isEnd = this.#end && block === this.#offsets.length - 1;
            if (!isEnd && !this.#kept.has(block)) {
                missing.push(this.#read(block));
            }
        }
        await Promise.all(missing);
        return missing.length > 0;
    }

    /** The number of the line in which byte `offset` is. */
    async lineAt(offset) {
        let block = 0;
        while (block + 1 < this.#offsets.length && this.#offsets[block + 1] <= offset) {
            block += 1;
        }
        const from = this.#offsets[block] ?? 0;
        const to = Math.min(offset, from + BLOCK_BYTES, this.length);
        const bytes = await this.#bytes(from, Math.max(from, to));
        return (this.#firsts[block] ?? 0) + bytes.reduce((lines, byte) => lines + (byte === 10), 0);
    }

    /** Resolves when the log has at least this many bytes. */
    reached(length) {
        return new Promise((resolve) => {
            this.#awaited.push([length, resolve]);
            this.#notifyWaiters();
        });
    }

    /** Adds new output of a log that grows. */
    push(bytes) {
        this.#end.push(bytes);
        this.length += bytes.length;
        this.#notifyWaiters();
    }

    /** The log no longer grows. */
    finish() {
        this.#end?.finish();
    }

    #notifyWaiters() {
        this.#awaited = this.#awaited.filter(([length, resolve]) => length > this.length || resolve());
    }

    #blockOf(number) {
        let [low, high] = [0, this.#firsts.length - 1];
        while (low < high) {
            const middle = (low + high + 1) >> 1;
            [low, high] = this.#firsts[middle] <= number ? [middle, high] : [low, middle - 1];
        }
        return low;
    }

    #bounds(block) {
        return [this.#offsets[block], this.#offsets[block + 1] ?? this.length];
    }

    async #read(block) {
        if (!this.#coming.has(block)) {
            const reading = this.#fetch(block).finally(() => this.#coming.delete(block));
            this.#coming.set(block, reading);
        }
        this.#keep(block, await this.#coming.get(block));
    }

    #keep(block, lines) {
        this.#forget(block);
        this.#kept.set(block, lines);
        this.#letters += letters(lines);
        for (const oldest of this.#kept.keys()) {
            if (this.#letters <= KEPT) {
                break;
            }
            this.#forget(oldest);
        }
    }

    #forget(block) {
        this.#letters -= letters(this.#kept.get(block) ?? []);
        this.#kept.delete(block);
    }

    async #fetch(block) {
        const [from, to] = this.#bounds(block);
        if (this.#isLong(block)) {
            const [head, tail] = await this.#ends(from, to);
            const hasFeed = tail.at(-1) === 10;
            const long = line(head, hasFeed ? tail.subarray(0, -1) : tail, to - from - (hasFeed ? 1 : 0), this.#styles[block]);
            return [{ ...long, from }];
        }
        const cutter = new Cutter(from, this.#styles[block]);
        cutter.push(await this.#bytes(from, to));
        cutter.finish();
        return cutter.lines;
    }

    /** Of a line that is a block by itself only parts are read. */
    #isLong(block) {
        const [from, to] = this.#bounds(block);
        const lines = (this.#firsts[block + 1] ?? this.#lines) - this.#firsts[block];
        return lines === 1 && to - from > BLOCK_BYTES;
    }

    #ends(from, to) {
        return Promise.all([this.#bytes(from, from + SHOWN), this.#bytes(to - SHOWN, to)]);
    }

    async #bytes(from, to) {
        if (from === to) {
            return new Uint8Array();
        }
        const headers = { Range: `bytes=${from}-${to - 1}`, ...this.same };
        const response = await ask(`${this.address}text`, { headers, accept: "text/plain, application/json" });
        return new Uint8Array(await response.arrayBuffer());
    }

    async #openEnd() {
        if (this.#offsets.length === 0) {
            [this.#offsets, this.#firsts, this.#styles] = [[0], [0], [PLAIN]];
        }
        const block = this.#offsets.length - 1;
        const [from, to] = this.#bounds(block);
        const isLong = this.#isLong(block);
        const [head, tail] = isLong ? await this.#ends(from, to) : [await this.#bytes(from, to), new Uint8Array()];
        this.#end = new Cutter(from, this.#styles[block], (start, stop) => this.#ended(start, stop));
        this.#end.push(head);
        this.#end.skip(isLong ? to - from - 2 * SHOWN : 0);
        this.#end.push(tail);
    }

    #ended(start, stop) {
        const lines = this.#end.lines;
        this.onend(this.#firsts.at(-1) + lines.length - 1, lines.at(-1), start, stop);
        const isLong = stop - start > BLOCK_BYTES;
        if (isLong && lines.length > 1) {
            const long = lines.pop();
            this.#begin(start, long.before);
            this.#end.lines.push(long);
        }
        if (isLong || lines.length >= BLOCK_LINES || this.#end.at - this.#offsets.at(-1) >= BLOCK_BYTES) {
            this.#begin(this.#end.at, this.#end.style);
        }
    }

    #begin(offset, style) {
        const lines = this.#end.lines;
        this.#keep(this.#offsets.length - 1, lines);
        this.#firsts.push(this.#firsts.at(-1) + lines.length);
        this.#offsets.push(offset);
        this.#styles.push(style);
        this.#end.lines = [];
    }
}

function letters(lines) {
    return lines.reduce((sum, line) => sum + line.text.length + PER_LINE, 0);
}
