// Elapsed times of active builds, counted by the server's clock.

import { serverNow, span } from "./times.js";

function draw() {
    for (const element of document.querySelectorAll("[data-since]")) {
        const elapsed = Math.max(0, serverNow() - Date.parse(element.dataset.since));
        const expected = Number(element.dataset.expected);
        const bar = element.querySelector("progress");
        if (bar) {
            bar.value = Math.min(elapsed, bar.max);
        }
        const { prefix = "" } = element.dataset;
        const said = prefix + (expected ? `${span(elapsed)} of about ${span(expected)}` : span(elapsed));
        const text = element.querySelector("span");
        if (text.textContent !== said) {
            text.textContent = said;
        }
    }
}

/** Counts while the page is visible. */
export function count() {
    draw();
    const seconds = setInterval(() => document.hidden || draw(), 1000);
    document.addEventListener("visibilitychange", draw);
    return () => clearInterval(seconds);
}
