//! The web view in a real Chromium, served by a real daemon with real builds.
//!
//! Every test here ends its browser with `end`, which fails when a page has said anything in the
//! console or has sent a request to another server than the daemon.

mod access;
mod another_log;
mod attempts;
mod buttons;
mod form;
mod hostile;
mod instrument;
mod keys;
mod live;
mod log;
mod log_fold;
mod log_times;
mod long_log;
mod many_builds;
mod pages;
mod plain;
mod policy;
mod readable;
mod restart;
mod scene;
mod screenshots;
mod short_log;
mod support;
mod without_scripts;
