//! How much real time the world takes: messages, sleeps, and an idle connection under loss.
//!
//! `cargo run --config "build.rustflags=['--cfg','madsim']" --config
//! "build.target-dir='target/sim'" --profile sim -p starling-world --example speed`

#[cfg(not(madsim))]
fn main() {}

#[cfg(madsim)]
fn main() {
    measured::main();
}

#[cfg(madsim)]
mod measured {
    use std::future::Future;
    use std::net::SocketAddr;
    use std::time::{Duration, Instant};

    use starling_world::link::LinkSpec;
    use starling_world::net::{TcpListener, TcpStream, UdpSocket};
    use starling_world::trace::Keep;
    use starling_world::{Config, link, machine, run, time};
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    const TURNS: u32 = 100_000;

    pub(super) fn main() {
        report("TCP round trip of 100 bytes", TURNS, tcp(LinkSpec::default()));
        let lossy = LinkSpec { loss: 0.01, duplicate: 0.01, ..LinkSpec::default() };
        report("the same with 1 % lost and 1 % doubled", TURNS, tcp(lossy));
        report("UDP round trip of 100 bytes", TURNS, udp());
        report("sleep of 1 ms, one after the other", TURNS, sleeps(1));
        report("sleep of 1 ms, 100 at a time", TURNS, sleeps(100));
    }

    #[expect(clippy::print_stdout, reason = "this program's purpose")]
    fn report(what: &str, times: u32, work: impl Future<Output = ()> + Send + 'static) {
        let config = Config { seed: 1, wall_start_ms: 0, keep_trace: Keep::Nothing };
        let before = Instant::now();
        let finished = run(config, work);
        let each = before.elapsed() / times;
        let packets = finished.trace.count("packet_delivered");
        println!("{what}: {each:?} each, {:.1} packets each", packets as f64 / f64::from(times));
    }

    async fn until_exit(id: starling_world::process::MachineId) {
        while !machine::exited(id) {
            time::sleep(Duration::from_millis(100)).await;
        }
    }

    async fn tcp(spec: LinkSpec) {
        link::set_default(spec);
        let server = machine::add("server", [10, 0, 0, 1]);
        let client = machine::add("client", [10, 0, 0, 2]);
        machine::start(server, || async {
            let address = SocketAddr::from(([0, 0, 0, 0], 80));
            let listener = TcpListener::bind(address).await.expect("the port is free");
            let (mut stream, _) = listener.accept().await.expect("accept cannot fail");
            let mut buf = [0; 100];
            while stream.read_exact(&mut buf).await.is_ok() {
                stream.write_all(&buf).await.expect("the client reads");
            }
        });
        machine::start(client, || async {
            time::sleep(Duration::from_millis(1)).await;
            let mut stream = TcpStream::connect("server:80").await.expect("the server listens");
            let mut buf = [7; 100];
            for _ in 0..TURNS {
                stream.write_all(&buf).await.expect("the server reads");
                stream.read_exact(&mut buf).await.expect("the server answers");
            }
        });
        until_exit(client).await;
    }

    async fn udp() {
        let server = machine::add("server", [10, 0, 0, 1]);
        let client = machine::add("client", [10, 0, 0, 2]);
        let address = SocketAddr::from(([10, 0, 0, 1], 80));
        machine::start(server, move || async move {
            let socket = UdpSocket::bind(address).await.expect("the port is free");
            let mut buf = [0; 100];
            while let Ok((len, from)) = socket.recv_from(&mut buf).await {
                socket.send_to(&buf[..len], from).await.expect("sending cannot fail");
            }
        });
        machine::start(client, move || async move {
            time::sleep(Duration::from_millis(1)).await;
            let any = SocketAddr::from(([0, 0, 0, 0], 0));
            let socket = UdpSocket::bind(any).await.expect("a port is free");
            let mut buf = [7; 100];
            for _ in 0..TURNS {
                socket.send_to(&buf, address).await.expect("sending cannot fail");
                socket.recv_from(&mut buf).await.expect("the server answers");
            }
        });
        until_exit(client).await;
    }

    async fn sleeps(tasks: u32) {
        let machine = machine::add("sleeper", [10, 0, 0, 1]);
        machine::start(machine, move || async move {
            let sleepers = (0..tasks).map(|_| {
                starling_world::task::spawn(async move {
                    for _ in 0..TURNS / tasks {
                        time::sleep(Duration::from_millis(1)).await;
                    }
                })
            });
            for sleeper in sleepers.collect::<Vec<_>>() {
                sleeper.await.expect("nobody aborts it");
            }
        });
        until_exit(machine).await;
    }
}
