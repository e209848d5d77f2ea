//! Contexts for image builds, as tar streams or as projects on disk, from a few lines of a test.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use mistry::docker::{Docker, Error, ImageSpec, Progress};
use tokio::sync::mpsc;

/// Bytes of one piece of the stream: small, so that every context comes in several.
const PIECE: usize = 16 * 1024;

/// A context under construction; clones are cheap.
#[derive(Clone, Default)]
pub struct Context {
    entries: Vec<Entry>,
}

#[derive(Clone)]
enum Entry {
    File(String, u32, Bytes),
    Link(String, String),
}

impl Context {
    /// A context that holds this Dockerfile.
    pub fn of(dockerfile: &str) -> Context {
        Context::default().file("Dockerfile", 0o644, dockerfile.to_owned())
    }

    /// With a file.
    pub fn file(mut self, path: &str, mode: u32, bytes: impl Into<Bytes>) -> Context {
        self.entries
            .push(Entry::File(path.to_owned(), mode, bytes.into()));
        self
    }

    /// With an executable script of `/bin/sh`.
    pub fn script(self, path: &str, lines: &str) -> Context {
        self.file(path, 0o755, format!("#!/bin/sh\n{lines}\n"))
    }

    /// With a symbolic link.
    pub fn link(mut self, path: &str, target: &str) -> Context {
        self.entries
            .push(Entry::Link(path.to_owned(), target.to_owned()));
        self
    }

    /// Writes the context as a directory, which is then a project.
    pub fn write(&self, to: &std::path::Path) {
        use std::os::unix::fs::PermissionsExt;
        std::fs::create_dir_all(to).unwrap();
        for entry in &self.entries {
            let path = |name: &str| {
                let path = to.join(name);
                std::fs::create_dir_all(path.parent().unwrap()).unwrap();
                path
            };
            match entry {
                Entry::File(name, mode, bytes) => {
                    let path = path(name);
                    std::fs::write(&path, bytes).unwrap();
                    std::fs::set_permissions(path, PermissionsExt::from_mode(*mode)).unwrap();
                }
                Entry::Link(name, target) => {
                    std::os::unix::fs::symlink(target, path(name)).unwrap();
                }
            }
        }
    }

    /// The tar.
    pub fn tar(&self) -> Bytes {
        let mut tar = tar::Builder::new(Vec::new());
        for entry in &self.entries {
            let mut header = tar::Header::new_gnu();
            match entry {
                Entry::File(path, mode, bytes) => {
                    header.set_mode(*mode);
                    header.set_size(bytes.len() as u64);
                    tar.append_data(&mut header, path, &bytes[..]).unwrap();
                }
                Entry::Link(path, target) => {
                    header.set_entry_type(tar::EntryType::Symlink);
                    header.set_mode(0o777);
                    header.set_size(0);
                    tar.append_link(&mut header, path, target).unwrap();
                }
            }
        }
        Bytes::from(tar.into_inner().unwrap())
    }

    /// The tar as a stream of pieces.
    pub fn stream(&self) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static + use<> {
        let tar = self.tar();
        let pieces: Vec<_> = (0..tar.len())
            .step_by(PIECE)
            .map(|at| Ok(tar.slice(at..tar.len().min(at + PIECE))))
            .collect();
        stream::iter(pieces)
    }

    /// Has an Engine build an image of it; also what the build printed.
    pub async fn build(
        &self,
        docker: &Docker,
        spec: &ImageSpec,
    ) -> (Result<String, Error>, String) {
        let (output, mut progress) = mpsc::channel(8);
        let read = async {
            let mut all = Vec::new();
            while let Some(step) = progress.recv().await {
                if let Progress::Text(text) = step {
                    all.extend_from_slice(&text);
                }
            }
            String::from_utf8(all).unwrap()
        };
        tokio::join!(docker.build_image(spec, |_| self.stream(), output), read)
    }
}
