//! A run that may panic, turned into a report in every case.

use std::panic::{self, AssertUnwindSafe, PanicHookInfo};
use std::sync::{Arc, Mutex, PoisonError};

use crate::report::{Report, Verdict};

/// Runs `run` and turns the first panic of any of its tasks into the verdict `crash` with message
/// and place, even if the panic was caught on its way.
///
/// Sets the process's panic hook for the time of the run, so a process runs one at a time.
pub fn guarded(run: impl FnOnce() -> Report) -> Report {
    let first: Arc<Mutex<Option<String>>> = Arc::default();
    let noted = Arc::clone(&first);
    let usual = Arc::new(panic::take_hook());
    let backtraces = std::env::var_os("RUST_BACKTRACE").is_some();
    panic::set_hook(Box::new(move |info| {
        let mut noted = noted.lock().unwrap_or_else(PoisonError::into_inner);
        noted.get_or_insert_with(|| describe(info));
        drop(noted);
        if backtraces {
            usual(info);
        }
    }));
    let ended = panic::catch_unwind(AssertUnwindSafe(run));
    drop(panic::take_hook());
    let panicked = first.lock().unwrap_or_else(PoisonError::into_inner).take();
    match (ended, panicked) {
        (Ok(report), None) => report,
        (Ok(report), Some(panicked)) => {
            let explanation = format!("{panicked}\n\n{}", report.explanation).trim_end().to_owned();
            Report { verdict: Verdict::Crash, explanation, ..report }
        }
        (Err(_), panicked) => {
            let panicked = panicked.unwrap_or_else(|| "a panic without a message".to_owned());
            Report::broken(Verdict::Crash, panicked)
        }
    }
}

fn describe(info: &PanicHookInfo<'_>) -> String {
    let payload = info.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let message = text
        .or_else(|| payload.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    let place = info.location().map_or_else(String::new, |at| format!(" at {at}"));
    format!("panic{place}: {message}")
}

#[cfg(test)]
mod tests {
    use super::*;

    // One test: the panic hook belongs to the whole process.
    #[test]
    fn panics_become_crashes_even_when_caught_on_the_way() {
        let fine = || Report::broken(Verdict::Ok, String::new());
        assert_eq!(guarded(fine), fine());

        let escaped = guarded(|| panic!("the {} is gone", "table"));
        assert_eq!(escaped.verdict, Verdict::Crash);
        assert!(escaped.explanation.starts_with("panic at "), "{}", escaped.explanation);
        assert!(escaped.explanation.contains("guard.rs:"), "{}", escaped.explanation);
        assert!(escaped.explanation.ends_with(": the table is gone"), "{}", escaped.explanation);

        let caught = guarded(move || {
            assert!(panic::catch_unwind(|| panic!("in a task")).is_err());
            Report { digest: "ab".to_owned(), ..fine() }
        });
        assert_eq!((caught.verdict, caught.digest.as_str()), (Verdict::Crash, "ab"));
        assert!(caught.explanation.ends_with("in a task"), "{}", caught.explanation);
    }
}
