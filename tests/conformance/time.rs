//! Rows: clocks and timers.

use std::sync::Arc;
use std::time::Duration;

use starling::runtime::time::{self, Instant};
use starling::runtime::{event, rng, task};
use tokio::sync::Notify;

use crate::{Notes, row};

/// Notes its own end.
pub(crate) struct Witness(pub(crate) Notes, pub(crate) &'static str);

impl Drop for Witness {
    fn drop(&mut self) {
        self.0.add(self.1);
    }
}

#[test]
fn timers_fire_in_the_order_of_their_deadlines() {
    row(&["10", "30", "50"], async |_stage, notes| {
        let sleepers = [50, 10, 30].map(|ms| {
            let notes = notes.clone();
            task::spawn(async move {
                time::sleep(Duration::from_millis(ms)).await;
                notes.add(ms.to_string());
            })
        });
        for sleeper in sleepers {
            sleeper.await.unwrap();
        }
    });
}

#[test]
fn a_sleep_lasts_at_least_as_long_as_asked() {
    row(&["monotonic: true", "wall: true"], async |_stage, notes| {
        let (before, wall_before) = (time::now(), time::wall_clock_ms());
        time::sleep(Duration::from_millis(25)).await;
        let slept = time::now().since(before);
        notes.add(format!("monotonic: {}", slept >= Duration::from_millis(25)));
        notes.add(format!("wall: {}", time::wall_clock_ms() - wall_before >= 24));
    });
}

#[test]
fn a_sleep_of_nothing_yields_once() {
    row(&["other first", "slept"], async |_stage, notes| {
        let mut turn = 0;
        let mut sleep = std::pin::pin!(time::sleep(Duration::ZERO));
        std::future::poll_fn(|cx| {
            turn += 1;
            let slept = sleep.as_mut().poll(cx);
            if turn == 1 {
                notes.add(if slept.is_pending() { "other first" } else { "at once" });
            }
            slept
        })
        .await;
        notes.add("slept");
    });
}

#[test]
fn a_deadline_in_the_past_has_passed() {
    row(&["slept", "pending: deadline passed", "ready: value"], async |_stage, notes| {
        let past = Instant::from_nanos(0);
        time::sleep_until(past).await;
        notes.add("slept");
        let never = time::timeout_at(past, std::future::pending::<()>()).await;
        notes.add(format!("pending: {}", never.unwrap_err()));
        let ready = time::timeout_at(past, std::future::ready("value")).await;
        notes.add(format!("ready: {}", ready.unwrap()));
    });
}

#[test]
fn a_timeout_drops_what_it_limits() {
    row(&["dropped", "deadline passed"], async |_stage, notes| {
        let witness = Witness(notes.clone(), "dropped");
        let limited = time::timeout(Duration::from_millis(10), async move {
            let _witness = witness;
            std::future::pending::<()>().await;
        });
        notes.add(limited.await.unwrap_err().to_string());
    });
}

#[test]
fn a_dropped_sleep_wakes_nobody() {
    row(&["woken by: notify"], async |_stage, notes| {
        let notify = Arc::new(Notify::new());
        let waker = notify.clone();
        let notifier = task::spawn(async move {
            time::sleep(Duration::from_millis(10)).await;
            waker.notify_one();
        });
        let woken_by = tokio::select! {
            biased;
            () = notify.notified() => "notify",
            () = time::sleep(Duration::from_millis(200)) => "sleep",
        };
        notes.add(format!("woken by: {woken_by}"));
        notifier.await.unwrap();
    });
}

#[test]
fn readings_are_after_the_origin_and_never_go_back() {
    row(&["after the origin: true", "sorted: true"], async |_stage, notes| {
        let mut readings = vec![time::now()];
        notes.add(format!("after the origin: {}", readings[0] > Instant::from_nanos(0)));
        for _ in 0..100 {
            task::yield_now().await;
            readings.push(time::now());
        }
        notes.add(format!("sorted: {}", readings.is_sorted()));
    });
}

/// Numbers that differ are all that both worlds promise; in the simulated one they also follow
/// from the seed, which its own tests show. Notes are for the simulator and do nothing else.
#[test]
fn generators_of_one_purpose_differ() {
    use rand::RngCore as _;
    row(&["different: true"], async |_stage, notes| {
        let draws = [rng::fork("row").next_u64(), rng::fork("row").next_u64()];
        event::note("row_ran", 0, 0);
        notes.add(format!("different: {}", draws[0] != draws[1]));
    });
}
