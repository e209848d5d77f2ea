//! Trees as `cp -a`, GNU tar and `find` know them: a clone is what `cp -a` makes of the same tree, the
//! tar of artifacts unpacks to what GNU tar's own does, and the list of artifacts is what `find` finds.
//!
//! Trees are generated; `MISTRY_SOAK` tries many more.

mod entries;
mod generated;
mod hand_made;
