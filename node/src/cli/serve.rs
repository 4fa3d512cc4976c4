//! `starling serve` and `starling proxy`: one node, in production.

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

/// What runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Role {
    /// A member as its file says.
    Node,
    /// A member without a share of the data, whatever its file says.
    Proxy,
}

pub(super) fn run(args: &Args, role: Role) -> Result<Exit, Failure> {
    let over: &[(&str, &str)] = match role {
        Role::Node => &[],
        Role::Proxy => &[("STARLING_VNODES", "0")],
    };
    let config = block_on(config::load(&args.config, over))?;
    if role == Role::Proxy && config.own().vnodes > 0 {
        return Err(Failure::usage(format!(
            "{}: node {} stands among members with vnodes above 0: it owns data and is no proxy",
            args.config.display(),
            config.node
        )));
    }
    logging::init(&config.log).map_err(|error| Failure::unavailable(error.to_string()))?;
    std::panic::set_hook(Box::new(abort));
    let threads = config.threads;
    block_on_threads(threads, serve(config, args.stop_with_stdin))?
}

async fn serve(config: Config, stop_with_stdin: bool) -> Result<Exit, Failure> {
    let name = config.node.clone();
    let mut stop = std::pin::pin!(stop(stop_with_stdin));
    let node = tokio::select! {
        biased;
        // It may wait for its founders for long.
        () = &mut stop => return Ok(Exit::Ok),
        started = Node::start(config) => started,
    };
    let node =
        node.map_err(|error| Failure::unavailable(format!("cannot start node {name}: {error}")))?;
    node.run_until(stop).await;
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
