//! What the simulated network does to connections and datagrams.

use std::net::SocketAddr;
use std::time::Duration;

use crate::common::{Notes, exited, ms, now_ms, two, world};
use starling_world::link::{self, LinkSpec};
use starling_world::net::{TcpListener, TcpStream, UdpSocket};
use starling_world::process::MachineId;
use starling_world::tcp::{self, TcpSpec};
use starling_world::{machine, task, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const ANY: &str = "0.0.0.0:80";

fn address(last: u8) -> SocketAddr {
    SocketAddr::from(([10, 0, 0, last], 80))
}

/// Accepts one connection on `a` and gives it to `serve`.
fn serve<F>(a: MachineId, serve: impl FnOnce(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    machine::start(a, || async move {
        let listener = TcpListener::bind(ANY).await.unwrap();
        let (stream, _) = listener.accept().await.unwrap();
        serve(stream).await;
    });
}

/// Connects from `b` to `a` and gives the connection to `use_it`.
fn connect<F>(b: MachineId, use_it: impl FnOnce(TcpStream) -> F + Send + 'static)
where
    F: Future<Output = ()> + Send + 'static,
{
    machine::start(b, || async move {
        ms(1).await;
        use_it(TcpStream::connect("a:80").await.unwrap()).await;
    });
}

fn both_ways(a: MachineId, b: MachineId, change: impl Fn(&mut LinkSpec)) {
    link::update(a, b, &change);
    link::update(b, a, &change);
}

/// Never reads, never closes.
async fn keep(stream: TcpStream) {
    let _kept = stream;
    std::future::pending::<()>().await;
}

async fn wait_for_end(mut stream: TcpStream) {
    while stream.read(&mut [0; 64]).await.is_ok_and(|len| len > 0) {}
}

#[test]
fn bytes_survive_a_bad_network_in_order() {
    for seed in 1..20 {
        let finished = world(seed, async {
            let (a, b) = two();
            link::set_default(LinkSpec {
                loss: 0.2,
                duplicate: 0.1,
                reorder: 0.3,
                ..LinkSpec::default()
            });
            tcp::set(TcpSpec {
                send_buffer_bytes: 8_000,
                receive_window_bytes: 5_000,
                segment_bytes: 700,
                short_io: 0.2,
                ..TcpSpec::default()
            });
            let sent = (0..200_000_u32).map(|n| (n % 251) as u8).collect::<Vec<_>>();
            let expected = sent.clone();
            serve(a, |mut stream| async move {
                let mut all = Vec::new();
                stream.read_to_end(&mut all).await.unwrap();
                assert!(all == expected, "{} bytes came, mixed up", all.len());
            });
            connect(b, |mut stream| async move {
                stream.write_all(&sent).await.unwrap();
                stream.shutdown().await.unwrap();
                wait_for_end(stream).await;
            });
            exited(&[a, b]).await;
        });
        for kind in ["packet_lost", "packet_duplicated", "tcp_retransmit"] {
            assert!(finished.trace.count(kind) > 0, "no {kind} under seed {seed}");
        }
    }
}

#[test]
fn a_partition_is_silence_and_then_a_timeout() {
    let notes = Notes::default();
    let (reader, writer) = (notes.clone(), notes.clone());
    world(1, async move {
        let (a, b) = two();
        serve(a, |mut stream| async move {
            reader.result("first", stream.read(&mut [0; 8]).await);
            let silence = time::timeout(Duration::from_secs(60), stream.read(&mut [0; 8])).await;
            reader.add(format!("reader after a minute: {}", silence.unwrap_err()));
        });
        connect(b, |mut stream| async move {
            stream.write_all(b"x").await.unwrap();
            ms(100).await;
            let since = now_ms();
            writer.result("write into the partition", stream.write(b"lost").await);
            writer.result("read", stream.read(&mut [0; 8]).await);
            writer.add(format!("after {} s", (now_ms() - since) / 1_000));
        });
        ms(50).await;
        both_ways(a, b, |spec| spec.blocked = true);
        exited(&[a, b]).await;
    });
    let expected = [
        "first: 1",
        "write into the partition: 4",
        "read: TimedOut",
        "after 15 s",
        "reader after a minute: deadline passed",
    ];
    assert_eq!(notes.all(), expected);
}

#[test]
fn a_partition_that_heals_in_time_loses_nothing() {
    let finished = world(1, async {
        let (a, b) = two();
        serve(a, |mut stream| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert_eq!(all, b"0123456789");
        });
        connect(b, |mut stream| async move {
            for n in 0..10 {
                stream.write_all(&[b'0' + n]).await.unwrap();
                ms(1_000).await;
            }
        });
        for _ in 0..3 {
            ms(1_500).await;
            both_ways(a, b, |spec| spec.blocked = true);
            ms(1_500).await;
            both_ways(a, b, |spec| spec.blocked = false);
        }
        exited(&[a, b]).await;
    });
    assert!(finished.trace.count("packet_blocked") > 0);
    assert_eq!(finished.trace.count("tcp_timeout"), 0);
}

#[test]
fn without_a_way_back_the_sender_gives_up_though_its_bytes_arrived() {
    let notes = Notes::default();
    let (reader, writer) = (notes.clone(), notes.clone());
    world(1, async move {
        let (a, b) = two();
        serve(a, |mut stream| async move {
            ms(50).await;
            let mut buf = [0; 4];
            reader.result("arrived", stream.read_exact(&mut buf).await);
        });
        connect(b, |mut stream| async move {
            ms(30).await;
            stream.write_all(b"ping").await.unwrap();
            writer.result("no answer", stream.read(&mut [0; 8]).await);
        });
        ms(20).await;
        link::block(a, b, true);
        exited(&[a, b]).await;
    });
    assert_eq!(notes.all(), ["arrived: 4", "no answer: TimedOut"]);
}

#[test]
fn power_loss_is_silence_and_the_restarted_machine_resets() {
    let notes = Notes::default();
    let client = notes.clone();
    world(1, async move {
        let (a, b) = two();
        serve(a, keep);
        connect(b, |mut stream| async move {
            ms(2_000).await;
            let silence = time::timeout(Duration::from_secs(2), stream.read(&mut [0; 8])).await;
            client.add(format!("without power: {}", silence.unwrap_err()));
            ms(2_000).await;
            client.result("after the restart: write", stream.write(b"who are you").await);
            client.result("read", stream.read(&mut [0; 8]).await);
        });
        ms(1_000).await;
        machine::power_loss(a);
        ms(4_000).await;
        machine::start(a, std::future::pending::<()>);
        exited(&[b]).await;
    });
    let expected =
        ["without power: deadline passed", "after the restart: write: 11", "read: ConnectionReset"];
    assert_eq!(notes.all(), expected);
}

#[test]
fn connecting_waits_for_an_answer_and_only_a_live_machine_refuses() {
    let notes = Notes::default();
    let client = notes.clone();
    world(1, async move {
        let (a, b) = two();
        let attempt = async move || {
            let since = now_ms();
            let outcome = TcpStream::connect(address(1)).await.map(drop);
            (outcome, (now_ms() - since) / 1_000)
        };
        machine::start(b, move || async move {
            let (outcome, seconds) = attempt().await;
            client.result(&format!("no power, {seconds} s"), outcome);
            ms(5_000).await;
            let (outcome, seconds) = attempt().await;
            client.result(&format!("powered, {seconds} s"), outcome);
            ms(5_000).await;
            let (outcome, seconds) = attempt().await;
            client.result(&format!("partition that heals, {seconds} s"), outcome);
            ms(5_000).await;
            let (outcome, seconds) = attempt().await;
            client.result(&format!("partition that stays, {seconds} s"), outcome);
        });
        ms(17_000).await;
        machine::start(a, || async {
            ms(5_000).await;
            let listener = TcpListener::bind(ANY).await.unwrap();
            let _first = listener.accept().await;
            std::future::pending::<()>().await;
        });
        ms(6_000).await;
        both_ways(a, b, |spec| spec.blocked = true);
        ms(7_000).await;
        both_ways(a, b, |spec| spec.blocked = false);
        ms(4_000).await;
        both_ways(a, b, |spec| spec.blocked = true);
        exited(&[b]).await;
    });
    let expected = [
        "no power, 15 s: TimedOut",
        "powered, 0 s: ConnectionRefused",
        "partition that heals, 7 s: ()",
        "partition that stays, 15 s: TimedOut",
    ];
    assert_eq!(notes.all(), expected);
}

#[test]
fn a_blocked_writer_notices_that_its_peer_is_gone() {
    let notes = Notes::default();
    let writer = notes.clone();
    world(1, async move {
        let (a, b) = two();
        serve(a, keep);
        connect(b, |mut stream| async move {
            writer.result("write", stream.write_all(&vec![0; 2_000_000]).await);
            writer.add(format!("gave up within a minute: {}", now_ms() < 60_000));
        });
        ms(5_000).await;
        machine::power_loss(a);
        exited(&[b]).await;
    });
    assert_eq!(notes.all(), ["write: TimedOut", "gave up within a minute: true"]);
}

#[test]
fn held_packets_arrive_when_they_are_released() {
    let notes = Notes::default();
    let receiver = notes.clone();
    world(1, async move {
        let (a, b) = two();
        machine::start(a, || async move {
            let socket = UdpSocket::bind(ANY).await.unwrap();
            for _ in 0..2 {
                let (len, _) = socket.recv_from(&mut [0; 8]).await.unwrap();
                receiver.add(format!("{len} bytes after {} s", now_ms() / 1_000));
            }
        });
        link::update(b, a, |spec| spec.hold = true);
        machine::start(b, || async {
            let socket = UdpSocket::bind(ANY).await.unwrap();
            socket.send_to(b"x", address(1)).await.unwrap();
            socket.send_to(b"xy", address(1)).await.unwrap();
        });
        ms(3_000).await;
        link::update(b, a, |spec| spec.hold = false);
        exited(&[a]).await;
    });
    assert_eq!(notes.all(), ["1 bytes after 3 s", "2 bytes after 3 s"]);
}

#[test]
fn a_slow_link_takes_its_time() {
    world(1, async {
        let (a, b) = two();
        link::set_default(LinkSpec {
            bandwidth_bytes_per_s: Some(1_000_000),
            ..LinkSpec::default()
        });
        serve(a, |mut stream| async move {
            let mut all = Vec::new();
            stream.read_to_end(&mut all).await.unwrap();
            assert!((3_000..3_300).contains(&now_ms()), "3 MB took {} ms", now_ms());
        });
        connect(b, |mut stream| async move {
            stream.write_all(&vec![0; 3_000_000]).await.unwrap();
        });
        exited(&[a, b]).await;
    });
}

#[test]
fn datagrams_are_lost_doubled_and_overtaken() {
    let finished = world(1, async {
        let (a, b) = two();
        link::set_default(LinkSpec {
            loss: 0.1,
            duplicate: 0.1,
            reorder: 0.1,
            ..LinkSpec::default()
        });
        machine::start(a, || async {
            let socket = UdpSocket::bind(ANY).await.unwrap();
            let mut received = Vec::new();
            let mut buf = [0; 4];
            let patience = Duration::from_secs(1);
            while time::timeout(patience, socket.recv_from(&mut buf)).await.is_ok() {
                received.push(u32::from_le_bytes(buf));
            }
            let mut distinct = received.clone();
            distinct.sort_unstable();
            distinct.dedup();
            assert!((850..950).contains(&distinct.len()), "{} of 1000 came", distinct.len());
            assert!(received.len() > distinct.len() + 50, "too few came twice");
            assert!(!received.is_sorted(), "none was overtaken");
        });
        machine::start(b, || async {
            let socket = UdpSocket::bind(ANY).await.unwrap();
            for n in 0..1_000_u32 {
                socket.send_to(&n.to_le_bytes(), address(1)).await.unwrap();
                time::sleep(Duration::from_micros(500)).await;
            }
            // Larger than a frame: dropped without a word.
            socket.send_to(&[0; 1_473], address(1)).await.unwrap();
        });
        exited(&[a, b]).await;
    });
    assert_eq!(finished.trace.count("datagram_too_large"), 1);
}

#[test]
fn a_full_backlog_drops_the_request_and_a_later_try_succeeds() {
    world(1, async {
        let (a, b) = two();
        tcp::set(TcpSpec { backlog: 2, ..TcpSpec::default() });
        machine::start(a, || async {
            let listener = TcpListener::bind(ANY).await.unwrap();
            ms(2_000).await;
            for _ in 0..3 {
                listener.accept().await.unwrap();
            }
        });
        machine::start(b, || async {
            ms(1).await;
            let mut clients = Vec::new();
            for _ in 0..3 {
                clients.push(task::spawn(TcpStream::connect(address(1))));
            }
            for client in clients {
                client.await.unwrap().unwrap();
            }
            assert!((3_000..3_100).contains(&now_ms()), "the third was in at {} ms", now_ms());
        });
        exited(&[a, b]).await;
    });
}
