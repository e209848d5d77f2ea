//! Which bus is used, and the daemon's names on it.

/// Our well-known name.
pub const NAME: &str = "org.mistry.Mistry1";
/// The path of the manager; all other objects are below it.
pub const PATH: &str = "/org/mistry/Mistry1";

/// The bus type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The system bus, where polkit decides on access.
    System,
    /// The session bus of the user who started the daemon, for tests: that user may do everything.
    User,
}
