//! Where a row is performed, and the props that the facade alone cannot provide: a machine that
//! does not answer, and a peer in a process of its own that can be killed.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use starling::runtime::net::{TcpListener, TcpStream};
use starling::runtime::{signal, time};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

#[cfg(not(madsim))]
pub(crate) use real::{SEEDS, Stage, perform};
#[cfg(madsim)]
pub(crate) use simulated::{SEEDS, Stage, perform};

/// What a peer does in its process. Each is told an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Part {
    /// Connects, sends `hello`, and then neither reads nor writes.
    SayHello,
    /// Listens and greets whoever connects with `hello`.
    Greet,
    /// Connects, sends `ready` and waits for the request to stop; then sends `bye` and exits.
    StopWhenAsked,
}

const PARTS: [(Part, &str); 3] = [
    (Part::SayHello, "say-hello"),
    (Part::Greet, "greet"),
    (Part::StopWhenAsked, "stop-when-asked"),
];

/// What the peer's process runs.
async fn play(part: Part, address: SocketAddr) {
    match part {
        Part::SayHello => {
            let mut stream = TcpStream::connect(address).await.unwrap();
            stream.write_all(b"hello").await.unwrap();
            time::sleep(Duration::from_secs(600)).await;
        }
        Part::Greet => {
            let listener = TcpListener::bind(address).await.unwrap();
            loop {
                let (mut stream, _) = listener.accept().await.unwrap();
                stream.write_all(b"hello").await.unwrap();
            }
        }
        Part::StopWhenAsked => {
            let mut stream = TcpStream::connect(address).await.unwrap();
            // The handler is there before the other side may send the signal.
            let mut stop = std::pin::pin!(signal::shutdown());
            let early = time::timeout(Duration::from_millis(1), stop.as_mut()).await;
            assert!(early.is_err(), "asked to stop before anybody asked");
            stream.write_all(b"ready").await.unwrap();
            stop.await.unwrap();
            stream.write_all(b"bye").await.unwrap();
        }
    }
}

/// Reads exactly what is expected, as text.
pub(crate) async fn read_text(stream: &mut TcpStream, len: usize) -> String {
    let mut buf = vec![0; len];
    stream.read_exact(&mut buf).await.unwrap();
    String::from_utf8(buf).unwrap()
}

#[cfg(not(madsim))]
mod real {
    use std::future::Future;
    use std::net::Ipv4Addr;
    use std::process::{Child, Command, Stdio};

    use super::{Duration, IpAddr, PARTS, Part, SocketAddr, TcpStream, play, time};

    const PART: &str = "STARLING_CONFORMANCE_PART";
    const ADDRESS: &str = "STARLING_CONFORMANCE_ADDRESS";

    /// The operating system, over loopback.
    #[derive(Debug)]
    pub(crate) struct Stage {
        /// What keeps a dead address dead.
        kept: Vec<TcpStream>,
    }

    /// A peer in a process of its own: this binary again, told to play a part.
    #[derive(Debug)]
    pub(crate) struct Peer {
        part: Part,
        address: SocketAddr,
        child: Child,
    }

    /// The operating system has no seed: each row runs once.
    pub(crate) const SEEDS: std::ops::Range<u64> = 0..1;

    pub(crate) fn perform<F: Future<Output = ()>>(_seed: u64, program: impl FnOnce(Stage) -> F) {
        starling::runtime::task::block_on(1, program(Stage { kept: Vec::new() })).unwrap();
    }

    impl Stage {
        pub(crate) const fn ip(&self) -> IpAddr {
            IpAddr::V4(Ipv4Addr::LOCALHOST)
        }

        /// An address that answers nothing: a listener whose backlog is full drops every SYN, as
        /// a dead machine would.
        pub(crate) async fn dead_address(&mut self) -> SocketAddr {
            let socket = tokio::net::TcpSocket::new_v4().unwrap();
            socket.bind(SocketAddr::new(self.ip(), 0)).unwrap();
            let listener = Box::leak(Box::new(socket.listen(1).unwrap()));
            let address = listener.local_addr().unwrap();
            loop {
                let attempt = TcpStream::connect(address);
                match time::timeout(Duration::from_millis(200), attempt).await {
                    Ok(stream) => self.kept.push(stream.unwrap()),
                    Err(_) => return address,
                }
            }
        }

        /// An address that the next peer can listen on.
        pub(crate) fn peer_address(&self) -> SocketAddr {
            let free = std::net::TcpListener::bind(SocketAddr::new(self.ip(), 0)).unwrap();
            free.local_addr().unwrap()
        }

