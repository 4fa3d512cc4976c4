//! Rows: tasks and their ends.

use std::time::Duration;

use starling::runtime::{task, time};
use tokio::sync::oneshot;

use crate::row;
use crate::time::Witness;

#[test]
fn a_task_gives_its_value_to_whoever_joins() {
    row(&["joined: Ok(7)", "finished: true"], async |_stage, notes| {
        let handle = task::spawn(async { 7 });
        time::sleep(Duration::from_millis(10)).await;
        let finished = handle.is_finished();
        notes.add(format!("joined: {:?}", handle.await));
        notes.add(format!("finished: {finished}"));
    });
}

#[test]
fn an_aborted_task_runs_its_destructors() {
    row(&["dropped", "joined: task was aborted"], async |_stage, notes| {
        let witness = Witness(notes.clone(), "dropped");
        let handle = task::spawn(async move {
            let _witness = witness;
            std::future::pending::<()>().await;
        });
        time::sleep(Duration::from_millis(10)).await;
        handle.abort();
        notes.add(format!("joined: {}", handle.await.unwrap_err()));
    });
}

#[test]
fn a_task_aborted_before_it_ran_never_runs() {
    row(&["dropped", "joined: task was aborted"], async |_stage, notes| {
        let witness = Witness(notes.clone(), "dropped");
        let inside = notes.clone();
        let handle = task::spawn(async move {
            let _witness = witness;
            inside.add("ran");
        });
        handle.abort();
        notes.add(format!("joined: {}", handle.await.unwrap_err()));
    });
}

#[test]
fn aborting_a_finished_task_takes_nothing_back() {
    row(&["joined: Ok(7)"], async |_stage, notes| {
        let handle = task::spawn(async { 7 });
        time::sleep(Duration::from_millis(10)).await;
        handle.abort();
        notes.add(format!("joined: {:?}", handle.await));
    });
}

#[test]
fn dropping_the_handle_detaches_the_task() {
    row(&["done"], async |_stage, notes| {
        let (done, finished) = oneshot::channel();
        drop(task::spawn(async move {
            time::sleep(Duration::from_millis(10)).await;
            done.send("done").unwrap();
        }));
        notes.add(finished.await.unwrap());
    });
}

#[test]
fn blocking_work_gives_its_value_and_does_not_hold_up_others() {
    row(&["value: Ok(49)", "other ran: true"], async |_stage, notes| {
        let other = task::spawn(async {});
        let value = task::run_blocking(|| 7 * 7).await;
        time::sleep(Duration::from_millis(10)).await;
        notes.add(format!("value: {value:?}"));
        notes.add(format!("other ran: {}", other.is_finished()));
    });
}

#[test]
fn blocking_work_is_done_though_nobody_waits() {
    row(&["done"], async |_stage, notes| {
        let (done, finished) = oneshot::channel();
        let work = task::run_blocking(move || done.send("done").unwrap());
        // It may even be done by now; that is not what matters.
        let _early = time::timeout(Duration::ZERO, work).await;
        notes.add(finished.await.unwrap());
    });
}

#[test]
fn yielding_lets_others_run() {
    row(&["both done"], async |_stage, notes| {
        let turns = std::sync::Arc::new(std::sync::atomic::AtomicU32::new(0));
        let players = [0, 1].map(|me| {
            let turns = turns.clone();
            task::spawn(async move {
                // Each waits for the other's move: without yielding neither would end.
                for turn in 0..10 {
                    while turns.load(std::sync::atomic::Ordering::SeqCst) != turn * 2 + me {
                        task::yield_now().await;
                    }
                    turns.fetch_add(1, std::sync::atomic::Ordering::SeqCst);
                }
            })
        });
        for player in players {
            player.await.unwrap();
        }
        notes.add("both done");
    });
}
