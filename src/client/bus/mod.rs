//! The other end of `dbus/`.

pub mod proxy;
