//! Files under crashes, faults and latency, in whole runs of the world.

use std::path::PathBuf;
use std::time::Duration;

use tokio::sync::oneshot;

use super::*;
use crate::process::MachineId;
use crate::trace::{Keep, Trace};
use crate::{Config, disk, machine};

const MS: Duration = Duration::from_millis(1);

fn run<F>(seed: u64, main: impl FnOnce(MachineId) -> F + Send + 'static) -> (F::Output, Trace)
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let config = Config { seed, wall_start_ms: 0, keep_trace: Keep::Nothing };
    let finished = crate::run(config, async move { main(machine::add("m", [10, 0, 0, 1])).await });
    (finished.output, finished.trace)
}

/// Runs `work` in a new process, which lives on after it.
async fn process<F>(machine: MachineId, work: impl FnOnce() -> F + Send + 'static) -> F::Output
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    let (tell, told) = oneshot::channel();
    machine::start(machine, move || async move {
        assert!(tell.send(work().await).is_ok(), "the harness waits");
        std::future::pending::<()>().await;
    });
    told.await.unwrap()
}

async fn create(at: &str) -> File {
    File::open(&PathBuf::from(at), OpenMode::CreateNew).await.unwrap()
}

fn content(machine: MachineId, at: &str) -> Vec<u8> {
    disk::dump(machine, at).pop().unwrap().content
}

#[test]
fn power_loss_keeps_what_was_synced() {
    let mut lost = 0;
    for seed in 0..20 {
        let (text, trace) = run(seed, |m| async move {
            process(m, || async {
                let file = create("/f").await;
                file.write_all_at_and_sync(0, Bytes::from_static(b"kept")).await.unwrap();
                sync_dir(Path::new("/")).await.unwrap();
                file.write_all_at(4, Bytes::from_static(b"?")).await.unwrap();
                create("/g").await;
                std::mem::forget(file);
            })
            .await;
            assert_eq!(disk::pending(m).len(), 3);
            machine::power_loss(m);
            assert_eq!(disk::pending(m), []);
            assert_eq!(disk::counters(m).power_losses, 1);
            process(m, || async {
                let file = File::open(Path::new("/f"), OpenMode::Read).await.unwrap();
                file.read_at(0, 10).await.unwrap()
            })
            .await
        });
        assert!(text.starts_with(b"kept"), "seed {seed}: {text:?}");
        assert_eq!(trace.count("disk_lost_pending"), 1);
        assert_eq!((trace.count("disk_sync"), trace.count("disk_sync_dir")), (1, 1));
        lost += u64::from(text.len() == 4);
    }
    assert!((1..20).contains(&lost), "{lost} of 20 lost the last byte");
}

#[test]
fn a_crash_falls_before_between_and_after_write_and_sync() {
    let state_after = |crash_after: Duration| {
        run(1, move |m| async move {
            let file_is_open = process(m, || async {
                let file = create("/f").await;
                sync_dir(Path::new("/")).await.unwrap();
                crate::task::spawn(async move {
                    file.write_all_at_and_sync(0, Bytes::from_static(b"x")).await.unwrap();
                });
            });
            file_is_open.await;
            time::sleep(crash_after).await;
            machine::kill_process(m);
            time::sleep(10 * MS).await;
            (content(m, "/f").len(), disk::pending(m).len())
        })
        .0
    };
    assert_eq!(state_after(Duration::from_micros(1)), (0, 0));
    assert_eq!(state_after(Duration::from_micros(50)), (1, 2));
    assert_eq!(state_after(2 * MS), (1, 0));
}

#[test]
fn faults_reach_the_caller_and_the_trace() {
    let (said, trace) = run(1, |m| async move {
        disk::fail_syncs(m, 1);
        disk::limit_capacity(m, Some(6));
        process(m, move || async move {
            let file = create("/f").await;
            let mut said = vec![
                file.write_all_at_and_sync(0, Bytes::from_static(b"abc")).await,
                file.sync_data().await,
                file.write_all_at(3, Bytes::from_static(b"defg")).await,
            ];
            disk::fail_reads(m, 1);
            said.push(file.read_at(0, 1).await.map(|_| ()));
            disk::fail_writes(m, 1);
            said.push(file.write_all_at(0, Bytes::from_static(b"x")).await);
            disk::heal(m);
            said.push(file.write_all_at_and_sync(0, Bytes::from_static(b"abcdefgh")).await);
            said.into_iter()
                .map(|result| result.err().and_then(|e| e.raw_os_error()))
                .collect::<Vec<_>>()
        })
        .await
    });
    assert_eq!(said, [Some(5), None, Some(28), Some(5), Some(5), None]);
    for (kind, times) in [("disk_sync_failed", 1), ("disk_full", 1), ("disk_io_error", 3)] {
        assert_eq!(trace.count(kind), times, "{kind}");
    }
}

