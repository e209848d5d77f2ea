// A line of a log as a row of the page. Text stays text: nothing that a container prints becomes markup, and
// characters that would hide or reverse the text around them are shown by their numbers.

import { PLAIN, has, runs } from "./ansi.js";

/** Control characters except the tab, and the characters of `misleads` in `build/lines/readable.rs`: the same list. */
const ODD = /[\x00-\x08\x0a-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff\uffa0\ufff9-\ufffb]|[\u{e0000}-\u{e007f}]/gu;

/** An address ends before characters that no address has, and before punctuation that ends a sentence. */
const LINK = /https?:\/\/[^\s<>"'`\\^{|}\x00-\x1f\x7f-\xa0\xad\u034f\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]+/g;
const AFTER_LINK = ".,;:!?)]";

/** Most addresses, and most marked matches, in one row. */
const MAX_MARKS = 500;

/** Most coloured runs of one row, and most letters with an element of their own: the rest of the row is shown
 * as plain text. */
const MAX_RUNS = 500;

/**
 * The row of line `number`, counted from 0; an undefined line is not loaded yet. `needle` is the text to mark, `times`
 * has the time of the line, if it is to be shown.
 */
export function row(number, line, needle, times) {
    const element = document.createElement("div");
    element.className = "row";
    element.dataset.line = number + 1;
    element.dir = "ltr";
    const link = document.createElement("a");
    link.className = "line-number";
    link.href = `#L${number + 1}`;
    link.tabIndex = -1;
    link.textContent = number + 1;
    link.setAttribute("aria-label", `Line ${number + 1}`);
    const text = document.createElement("span");
    text.className = "text";
    if (line) {
        fill(text, bounded(runs(line.text, line.before)), needle);
        if (line.more > 0) {
            text.append(note(`… ${line.more.toLocaleString("en-GB")} more bytes, see raw`));
        }
    }
    if (!text.firstChild) {
        // An empty line stays a line when it is copied.
        text.append(document.createElement("br"));
    }
    element.append(link, ...(times ? [times.column(line)] : []), text);
    return element;
}

function note(sentence) {
    const element = document.createElement("span");
    element.className = "note";
    element.textContent = ` ${sentence}`;
    return element;
}

/** The runs of a row; their number is limited, so that a page of rows can be drawn. */
function bounded(seen) {
    if (seen.length <= MAX_RUNS) {
        return seen;
    }
    const rest = seen.slice(MAX_RUNS).map((run) => run.text);
    return [...seen.slice(0, MAX_RUNS), { text: rest.join(""), style: PLAIN }];
}

function fill(element, seen, needle) {
    const whole = seen.map((run) => run.text).join("");
    const links = whole.includes("://") ? linksOf(whole) : [];
    const marks = needle ? placesOf(whole, needle) : [];
    const isCrowded = (whole.match(ODD) ?? []).length > MAX_RUNS;
    let at = 0;
    for (const { text, style } of seen) {
        const end = at + text.length;
        while (at < end) {
            const link = links.find((link) => link.to > at);
            const mark = marks.find((mark) => mark.to > at);
            const to = Math.min(end, ...[link, mark].filter(Boolean).map((place) => (place.from > at ? place.from : place.to)));
            const part = piece(whole.slice(at, to), style, isCrowded);
            const isIn = (place) => place !== undefined && place.from <= at;
            element.append(wrapped(part, isIn(link) && link.url, isIn(mark)));
            at = to;
            dropPassed(links, at);
            dropPassed(marks, at);
        }
    }
}

function dropPassed(places, at) {
    while (places.length > 0 && places[0].to <= at) {
        places.shift();
    }
}

function wrapped(node, url, isMarked) {
    if (isMarked) {
        const mark = document.createElement("mark");
        mark.append(node);
        node = mark;
    }
    if (url) {
        const link = document.createElement("a");
        link.href = url;
        link.rel = "noopener noreferrer nofollow";
        link.append(node);
        node = link;
    }
    return node;
}

function linksOf(text) {
    const found = [];
    for (const match of text.matchAll(LINK)) {
        if (found.length >= MAX_MARKS) {
            break;
        }
        const address = withoutEnd(match[0]);
        if (URL.canParse(address) && /^https?:$/.test(new URL(address).protocol)) {
            found.push({ from: match.index, to: match.index + address.length, url: address });
        }
    }
    return found;
}

/** Backwards, letter by letter: a regular expression would start again at each letter of a hostile line. */
function withoutEnd(address) {
    let end = address.length;
    while (end > 0 && AFTER_LINK.includes(address[end - 1])) {
        end -= 1;
    }
    return address.slice(0, end);
}

function placesOf(text, needle) {
    const found = [];
    for (const match of text.matchAll(needle)) {
        if (found.length >= MAX_MARKS) {
            break;
        }
        found.push({ from: match.index, to: match.index + match[0].length });
    }
    return found;
}

/** Text in one style; in a row with very many special letters, they get no elements. */
function piece(text, style, isCrowded) {
    if (isCrowded) {
        text = text.replace(ODD, told);
    }
    const isPlain = style.flags === 0 && style.front === null && style.back === null;
    if (isPlain && text.search(ODD) < 0) {
        return document.createTextNode(text);
    }
    const element = document.createElement("span");
    let from = 0;
    for (const odd of text.matchAll(ODD)) {
        element.append(text.slice(from, odd.index), shown(odd[0]));
        from = odd.index + odd[0].length;
    }
    element.append(text.slice(from));
    paint(element, style);
    return element;
}

function shown(letter) {
    const element = document.createElement("span");
    element.className = "odd";
    element.textContent = told(letter);
    return element;
}

/** "^G", "<U+202E>". */
function told(letter) {
    const code = letter.codePointAt(0);
    return code < 0x20 || code === 0x7f
        ? `^${String.fromCharCode(code ^ 0x40)}`
        : `<U+${code.toString(16).toUpperCase().padStart(4, "0")}>`;
}

function paint(element, style) {
    for (let number = 1; number <= 9; number++) {
        if (has(style, number)) {
            element.classList.add(`sgr-${number}`);
        }
    }
    if (has(style, 7)) {
        element.style.color = css(style.back) ?? "var(--raised)";
        element.style.backgroundColor = css(style.front) ?? "var(--text)";
        return;
    }
    const { front, back } = style;
    if (typeof front === "number") {
        element.classList.add(`sgr-${front < 8 ? 30 + front : 82 + front}`);
    } else if (front !== null) {
        // The colour was chosen for another background: it is adjusted to be readable on ours.
        element.style.color = back === null ? `color-mix(in oklab, ${front} 50%, var(--text))` : front;
    }
    if (typeof back === "number") {
        element.classList.add(`sgr-${back < 8 ? 40 + back : 92 + back}`);
    } else if (back !== null) {
        element.style.backgroundColor = front === null ? `color-mix(in oklab, ${back} 35%, var(--raised))` : back;
    }
}

const css = (colour) => (typeof colour === "number" ? `var(--sgr-${colour})` : colour);
