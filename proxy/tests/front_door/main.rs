//! The front door from outside: real sockets, a real Postgres behind it, byte scripts and a driver
//! before it.

mod support;
mod raw;

mod authentication;
mod cancel;
mod console;
mod relay;
mod startup;
mod stop;
mod tls;