#[test]
fn a_slow_a_stalled_and_a_cold_disk_take_their_time() {
    let (took, _) = run(1, |m| async move {
        process(m, || async {
            let file = create("/f").await;
            file.write_all_at_and_sync(0, Bytes::from(vec![1; 100_000])).await.unwrap();
            sync_dir(Path::new("/")).await.unwrap();
            std::mem::forget(file);
        })
        .await;
        machine::power_loss(m);
        process(m, move || async move {
            let file = File::open(Path::new("/f"), OpenMode::Read).await.unwrap();
            let mut took = Vec::new();
            for round in 0..4 {
                match round {
                    2 => disk::slow(m, 1000.0),
                    3 => disk::stall(m, Duration::from_secs(5)),
                    _ => {}
                }
                let start = time::now();
                file.read_at(0, 1000).await.unwrap();
                took.push(time::now().since(start));
            }
            took
        })
        .await
    });
    assert!((60_000..160_000).contains(&took[0].as_nanos()), "{took:?}");
    assert!((1_000..4_000).contains(&took[1].as_nanos()), "{took:?}");
    assert!((MS..4 * MS).contains(&took[2]), "{took:?}");
    assert!(took[3] > Duration::from_secs(5), "{took:?}");
}

#[test]
fn a_call_that_nobody_waits_for_is_done_or_not() {
    let (done, _) = run(1, |m| async move {
        let done = process(m, || async {
            let mut done = 0;
            for _ in 0..40 {
                let open = File::open(Path::new("/f"), OpenMode::CreateNew);
                assert!(time::timeout(Duration::from_nanos(1), open).await.is_err());
                done += u32::from(remove_file(Path::new("/f")).await.is_ok());
            }
            let file = create("/g").await;
            file.write_all_at(0, Bytes::from_static(b"x")).await.unwrap();
            remove_file(Path::new("/g")).await.unwrap();
            drop(file);
            done
        })
        .await;
        assert_eq!(disk::used(m), 0, "a file that was opened for nobody is closed");
        done
    });
    assert!((5..35).contains(&done), "{done} of 40");
}

#[test]
fn a_dead_process_never_reaches_the_disk() {
    let (left, _) = run(1, |m| async move {
        let file = process(m, || async {
            let file = create("/f").await;
            let locked = lock_exclusive(Path::new("/lock")).await.unwrap();
            for i in 0..50u64 {
                let file = file.clone();
                crate::task::spawn(async move { file.write_all_at(i, vec![1].into()).await });
                crate::task::spawn(async move { create(&format!("/late{i}")).await });
            }
            time::sleep(Duration::from_micros(9)).await;
            (file, locked)
        })
        .await;
        machine::kill_process(m);
        let before = disk::dump(m, "/");
        let relocked = process(m, || lock_exclusive(Path::new("/lock"))).await;
        drop(file);
        time::sleep(10 * MS).await;
        assert_eq!(disk::dump(m, "/"), before);
        let stolen = lock_in_place(m);
        assert!(relocked.is_ok() && stolen, "a stale lock frees nobody else's");
        before.len()
    });
    assert!((4..53).contains(&left), "{left} entries were made, the others under way");
}

/// True while some process of the machine holds the lock.
fn lock_in_place(machine: MachineId) -> bool {
    world::with(|w| {
        let disk = &mut w.machines[machine.number() as usize].disk;
        disk.lock(Path::new("/lock")).is_err()
    })
}

#[test]
fn the_harness_may_choose_what_survives() {
    let (found, _) = run(1, |m| async move {
        process(m, || async {
            for name in ["/a", "/b", "/c"] {
                create(name).await;
            }
        })
        .await;
        let second = disk::pending(m)[1];
        disk::keep_at_next_power_loss(m, [second].into());
        machine::power_loss(m);
        disk::dump(m, "/").into_iter().skip(1).map(|entry| entry.path).collect::<Vec<_>>()
    });
    assert_eq!(found, [PathBuf::from("/b")]);
}

#[test]
fn an_older_copy_comes_back_and_a_new_disk_is_empty() {
    run(1, |m| async move {
        let file = process(m, || create("/f")).await;
        let copy = disk::snapshot(m);
        machine::kill_process(m);
        drop(file);
        disk::wipe(m);
        assert_eq!(disk::dump(m, "/").len(), 1);
        disk::restore(m, &copy);
        machine::power_loss(m);
        assert_eq!(disk::dump(m, "/f").len(), 1);
    });
}

#[test]
fn equal_seeds_have_equal_digests() {
    let digest = |seed| {
        let (_, trace) = run(seed, |m| async move {
            process(m, || async {
                let file = create("/f").await;
                for i in 0..100 {
                    file.write_all_at_and_sync(i * 3, vec![1; 300].into()).await.unwrap();
                }
                std::mem::forget(file);
            })
            .await;
            machine::power_loss(m);
        });
        trace.digest()
    };
    assert_eq!(digest(5), digest(5));
    assert_ne!(digest(5), digest(6));
}
