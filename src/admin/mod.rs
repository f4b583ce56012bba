//! The admin SQL: text to statement to operation to rows.

pub mod error;
pub mod operations;
pub mod request;
pub mod row;
pub mod statement;
