// The overview, live: rows are added, changed and removed by the server's events.

import { badge, connection } from "./badge.js";
import { bind } from "./keys.js";
import { count } from "./progress.js";
import { find, parse, place, walkable } from "./rows.js";
import { PATIENCE, follow, isFinal, page, pause } from "./server.js";
import { local } from "./times.js";

/** Most active builds that are shown; the server has the same limit. */
const MOST_LIVE = 100;

/** Events that may be newer than a page that was requested before them. */
const LATER = ["row", "gone", "host"];

const now = document.querySelector("#now");
const recent = document.querySelector("#recent");

export function mount(list) {
    bind("/", "search", () => document.querySelector("#search").focus());
    walkable();
    count();
    const form = document.querySelector("form[role=search]");
    form.addEventListener("change", (event) => event.target.tagName === "SELECT" && form.requestSubmit());
    follow(list.dataset.events, {
        since: list.dataset.from,
        onstate(isConnected) {
            connection(isConnected);
            named.clear();
            // Builds that were removed while the page was not connected are removed from the tables, too.
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

/** The tables may show removed builds: they are requested again once the `present` event has come. */
let isStale = false;
/** Active builds that were received since the connection: all others in the table are over. */
const named = new Set();
/** Events that came while the tables were requested: the tables may be older. Null while no request runs. */
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
    } else if (name === "present") {
        [...now.tBodies[0].rows].filter((row) => !named.has(row.dataset.job)).forEach((row) => row.remove());
    }
}

function show(list, { Project, ID, State, Row }) {
    const row = parse(Row);
    const there = find(now.tBodies[0], `${Project}/${ID}`);
    if (State === "pending") {
        named.add(row.dataset.job);
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
        // The removed rows would be on no page, unless the link to the older builds is updated, too.
        if (recent.tBodies[0].rows.length >= 2 * Number(list.dataset.most)) {
            again(list);
        }
    }
}

function host(list, { Slots, Running, Queued, Paused, EngineAway }) {
    document.querySelector("#load").textContent = `${Running} of ${Slots} slots in use, ${Queued} queued`;
    if (document.querySelector("#notices").dataset.told !== `${Paused} ${EngineAway}`) {
        again(list);
    }
}

/** Requests the current notices and tables from the server, one request at a time. */
async function again(list) {
    isStale = true;
    if (missed) {
        return;
    }
    while (isStale) {
        try {
            isStale = false;
            missed = [];
            const fresh = await page(location.pathname + location.search);
            for (const id of ["#notices", "#turn", "#day"]) {
                document.querySelector(id).replaceWith(document.adoptNode(fresh.querySelector(id)));
            }
            for (const table of [now, recent]) {
                const rows = fresh.querySelector(`#${table.id} tbody`);
                local(rows);
                table.tBodies[0].replaceWith(document.adoptNode(rows));
            }
            // The response may be older than events that came meanwhile.
            missed.filter(([name]) => LATER.includes(name)).forEach(([name, told]) => take(list, name, told));
        } catch (error) {
            if (isFinal(error)) {
                break;
            }
            isStale = true;
            await pause(PATIENCE / 10);
        }
    }
    missed = null;
    tidy();
}

/** Hides empty tables, and updates the title and the icon of the tab. */
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
