//! Tests against the real world: what is said about it elsewhere is proven here.

// In a test, what must not happen ends the test.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

mod docker;
