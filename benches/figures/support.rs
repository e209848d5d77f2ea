//! What the benchmarks share with the tests of the real worlds: the browser, and how it is asked.

// The tests use all of it.
#[allow(dead_code)]
#[path = "../../tests/world/browser/support/mod.rs"]
pub mod browser;
#[allow(dead_code)]
#[path = "../../tests/world/support/http.rs"]
pub mod http;
#[allow(dead_code)]
#[path = "../../tests/it/support/proxy.rs"]
pub mod proxy;
