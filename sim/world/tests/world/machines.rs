//! What happens to processes: the crash fence, pauses, clocks, restarts.

use std::time::Duration;

use crate::common::{Notes, exited, ms, now_ms, two, world};
use rand::RngCore as _;
use starling_world::net::{TcpListener, TcpStream, UdpSocket};
use starling_world::{clock, event, machine, process, rng, signal, task, time, trace};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

/// Tries to touch the world when it is dropped.
struct Meddler {
    stream: Option<TcpStream>,
    notes: Notes,
}

impl Drop for Meddler {
    fn drop(&mut self) {
        let own = process::current().machine.number();
        self.notes.add(format!("destructor of machine {own} ran"));
        event::note("meddled", 0, 0);
        drop(task::spawn(async { event::note("meddled", 0, 0) }));
        drop(self.stream.take());
    }
}

#[test]
fn destructors_of_a_dead_process_touch_nothing() {
    for paused in [false, true] {
        let notes = Notes::default();
        let (inside, peer) = (notes.clone(), notes.clone());
        let finished = world(1, async move {
            let (a, b) = two();
            machine::start(b, || async move {
                let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
                let (mut stream, _) = listener.accept().await.unwrap();
                let silence = time::timeout(Duration::from_secs(5), stream.read(&mut [0; 8])).await;
                peer.add(format!("peer: {}", silence.unwrap_err()));
            });
            machine::start(a, || async move {
                ms(1).await;
                let stream = TcpStream::connect("b:80").await.unwrap();
                let _meddler = Meddler { stream: Some(stream), notes: inside };
                std::future::pending::<()>().await;
            });
            ms(1_000).await;
            if paused {
                machine::pause(a);
                // A task that is ready while paused waits in madsim's list.
                ms(10).await;
            }
            machine::power_loss(a);
            ms(10).await;
            exited(&[b]).await;
        });
        let expected = ["destructor of machine 1 ran", "peer: deadline passed"];
        assert_eq!(notes.all(), expected, "paused: {paused}");
        assert_eq!(finished.trace.count("meddled"), 0, "paused: {paused}");
    }
}

#[test]
fn a_paused_task_that_was_ready_is_dropped_in_its_own_name() {
    let notes = Notes::default();
    let inside = notes.clone();
    world(1, async move {
        let (a, _) = two();
        machine::start(a, || async move {
            let _meddler = Meddler { stream: None, notes: inside };
            ms(500).await;
        });
        ms(100).await;
        machine::pause(a);
        ms(1_000).await;
        machine::kill_process(a);
        ms(1).await;
    });
    assert_eq!(notes.all(), ["destructor of machine 1 ran"]);
}

#[test]
fn a_process_killed_by_an_event_does_nothing_more() {
    let notes = Notes::default();
    let receiver = notes.clone();
    let finished = world(1, async move {
        let (a, b) = two();
        machine::start(b, || async move {
            let socket = UdpSocket::bind("0.0.0.0:80").await.unwrap();
            loop {
                let (len, _) = socket.recv_from(&mut [0; 8]).await.unwrap();
                receiver.add(format!("{len} bytes"));
            }
        });
        trace::on(a, "about_to_send", 3, move || machine::kill_process(a));
        machine::start(a, || async {
            let socket = UdpSocket::bind("0.0.0.0:80").await.unwrap();
            for n in 1..=5 {
                event::note("about_to_send", 0, 0);
                socket
                    .send_to(&[0; 8][..n], "10.0.0.2:80".parse::<std::net::SocketAddr>().unwrap())
                    .await
                    .unwrap();
                ms(10).await;
            }
        });
        ms(1_000).await;
        assert!(!machine::is_running(a) && !machine::exited(a));
    });
    assert_eq!(notes.all(), ["1 bytes", "2 bytes"]);
    assert_eq!(finished.trace.count("about_to_send"), 3);
}

