//! Ranges, validators and the documented proxies, compared with nginx.
