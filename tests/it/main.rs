//! The fast tests: no root, no Docker, no network.

// A panic is how a test fails.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
// A test is one sequence of steps.
#![allow(clippy::too_many_lines)]

mod adoption;
mod artifacts;
mod attempts;
mod backlog;
mod bad_input;
mod bad_projects;
mod build_page;
mod build_secrets;
mod bus_access;
mod bus_builds;
mod bus_contract;
mod bus_control;
mod caching;
mod cancel;
mod cli;
mod cli_ways;
mod coalescing;
mod cold;
mod config;
mod connections;
mod deadlines;
mod disk_errors;
mod docker_options;
mod engine;
mod errors_do_not_leak;
mod excerpts;
mod garbage;
mod garbage_commands;
mod group_reset;
mod groups;
mod half_closed;
mod handed_out;
mod http_contract;
mod http_semantics;
mod idle_exit;
mod images;
mod job_answers;
mod journal;
mod log_times;
mod logs;
mod masking;
mod mistryd_rebuild;
mod old_client;
mod openapi;
mod openapi_schema;
mod pages;
mod panics;
mod param_schema;
mod paused;
mod phases;
mod podman;
mod power_cut;
mod predecessor_tree;
mod recovery;
mod registry_auth;
mod removed_files;
mod results;
mod short_ids;
mod slow;
mod slow_clients;
mod stuck_readers;
mod support;
mod systemd;
mod terminals;
mod tidy;
mod tokens;
mod toolchain;
mod two_daemons;
