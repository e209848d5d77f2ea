// The page of a project: its button, and keys through its builds.

import { buttons } from "./buttons.js";
import { walkable } from "./rows.js";

export function mount(page) {
    buttons(page);
    walkable();
}
