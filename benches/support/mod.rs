//! What the benches share: something to measure, something to compare it with, and the way to tell the result.

#![allow(dead_code, unused_imports, reason = "each bench uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the benches")]
#![allow(
    clippy::unwrap_used,
    clippy::print_stdout,
    reason = "a bench fails by panicking, and tells what it has measured"
)]

mod comparison;
mod naive;
mod source;

pub use self::{
    comparison::{Comparison, criterion, is_test, told},
    naive::{Naive, append},
    source::{Fixed, TOKEN},
};
