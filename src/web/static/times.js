// Times and durations for readers. The server writes UTC; the reader's zone is known only in the browser.

const pad = (number) => String(number).padStart(2, "0");

/** "14:02:09" of today, else "12 Nov 14:02", else with the year. */
export function clock(date, now = new Date()) {
    const time = `${pad(date.getHours())}:${pad(date.getMinutes())}`;
    const month = date.toLocaleDateString("en-GB", { day: "numeric", month: "short" });
    if (date.toDateString() === now.toDateString()) {
        return `${time}:${pad(date.getSeconds())}`;
    }
    return date.getFullYear() === now.getFullYear() ? `${month} ${time}` : `${month} ${date.getFullYear()} ${time}`;
}

/** "just now", "5 min ago", "3 h ago", "2 days ago"; the date of what is longer ago. */
export function ago(date, now = new Date(serverNow())) {
    const seconds = Math.floor((now - date) / 1000);
    if (seconds < 60) {
        return "just now";
    }
    if (seconds < 3600) {
        return `${Math.floor(seconds / 60)} min ago`;
    }
    if (seconds < 86_400) {
        return `${Math.floor(seconds / 3600)} h ago`;
    }
    const days = Math.floor(seconds / 86_400);
    return days < 7 ? `${days} ${days === 1 ? "day" : "days"} ago` : clock(date, now);
}

/** The exact time: the reader's time with its zone, and UTC. */
export function exact(date) {
    const here = date.toLocaleString("en-GB", { dateStyle: "full", timeStyle: "long" });
    return `${here} (${date.toISOString()})`;
}

/** Milliseconds as `web/format.rs` writes them. */
export function span(milliseconds) {
    const seconds = Math.floor(milliseconds / 1000);
    if (seconds < 60) {
        return milliseconds < 1000 ? `${Math.round(milliseconds)} ms` : `${(Math.floor(milliseconds / 100) / 10).toFixed(1)} s`;
    }
    if (seconds < 3600) {
        return `${Math.floor(seconds / 60)} min ${seconds % 60} s`;
    }
    return `${Math.floor(seconds / 3600)} h ${Math.floor((seconds % 3600) / 60)} min`;
}

/** How far the reader's clock is behind the server's, in milliseconds. */
let behind = 0;

/** Reads the server's time from a `Date` header, which is exact to a second: small differences are ignored. */
export function learn(response) {
    const date = Date.parse(response.headers.get("Date") ?? "");
    if (!Number.isNaN(date)) {
        const found = date - Date.now();
        behind = Math.abs(found) > 2000 ? found : 0;
    }
}

/** The server's time, as far as it is known. */
export const serverNow = () => Date.now() + behind;

/** Writes every time below `root` in the reader's zone, the exact one on hover. */
export function local(root) {
    for (const element of root.querySelectorAll("time[datetime]")) {
        const date = new Date(element.dateTime);
        if (!Number.isNaN(date.getTime())) {
            element.textContent = "ago" in element.dataset ? ago(date) : clock(date);
            element.title = exact(date);
        }
    }
}

/** Keeps the times that are told as "5 min ago" true while the page is open. */
export function keepAgo() {
    const update = () => document.hidden || document.querySelectorAll("time[data-ago]").forEach((element) => {
        const told = ago(new Date(element.dateTime));
        if (element.textContent !== told) {
            element.textContent = told;
        }
    });
    setInterval(update, 30_000);
    document.addEventListener("visibilitychange", update);
}
