//! What the benchmarks share with the system tests: the browser and the HTTP client.

// The tests use all of it.
#[allow(dead_code)]
#[path = "../../tests/system/browser/support/mod.rs"]
pub mod browser;
#[allow(dead_code)]
#[path = "../../tests/system/support/http.rs"]
pub mod http;
#[allow(dead_code)]
#[path = "../../tests/it/support/proxy.rs"]
pub mod proxy;
