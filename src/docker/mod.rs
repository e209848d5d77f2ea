//! A context becomes an image; a container runs, is found again, is stopped.
