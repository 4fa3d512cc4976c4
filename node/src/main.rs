//! The `starling` binary: see [`starling::cli`].

use std::process::ExitCode;

/// A node frees buffers of many sizes all the time, of which glibc's allocator makes a fifth of its
/// work under PUTs (perf). Preloaded, this one gave a fifth more PUTs in one run; linked in, the gain
/// did not show above the noise, so measure before relying on it. The simulator keeps the system's.
#[cfg(not(madsim))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Has the kernel hand out memory in small pages. The allocator asks for huge ones, and the first touch of one clears 2 MiB: in a
/// virtual machine that took 5 to 7 ms with one request after the other waiting behind it (perf, while a lost disk was filled: p99 of
/// clients twice that of quiet times, 1.3 to 1.5 times without). Throughput was the same either way. Processes
/// that are started from here inherit it.
#[cfg(not(madsim))]
fn without_huge_pages() {
    // A kernel that has no such pages, or cannot be told, is as good.
    let _told = rustix::thread::disable_transparent_huge_pages(true);
}

#[cfg(not(madsim))]
fn main() -> ExitCode {
    without_huge_pages();
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
