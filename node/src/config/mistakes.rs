//! The mistakes of a configuration, gathered so that all are told at once.

use std::fmt;

/// One mistake.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Mistake {
    /// Where it is: `members[1].rpc`; an environment variable's name; empty for
    /// the file as a whole.
    pub path: String,
    /// What is wrong: what was found, what is allowed.
    pub problem: String,
}

/// Why a configuration was refused. Nothing was started. Fix every point and try again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ConfigErrors {
    /// At least one, in the order of the field table.
    pub mistakes: Vec<Mistake>,
}

impl fmt::Display for ConfigErrors {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.mistakes.len() {
            1 => f.write_str("1 mistake in the configuration:")?,
            count => write!(f, "{count} mistakes in the configuration:")?,
        }
        for Mistake { path, problem } in &self.mistakes {
            let colon = if path.is_empty() { "" } else { ": " };
            write!(f, "\n  {path}{colon}{problem}")?;
        }
        Ok(())
    }
}

impl std::error::Error for ConfigErrors {}

/// Gathers mistakes.
#[derive(Debug, Default)]
pub(super) struct Mistakes {
    found: Vec<Mistake>,
}

impl Mistakes {
    /// Adds a mistake.
    pub(super) fn add(&mut self, path: impl Into<String>, problem: impl Into<String>) {
        self.found.push(Mistake { path: path.into(), problem: problem.into() });
    }

    /// True if the value at `path` was already found to be wrong: rules between fields then
    /// keep silent about it.
    pub(super) fn at(&self, path: &str) -> bool {
        self.found.iter().any(|mistake| mistake.path == path)
    }

    /// True if the value at `path`, or one within it, was already found to be wrong.
    pub(super) fn under(&self, path: &str) -> bool {
        let within = |found: &str| {
            found
                .strip_prefix(path)
                .is_some_and(|rest| rest.is_empty() || rest.starts_with(['.', '[']))
        };
        self.found.iter().any(|mistake| within(&mistake.path))
    }

    /// `value`, if there was no mistake.
    pub(super) fn into_result<T>(self, value: T) -> Result<T, ConfigErrors> {
        if self.found.is_empty() { Ok(value) } else { Err(ConfigErrors { mistakes: self.found }) }
    }
}

/// The name among `known` that `found` was probably meant to be, if one is near enough.
pub(super) fn nearest<'a>(found: &str, known: &[&'a str]) -> Option<&'a str> {
    let near_enough = found.chars().count().min(64) / 3 + 1;
    let distance_to = |name: &&'a str| (distance(found, name), *name);
    let (distance, name) = known.iter().map(distance_to).min()?;
    (distance <= near_enough).then_some(name)
}

/// The number of single-letter insertions, removals and replacements that turn `from` into `to`
/// (Levenshtein 1966). Of long text only the first 64 letters count.
fn distance(from: &str, to: &str) -> usize {
    let to: Vec<char> = to.chars().take(64).collect();
    let mut row: Vec<usize> = (0..=to.len()).collect();
    for (i, a) in from.chars().take(64).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b) in to.iter().enumerate() {
            let replace = diagonal + usize::from(a != *b);
            diagonal = row[j + 1];
            row[j + 1] = replace.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[to.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn distances_are_those_of_levenshtein() {
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("same", "same"), 0);
    }

    #[test]
    fn a_near_name_is_suggested_and_a_far_one_is_not() {
        let known = ["cluster", "node", "timeouts"];
        assert_eq!(nearest("timeout", &known), Some("timeouts"));
        assert_eq!(nearest("clutser", &known), Some("cluster"));
        assert_eq!(nearest("zzz", &known), None);
    }
}
