//! Log lines, on stderr, as text or JSON: what [`crate::config::Log`] says.
//!
//! A line carries the fields of the spans it was written in. The one that matters is `request_id`:
//! it travels with a request to every node that it touches, so one search finds its whole way.
//! Starling's own lines follow the configured level; libraries speak up at `warn`, or when the
//! level is `trace`. Nothing that is logged holds a key's value.

use std::io::{IsTerminal, stderr};

use tracing::level_filters::LevelFilter;
use tracing_subscriber::Layer;
use tracing_subscriber::filter::Targets;
use tracing_subscriber::fmt;
use tracing_subscriber::layer::SubscriberExt;
use tracing_subscriber::registry::Registry;
use tracing_subscriber::util::{SubscriberInitExt, TryInitError};

use crate::config::{Log, LogFormat, LogLevel};

/// Sends this process's log lines to stderr from now on.
///
/// # Errors
/// When that was already decided; nothing changes then.
pub fn init(log: &Log) -> Result<(), TryInitError> {
    let colours = stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none();
    tracing_subscriber::registry().with(layer(log, stderr, colours)).try_init()
}

fn layer<W>(log: &Log, writer: W, colours: bool) -> Box<dyn Layer<Registry> + Send + Sync>
where
    W: for<'a> fmt::MakeWriter<'a> + Send + Sync + 'static,
{
    // A reader of stderr that goes away must not take the node down.
    let lines = fmt::layer().with_writer(writer).log_internal_errors(false).with_ansi(colours);
    match log.format {
        LogFormat::Text => lines.with_target(false).with_filter(filter(log.level)).boxed(),
        LogFormat::Json => {
            let lines = lines.json().flatten_event(true).with_current_span(false);
            lines.with_span_list(true).with_filter(filter(log.level)).boxed()
        }
    }
}

fn filter(level: LogLevel) -> Targets {
    let (own, others) = match level {
        LogLevel::Error => (LevelFilter::ERROR, LevelFilter::ERROR),
        LogLevel::Warn => (LevelFilter::WARN, LevelFilter::WARN),
        LogLevel::Info => (LevelFilter::INFO, LevelFilter::WARN),
        LogLevel::Debug => (LevelFilter::DEBUG, LevelFilter::WARN),
        LogLevel::Trace => (LevelFilter::TRACE, LevelFilter::TRACE),
    };
    Targets::new().with_default(others).with_target("starling", own)
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::sync::{Arc, Mutex};

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl io::Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }
        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(format: LogFormat, level: LogLevel) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let log = Log { format, level };
        let layer = layer(&log, move || writer.clone(), false);
        tracing::subscriber::with_default(tracing_subscriber::registry().with(layer), || {
            let outer = tracing::info_span!("request", request_id = "r-7");
            let _outer = outer.enter();
            let inner = tracing::info_span!("replicate", peer = "b");
            let _inner = inner.enter();
            tracing::info!(acks = 2, "stored");
            tracing::debug!("detail");
            tracing::info!(target: "hyper", "a library's line");
        });
        let bytes = lines.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_text_line_carries_the_request_id_of_an_outer_span() {
        let lines = lines_of(LogFormat::Text, LogLevel::Info);
        assert_eq!(lines.len(), 1, "{lines:?}");
        let (_time, line) = lines[0].split_once(' ').unwrap();
        assert_eq!(
            line.trim_start(),
            r#"INFO request{request_id="r-7"}:replicate{peer="b"}: stored acks=2"#
        );
    }

    #[test]
    fn a_json_line_carries_the_request_id_of_an_outer_span() {
        let lines = lines_of(LogFormat::Json, LogLevel::Debug);
        assert_eq!(lines.len(), 2, "{lines:?}");
        let line: serde_json::Value = serde_json::from_str(&lines[0]).unwrap();
        assert_eq!(line["spans"][0]["request_id"], "r-7");
        assert_eq!((line["message"].as_str(), line["acks"].as_u64()), (Some("stored"), Some(2)));
    }

    #[test]
    fn the_level_decides_what_is_written() {
        let count = |level| lines_of(LogFormat::Text, level).len();
        assert_eq!(count(LogLevel::Error), 0);
        assert_eq!(count(LogLevel::Warn), 0);
        assert_eq!(count(LogLevel::Trace), 3);
    }
}
