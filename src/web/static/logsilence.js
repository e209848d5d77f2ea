// How long a running build has printed nothing: a build that hangs is noticed by that.

import { span } from "./times.js";

/** Shorter silences are usual, in milliseconds. */
const LONG = 10_000;

export class Silence {
    #since = performance.now();
    #hasHeard = false;
    #timer = null;

    /** `ondue` is called each second while a log is watched. */
    constructor(ondue) {
        this.ondue = ondue;
    }

    /** Output has come. */
    heard() {
        this.#since = performance.now();
        this.#hasHeard = true;
    }

    /** Counts while the log is followed. */
    watch(isWatched) {
        if (isWatched && this.#timer === null) {
            this.#timer = setInterval(() => document.hidden || this.ondue(), 1000);
        } else if (!isWatched) {
            clearInterval(this.#timer);
            this.#timer = null;
        }
    }

    /** "silent for 23 s"; "" while output comes. What was before the page was opened is not known. */
    get told() {
        const silent = performance.now() - this.#since;
        // Whole seconds: it is drawn each second.
        return silent < LONG ? "" : `silent for ${this.#hasHeard ? "" : "more than "}${span(silent - (silent % 1000)).replace(".0", "")}`;
    }
}
