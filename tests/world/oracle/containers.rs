//! What a container sees and how it ends, compared with `docker run`.