        /// Starts a peer.
        pub(crate) fn peer(&mut self, part: Part, address: SocketAddr) -> Peer {
            Peer { part, address, child: spawn(part, address) }
        }
    }

    fn spawn(part: Part, address: SocketAddr) -> Child {
        let (_, name) = PARTS.iter().find(|(known, _)| *known == part).unwrap();
        let mut command = Command::new(std::env::current_exe().unwrap());
        command.args(["--exact", "stage::real::peer_process", "--nocapture"]);
        command.env(PART, name).env(ADDRESS, address.to_string());
        command.stdout(Stdio::null()).spawn().unwrap()
    }

    impl Peer {
        /// Starts a killed peer again.
        pub(crate) fn start_again(&mut self) {
            self.child = spawn(self.part, self.address);
        }

        /// SIGKILL.
        pub(crate) fn kill(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }

        /// SIGTERM.
        pub(crate) fn ask_to_stop(&self) {
            let id = self.child.id().to_string();
            assert!(Command::new("kill").args(["-TERM", &id]).status().unwrap().success());
        }
    }

    impl Drop for Peer {
        fn drop(&mut self) {
            self.child.kill().unwrap();
            self.child.wait().unwrap();
        }
    }

    /// The peer's process, when the environment says so; else nothing.
    #[test]
    fn peer_process() {
        if let (Ok(name), Ok(address)) = (std::env::var(PART), std::env::var(ADDRESS)) {
            let (part, _) = PARTS.iter().find(|(_, known)| *known == name).unwrap();
            let address = address.parse().unwrap();
            starling::runtime::task::block_on(1, play(*part, address)).unwrap();
        }
    }
}

#[cfg(madsim)]
mod simulated {
    use std::future::Future;

    use starling_world::process::MachineId;
    use starling_world::trace::Keep;
    use starling_world::{Config, machine};

    use super::{Duration, IpAddr, PARTS, Part, SocketAddr, play, time};

    /// A machine of the simulated world, in a network with others.
    #[derive(Debug)]
    pub(crate) struct Stage {
        machines: u8,
    }

    /// A peer on a machine of its own.
    #[derive(Debug)]
    pub(crate) struct Peer {
        part: Part,
        address: SocketAddr,
        machine: MachineId,
    }

    /// Each is another order of tasks and other delays.
    pub(crate) const SEEDS: std::ops::Range<u64> = 1..11;

    pub(crate) fn perform<F>(seed: u64, program: impl FnOnce(Stage) -> F + Send + 'static)
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let config = Config { seed, wall_start_ms: 1_700_000_000_000, keep_trace: Keep::Nothing };
        starling_world::run(config, async {
            let here = machine::add("here", [10, 0, 0, 1]);
            machine::start(here, move || program(Stage { machines: 1 }));
            while !machine::exited(here) {
                time::sleep(Duration::from_millis(10)).await;
            }
        });
    }

    impl Stage {
        pub(crate) fn ip(&self) -> IpAddr {
            IpAddr::from([10, 0, 0, 1])
        }

        /// The address of a machine without power.
        pub(crate) async fn dead_address(&mut self) -> SocketAddr {
            let dead = self.machine("dead");
            SocketAddr::new(machine::ip(dead), 80)
        }

        /// An address that the next peer can listen on.
        pub(crate) fn peer_address(&self) -> SocketAddr {
            SocketAddr::from(([10, 0, 0, self.machines + 1], 7_000))
        }

        /// Starts a peer.
        pub(crate) fn peer(&mut self, part: Part, address: SocketAddr) -> Peer {
            let (_, name) = PARTS.iter().find(|(known, _)| *known == part).unwrap();
            let machine = self.machine(name);
            machine::start(machine, move || play(part, address));
            Peer { part, address, machine }
        }

        fn machine(&mut self, name: &str) -> MachineId {
            self.machines += 1;
            machine::add(&format!("{name}-{}", self.machines), [10, 0, 0, self.machines])
        }
    }

    impl Peer {
        pub(crate) fn start_again(&mut self) {
            let (part, address) = (self.part, self.address);
            machine::start(self.machine, move || play(part, address));
        }

        pub(crate) fn kill(&mut self) {
            machine::kill_process(self.machine);
        }

        pub(crate) fn ask_to_stop(&self) {
            machine::ask_to_stop(self.machine);
        }
    }
}
