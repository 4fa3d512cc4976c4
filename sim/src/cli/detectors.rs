//! `cargo sim detectors`: the failure detector's quality, measured; see [`crate::lab`].

use std::io::IsTerminal as _;

use crate::lab::Factory;
use crate::lab::experiment::{self, Plan};
use crate::lab::starling::StarlingFactory;
use crate::lab::table;
use crate::output::{self, Status};

use super::DetectorArguments;

/// The subject that is run only when it is asked for: it differs from ours by its rule alone.
const BESIDES: &str = "starling count";

/// Runs the experiments with the subjects that are built in, and prints their tables.
pub(super) fn detectors(arguments: &DetectorArguments) -> u8 {
    let everyone = subjects();
    let wanted = |factory: &&dyn Factory| {
        let asked_for = arguments.only.iter().any(|name| name == factory.name());
        asked_for || (arguments.only.is_empty() && factory.name() != BESIDES)
    };
    let subjects: Vec<&dyn Factory> = everyone.iter().map(Box::as_ref).filter(wanted).collect();
    if subjects.is_empty() {
        let names: Vec<&str> = everyone.iter().map(|factory| factory.name()).collect();
        output::notice(&format!("cargo sim: this build has {}", names.join(", ")));
        return super::USAGE;
    }
    let seed = arguments.seed;
    let mut plan = if arguments.quick { Plan::quick(seed) } else { Plan::full(seed) };
    if !arguments.members.is_empty() {
        plan.sizes.clone_from(&arguments.members);
    }
    let mut status = Status::default();
    let terminal = std::io::stderr().is_terminal();
    let tables = experiment::run(&subjects, &plan, &mut |row| {
        if terminal {
            status.show(row);
        }
    });
    status.clear();
    if arguments.json {
        let text = serde_json::to_string_pretty(&tables).expect("tables are plain data");
        output::line(&text);
    } else {
        output::line(table::render(&tables).trim_end());
    }
    0
}

fn subjects() -> Vec<Box<dyn Factory>> {
    vec![
        Box::new(StarlingFactory::phi()),
        Box::new(StarlingFactory::count()),
        #[cfg(feature = "compare")]
        Box::new(crate::lab::foca::FocaFactory),
        #[cfg(feature = "compare")]
        Box::<crate::lab::chitchat::ChitchatFactory>::default(),
    ]
}
