//! The HTTP interface.

pub mod io;
