//! Every page is accessible: to screen readers, to people with low vision, in the dark, on a narrow
//! screen.

use serde_json::json;

use super::pages::{Pages, beyond_the_window};
use super::support::Browser;

/// Pixels of the narrowest screen in use, of one on either side of where the layout changes, of others.
const WIDTHS: [u32; 5] = [360, 600, 720, 800, 1280];
/// What is said of a build that takes long.
const LONG_TIME: &str = "59 min 59 s of about 59 min 59 s";
const AS_LONG_AS_IT_GETS: &str =
    "document.querySelectorAll('.progress > span').forEach((one) => { one.textContent = 'SAID'; })";
/// What WCAG 2.1 asks for of text, level AA.
const CONTRAST: f64 = 4.5;
/// What must have a name for screen readers.
const NAMED: [&str; 13] = [
    "button",
    "link",
    "textbox",
    "searchbox",
    "combobox",
    "ComboBoxGrouping",
    "image",
    "img",
    "meter",
    "progressbar",
    "navigation",
    "dialog",
    "search",
];

/// What is written with too little contrast: the texts with their colours.
const FAINT: &str = r"(() => {
    const canvas = new OffscreenCanvas(1, 1).getContext('2d', {willReadFrequently: true});
    const read = (colour) => {
        canvas.clearRect(0, 0, 1, 1);
        canvas.fillStyle = colour;
        canvas.fillRect(0, 0, 1, 1);
        const [red, green, blue, alpha] = canvas.getImageData(0, 0, 1, 1).data;
        return {rgb: [red, green, blue], alpha: alpha / 255};
    };
    const over = (front, back) => front.rgb.map((part, at) => part * front.alpha + back[at] * (1 - front.alpha));
    const ground = (element) => {
        const below = element ? ground(element.parentElement) : matchMedia('(prefers-color-scheme: dark)').matches ? [0, 0, 0] : [255, 255, 255];
        return element ? over(read(getComputedStyle(element).backgroundColor), below) : below;
    };
    const light = (rgb) => {
        const [red, green, blue] = rgb.map((part) => (part / 255 <= 0.04045 ? part / 255 / 12.92 : ((part / 255 + 0.055) / 1.055) ** 2.4));
        return 0.2126 * red + 0.7152 * green + 0.0722 * blue;
    };
    const found = [];
    const walker = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
    while (walker.nextNode()) {
        const element = walker.currentNode.parentElement;
        const isSeen = element.checkVisibility({opacityProperty: true, visibilityProperty: true});
        if (!isSeen || walker.currentNode.data.trim() === '' || element.closest('[disabled], datalist, select, title')) continue;
        const style = getComputedStyle(element);
        const front = read(element.namespaceURI.endsWith('svg') ? style.fill : style.color);
        const back = ground(element);
        const [low, high] = [light(over(front, back)), light(back)].sort((one, other) => one - other);
        const contrast = (high + 0.05) / (low + 0.05);
        if (contrast < LEAST) found.push(`${contrast.toFixed(2)}: ${style.color} on rgb(${back.map(Math.round)}): ${walker.currentNode.data.trim().slice(0, 40)}`);
    }
    return [...new Set(found)];
})()";

/// Waits until what scripts add to a page is there.
#[track_caller]
fn open(browser: &Browser, path: &str) {
    browser.open(path);
    if browser.count("[data-log]") == 1 {
        browser.wait_for("#log .row");
    }
    if browser.count("#actions") == 1 {
        browser.wait_for("#actions:not([hidden])");
    }
}

#[test]
fn everything_on_a_page_has_a_name_for_screen_readers() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    for path in pages.paths() {
        open(&browser, &path);
        assert_eq!(
            browser.attribute("html", "lang").as_deref(),
            Some("en"),
            "{path}"
        );
        assert_eq!(
            (
                browser.count("main"),
                browser.count("h1"),
                browser.count("header")
            ),
            (1, 1, 1),
            "{path}"
        );
        assert_eq!(browser.count("main h1"), 1, "{path}");
        assert!(browser.count("nav[aria-label]") >= 1, "{path}");
        assert!(
            browser.title().ends_with("mistry"),
            "{path}: {}",
            browser.title()
        );
        let doubled = "[...document.querySelectorAll('[id]')].map(one => one.id).filter((id, at, all) => all.indexOf(id) !== at)";
        assert_eq!(browser.eval(doubled), json!([]), "{path}");
        // No level of headings is skipped.
        let levels =
            "[...document.querySelectorAll('h1, h2, h3, h4')].map(one => Number(one.tagName[1]))
            .filter((level, at, all) => level > (all[at - 1] ?? 0) + 1)";
        assert_eq!(browser.eval(levels), json!([]), "{path}");
        let nameless = "[...document.querySelectorAll('table')].filter(table => !table.querySelector('th')).length";
        assert_eq!(browser.eval(nameless), 0, "{path}");
        for (role, name) in browser.heard() {
            let must = NAMED.contains(&role.as_str());
            assert!(
                !must || !name.trim().is_empty(),
                "{path}: a {role} without a name: {:?}",
                browser.heard()
            );
        }
    }
    pages.release();
    browser.end();
}

#[test]
fn text_has_enough_contrast_in_light_and_in_dark() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    let script = FAINT.replace("LEAST", &CONTRAST.to_string());
    let mut faint = Vec::new();
    for is_dark in [false, true] {
        browser.dark(is_dark);
        for path in pages.paths() {
            open(&browser, &path);
            let found: Vec<String> = serde_json::from_value(browser.eval(&script)).unwrap();
            let dark = if is_dark { "dark" } else { "light" };
            faint.extend(found.iter().map(|text| format!("{path} {dark} {text}")));
        }
    }
    assert!(faint.is_empty(), "{faint:#?}");
    pages.release();
    browser.end();
}

#[test]
fn an_outcome_is_shown_by_a_word_and_a_mark_not_by_its_colour_alone() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    browser.open("/");
    for (id, word) in [
        (&pages.succeeded, "succeeded"),
        (&pages.failed, "failed"),
        (&pages.running, "running"),
    ] {
        let outcome = format!("tr[data-job='every/{id}'] .outcome");
        assert_eq!(browser.text(&outcome), word);
        let mark =
            format!("getComputedStyle(document.querySelector(\"{outcome}\"), '::before').content");
        assert_ne!(browser.eval(&mark), "none", "{word}");
    }
    pages.release();
    browser.end();
}

#[test]
fn no_page_is_wider_than_a_narrow_screen() {
    let pages = Pages::set();
    let browser = Browser::at(pages.daemon.address());
    for width in WIDTHS {
        browser.resize(width, 740);
        for path in pages.paths() {
            open(&browser, &path);
            browser.eval(&AS_LONG_AS_IT_GETS.replace("SAID", LONG_TIME));
            let beyond = beyond_the_window(&browser);
            assert!(beyond.is_empty(), "{path} at {width} px: {beyond:#?}");
        }
    }
    pages.release();
    browser.end();
}
