//! The conformance table: what the kernel does, and the simulated world after it.
//!
//! Each row is one piece of code against the runtime facade and one list of what it must find. It is
//! played on the real kernel, and, built with `cfg(madsim)`, in the simulated world.

mod disk;

use std::future::Future;
use std::path::PathBuf;

/// Plays a row in an empty folder of the real disk.
#[cfg(not(madsim))]
pub(crate) fn play<F>(row: fn(PathBuf) -> F) -> Vec<String>
where
    F: Future<Output = Vec<String>>,
{
    let dir = tempfile::tempdir().unwrap();
    starling::runtime::task::block_on(1, row(dir.path().to_owned())).unwrap()
}

/// Plays `before` in a process, kills it once it is through, and plays `after` in another. `test` is
/// the path of the calling test: the process to be killed is this program, running that test.
#[cfg(not(madsim))]
pub(crate) fn play_and_kill<F, G>(
    test: &str,
    before: fn(PathBuf) -> F,
    after: fn(PathBuf) -> G,
) -> Vec<String>
where
    F: Future<Output = Vec<String>>,
    G: Future<Output = Vec<String>>,
{
    const CHILD: &str = "STARLING_CONFORMANCE_CHILD";
    if let Some(dir) = std::env::var_os(CHILD).map(PathBuf::from) {
        let found = starling::runtime::task::block_on(1, before(dir.join("data"))).unwrap();
        std::fs::write(dir.join("found.tmp"), found.join("\n")).unwrap();
        std::fs::rename(dir.join("found.tmp"), dir.join("found")).unwrap();
        // Waits to be killed, but does not outlive the parent, whose end closes the pipe.
        std::io::copy(&mut std::io::stdin(), &mut std::io::sink()).unwrap();
        std::process::exit(1);
    }
    let dir = tempfile::tempdir().unwrap();
    std::fs::create_dir(dir.path().join("data")).unwrap();
    let mut child = std::process::Command::new(std::env::current_exe().unwrap())
        .args([test, "--exact"])
        .env(CHILD, dir.path())
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::null())
        .spawn()
        .unwrap();
    let found = loop {
        if let Ok(found) = std::fs::read_to_string(dir.path().join("found")) {
            break found;
        }
        assert!(child.try_wait().unwrap().is_none(), "the child ended by itself");
        std::thread::sleep(std::time::Duration::from_millis(5));
    };
    child.kill().unwrap();
    child.wait().unwrap();
    let mut found: Vec<String> = found.lines().map(str::to_owned).collect();
    let later = after(dir.path().join("data"));
    found.extend(starling::runtime::task::block_on(1, later).unwrap());
    found
}
