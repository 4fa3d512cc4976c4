//! Two engines in short turns: a machine's mood changes from second to second, so each turn of one is compared with the
//! turn of the other beside it.

use std::path::Path;
use std::time::{Duration, Instant};

/// Pairs of turns that count.
const TURNS: usize = 100;
const TURN: Duration = Duration::from_millis(100);

/// Whose turn it is.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Side {
    First,
    Second,
}

/// Whose turn each operation is, and how many a second both did in their turns.
pub struct Turns {
    /// Turns that are over.
    over: usize,
    started: Instant,
    /// Operations of this turn.
    done: u32,
    /// Of the pair that is being measured.
    pair: [f64; 2],
    pairs: Vec<[f64; 2]>,
}

impl Turns {
    pub fn begin() -> Self {
        Self { over: 0, started: Instant::now(), done: 0, pair: [0.0; 2], pairs: Vec::new() }
    }

    /// Who does the next operation, which begins now; `None` after the last turn. Who begins changes from pair to pair.
    pub fn next(&mut self) -> Option<Side> {
        let took = self.started.elapsed();
        if took >= TURN {
            self.pair[self.side() as usize] = f64::from(self.done) / took.as_secs_f64();
            self.over += 1;
            // The first pair warms both up.
            if self.over.is_multiple_of(2) && self.over > 2 {
                self.pairs.push(self.pair);
            }
            (self.started, self.done) = (Instant::now(), 0);
        }
        self.done += 1;
        (self.pairs.len() < TURNS).then(|| self.side())
    }

    fn side(&self) -> Side {
        // First, second, second, first, first, …
        if self.over.div_ceil(2).is_multiple_of(2) { Side::First } else { Side::Second }
    }

    /// Prints the medians of the rates of the two and of the turns' ratios.
    pub fn print(&self, what: &str, [first, second]: [&str; 2], folder: &Path) {
        let middle = |of: fn(&[f64; 2]) -> f64| {
            let mut values: Vec<f64> = self.pairs.iter().map(of).collect();
            values.sort_by(f64::total_cmp);
            values[values.len() / 2]
        };
        println!("{what}: {TURNS} turns of {TURN:?} each, medians, in {}", folder.display());
        let (one, other, ratio) =
            (middle(|pair| pair[0]), middle(|pair| pair[1]), middle(|pair| pair[0] / pair[1]));
        println!("{first} {one:.0}/s, {second} {other:.0}/s, ratio {ratio:.3}");
    }
}
