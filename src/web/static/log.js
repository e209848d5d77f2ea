// The view of a build's log, in the scrolling of its page: it shows any part of a long log at once, follows a log that
// grows, folds the part that built the image, finds text, and links to lines and ranges.

import { bind } from "./keys.js";
import { Blocks } from "./logblocks.js";
import { Fold } from "./logfold.js";
import { Find } from "./logfind.js";
import { row } from "./logrow.js";
import { Silence } from "./logsilence.js";
import { follow } from "./logstream.js";
import { LineTimes } from "./logtimes.js";
import { Window } from "./logwindow.js";
import { AGAIN, isFinal, pause } from "./server.js";

const WRAP = "mistry-log-wrap";
const TIMES = "mistry-log-times";

/** Delay between the last typed letter and the search request, in milliseconds. */
const TYPED = 250;

/** The least width of a letter of the log, in pixels. */
const NARROWEST = 4;

const STATES = {
    open: "Reading…",
    live: "Live",
    cut: "Connection lost; trying again",
    over: "",
};

/** Makes `section` the view of its log. */
export function mount(section) {
    new View(section).open();
}

class View {
    #range = null;
    #marked = 0;
    #drawing = 0;
    /** True while new output is scrolled into view. */
    #isFollowing;
    #state = "open";
    /** A prefix of the message about the stream. */
    #note = "";
    #renewing = false;
    #over = new AbortController();

    constructor(section) {
        this.section = section;
        this.isPending = section.dataset.state === "pending";
        this.#isFollowing = this.isPending;
        this.isAtEnd = false;
        this.path = section.dataset.log;
        this.job = this.path.replace(/^\/log\//, "/job/").replace(/\?.*/, "");
        this.fold = new Fold(section, () => this.#folded());
        this.silence = new Silence(() => this.#sayState());
        this.#take(this.#blocks());
    }

    /** The blocks of the current log. */
    #blocks() {
        const blocks = new Blocks(this.path, (...ended) => this.blocks === blocks && this.find.see(...ended));
        return blocks;
    }

    #take(blocks) {
        this.blocks = blocks;
        this.times = new LineTimes();
        this.find = new Find(blocks);
    }

    async open() {
        this.#build();
        this.#listen();
        try {
            await this.#opened(this.blocks, this.isPending);
            await this.fold.measure(this.blocks);
        } catch (error) {
            this.#failed(error, this.blocks);
            return;
        }
        this.#show();
        this.#stream();
    }

    /** Opens the blocks of a log; retries after errors that may pass. */
    async #opened(blocks, isPending) {
        for (let wait = AGAIN[0]; ; wait = Math.min(wait * 2, AGAIN[1])) {
            try {
                return await blocks.open(isPending);
            } catch (error) {
                if (isFinal(error)) {
                    throw error;
                }
                this.#say(`${error.message}; trying again`);
                await pause(wait);
            }
        }
    }

    /** Shows the log after it was opened. */
    #show() {
        this.section.querySelector("pre")?.remove();
        this.box.hidden = false;
        this.section.style.setProperty("--digits", String(this.blocks.count).length);
        if (!this.window) {
            // The browser knows positions in the page, which are others once rows are in it.
            history.scrollRestoration = "manual";
            this.window = new Window(this.box, this.bar, this.#source());
            // The summary above the log changes its height as the build goes on.
            new ResizeObserver(() => this.#reflow()).observe(this.section.parentElement.querySelector("#summary"));
        }
        if (this.#fromAddress()) {
            return;
        }
        // The reason of a build that failed stays in sight above a short log.
        if (this.isPending || (this.section.dataset.open === "end" && !this.window.isShort())) {
            this.isAtEnd = true;
            this.window.end();
        } else {
            this.window.open();
        }
    }

    /** The part that built the image is folded or not, or its length is known now. */
    #folded() {
        if (!this.window) {
            return;
        }
        if (!this.fold.isFolded) {
            this.#leave(() => this.window.begin());
        } else {
            this.#redraw();
        }
    }

