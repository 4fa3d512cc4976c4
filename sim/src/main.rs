//! `cargo sim …`; see [`starling_sim::cli`].

use std::process::ExitCode;

fn main() -> ExitCode {
    ExitCode::from(starling_sim::cli::main())
}
