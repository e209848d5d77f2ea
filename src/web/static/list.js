// The overview, live: rows come, change and go as the server tells.

import { badge, connection } from "./badge.js";
import { bind } from "./keys.js";
import { count } from "./progress.js";
import { find, parse, place, walkable } from "./rows.js";
import { PATIENCE, follow, isFinal, page, pause } from "./server.js";
import { local } from "./times.js";

/** Builds under way that are shown, as the server bounds them. */
const MOST_LIVE = 100;

/** Events that a page which was asked for before may not know. */
const LATER = ["row", "gone", "host"];

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
            named.clear();
            // What was removed while no event came must go, too.
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
/** Builds under way that were told since the connection: others in the table are over, whatever was heard. */
const named = new Set();
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
        // Those that go would be on no page, unless the way to the older ones begins anew, too.
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

/** The notices and tables as the server has them now; one request at a time. */
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
            for (const id of ["#notices", "#turn"]) {
                document.querySelector(id).replaceWith(document.adoptNode(fresh.querySelector(id)));
            }
            for (const table of [now, recent]) {
                const rows = fresh.querySelector(`#${table.id} tbody`);
                local(rows);
                table.tBodies[0].replaceWith(document.adoptNode(rows));
            }
            // The answer may be older than what was told meanwhile.
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
