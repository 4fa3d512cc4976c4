//! A machine's disk.

/// A machine's disk.
pub(crate) struct Disk;

impl Disk {
    pub(crate) fn new(_seed: u64) -> Self {
        Self
    }

    pub(crate) fn process_died(&mut self) {}

    pub(crate) fn power_loss(&mut self) {}
}
