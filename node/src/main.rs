//! The `starling` binary: see [`starling::cli`].

use std::process::ExitCode;

#[cfg(not(madsim))]
fn main() -> ExitCode {
    starling::cli::main()
}

#[cfg(madsim)]
fn main() -> ExitCode {
    eprintln!(
        "this starling was built for simulation and serves nobody: build it without --cfg madsim \
         (cargo node …), or run the simulator (cargo sim …)"
    );
    ExitCode::FAILURE
}
