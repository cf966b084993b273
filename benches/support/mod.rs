//! What the benches share: something to measure, and something to compare it with.

#![allow(dead_code, unused_imports, reason = "each bench uses a part of it")]
#![allow(unreachable_pub, reason = "`pub` marks what is for the benches")]
#![allow(clippy::unwrap_used, reason = "a bench fails by panicking")]

mod idle;
mod least;
mod naive;
mod source;

pub use self::{
    idle::Idle,
    least::Least,
    naive::{Naive, append},
    source::{Fixed, TOKEN},
};