    /** Shows a line that may be in the folded part. */
    #unfoldFor(number) {
        if (number < this.fold.begin) {
            this.fold.open();
        }
    }

    async #stream() {
        if (!this.isPending) {
            this.#become("over");
            return;
        }
        const { blocks } = this;
        const { signal } = this.#over;
        try {
            await follow(blocks, this.job, {
                signal,
                onbytes: () => {
                    this.silence.heard();
                    this.times.recordArrival(blocks.length);
                    this.#changed();
                },
                onstate: (state) => this.#become(state),
            });
        } catch (error) {
            if (!signal.aborted) {
                this.#failed(error, blocks);
            }
        }
    }

    /** Shows the error of reading blocks; if the log was replaced meanwhile, opens the new one. */
    #failed(error, blocks) {
        if (error.status === 412) {
            this.#renew(blocks);
        } else {
            this.#say(error.message);
        }
    }

    /** The job was requested again: it has a new log, which may still grow. */
    async #renew(old) {
        if (this.#renewing || old !== this.blocks) {
            return;
        }
        this.#renewing = true;
        this.#over.abort();
        this.#over = new AbortController();
        try {
            const blocks = this.#blocks();
            await this.#opened(blocks, true);
            this.#take(blocks);
            this.#time(this.isTimed);
            // What the attributes say is about the log before.
            this.fold.reset(blocks);
        } catch (error) {
            this.#say(error.message);
            return;
        } finally {
            this.#renewing = false;
        }
        this.isPending = true;
        this.#note = "Asked for again";
        this.followButton.hidden = false;
        this.#become("open");
        this.#marked += 1;
        this.#show();
        this.#stream();
        this.#search();
    }

    #build() {
        this.bar = make("div", { className: "log-bar", role: "toolbar", ariaLabel: "Log" });
        const top = button("log-top", "Top", "the first line (g)", () => this.#leave(() => this.window.begin()));
        // An opened end of a log is far below the outcome of its build.
        const outcome = document.querySelector("h1 .outcome");
        const why = button("log-why", `↑ ${outcome.textContent}`, "the top of the page", () => scrollTo(0, 0));
        why.className = outcome.className;
        why.hidden = this.section.dataset.open !== "end";
        const end = button("log-end", "End", "the last line (G)", () => this.#toEnd());
        this.followButton = button("log-follow", "Follow", "stay at the end while the log grows (f)", () => this.#follow(!this.#isFollowing));
        this.followButton.hidden = !this.isPending;
        this.wrapButton = button("log-wrap", "Wrap", "break long lines (w)", () => this.#wrap(!this.isWrapped));
        this.timesButton = button("log-times", "Times", "when each line was written (t)", () => this.#time(!this.isTimed));
        const label = make("label", { className: "log-search", textContent: "Find" });
        this.input = make("input", { id: "log-find", type: "search", maxLength: 200, autocomplete: "off", spellcheck: false, title: "a text in the log (/)" });
        label.append(this.input);
        const previous = button("log-previous", "↑", "the previous match (N)", () => this.#next(-1));
        previous.ariaLabel = "Previous match";
        const next = button("log-next", "↓", "the next match (n)", () => this.#next(1));
        next.ariaLabel = "Next match";
        this.count = make("output", { id: "log-count", ariaLabel: "Matches" });
        this.size = make("span", { id: "log-size" });
        this.status = make("span", { id: "log-status", role: "status", textContent: STATES.open });
        const steps = make("span", { className: "log-steps" });
        steps.append(previous, next, this.count);
        this.bar.append(why, top, end, this.followButton, this.wrapButton, this.timesButton, label, steps, this.status, this.size);
        this.box = make("div", { className: "log-box", role: "log", ariaLive: "off", ariaLabel: "Log of the build", tabIndex: 0, hidden: true });
        this.section.append(this.bar, this.fold.button, this.box);
        this.#showFollowing();
        this.#wrap(stored(WRAP) !== "off");
        this.#time(stored(TIMES) === "on");
    }

    #listen() {
        bind("f", "follow the log, or stop following it", () => this.#follow(!this.#isFollowing));
        bind("w", "wrap the long lines of the log, or do not", () => this.#wrap(!this.isWrapped));
        bind("t", "the times of the lines, or not", () => this.#time(!this.isTimed));
        bind("/", "find in the log", () => this.input.select());
        bind("n", "the next match", () => this.#next(1));
        bind("N", "the previous match", () => this.#next(-1));
        bind("g", "the first line of the log", () => this.#leave(() => this.window.begin()));
        bind("G", "the last line of the log", () => this.#toEnd());
        let typed;
        this.input.addEventListener("input", () => {
            clearTimeout(typed);
            typed = setTimeout(() => this.#search(), TYPED);
        });
        this.input.addEventListener("keydown", async (event) => {
            if (event.key === "Enter") {
                event.preventDefault();
                clearTimeout(typed);
                const isNew = this.input.value !== this.find.text;
                const isFound = await this.#search();
                if (isFound && !isNew) {
                    this.#next(event.shiftKey ? -1 : 1);
                }
            } else if (event.key === "Escape") {
                // The field keeps its text: the keys n and N continue the search.
                event.preventDefault();
                this.box.focus({ preventScroll: true });
            }
        });
        this.box.addEventListener("click", (event) => this.#clicked(event));
        // The browser's own search sees only the rows that are in the page.
        this.box.addEventListener("keydown", (event) => {
            if ((event.key === "Home" || event.key === "End") && !event.shiftKey) {
                event.preventDefault();
                event.key === "Home" ? this.#leave(() => this.window.begin()) : this.#toEnd();
            }
        });
        addEventListener("hashchange", () => this.window && this.#fromAddress());
    }

    #source() {
        const view = this;
        return {
            get begin() {
                return view.fold.begin;
            },
            get count() {
                return view.blocks.count;
            },
            row: (number) => {
                const line = view.blocks.line(number);
                if (!line) {
                    view.#fetch(number);
                }
                const element = row(number, line, view.find.needle, view.isTimed && view.times);
                element.line = line;
                element.marks = view.#marked;
                view.#paint(element, number);
                return element;
            },
            isSame: (element, number) => element.marks === view.#marked && element.line !== undefined && element.line === view.blocks.line(number),
            tall: (number) => view.#tall(number),
            onresize: () => view.#reflow(),
            onview: (isAtEnd, isAway) => view.#scrolled(isAtEnd, isAway),
        };
    }

    /** The least number of text lines that a row takes; escape sequences and carriage returns are not subtracted. */
    #tall(number) {
        const text = this.isWrapped ? this.blocks.line(number)?.text : undefined;
        if (text === undefined || text.length < NARROWEST || /[\x1b\r]/.test(text)) {
            return 1;
        }
        return Math.max(1, Math.floor((text.length * NARROWEST) / this.box.clientWidth));
    }

    /** Requests the block of a row that is not loaded, and shows it when it is. */
    async #fetch(number) {
        const { blocks } = this;
        try {
            if (await blocks.need(number, number + 1)) {
                this.#redraw();
            }
        } catch (error) {
            this.#failed(error, blocks);
        }
    }

    #redraw() {
        this.#drawing ||= requestAnimationFrame(() => {
            this.#drawing = 0;
            if (this.#isFollowing || this.isAtEnd) {
                this.window.end();
            } else {
                this.window.refresh();
            }
        });
    }

    #changed() {
        this.section.style.setProperty("--digits", String(this.blocks.count).length);
        this.#redraw();
        this.#measure();
        this.count.textContent = this.find.told;
    }

    #become(state) {
        this.#state = state;
        this.silence.watch(state === "live");
        if (state === "over") {
            this.isAtEnd = this.#isFollowing || this.isAtEnd;
            this.#isFollowing = false;
            this.followButton.hidden = true;
            this.#redraw();
        }
        this.#sayState();
        this.#measure();
        this.section.dataset.stream = state;
    }

    #sayState() {
        const word = [STATES[this.#state], this.#state === "live" && this.silence.told].filter(Boolean).join(", ");
        this.#say([this.#note, word].filter(Boolean).join(": "));
    }

    #measure() {
        const lines = this.blocks.count;
        const whole = { over: ", complete", open: "" }[this.#state] ?? " so far";
        this.size.textContent = `${lines.toLocaleString("en-GB")} ${lines === 1 ? "line" : "lines"}, ${size(this.blocks.length)}${whole}`;
    }

    #say(sentence) {
        if (this.status.textContent !== sentence) {
            this.status.textContent = sentence;
        }
    }

    #scrolled(isAtEnd, isAway) {
        this.isAtEnd = isAtEnd;
        if (this.#state === "over") {
            return;
        }
        if (isAtEnd) {
            this.#setFollowing(true);
        } else if (isAway) {
            this.#setFollowing(false);
        }
    }

    #setFollowing(isFollowing) {
        this.#isFollowing = isFollowing;
        this.#showFollowing();
    }

    #showFollowing() {
        this.followButton.ariaPressed = String(this.#isFollowing);
    }

    #follow(isFollowing) {
        if (!this.window || this.#state === "over") {
            return;
        }
        this.isAtEnd = false;
        this.#setFollowing(isFollowing);
        if (isFollowing) {
            this.window.end();
        }
    }

    #toEnd() {
        if (this.window) {
            this.#follow(true);
            this.isAtEnd = true;
            this.window.end();
        }
    }

    /** Goes to another place of the log; new output is no longer scrolled into view. */
    #leave(go) {
        if (this.window) {
            this.isAtEnd = false;
            this.#setFollowing(false);
            go();
        }
    }

    #wrap(isWrapped) {
        this.isWrapped = isWrapped;
        this.wrapButton.ariaPressed = String(isWrapped);
        store(WRAP, isWrapped ? "on" : "off");
        this.box.classList.toggle("wrapped", isWrapped);
        if (this.window) {
            this.box.scrollLeft = 0;
            this.#reflow();
        }
    }

    /** Shows when each line was written, or no longer. */
    async #time(isTimed) {
        const { blocks, times } = this;
        try {
            if (isTimed) {
                await times.read(blocks);
            }
        } catch (error) {
            this.#failed(error, blocks);
            return;
        }
        if (times !== this.times) {
            return;
        }
        this.isTimed = isTimed;
        this.timesButton.ariaPressed = String(isTimed);
        store(TIMES, isTimed ? "on" : "off");
        this.box.classList.toggle("timed", isTimed);
        this.#marked += 1;
        if (this.window) {
            this.#reflow();
        }
    }

    #reflow() {
        if (this.#isFollowing || this.isAtEnd) {
            this.window.end();
        } else {
            this.window.reflow();
        }
    }

    /** Searches for the text in the field; true if there is one. */
    async #search() {
        const text = this.input.value;
        if (text !== this.find.text) {
            if (text === "") {
                this.find.clear();
            } else {
                this.count.textContent = "…";
                try {
                    if (!(await this.find.begin(text))) {
                        return false;
                    }
                } catch (error) {
                    this.count.textContent = error.message;
                    if (error.status === 412) {
                        this.#failed(error, this.find.blocks);
                    }
                    return false;
                }
            }
            this.#marked += 1;
            this.count.textContent = this.find.told;
            if (this.find.lines.length > 0) {
                this.#next(1);
            } else {
                this.#redraw();
            }
        }
        return this.find.lines.length > 0;
    }

    #next(step) {
        const number = this.window && this.find.next(step, this.window.first);
        if (number === null || number === undefined) {
            return;
        }
        this.#marked += 1;
        this.count.textContent = this.find.told;
        this.#unfoldFor(number);
        this.#leave(() => (this.window.isSeen(number) ? this.window.refresh() : this.window.show(number)));
    }

    #paint(element, number) {
        const { from, to } = this.#range ?? { from: 1, to: 0 };
        element.classList.toggle("linked", number >= from && number <= to);
        element.classList.toggle("found", this.find.lines[this.find.at] === number);
    }

    #clicked(event) {
        const link = event.target.closest(".line-number");
        if (!link) {
            return;
        }
        event.preventDefault();
        const number = Number(link.parentElement.dataset.line);
        const other = event.shiftKey && this.#range ? this.#range.from + 1 : number;
        const [from, to] = [Math.min(number, other), Math.max(number, other)];
        history.replaceState(null, "", from === to ? `#L${from}` : `#L${from}-L${to}`);
        this.#range = { from: from - 1, to: to - 1 };
        this.#marked += 1;
        this.#leave(() => this.window.refresh());
    }

    /** Shows the lines that the address names; false when it names none. */
    #fromAddress() {
        const named = /^#L(\d{1,15})(?:-L?(\d{1,15}))?$/.exec(location.hash);
        if (!named) {
            return false;
        }
        const numbers = [named[1], named[2] ?? named[1]].map((number) => Math.max(0, Number(number) - 1));
        this.#range = { from: Math.min(...numbers), to: Math.max(...numbers) };
        this.#marked += 1;
        this.#unfoldFor(this.#range.from);
        this.#leave(() => this.window.show(this.#range.from));
        return true;
    }
}

function make(tag, properties) {
    return Object.assign(document.createElement(tag), properties);
}

function button(id, text, title, action) {
    const element = make("button", { id, type: "button", textContent: text, title });
    element.addEventListener("click", action);
    return element;
}

/** "812 B", "4.1 KiB": as `web/format.rs` writes it. */
function size(bytes) {
    if (bytes < 1024) {
        return `${bytes} B`;
    }
    const units = ["KiB", "MiB", "GiB", "TiB"];
    let [number, unit] = [bytes / 1024, 0];
    while (number >= 1023.95 && unit < units.length - 1) {
        [number, unit] = [number / 1024, unit + 1];
    }
    return `${number.toFixed(1)} ${units[unit]}`;
}

/** A stored setting, or null; a browser may refuse storage. */
function stored(key) {
    try {
        return localStorage.getItem(key);
    } catch {
        return null;
    }
}

function store(key, value) {
    try {
        localStorage.setItem(key, value);
    } catch {
        // Without storage the setting is lost with the page.
    }
}
