// The part of a log that built the image: folded once the container runs, behind a button that says how long it is.

export class Fold {
    #blocks = null;
    /** The number of the container's first line; 0 while it is unknown or nothing is before it. */
    #line = 0;
    /** The byte that is waited for: the page knows where the container's output begins before it has that output. */
    #awaited = 0;
    #isFolded = true;

    /** `data-runs-from` of the section is the byte at which the container's output begins. */
    constructor(section, onchange) {
        this.section = section;
        this.onchange = onchange;
        this.button = document.createElement("button");
        Object.assign(this.button, { id: "log-image", type: "button", className: "log-fold", hidden: true });
        this.button.addEventListener("click", () => this.#set(!this.#isFolded));
        new MutationObserver(() => this.#again()).observe(section, { attributeFilter: ["data-runs-from"] });
    }

    /** The first line that is shown. */
    get begin() {
        return this.#isFolded ? this.#line : 0;
    }

    get isFolded() {
        return this.#isFolded;
    }

    /** Finds the line in these blocks, as soon as they reach it. */
    async measure(blocks) {
        this.#blocks = blocks;
        const from = Number(this.section.dataset.runsFrom ?? 0);
        if (from > blocks.length) {
            this.#wait(from);
            return;
        }
        const line = from > 0 ? await blocks.lineAt(from) : 0;
        if (blocks === this.#blocks) {
            this.#line = line;
            this.#draw();
        }
    }

    #wait(from) {
        const blocks = this.#blocks;
        if (this.#awaited !== from) {
            this.#awaited = from;
            blocks.reached(from).then(() => blocks === this.#blocks && this.#again());
        }
    }

    #again() {
        if (this.#blocks) {
            this.measure(this.#blocks).then(this.onchange, () => {});
        }
    }

    /** Another log, of which nothing is known yet. */
    reset(blocks) {
        delete this.section.dataset.runsFrom;
        [this.#blocks, this.#line, this.#awaited] = [blocks, 0, 0];
        this.#draw();
    }

    /** Shows the part. */
    open() {
        this.#isFolded = false;
        this.#draw();
    }

    #set(isFolded) {
        this.#isFolded = isFolded;
        this.#draw();
        this.onchange();
    }

    #draw() {
        const lines = `${this.#line.toLocaleString("en-GB")} ${this.#line === 1 ? "line" : "lines"}`;
        this.button.hidden = this.#line === 0;
        this.button.textContent = `${this.#isFolded ? "▸" : "▾"} Image build: ${lines}`;
        this.button.setAttribute("aria-expanded", String(!this.#isFolded));
    }
}
