//! Starling's storage engine beside fjall 3, in one run: the same keys, the same values, the same
//! disk, in turns.
//!
//! ```text
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml            the table
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml -- synced  one writer that syncs each put, in short turns
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml -- gets    gets alone, in short turns
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml -- trees   a replica's writes with Merkle trees and without
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml -- memory  2,000,000 pairs: resident memory
//! cargo run --release --manifest-path tests/engine_bench/Cargo.toml -- reopen  after a crash with a full log
//! ```
//!
//! Both write 24-byte keys in random order and JSON values of 1,000 bytes, with block caches of 64 MiB.
//! One client thread unless a row says otherwise; both have background work on threads of their own.
//! Where Starling syncs every 10 ms, a thread does so for fjall.

mod data;
mod gets;
mod peer;
mod rows;
mod starling_side;
mod synced;
mod trees;
mod turns;
mod uses;

use std::path::PathBuf;
use std::sync::atomic::Ordering;

use clap::{Parser, Subcommand};

#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Starling's storage engine beside fjall 3.
#[derive(Parser)]
struct Args {
    /// Pairs to load.
    #[arg(long, default_value_t = 500_000)]
    pairs: u32,
    /// How often each row is measured, in turns; the median is shown.
    #[arg(long, default_value_t = 3)]
    rounds: usize,
    /// Bytes of a block before it is packed, of Starling's tables; its default if left out.
    #[arg(long)]
    block_bytes: Option<usize>,
    /// Bytes of a memtable of Starling's; its default if left out.
    #[arg(long)]
    memtable_bytes: Option<u64>,
    /// Where to write; a folder beside the build by default, since /tmp is often memory.
    #[arg(long, default_value = "target")]
    folder: PathBuf,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Subcommand, Clone, Copy)]
enum Command {
    /// One writer that syncs each put: both take turns of a tenth of a second, since disks have moods.
    Synced,
    /// Gets of pairs that are there and of such that are not, in the same short turns.
    Gets,
    /// A replica's writes with Merkle trees beside those without, in the same short turns.
    Trees,
    /// Resident memory with four times as many pairs.
    Memory,
    /// The time to open a folder whose process was killed with a full log.
    Reopen,
    /// What `reopen` runs and kills.
    #[command(hide = true)]
    FillAndHang,
}

fn main() {
    // As a node does: mimalloc's `mi_option_purge_delay` in milliseconds, and small pages.
    // SAFETY: no other thread runs yet.
    unsafe { libmimalloc_sys::mi_option_set_default(15, 10) };
    let _told = rustix::thread::disable_transparent_huge_pages(true);
    let args = Args::parse();
    if let Some(bytes) = args.block_bytes {
        starling_side::BLOCK_BYTES.store(bytes, Ordering::Relaxed);
    }
    if let Some(bytes) = args.memtable_bytes {
        starling_side::MEMTABLE_BYTES.store(bytes, Ordering::Relaxed);
    }
    std::fs::create_dir_all(&args.folder).expect("the folder can be made");
    match args.command {
        None => rows::run(&args.folder, args.pairs, args.rounds),
        Some(Command::Synced) => synced::run(&args.folder),
        Some(Command::Gets) => gets::run(&args.folder, args.pairs),
        Some(Command::Trees) => trees::run(&args.folder),
        Some(Command::Memory) => uses::memory(&args.folder, args.pairs * 4),
        Some(Command::Reopen) => uses::reopen(&args.folder),
        Some(Command::FillAndHang) => uses::fill_and_hang(&args.folder),
    }
}
