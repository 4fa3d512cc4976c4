//! The only place that prints.

use std::io::{IsTerminal as _, Write as _};

/// Writes a line to standard output. When nobody reads on (`… | head`) it is dropped: the work goes on, and its exit code says
/// how it went.
pub fn line(text: &str) {
    let _gone = writeln!(std::io::stdout(), "{text}");
}

/// Writes a line about what went wrong, or how things stand, to standard error.
pub fn notice(text: &str) {
    eprintln!("{text}");
}

/// How a long job says how far it is: one line that is drawn over on a terminal, a line now and then
/// elsewhere.
#[derive(Debug)]
pub struct Status {
    terminal: bool,
    drawn: bool,
}

impl Default for Status {
    fn default() -> Self {
        Self { terminal: std::io::stderr().is_terminal(), drawn: false }
    }
}

impl Status {
    /// How often [`show`](Status::show) is worth calling, in milliseconds.
    pub fn interval_ms(&self) -> u64 {
        if self.terminal { 100 } else { 10_000 }
    }

    /// Shows `text` in place of what was shown before.
    pub fn show(&mut self, text: &str) {
        if !self.terminal {
            return notice(text);
        }
        self.drawn = true;
        let mut err = std::io::stderr();
        // A status that cannot be shown is no reason to stop the work that it is about.
        if write!(err, "\r\x1b[K{text}").and_then(|()| err.flush()).is_err() {
            self.terminal = false;
        }
    }

    /// Takes the drawn line away, so that other lines can be printed.
    pub fn clear(&mut self) {
        if std::mem::take(&mut self.drawn) {
            eprint!("\r\x1b[K");
        }
    }
}
