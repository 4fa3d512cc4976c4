//! How long a disk takes. Figures of a good local SSD under a journaling filesystem; a slow disk
//! is a multiple of them, a stalled one answers nobody until a given moment.

use std::time::Duration;

use rand::Rng;
use rand_chacha::ChaCha8Rng;
use rand_chacha::rand_core::SeedableRng;

use super::Disk;

/// What the disk is asked to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Work {
    /// A read of so many bytes that the page cache answers.
    WarmRead(usize),
    /// A read of so many bytes that goes to the platter.
    ColdRead(usize),
    /// A write of so many bytes into the page cache.
    Write(usize),
    /// A sync of a file or folder.
    Sync,
    /// Opening, renaming, listing: the kernel's own structures.
    Name,
}

#[derive(Clone, Debug)]
pub(super) struct Timing {
    rng: ChaCha8Rng,
    factor: f64,
    stalled_until_ns: u64,
}

impl Timing {
    pub(super) fn new(seed: u64) -> Self {
        let mut rng = ChaCha8Rng::seed_from_u64(seed);
        rng.set_stream(1 << 63);
        Timing { rng, factor: 1.0, stalled_until_ns: 0 }
    }
}

impl Disk {
    /// Makes everything take `factor` times as long; 1 is a healthy disk.
    pub fn slow(&mut self, factor: f64) {
        assert!((0.0..=1e6).contains(&factor), "a disk cannot be {factor} times as slow");
        self.timing.factor = factor;
    }

    /// Answers nothing before simulated time `until_ns`.
    pub fn stall_until(&mut self, until_ns: u64) {
        self.timing.stalled_until_ns = until_ns;
    }

    /// How long `work` takes that is asked for at simulated time `now_ns`.
    pub fn latency(&mut self, now_ns: u64, work: Work) -> Duration {
        let rng = &mut self.timing.rng;
        // A byte takes half a nanosecond from a platter and an eighth through memory.
        let nanos = match work {
            Work::WarmRead(bytes) => rng.random_range(1_000..3_000) + bytes as u64 / 8,
            Work::ColdRead(bytes) => rng.random_range(60_000..150_000) + bytes as u64 / 2,
            Work::Write(bytes) => rng.random_range(5_000..15_000) + bytes as u64 / 8,
            Work::Sync => rng.random_range(100_000..1_000_000),
            Work::Name => rng.random_range(5_000..30_000),
        };
        let nanos = (nanos as f64 * self.timing.factor) as u64;
        let stalled = self.timing.stalled_until_ns.saturating_sub(now_ns);
        Duration::from_nanos(nanos.saturating_add(stalled))
    }

    /// Whether an operation that nobody waits for any more is done all the same.
    pub fn finishes_unwatched(&mut self) -> bool {
        self.timing.rng.random_bool(0.5)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slow_disk_is_a_multiple_and_a_stalled_one_waits() {
        let took = |set: &dyn Fn(&mut Disk)| {
            let mut disk = Disk::new(1);
            set(&mut disk);
            disk.latency(1_000, Work::Sync).as_nanos()
        };
        let healthy = took(&|_| {});
        assert!((100_000..1_000_000).contains(&healthy));
        assert_eq!(took(&|disk| disk.slow(10.0)), healthy * 10);
        assert_eq!(took(&|disk| disk.stall_until(5_000)), healthy + 4_000);
        assert_eq!(took(&|disk| disk.stall_until(999)), healthy);
    }
}
