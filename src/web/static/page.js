// The script of every page: times in the reader's zone, keys, and the modules for the parts of the page.

import { bind } from "./keys.js";
import { token } from "./server.js";
import { keepAgo, local } from "./times.js";

/** Modules by the part of a page that they update. */
const PARTS = {
    "[data-list]": "./list.js",
    "[data-build]": "./build.js",
    "[data-log]": "./log.js",
    "[data-copy]": "./copy.js",
    "[data-project]": "./project.js",
    "[data-host]": "./host.js",
    "[data-signin]": "./signin.js",
};

local(document);
keepAgo();
bind("b", "go to the builds", () => location.assign("/"));
bind("p", "go to the projects", () => location.assign("/projects"));
bind("h", "go to the host", () => location.assign("/status"));

for (const [selector, module] of Object.entries(PARTS)) {
    const element = document.querySelector(selector);
    if (element) {
        import(module).then((part) => part.mount(element));
    }
}

if (token()) {
    import("./token.js").then((part) => part.offerSignOut(document.querySelector(".top nav")));
}
