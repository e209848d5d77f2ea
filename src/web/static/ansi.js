// A line of a log as a terminal shows it: text in colours, without escape sequences. Nothing here knows a page.
//
// The rules are those of `build/lines/escapes.rs`: an incomplete escape sequence ends at the first character that
// cannot belong to it, and of a progress bar that overwrites itself with carriage returns the last text counts.

/** The style without any attribute or colour. */
export const PLAIN = Object.freeze({ flags: 0, front: null, back: null });

const ESCAPE = /\x1b(?:\[([\x20-\x3f]*)([\x40-\x7e])?|[\]PX^_][^\x00-\x1f]*(?:\x07|\x1b\\)?|[\x20-\x2f]*[\x30-\x7e]?)/g;

const COLOURS = /\x1b\[([\d;:]{0,127})m/g;

/** A sequence with more parameters sets no colours, and numbers after this many are ignored. */
const MAX_PARAMS = 128;
const MAX_NUMBERS = 64;

/** Whether bit `number` is set: 1 bold, 2 faint, 3 italic, 4 underlined, 7 inverse, 8 concealed, 9 crossed out. */
export const has = (style, number) => (style.flags & (1 << number)) !== 0;

/** The style after a sequence of these parameters. */
export function apply(before, params) {
    const style = { ...before };
    const groups = params.split(";").slice(0, MAX_NUMBERS);
    while (groups.length > 0) {
        const group = groups.shift();
        const [number, ...parts] = group.split(":").map(whole);
        if (number === 38 || number === 48) {
            const colour = group.includes(":") ? colonColour(parts) : colourOf(groups);
            style[number === 38 ? "front" : "back"] = colour ?? style[number === 38 ? "front" : "back"];
        } else {
            set(style, number ?? 0, parts[0]);
        }
    }
    return style;
}

const whole = (digits) => (/^\d{1,3}$/.test(digits) ? Number(digits) : null);

function colonColour([kind, ...parts]) {
    if (kind === 5) {
        return palette(parts[0]);
    }
    return kind === 2 && parts.length >= 3 ? direct(parts.length > 3 ? parts.slice(1, 4) : parts) : null;
}

function colourOf(groups) {
    const next = () => whole(groups.shift() ?? "");
    const kind = next();
    if (kind === 5) {
        return palette(next());
    }
    return kind === 2 ? direct([next(), next(), next()]) : null;
}

/** One of the sixteen colours is a number, every other colour is its CSS. */
function palette(index) {
    if (index === null || index > 255) {
        return null;
    }
    if (index < 16) {
        return index;
    }
    if (index >= 232) {
        const grey = 8 + (index - 232) * 10;
        return direct([grey, grey, grey]);
    }
    const level = (step) => (step === 0 ? 0 : 55 + step * 40);
    const at = index - 16;
    return direct([Math.floor(at / 36), Math.floor(at / 6) % 6, at % 6].map(level));
}

function direct(parts) {
    return parts.every((part) => part <= 255) ? `rgb(${parts.map((part) => part ?? 0).join(" ")})` : null;
}

function set(style, number, kind) {
    const off = (...bits) => bits.forEach((bit) => (style.flags &= ~(1 << bit)));
    if (number === 0) {
        Object.assign(style, PLAIN);
    } else if (number === 4 && kind === 0) {
        off(4);
    } else if (number <= 9) {
        style.flags |= 1 << number;
    } else if (number === 21) {
        style.flags |= 1 << 4;
    } else if (number === 22) {
        off(1, 2);
    } else if (number === 25) {
        off(5, 6);
    } else if ([23, 24, 27, 28, 29].includes(number)) {
        off(number - 20);
    } else if (number === 39) {
        style.front = null;
    } else if (number === 49) {
        style.back = null;
    } else {
        const named = { 3: number - 30, 4: number - 40, 9: number - 82, 10: number - 92 }[Math.floor(number / 10)];
        if (named >= 0 && number % 10 < 8) {
            style[number < 40 || (number >= 90 && number < 100) ? "front" : "back"] = named;
        }
    }
}

/** The style at the end of a line. An `ESC` ends what is before it, so these sequences are ones wherever they are. */
export function after(line, before) {
    let style = before;
    if (line.includes("\x1b")) {
        for (const [, params] of line.matchAll(COLOURS)) {
            style = params === "" || params === "0" ? PLAIN : apply(style, params);
        }
    }
    return style;
}

/** The visible text of a line, in runs of one style: `[{ text, style }]`. */
export function runs(line, before) {
    if (!line.includes("\x1b") && !line.includes("\r")) {
        return line === "" ? [] : [{ text: line, style: before }];
    }
    return parts(line, before);
}

/** The visible text of a line. */
export function visible(line) {
    return runs(line, PLAIN).map((run) => run.text).join("");
}

function parts(line, before) {
    let style = before;
    let found = [];
    let isBack = false;
    const add = (text) => {
        text.split("\r").forEach((segment, number) => {
            isBack ||= number > 0;
            if (segment !== "") {
                // Text after a carriage return replaces the text before it.
                found = isBack ? [] : found;
                isBack = false;
                found.push({ text: segment, style });
            }
        });
    };
    let from = 0;
    for (const escape of line.matchAll(ESCAPE)) {
        add(line.slice(from, escape.index));
        from = escape.index + escape[0].length;
        if (escape[2] === "m" && escape[1].length < MAX_PARAMS && /^[\d;:]*$/.test(escape[1])) {
            style = apply(style, escape[1]);
        }
    }
    add(line.slice(from));
    return found;
}
