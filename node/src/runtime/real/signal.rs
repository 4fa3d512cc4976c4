//! The request to stop: SIGTERM or SIGINT.

/// Completes when this process is asked to stop (SIGTERM, or Ctrl-C).
///
/// # Errors
/// When the signal handler can't be installed.
pub async fn shutdown() -> std::io::Result<()> {
    use tokio::signal::unix::{SignalKind, signal};
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tokio::select! {
        biased;
        _ = terminate.recv() => {}
        _ = interrupt.recv() => {}
    }
    Ok(())
}
