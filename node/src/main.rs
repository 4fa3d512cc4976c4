//! The `starling` binary: see [`starling::cli`].

use std::process::ExitCode;

/// A node frees buffers of many sizes all the time, of which glibc's allocator makes a fifth of its
/// work under PUTs (perf). Preloaded, this one gave a fifth more PUTs in one run; linked in, the gain
/// did not show above the noise, so measure before relying on it. The simulator keeps the system's.
#[cfg(not(madsim))]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Gives memory that is free back to the kernel after 10 ms, not after a second, unless `MIMALLOC_PURGE_DELAY` says otherwise: a
/// node that is written to as fast as it can frees a few hundred MB a second, and that was resident beside what it uses (460
/// MB at the most in place of 280 while two million pairs were loaded, at the same speed).
#[cfg(not(madsim))]
fn return_memory_soon() {
    // SAFETY: no other thread runs yet, which is all that these functions ask for; an option that does not exist is ignored.
    unsafe { libmimalloc_sys::mi_option_set_default(PURGE_DELAY, 10) };
}

/// `mi_option_purge_delay` of mimalloc.h, in milliseconds, for which the crate has no name.
#[cfg(not(madsim))]
const PURGE_DELAY: libmimalloc_sys::mi_option_t = 15;

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
    return_memory_soon();
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

#[cfg(all(test, not(madsim)))]
mod tests {
    use super::*;

    #[test]
    fn the_option_without_a_name_is_the_delay() {
        // SAFETY: reads a number; nobody sets it meanwhile.
        let before = unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) };
        assert_eq!(before, 1000, "this release's default: look the number up again");
        return_memory_soon();
        // SAFETY: as above.
        assert_eq!(unsafe { libmimalloc_sys::mi_option_get(PURGE_DELAY) }, 10);
    }
}
