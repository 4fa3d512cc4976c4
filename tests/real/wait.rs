//! Waiting for what must come true: a test that waits for ever tells nothing.

use std::time::Duration;

use starling::runtime::time;

/// Long enough for a machine that does much else.
const PATIENCE: Duration = Duration::from_secs(120);

/// Asks again and again until the answer is `Ok`. The last `Err` says what was there instead when it never comes.
pub(crate) async fn until<T>(what: &str, mut ask: impl AsyncFnMut() -> Result<T, String>) -> T {
    let deadline = time::now() + PATIENCE;
    loop {
        match ask().await {
            Ok(come_true) => return come_true,
            Err(instead) => assert!(time::now() < deadline, "never came true: {what}: {instead}"),
        }
        time::sleep(Duration::from_millis(5)).await;
    }
}
