//! The admin SQL at its boundaries: text to statement, and a console over operations that only
//! answer.

mod console;
mod fake;
mod parse;
mod reference;
mod wire;
