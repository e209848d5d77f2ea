//! The web view as people have it: a real Chromium, a real daemon, builds that really run.
//!
//! Every test here ends its browser with `end`, which fails when a page has said anything in the
//! console or has asked anybody but the daemon for anything.

mod another_log;
mod buttons;
mod hostile;
mod instrument;
mod keys;
mod live;
mod log;
mod long_log;
mod many_builds;
mod pages;
mod plain;
mod policy;
mod readable;
mod restart;
mod scene;
mod screenshots;
mod support;
mod who_may;
mod without_scripts;
