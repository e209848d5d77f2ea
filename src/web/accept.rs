//! What errors of accept(2) mean.

use std::io;

use rustix::io::Errno;

/// What is to be done after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum After {
    /// To accept the next one: this client is gone, or the network has taken it from us.
    Next,
    /// To accept again when descriptors or memory, of which there are too few, were freed.
    Room,
    /// Nothing: there is no listening socket any more.
    Nothing,
}

/// What `error` of accept(2) asks for. Only an error of ours ends accepting: all else is temporary, as the
/// manual says of the errors of networks and of firewalls, and whatever a later kernel adds.
pub(super) fn after(error: &io::Error) -> After {
    let Some(errno) = Errno::from_io_error(error) else {
        // The runtime ends.
        return After::Nothing;
    };
    match errno {
        Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT => After::Nothing,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => After::Room,
        Errno::AGAIN
        | Errno::CONNABORTED
        | Errno::CONNRESET
        | Errno::HOSTDOWN
        | Errno::HOSTUNREACH
        | Errno::INTR
        | Errno::NETDOWN
        | Errno::NETUNREACH
        | Errno::NONET
        | Errno::NOPROTOOPT
        | Errno::OPNOTSUPP
        | Errno::PERM
        | Errno::PROTO
        | Errno::TIMEDOUT => After::Next,
        // It may come again at once; the pause keeps the loop from using a whole processor.
        _ => After::Room,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_that_is_temporary_ends_accepting() {
        for (errno, expected) in [
            (Errno::AGAIN, After::Next),
            (Errno::CONNABORTED, After::Next),
            (Errno::HOSTDOWN, After::Next),
            (Errno::HOSTUNREACH, After::Next),
            (Errno::INTR, After::Next),
            (Errno::NETDOWN, After::Next),
            (Errno::NETUNREACH, After::Next),
            (Errno::NONET, After::Next),
            (Errno::NOPROTOOPT, After::Next),
            (Errno::OPNOTSUPP, After::Next),
            (Errno::PERM, After::Next),
            (Errno::PROTO, After::Next),
            (Errno::TIMEDOUT, After::Next),
            (Errno::MFILE, After::Room),
            (Errno::NFILE, After::Room),
            (Errno::NOBUFS, After::Room),
            (Errno::NOMEM, After::Room),
            (Errno::NOSR, After::Room),
            (Errno::SOCKTNOSUPPORT, After::Room),
            (Errno::PROTONOSUPPORT, After::Room),
            (Errno::BADF, After::Nothing),
            (Errno::FAULT, After::Nothing),
            (Errno::INVAL, After::Nothing),
            (Errno::NOTSOCK, After::Nothing),
        ] {
            assert_eq!(after(&errno.into()), expected, "{errno}");
        }
        assert_eq!(after(&io::Error::other("no runtime")), After::Nothing);
    }
}
