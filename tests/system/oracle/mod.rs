//! What others define: each file runs the program that defines the right value (Docker, GNU tar, `cp`,
//! rsync, nginx, make) beside ours on the same input, and compares.

mod build_secrets;
mod buildkit;
mod containers;
mod context;
mod curl;
mod docker_options;
mod home_directory;
mod http;
mod image_times;
mod log_times;
mod logs;
mod proxies;
mod registries;
mod sent;
mod transports;
mod trees;
