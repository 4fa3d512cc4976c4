//! Equal seeds give equal runs, wherever they run.

use std::collections::HashMap;
use std::net::SocketAddr;
use std::process::Command;
use std::time::Duration;

use crate::common::{exited, ms, two, world};
use rand::Rng as _;
use starling_world::link::{self, LinkSpec};
use starling_world::net::{TcpListener, TcpStream, UdpSocket};
use starling_world::{event, machine, rng, task, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// A run with a bit of everything, and its digest.
fn digest(seed: u64, loss: f64) -> u128 {
    let finished = world(seed, async move {
        let (a, b) = two();
        link::set_default(LinkSpec { loss, reorder: 0.1, ..LinkSpec::default() });
        machine::start(a, || async {
            drop(task::spawn(gossip("10.0.0.2:90")));
            let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                drop(task::spawn(async move {
                    let mut buf = [0; 64];
                    while let Ok(len @ 1..) = stream.read(&mut buf).await {
                        if stream.write_all(&buf[..len]).await.is_err() {
                            break;
                        }
                    }
                }));
            }
        });
        machine::start(b, || async {
            drop(task::spawn(gossip("10.0.0.1:90")));
            // The order of a map from the standard library follows from the seed too.
            let clients = (0..5).map(|n| (n, n * 7)).collect::<HashMap<u32, u32>>();
            let mut tasks = Vec::new();
            #[expect(clippy::iter_over_hash_type, reason = "that it is harmless is the point")]
            for (n, size) in clients {
                tasks.push(task::spawn(client(n, size)));
            }
            for task in tasks {
                task.await.unwrap();
            }
        });
        ms(700).await;
        machine::pause(a);
        ms(300).await;
        machine::resume(a);
        exited(&[b]).await;
        machine::kill_process(a);
        ms(100).await;
    });
    finished.trace.digest()
}

async fn gossip(to: &str) {
    let socket = UdpSocket::bind("0.0.0.0:90").await.unwrap();
    let to = to.parse::<SocketAddr>().unwrap();
    loop {
        socket.send_to(b"news", to).await.unwrap();
        let mut buf = [0; 8];
        let heard = time::timeout(Duration::from_millis(100), socket.recv_from(&mut buf)).await;
        event::note("heard", u64::from(heard.is_ok()), 0);
    }
}

async fn client(n: u32, size: u32) {
    let mut dice = rng::fork("client");
    for _ in 0..20 {
        let Ok(mut stream) = TcpStream::connect("a:80").await else { continue };
        let mut buf = vec![1; size as usize + 1];
        stream.write_all(&buf).await.unwrap();
        let answer = time::timeout(Duration::from_secs(1), stream.read_exact(&mut buf)).await;
        event::note("answered", u64::from(n), u64::from(answer.is_ok()));
        time::sleep(Duration::from_micros(dice.random_range(0..20_000))).await;
    }
}

#[test]
fn the_digest_follows_the_seed() {
    let first = digest(1, 0.05);
    assert_eq!(first, digest(1, 0.05));
    let others = [digest(2, 0.05), digest(3, 0.05), digest(1, 0.06)];
    assert!(!others.contains(&first));
    assert_ne!(others[0], others[1]);
}

const CHILD: &str = "STARLING_WORLD_DIGEST";

#[test]
fn the_digest_does_not_depend_on_the_environment() {
    if std::env::var(CHILD).is_ok() {
        println!("digest={:032x}", digest(17, 0.05));
        return;
    }
    let expected = format!("digest={:032x}", digest(17, 0.05));
    let name = "determinism::the_digest_does_not_depend_on_the_environment";
    for (dir, locale, padding) in [("/", "C", 1), ("/usr", "de_DE.UTF-8", 3_000)] {
        let mut child = Command::new(std::env::current_exe().unwrap());
        child.args(["--exact", name, "--nocapture"]).current_dir(dir);
        child.env(CHILD, "1").env("LC_ALL", locale).env("PADDING", "x".repeat(padding));
        let output = child.output().unwrap();
        let text = String::from_utf8_lossy(&output.stdout);
        assert!(text.contains(&expected), "{expected} is not what {dir} gives: {text}");
    }
}

#[test]
fn a_world_after_others_in_the_same_process_is_the_same() {
    let alone = digest(5, 0.05);
    for seed in 100..103 {
        digest(seed, 0.05);
    }
    assert_eq!(digest(5, 0.05), alone);
}
