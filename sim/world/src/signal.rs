//! The request to stop, as the harness sends it with
//! [`machine::ask_to_stop`](crate::machine::ask_to_stop).

use std::future::poll_fn;
use std::task::Poll;

use crate::world;

/// Completes when this process is asked to stop (SIGTERM, or Ctrl-C). The request is remembered:
/// it also completes when the process was asked before.
///
/// # Errors
/// None in simulation.
pub async fn shutdown() -> std::io::Result<()> {
    poll_fn(|cx| {
        world::with(|w| {
            let process = w.current();
            let machine = &mut w.machines[process.machine.0 as usize];
            match &mut machine.process {
                Some(running) if machine.epoch == process.epoch => {
                    if running.stop_asked {
                        return Poll::Ready(());
                    }
                    running.stop_waiters.add(cx);
                    Poll::Pending
                }
                Some(_) | None => Poll::Pending,
            }
        })
    })
    .await;
    Ok(())
}