#[test]
fn a_paused_process_stands_still_while_its_kernel_goes_on() {
    let notes = Notes::default();
    let (inside, client) = (notes.clone(), notes.clone());
    world(1, async move {
        let (a, b) = two();
        machine::start(a, || async move {
            let listener = TcpListener::bind("0.0.0.0:80").await.unwrap();
            let tick = inside.clone();
            drop(task::spawn(async move {
                ms(2_000).await;
                tick.add(format!("timer of 2 s at {} s", now_ms() / 1_000));
            }));
            let (mut stream, _) = listener.accept().await.unwrap();
            let mut buf = [0; 5];
            stream.read_exact(&mut buf).await.unwrap();
            inside.add(format!("read at {} s", now_ms() / 1_000));
        });
        ms(1_000).await;
        machine::pause(a);
        machine::start(b, || async move {
            // The kernel accepts and takes bytes although nobody is awake.
            let mut stream = TcpStream::connect("a:80").await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            client.add(format!("written at {} s", now_ms() / 1_000));
            ms(10_000).await;
        });
        ms(4_000).await;
        assert!(machine::is_running(a) && machine::is_paused(a));
        machine::resume(a);
        ms(100).await;
        let mut seen = notes.all();
        seen.sort_unstable();
        assert_eq!(seen, ["read at 5 s", "timer of 2 s at 5 s", "written at 1 s"]);
    });
}

#[test]
fn clocks_are_each_machines_own() {
    let notes = Notes::default();
    let (fast, slow) = (notes.clone(), notes.clone());
    world(1, async move {
        let (a, b) = two();
        clock::drift(a, 50_000);
        clock::step(b, -3_600_000);
        let measure = async |notes: Notes| {
            let (since, wall) = (time::now(), time::wall_clock_ms());
            ms(10_000).await;
            let slept = time::now().since(since).as_millis();
            notes.add(format!("slept {slept} ms, wall {}", time::wall_clock_ms() - wall));
            wall
        };
        machine::start(a, move || async move {
            measure(fast).await;
        });
        exited(&[a]).await;
        // Ten seconds on a clock that is 5 % fast are a little more than 9.5 s.
        assert!((9_520..9_550).contains(&now_ms()), "{} ms have passed", now_ms());
        machine::start(b, move || async move {
            let wall = measure(slow).await;
            assert!(wall < 1_700_000_000_000, "the step back is missing");
        });
        exited(&[b]).await;
    });
    assert_eq!(notes.all(), ["slept 10000 ms, wall 10000", "slept 10000 ms, wall 10000"]);
}

#[test]
fn a_sleep_is_not_cut_short_by_a_clock_that_slows_down() {
    world(1, async {
        let (a, _) = two();
        machine::start(a, || async {
            let since = time::now();
            ms(10_000).await;
            assert!(time::now().since(since) >= Duration::from_secs(10));
        });
        ms(1_000).await;
        clock::drift(a, -50_000);
        exited(&[a]).await;
        assert!(now_ms() > 10_400);
    });
}

#[test]
fn every_start_is_a_new_process() {
    let notes = Notes::default();
    world(1, async move {
        let (a, _) = two();
        let draws = Notes::default();
        for _ in 0..2 {
            let draws = draws.clone();
            machine::start(a, || async move {
                let reading = time::now();
                assert!(reading.as_nanos() < 1_100_000_000, "the clock started anew");
                draws.add(rng::fork("ids").next_u64().to_string());
                draws.add(rng::fork("ids").next_u64().to_string());
                ms(500).await;
            });
            exited(&[a]).await;
        }
        assert_eq!(machine::epoch(a), 2);
        let mut all = draws.all();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4, "generators repeat: {all:?}");
    });
    assert!(notes.all().is_empty());
}

#[test]
fn a_request_to_stop_is_heard_and_remembered() {
    world(1, async {
        let (a, b) = two();
        for machine in [a, b] {
            machine::start(machine, || async {
                ms(100).await;
                signal::shutdown().await.unwrap();
            });
        }
        machine::ask_to_stop(a);
        ms(200).await;
        assert!(machine::exited(a) && machine::is_running(b));
        machine::ask_to_stop(b);
        ms(1).await;
        assert!(machine::exited(b));
    });
}

#[test]
fn thousands_of_finished_tasks_and_dropped_timers_leave_nothing() {
    world(1, async {
        let (a, _) = two();
        machine::start(a, || async {
            for _ in 0..20_000 {
                let quick = task::spawn(time::timeout(Duration::from_secs(3_600), ms(1)));
                quick.await.unwrap().unwrap();
            }
            // A dropped timer is gone: nothing but the harness's own naps would keep time going.
            assert!(now_ms() < 30_000);
        });
        exited(&[a]).await;
    });
}
