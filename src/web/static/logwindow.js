// A window on very many rows: only the rows around the visible part are in the page, about three screens.
//
// Spacers above and below represent the rest. Rows may have any height; the first visible row is kept in place.
// Browsers support no element of many millions of pixels, so in a long log a pixel of the spacers represents more
// than one.

/** Height of all rows together, in pixels, above which the spacers are scaled. */
const MAX_HEIGHT = 10_000_000;

/** Screens by which the spacer above may be wrong while a reader scrolls: a jump corrects it. */
const SLACK = 20;

export class Window {
    #first = 0;
    #last = 0;
    #top = 0;
    /** The first visible row of the last update. */
    #seen = { number: 0, offset: 0 };

    /**
     * `source` has `count`; `row(number)`, which makes an element; `isSame(element, number)`, whether an element is
     * current; and `tall(number)`, the least number of text lines of a row. `onview(isAtEnd, isUp)` is called when a
     * reader scrolls, and `onresize()` when the box has another size.
     */
    constructor(box, source) {
        this.box = box;
        this.source = source;
        this.above = document.createElement("div");
        this.rows = document.createElement("div");
        this.below = document.createElement("div");
        box.replaceChildren(this.above, this.rows, this.below);
        box.addEventListener("scroll", () => this.#scrolled(), { passive: true });
        new ResizeObserver(() => source.onresize()).observe(box);
    }

    /** The number of the first visible row. */
    get first() {
        return this.#anchor().number;
    }

    /** The number of rows that fit, at least one. */
    get screen() {
        return Math.max(1, Math.ceil(this.box.clientHeight / this.#height()));
    }

    /** Shows row `number`, a third from the top. */
    show(number) {
        this.#draw(number, Math.floor(this.box.clientHeight / 3), true);
    }

    /** Shows the first row at the top. */
    begin() {
        this.#draw(0, 0, true);
    }

    /** Shows the last row at the bottom. */
    end() {
        this.#draw(Math.max(0, this.source.count - 1), 0, true);
        this.#scrollTo(this.box.scrollHeight);
    }

    /** Updates after rows were changed or added; the visible rows stay in place. */
    refresh() {
        const { number, offset } = this.#anchor();
        this.#draw(number, offset, false);
    }

    /** Updates after the heights of rows have changed; the rows that were visible stay in place. */
    reflow() {
        const { number, offset } = this.#seen;
        this.#draw(number, offset, true);
    }

    /** Whether row `number` is entirely visible. */
    isSeen(number) {
        const row = this.#element(number);
        const top = this.box.scrollTop;
        return row !== undefined && row.offsetTop >= top && row.offsetTop + row.offsetHeight <= top + this.box.clientHeight;
    }

    #height() {
        return parseFloat(getComputedStyle(this.box).lineHeight) || 20;
    }

    #scale() {
        return Math.min(this.#height(), MAX_HEIGHT / Math.max(1, this.source.count));
    }

    #element(number) {
        return number >= this.#first && number < this.#last ? this.rows.children[number - this.#first] : undefined;
    }

    /** The first visible row, and how far below the top of the box it begins. */
    #anchor() {
        const rows = this.rows.children;
        const top = this.box.scrollTop;
        let [low, high] = [0, rows.length - 1];
        while (low < high) {
            const middle = (low + high + 1) >> 1;
            [low, high] = rows[middle].offsetTop <= top ? [middle, high] : [low, middle - 1];
        }
        return { number: this.#first + low, offset: rows.length > 0 ? rows[low].offsetTop - top : 0 };
    }

    /** Places row `number` at a distance below the top, with a screen of rows above it and two below. */
    #draw(number, offset, isJump) {
        const { source, box } = this;
        const screen = this.screen;
        const left = box.scrollLeft;
        const anchor = Math.max(0, Math.min(number, source.count - 1));
        const first = this.#reach(anchor, -1, screen);
        const last = this.#reach(anchor, 1, 2 * screen);
        const rows = [];
        for (let at = first; at < last; at++) {
            const there = this.#element(at);
            rows.push(there && source.isSame(there, at) ? there : source.row(at));
        }
        this.#place(rows);
        [this.#first, this.#last] = [first, last];
        const scale = this.#scale();
        const ideal = first * scale;
        this.below.style.height = `${(source.count - last) * scale}px`;
        const row = this.#element(anchor);
        if (!row) {
            this.above.style.height = "0";
            return;
        }
        // The distance from the top of the rows to the top of the box.
        const inside = row.offsetTop - this.rows.offsetTop - offset;
        const kept = box.scrollTop - inside;
        const isFine = !isJump && first > 0 && kept >= 0 && Math.abs(kept - ideal) < SLACK * box.clientHeight;
        const above = isFine ? kept : ideal;
        this.above.style.height = `${above}px`;
        if (!isFine || Math.abs(box.scrollTop - (above + inside)) > 1) {
            this.#scrollTo(above + inside);
        }
        box.scrollLeft = left;
        this.#seen = this.#anchor();
    }

    /** The row up to which the rows from `anchor` on, up or down, fill at least so many lines. */
    #reach(anchor, step, lines) {
        const end = step < 0 ? 0 : this.source.count;
        let number = anchor;
        for (let left = lines + 10; left > 0 && number !== end; number += step) {
            left -= this.source.tall(number);
        }
        return number;
    }

    /** Rows that stay are not changed, so that a selection in them stays. */
    #place(rows) {
        const wanted = new Set(rows);
        for (const row of [...this.rows.children]) {
            if (!wanted.has(row)) {
                row.remove();
            }
        }
        let next = this.rows.firstChild;
        for (const row of rows) {
            if (row === next) {
                next = next.nextSibling;
            } else {
                this.rows.insertBefore(row, next);
            }
        }
    }

    #scrollTo(top) {
        this.box.scrollTop = top;
        this.#top = this.box.scrollTop;
    }

    #scrolled() {
        const { box, source } = this;
        const top = box.scrollTop;
        const isUp = top < this.#top - 1;
        const isOurs = Math.abs(top - this.#top) <= 1;
        this.#top = top;
        const screen = box.clientHeight;
        const begin = this.rows.offsetTop;
        const end = begin + this.rows.offsetHeight;
        const hasAbove = this.#first === 0 || begin <= top - screen / 2;
        const hasBelow = this.#last === source.count || end >= top + 1.5 * screen;
        if (!hasAbove || !hasBelow) {
            if (begin < top + screen && end > top) {
                this.refresh();
            } else {
                this.#jump();
            }
        }
        this.#seen = this.#anchor();
        if (!isOurs) {
            const isAtEnd = this.#last === source.count && box.scrollHeight - box.scrollTop - screen < 4;
            source.onview(isAtEnd, isUp);
        }
    }

    /** Goes to the part of the log that a position in the spacers represents. */
    #jump() {
        const { box, source } = this;
        const room = Math.max(1, box.scrollHeight - box.clientHeight);
        const seen = box.clientHeight / this.#height();
        const place = (box.scrollTop / room) * Math.max(0, source.count - seen);
        const number = Math.floor(place);
        this.#draw(number, (number - place) * this.#height(), false);
    }
}
