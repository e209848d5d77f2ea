//! Tests that fill a bound or wait for a time limit of the daemon itself, each for several seconds. `make test`
//! runs them with the others, `make check` leaves them out.

mod artifact_pages;
mod bus_limits;
mod bus_signals;
mod busy_server;
mod events;
mod held_memory;
mod long_lines;
mod stuck_engine;
