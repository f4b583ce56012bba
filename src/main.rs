//! Turns argv into a server or a client call, and the outcome into an exit code.
fn main() {}
