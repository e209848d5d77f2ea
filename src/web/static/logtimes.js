// When the lines of a log were written. The server knows it for what it has of the log; what comes later is new, and its
// time is that of its arrival.

import { ask } from "./server.js";
import { exact, serverNow } from "./times.js";

/** Arrivals closer to each other than this have one time, in milliseconds; the server's times are as close. */
const CLOSE = 100;

export class LineTimes {
    #offsets = [];
    #times = [];
    /** The bytes of the log that have times; null until they are asked for. */
    #length = null;

    /** Asks for the times of a log. */
    async read(blocks) {
        const response = await ask(`${blocks.address}times`, { headers: blocks.same });
        const known = await response.json();
        [this.#offsets, this.#times, this.#length] = [known.Offsets, known.Times, known.Length];
        this.recordArrival(blocks.length);
    }

    /** The log has grown to `length` bytes. */
    recordArrival(length) {
        if (this.#length === null || length <= this.#length) {
            return;
        }
        const now = serverNow();
        if (this.#times.length === 0 || now - this.#times.at(-1) >= CLOSE) {
            this.#offsets.push(this.#length);
            this.#times.push(now);
        }
        this.#length = length;
    }

    /** When the line that begins at byte `offset` was written; null if that is not known. */
    #at(offset) {
        let [low, high] = [0, this.#offsets.length];
        while (low < high) {
            const middle = (low + high) >> 1;
            [low, high] = this.#offsets[middle] <= offset ? [middle + 1, high] : [low, middle];
        }
        return low > 0 ? new Date(this.#times[low - 1]) : null;
    }

    /** The column of a row: "14:02:09.3" in the reader's zone, empty for a line that is not loaded. */
    column(line) {
        const element = document.createElement("span");
        element.className = "line-time";
        const date = line ? this.#at(line.from) : null;
        if (date) {
            const tenths = Math.floor(date.getMilliseconds() / 100);
            element.textContent = `${date.toLocaleTimeString("en-GB")}.${tenths}`;
            element.title = exact(date);
        } else {
            element.textContent = line ? "–" : "";
        }
        return element;
    }
}
