//! A log by every way, compared with the bytes that were printed.
