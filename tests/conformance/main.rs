//! The conformance table: what the kernel does, and the simulated world after it.

mod disk;
