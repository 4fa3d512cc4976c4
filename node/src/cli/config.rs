//! `starling config`: an example to start from, and a check before a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::{Exit, Failure, block_on, print};
use crate::config::{Config, fields};
use crate::runtime::fs::{File, OpenMode};

/// A configuration file is text for people; a longer one is something else.
const FILE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// What `starling config` takes.
#[derive(Debug, clap::Args)]
#[command(arg_required_else_help = true)]
#[group(required = true, multiple = false)]
pub(super) struct Args {
    /// Print a file with every field, its default and what is allowed
    #[arg(long)]
    example: bool,
    /// Tell every mistake in FILE and in the STARLING_ environment variables
    #[arg(long, value_name = "FILE")]
    check: Option<PathBuf>,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let text = match &args.check {
        None => fields::example(),
        Some(path) => {
            let config = block_on(load(path, &[]))?;
            let (cluster, count) = (&config.cluster, config.ring_names().len());
            let own = &config.node;
            format!(
                "{} is right: node {own} of cluster {cluster}, {count} members\n",
                path.display()
            )
        }
    };
    print(&text)?;
    Ok(Exit::Ok)
}

/// Reads the file at `path`, with the process's environment laid over it, and `over` over that.
///
/// # Errors
/// The file cannot be read, or is wrong.
pub(super) async fn load(path: &Path, over: &[(&str, &str)]) -> Result<Config, Failure> {
    let text = read(path).await?;
    let own = |name: &std::ffi::OsString| name.to_string_lossy().starts_with("STARLING_");
    let lossy = |text: std::ffi::OsString| text.to_string_lossy().into_owned();
    let env: BTreeMap<String, String> = std::env::vars_os()
        .filter(|(name, _)| own(name))
        .map(|(name, value)| (lossy(name), lossy(value)))
        .chain(over.iter().map(|&(name, value)| (name.to_owned(), value.to_owned())))
        .collect();
    Config::from_yaml(&text, &env)
        .map_err(|errors| Failure::usage(format!("{}: {errors}", path.display())))
}

/// Reads the text file at `path`.
pub(super) async fn read(path: &Path) -> Result<String, Failure> {
    let shown = path.display();
    let unread = |error| {
        Failure::usage(format!("cannot read {shown}: {error}; see starling config --example"))
    };
    let file = File::open(path, OpenMode::Read).await.map_err(unread)?;
    let bytes = file.read_at(0, FILE_BYTES_MAX + 1).await.map_err(unread)?;
    if bytes.len() > FILE_BYTES_MAX {
        return Err(Failure::usage(format!("{shown} is longer than {FILE_BYTES_MAX} bytes")));
    }
    let text = String::from_utf8(bytes.into());
    text.map_err(|_| Failure::usage(format!("{shown} is not UTF-8 text")))
}
