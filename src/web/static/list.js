// The overview, live: rows come, change and go as the server tells.

import { badge, connection } from "./badge.js";
import { bind } from "./keys.js";
import { count } from "./progress.js";
import { find, parse, place, walkable } from "./rows.js";
import { ask, follow } from "./server.js";
import { local } from "./times.js";

/** Builds under way that are shown, as the server bounds them. */
const MOST_LIVE = 100;

const now = document.querySelector("#now");
const recent = document.querySelector("#recent");

export function mount(list) {
    bind("/", "search", () => document.querySelector("#search").focus());
    walkable();
    count();
    follow(list.dataset.events, {
        since: list.dataset.from,
        onstate(isConnected) {
            connection(isConnected);
            // What was removed while nobody told us must go, too.
            isStale ||= !isConnected;
        },
        onevent(name, data) {
            const told = JSON.parse(data);
            take(list, name, told);
            missed?.push([name, told]);
            tidy();
        },
    }).catch((refused) => {
        document.querySelector("#link").textContent = refused.message;
    });
}

/** The tables may show what is gone: they are asked for anew when the present was told. */
let isStale = false;
/** What was told while the tables are asked for: they may be older. Null when they are not. */
let missed = null;

function take(list, name, told) {
    if (name === "row") {
        show(list, told);
    } else if (name === "gone") {
        find(document, `${told.Project}/${told.ID}`)?.remove();
    } else if (name === "host") {
        host(list, told);
    } else if (name === "missed" || (name === "present" && isStale)) {
        again(list);
    }
}

function show(list, { Project, ID, State, Row }) {
    const row = parse(Row);
    const there = find(now.tBodies[0], `${Project}/${ID}`);
    if (State === "pending") {
        if (there) {
            there.replaceWith(row);
        } else if (now.tBodies[0].rows.length < MOST_LIVE) {
            const waiting = now.querySelector("tr:has(.queued)");
            const isWaiting = row.querySelector(".queued") !== null;
            now.tBodies[0].insertBefore(row, isWaiting ? null : waiting);
        }
        return;
    }
    there?.remove();
    if ("first" in list.dataset) {
        place(recent.tBodies[0], row);
        const surplus = [...recent.tBodies[0].rows].slice(Number(list.dataset.most));
        surplus.forEach((old) => old.remove());
    }
}

function host(list, { Slots, Running, Queued, Paused, EngineAway }) {
    document.querySelector("#load").textContent = `${Running} of ${Slots} slots in use, ${Queued} queued`;
    if (document.querySelector("#notices").dataset.told !== `${Paused} ${EngineAway}`) {
        again(list);
    }
}

/** The notices and tables as the server has them now; one request at a time. */
async function again(list) {
    isStale = true;
    if (missed) {
        return;
    }
    try {
        while (isStale) {
            isStale = false;
            missed = [];
            const response = await ask(location.pathname + location.search, { accept: "text/html" });
            const page = new DOMParser().parseFromString(await response.text(), "text/html");
            document.querySelector("#notices").replaceWith(document.adoptNode(page.querySelector("#notices")));
            for (const table of [now, recent]) {
                const fresh = page.querySelector(`#${table.id} tbody`);
                local(fresh);
                table.tBodies[0].replaceWith(document.adoptNode(fresh));
            }
            // The answer may be older than what was told meanwhile.
            missed.filter(([name]) => name === "row" || name === "gone").forEach(([name, told]) => take(list, name, told));
        }
    } catch {
        // The stream that comes back asks again.
        isStale = true;
    } finally {
        missed = null;
        tidy();
    }
}

/** Empty tables are hidden, the tab says what is going on. */
function tidy() {
    const live = now.tBodies[0].rows.length;
    now.hidden = live === 0;
    recent.hidden = recent.tBodies[0].rows.length === 0;
    document.querySelector("#none").hidden = !recent.hidden;
    document.title = `${live > 0 ? `(${live}) ` : ""}Builds – mistry`;
    const newest = recent.querySelector(".outcome");
    const isRed = newest?.matches(".failed, .errored, .timed-out");
    badge(live > 0 ? "running" : isRed ? "bad" : newest ? "good" : "idle");
}
