// What a background tab shows: its icon, its title, and whether the page is live.

const icon = () => document.querySelector('link[rel="icon"]');

/** `idle`, `running`, `good` or `bad`. */
export function badge(name) {
    const href = `/static/icon-${name}.svg`;
    if (icon().getAttribute("href") !== href) {
        icon().setAttribute("href", href);
    }
}

/** Shows at the top of the page whether it is connected to the server. */
export function connection(isConnected) {
    const told = isConnected ? "● live" : "○ not connected, trying again";
    document.body.dataset.connected = isConnected;
    const element = document.querySelector("#link");
    if (element.textContent !== told) {
        element.textContent = told;
    }
}
