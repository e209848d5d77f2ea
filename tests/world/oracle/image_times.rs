//! Tools that decide by time, over the builds of a group: GNU make, cargo.
