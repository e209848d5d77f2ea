// A button beside each command that copies it.

export function mount() {
    copyable(document);
}

/** Adds the buttons below `root`. */
export function copyable(root) {
    for (const element of root.querySelectorAll("[data-copy]")) {
        const button = document.createElement("button");
        button.textContent = "Copy";
        button.addEventListener("click", async () => {
            await copy(element);
            button.textContent = "Copied";
            setTimeout(() => (button.textContent = "Copy"), 1500);
        });
        element.after(button);
    }
}

/** Browsers offer the clipboard only to pages over TLS or of this host; elsewhere the text is selected for the reader. */
async function copy(element) {
    try {
        await navigator.clipboard.writeText(element.textContent);
    } catch {
        getSelection().selectAllChildren(element);
        document.execCommand("copy");
    }
}
