//! Trees as builds leave them, compared with `cp -a` and GNU tar.
