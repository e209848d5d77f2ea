// Rows of the tables of builds: parsed from the server's HTML, sorted, selected by keys.

import { bind } from "./keys.js";
import { local } from "./times.js";

/** The row in the server's HTML; the server's templates escape its texts. */
export function parse(html) {
    const template = document.createElement("template");
    template.innerHTML = html;
    const row = template.content.querySelector("tr");
    local(row);
    return row;
}

export const find = (root, job) => root.querySelector(`tr[data-job="${CSS.escape(job)}"]`);

/** Inserts a row in order, newest first, and replaces an older row of the same build. */
export function place(body, row) {
    const old = find(body, row.dataset.job);
    if (old?.dataset.started === row.dataset.started) {
        old.replaceWith(row);
        return;
    }
    old?.remove();
    const later = [...body.rows].find((other) => other.dataset.started < row.dataset.started);
    body.insertBefore(row, later ?? null);
}

/** `j` and `k` go through all rows of the page, Enter opens one. */
export function walkable() {
    const rows = () => [...document.querySelectorAll("tr[data-job]")];
    const current = () => document.querySelector('tr[aria-current="true"]');
    const step = (by) => {
        const all = rows();
        const at = all.indexOf(current());
        const next = all[Math.min(Math.max(at + by, 0), all.length - 1)];
        current()?.removeAttribute("aria-current");
        next?.setAttribute("aria-current", "true");
        next?.querySelector("a").focus({ preventScroll: true });
        next?.scrollIntoView({ block: "nearest" });
    };
    bind("j", "next build", () => step(1));
    bind("k", "previous build", () => step(-1));
}
