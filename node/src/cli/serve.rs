//! `starling serve`: one node, in production.

use std::io::Read;
use std::panic::PanicHookInfo;
use std::path::PathBuf;

use super::{Exit, Failure, block_on, block_on_threads, config};
use crate::config::Config;
use crate::logging;
use crate::node::Node;
use crate::runtime::{signal, task};

/// What `starling serve` takes.
#[derive(Debug, clap::Args)]
pub(super) struct Args {
    /// The node's configuration file; see: starling config --example
    #[arg(long, value_name = "FILE")]
    config: PathBuf,
    /// Stop when stdin closes as well: how `starling dev` stops its nodes, and why none of them
    /// outlives it
    #[arg(long, hide = true)]
    stop_with_stdin: bool,
}

pub(super) fn run(args: &Args) -> Result<Exit, Failure> {
    let config = block_on(config::load(&args.config))?;
    logging::init(&config.log).map_err(|error| Failure::unavailable(error.to_string()))?;
    std::panic::set_hook(Box::new(abort));
    let threads = config.threads;
    block_on_threads(threads, serve(config, args.stop_with_stdin))?
}

async fn serve(config: Config, stop_with_stdin: bool) -> Result<Exit, Failure> {
    let name = config.node.clone();
    let node = Node::start(config)
        .await
        .map_err(|error| Failure::unavailable(format!("cannot start node {name}: {error}")))?;
    node.run_until(stop(stop_with_stdin)).await;
    Ok(Exit::Ok)
}

/// Completes when the node is to stop.
async fn stop(stop_with_stdin: bool) {
    let stdin_closed = async {
        if stop_with_stdin {
            // The thread that waits is left behind: the process ends without it.
            let closed =
                task::run_blocking(|| std::io::stdin().lock().read_to_end(&mut Vec::new()));
            match closed.await {
                Ok(_) | Err(task::Aborted) => {}
            }
        } else {
            std::future::pending::<()>().await;
        }
    };
    tokio::select! {
        biased;
        asked = signal::shutdown() => if let Err(error) = asked {
            tracing::error!(%error, "cannot listen for SIGTERM and Ctrl-C; stopping");
        },
        () = stdin_closed => {}
    }
}

/// A panic is a bug, and a task that is gone without its node is worse than no node: its peers see
/// a node that answers and does not work. So the process ends, at once.
fn abort(panic: &PanicHookInfo<'_>) {
    let payload = panic.payload();
    let text = payload.downcast_ref::<&str>().copied();
    let text = text.or_else(|| payload.downcast_ref::<String>().map(String::as_str));
    let message = text.unwrap_or("no message");
    let place = panic.location().map_or_else(String::new, ToString::to_string);
    let backtrace = std::backtrace::Backtrace::force_capture();
    tracing::error!(%place, %backtrace, "this is a bug, and the node stops: {message}");
    std::process::abort();
}
