//! The handling of errors of accept(2).

use std::io;

use rustix::io::Errno;

/// What an accept loop does after an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum AfterError {
    /// Accepts the next connection: this client has disconnected, or the network has dropped it.
    AcceptNext,
    /// Waits until descriptors or memory were freed, and tries again.
    WaitForResources,
    /// Ends: there is no listening socket any more.
    Stop,
}

/// What to do after `error` of accept(2). Only an error of this process ends a loop: all others are
/// temporary, as the manual says of the errors of networks and of firewalls, and as later kernels may add
/// them.
pub(super) fn after_error(error: &io::Error) -> AfterError {
    let Some(errno) = Errno::from_io_error(error) else {
        // The runtime stops.
        return AfterError::Stop;
    };
    match errno {
        Errno::BADF | Errno::INVAL | Errno::NOTSOCK | Errno::FAULT => AfterError::Stop,
        Errno::MFILE | Errno::NFILE | Errno::NOBUFS | Errno::NOMEM => AfterError::WaitForResources,
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
        | Errno::TIMEDOUT => AfterError::AcceptNext,
        // It may occur again at once: the wait keeps the loop from using a whole processor.
        _ => AfterError::WaitForResources,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_error_that_is_temporary_ends_accepting() {
        for (errno, expected) in [
            (Errno::AGAIN, AfterError::AcceptNext),
            (Errno::CONNABORTED, AfterError::AcceptNext),
            (Errno::HOSTDOWN, AfterError::AcceptNext),
            (Errno::HOSTUNREACH, AfterError::AcceptNext),
            (Errno::INTR, AfterError::AcceptNext),
            (Errno::NETDOWN, AfterError::AcceptNext),
            (Errno::NETUNREACH, AfterError::AcceptNext),
            (Errno::NONET, AfterError::AcceptNext),
            (Errno::NOPROTOOPT, AfterError::AcceptNext),
            (Errno::OPNOTSUPP, AfterError::AcceptNext),
            (Errno::PERM, AfterError::AcceptNext),
            (Errno::PROTO, AfterError::AcceptNext),
            (Errno::TIMEDOUT, AfterError::AcceptNext),
            (Errno::MFILE, AfterError::WaitForResources),
            (Errno::NFILE, AfterError::WaitForResources),
            (Errno::NOBUFS, AfterError::WaitForResources),
            (Errno::NOMEM, AfterError::WaitForResources),
            (Errno::NOSR, AfterError::WaitForResources),
            (Errno::SOCKTNOSUPPORT, AfterError::WaitForResources),
            (Errno::PROTONOSUPPORT, AfterError::WaitForResources),
            (Errno::BADF, AfterError::Stop),
            (Errno::FAULT, AfterError::Stop),
            (Errno::INVAL, AfterError::Stop),
            (Errno::NOTSOCK, AfterError::Stop),
        ] {
            assert_eq!(after_error(&errno.into()), expected, "{errno}");
        }
        assert_eq!(
            after_error(&io::Error::other("no runtime")),
            AfterError::Stop
        );
    }
}
