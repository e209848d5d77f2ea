//! What each transport brings home, compared with what was built.
