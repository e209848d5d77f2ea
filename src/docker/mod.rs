//! The Docker Engine: builds an image from a context; runs, finds and stops containers.
//!
//! [`Docker`] is a cheap handle to one Docker Engine behind a unix socket. It takes specs ([`ImageSpec`],
//! [`ContainerSpec`]) and returns values and streams, independent of the purpose of a container. Images are
//! built by the classic builder, which every Engine still has, or by BuildKit where the Dockerfile needs it.
//!
//! This module does not retry, log or store containers: an Engine that does not answer is
//! [`Error::Unreachable`], and the caller decides when to try again. The handle reconnects by itself when the
//! Engine is back.

mod build_secrets;
mod buildkit;
mod buildx;
mod buildx_output;
mod child;
mod container;
mod container_spec;
mod counter;
mod dialect;
mod dockerfile;
mod engine;
mod error;
mod events;
mod failed_pulls;
#[cfg(any(test, fuzzing))]
pub mod fuzzing;
mod http;
mod image;
mod image_build;
mod inspect;
mod instructions;
mod line_ends;
mod logs;
mod output;
mod passwd;
mod processes;
mod raw_json;
mod registries;
mod session_mounts;
mod steps;
mod tag;
mod trace;
mod whole_lines;

pub use self::{
    build_secrets::BuildSecrets,
    container::{ContainerStatus, Exit, Found},
    container_spec::{ContainerSpec, Limits, RunOptions, Ulimit},
    dockerfile::{Dockerfile, Feature, Frontend, Patch},
    engine::{DEFAULT_SOCKET, Docker, PING_TIMEOUT},
    error::{Cause, Error},
    events::{ContainerEvent, Watch},
    image::{FoundImage, ImageConfig, Pruned},
    image_build::{Builder, ImageSpec, is_about_buildkit},
    output::{Output, Stream},
    processes::ProcessWatch,
    registries::{MAX_REGISTRIES_FILE, Registries},
    steps::{Layer, Progress},
    tag::{tag_for, tag_of_version, version_of},
};
