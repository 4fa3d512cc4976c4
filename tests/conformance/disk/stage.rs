//! Where disk rows are played: in an empty folder of the real disk, or of a simulated machine's.

use std::future::Future;
use std::path::PathBuf;

/// Plays a row in an empty folder of the real disk.
#[cfg(not(madsim))]
pub(super) fn play<F>(row: fn(PathBuf) -> F) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let dir = tempfile::tempdir().unwrap();
    starling::runtime::task::block_on(1, row(dir.path().to_owned())).unwrap()
}

/// Plays `before` in a process, kills it once it is through, and plays `after` in another. `test` is
/// the path of the calling test: the process to be killed is this program, running that test.
#[cfg(not(madsim))]
pub(super) fn play_and_kill<F, G>(
    test: &str,
    before: fn(PathBuf) -> F,
    after: fn(PathBuf) -> G,
) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
    G: Future<Output = Vec<String>> + Send + 'static,
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

/// Plays a row in an empty folder of a simulated machine.
#[cfg(madsim)]
pub(super) fn play<F>(row: fn(PathBuf) -> F) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    simulated(move || async move {
        let machine = starling_world::machine::add("m1", [10, 0, 0, 1]);
        play_on(machine, row).await
    })
}

/// Plays `before` in a process, kills it once it is through, and plays `after` in another.
#[cfg(madsim)]
pub(super) fn play_and_kill<F, G>(
    _test: &str,
    before: fn(PathBuf) -> F,
    after: fn(PathBuf) -> G,
) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
    G: Future<Output = Vec<String>> + Send + 'static,
{
    simulated(move || async move {
        let machine = starling_world::machine::add("m1", [10, 0, 0, 1]);
        let mut found = play_on(machine, before).await;
        starling_world::machine::kill_process(machine);
        found.extend(play_on(machine, after).await);
        found
    })
}

/// What `main` finds, which must be the same under ten seeds.
#[cfg(madsim)]
fn simulated<F>(main: impl Fn() -> F) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let keep_trace = starling_world::trace::Keep::Nothing;
    let found = |seed| {
        let config = starling_world::Config { seed, wall_start_ms: 1_700_000_000_000, keep_trace };
        starling_world::run(config, main()).output
    };
    let first = found(1);
    for seed in 2..=10 {
        assert_eq!(found(seed), first, "seed {seed} differs from seed 1");
    }
    first
}

/// Plays a row in a new process, which lives on after it.
#[cfg(madsim)]
async fn play_on<F>(
    machine: starling_world::process::MachineId,
    row: fn(PathBuf) -> F,
) -> Vec<String>
where
    F: Future<Output = Vec<String>> + Send + 'static,
{
    let (tell, told) = tokio::sync::oneshot::channel();
    starling_world::machine::start(machine, move || async move {
        let dir = PathBuf::from("/data");
        starling::runtime::fs::create_dir_all(&dir).await.unwrap();
        tell.send(row(dir).await).unwrap();
        std::future::pending::<()>().await;
    });
    told.await.unwrap()
}
