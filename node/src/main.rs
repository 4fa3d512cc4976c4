//! The `starling` binary: see [`starling::cli`].

use std::process::ExitCode;

/// A node frees buffers of many sizes all the time, of which glibc's allocator makes a fifth of its
/// work under PUTs (perf). Preloaded, this one gave a fifth more PUTs in one run; linked in, the gain
/// did not show above the noise, so measure before relying on it. The simulator keeps the system's.
#[cfg(not(madsim))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

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
