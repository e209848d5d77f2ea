// A window on very many rows in the scrolling of the page: only the rows around the visible part are in the page,
// about three screens.
//
// Spacers above and below represent the rest. Rows may have any height; the first visible row is kept in place.
// Browsers support no element of many millions of pixels, so in a long log a pixel of the spacers represents more
// than one.

/** Height of all rows together, in pixels, above which the spacers are scaled. */
const MAX_HEIGHT = 10_000_000;

/** Screens by which the spacer above may be wrong while a reader scrolls: a jump corrects it. */
const SLACK = 20;

/** Pixels below the last row from which a reader has scrolled past the log. */
const PAST = 24;

export class Window {
    #first = 0;
    #last = 0;
    #top = 0;
    #width = 0;
    /** The first visible row of the last update. */
    #seen = { number: 0, offset: 0 };

    /**
     * `bar` stays above the rows while the page scrolls. `source` has `begin` and `count`, the numbers of the first
     * row and of the one after the last; `row(number)`, which makes an element; `isSame(element, number)`, whether an
     * element is current; and `tall(number)`, the least number of text lines of a row. `onview(isAtEnd, isAway)` is
     * called when a reader scrolls, and `onresize()` when the rows have another place or width.
     */
    constructor(box, bar, source) {
        this.box = box;
        this.bar = bar;
        this.source = source;
        this.above = document.createElement("div");
        this.rows = document.createElement("div");
        this.below = document.createElement("div");
        box.replaceChildren(this.above, this.rows, this.below);
        addEventListener("scroll", () => this.#scrolled(), { passive: true });
        addEventListener("resize", () => source.onresize());
        // The height of the box changes with the rows, which is no reason to place them again.
        new ResizeObserver(() => {
            if (this.#width !== box.clientWidth) {
                this.#width = box.clientWidth;
                source.onresize();
            }
        }).observe(box);
    }

    /** The number of the first visible row. */
    get first() {
        return this.#anchor().number;
    }

    /** The number of rows that fit, at least one. */
    get screen() {
        return Math.max(1, Math.ceil(this.#room() / this.#height()));
    }

    /** Whether all rows fit on the screen; if they may, they are shown, since that is how their heights are known. */
    isShort() {
        if (this.source.count - this.source.begin > this.screen) {
            return false;
        }
        this.open();
        return this.box.offsetHeight <= this.#room();
    }

    /** Shows the first rows where the box is, without scrolling. */
    open() {
        this.#draw(this.source.begin, -this.#position(), true);
    }

    /** Shows row `number`, a third from the top. */
    show(number) {
        this.#draw(number, Math.floor(this.#room() / 3), true);
    }

    /** Shows the first row at the top. */
    begin() {
        this.#draw(this.source.begin, 0, true);
    }

    /** Shows the last row at the bottom. */
    end() {
        this.#draw(Math.max(this.source.begin, this.source.count - 1), 0, true);
        this.#scrollTo(this.box.offsetHeight - this.#room());
        this.#seen = this.#anchor();
    }

    /** Updates after rows were changed or added; the visible rows stay in place. */
    refresh() {
        const { number, offset } = this.#anchor();
        this.#draw(number, offset, false);
    }

    /** Updates after the heights of rows have changed; the rows that were visible stay in place. */
    reflow() {
        if (this.#position() < 0) {
            // The log begins within the window: what is above it may move it.
            this.open();
            return;
        }
        const { number, offset } = this.#seen;
        this.#draw(number, offset, true);
    }

    /** Whether row `number` is entirely visible. */
    isSeen(number) {
        const row = this.#element(number);
        const top = this.#position();
        return row !== undefined && row.offsetTop >= top && row.offsetTop + row.offsetHeight <= top + this.#room();
    }

    /** How far the visible part of the page begins below the top of the box; negative where it begins above. */
    #position() {
        return this.bar.offsetHeight - this.box.getBoundingClientRect().top - this.box.clientTop;
    }

    /** The height of the visible part. */
    #room() {
        return Math.max(1, innerHeight - this.bar.offsetHeight);
    }

    #height() {
        return parseFloat(getComputedStyle(this.box).lineHeight) || 20;
    }

    #scale() {
        return Math.min(this.#height(), MAX_HEIGHT / Math.max(1, this.source.count - this.source.begin));
    }

    #element(number) {
        return number >= this.#first && number < this.#last ? this.rows.children[number - this.#first] : undefined;
    }

    /** The first visible row, and how far below the top of the visible part it begins. */
    #anchor() {
        const rows = this.rows.children;
        const top = this.#position();
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
        const anchor = Math.max(source.begin, Math.min(number, source.count - 1));
        const first = this.#reach(anchor, -1, screen);
        const last = this.#reach(anchor, 1, 2 * screen);
        const before = this.#position();
        const rows = [];
        for (let at = first; at < last; at++) {
            const there = this.#element(at);
            rows.push(there && source.isSame(there, at) ? there : source.row(at));
        }
        this.#place(rows);
        [this.#first, this.#last] = [first, last];
        const scale = this.#scale();
        const ideal = (first - source.begin) * scale;
        this.below.style.height = `${(source.count - last) * scale}px`;
        const row = this.#element(anchor);
        if (!row) {
            this.above.style.height = "0";
            return;
        }
        // The distance from the top of the rows to the top of the visible part.
        const inside = row.offsetTop - this.rows.offsetTop - offset;
        const kept = before - inside;
        const isFine = !isJump && first > source.begin && kept >= 0 && Math.abs(kept - ideal) < SLACK * this.#room();
        const above = isFine ? kept : ideal;
        this.above.style.height = `${above}px`;
        if (Math.abs(this.#position() - (above + inside)) > 1) {
            this.#scrollTo(above + inside);
        }
        box.scrollLeft = left;
        this.#seen = this.#anchor();
    }

    /** The row up to which the rows from `anchor` on, up or down, fill at least so many lines. */
    #reach(anchor, step, lines) {
        const end = step < 0 ? this.source.begin : this.source.count;
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

    #scrollTo(position) {
        scrollBy(0, position - this.#position());
        this.#top = this.#position();
    }

    #scrolled() {
        const { source } = this;
        const top = this.#position();
        const isUp = top < this.#top - 1;
        const isOurs = Math.abs(top - this.#top) <= 1;
        this.#top = top;
        const screen = this.#room();
        const begin = this.rows.offsetTop;
        const end = begin + this.rows.offsetHeight;
        const hasAbove = this.#first === source.begin || begin <= top - screen / 2;
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
            const below = this.box.offsetHeight - this.#position() - screen;
            source.onview(this.#last === source.count && Math.abs(below) < 4, isUp || below < -PAST);
        }
    }

    /** Goes to the part of the log that a position in the spacers represents. */
    #jump() {
        const { box, source } = this;
        const range = Math.max(1, box.offsetHeight - this.#room());
        const seen = this.#room() / this.#height();
        const place = (this.#position() / range) * Math.max(0, source.count - source.begin - seen);
        const number = source.begin + Math.max(0, Math.floor(place));
        this.#draw(number, (number - source.begin - place) * this.#height(), false);
    }
}
