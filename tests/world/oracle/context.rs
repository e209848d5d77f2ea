//! What of a project reaches its image, compared with `docker build`.
