//! The admin SQL: text to statement to operation to rows.
//!
//! `grammar` says what a command is, `commands` is the table of them, `lexer` and `parser` turn
//! text into a `statement`, `console` runs it on [`Operations`] and answers with `columns`.
//! `tolerance` and `select` answer what drivers and tools ask of any Postgres.

mod arguments;
mod columns;
mod commands;
mod console;
pub mod error;
mod grammar;
mod help;
mod lexer;
pub mod operations;
mod parser;
pub mod request;
pub mod row;
mod select;
pub mod statement;
mod syntax;
mod tolerance;

#[cfg(test)]
mod tests;

pub use console::AdminConsole;
pub use error::{OperationError, Outcome, sqlstate};
pub use operations::{Caller, Operations, Progress};
