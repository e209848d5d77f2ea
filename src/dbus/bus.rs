//! Which bus, and what we are called on it.

/// Our name on the bus.
pub const NAME: &str = "org.mistry.Mistry1";
/// Where the manager is, and below it all else.
pub const PATH: &str = "/org/mistry/Mistry1";

/// Which bus.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Bus {
    /// The host's, where polkit says who may.
    System,
    /// That of the user who started us, for tests and for trying out: it is all theirs.
    User,
}
