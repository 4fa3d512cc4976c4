//! Handshakes: strangers, nonsense, and what both sides learn.

use super::*;

#[test]
fn strangers_are_refused_and_told_why() {
    run(async {
        let n2 = server(quick(), stored).await;
        let mut lines = Vec::new();
        let strangers = [
            ("other", "n1", "n2", 0),
            ("test", "n1", "n3", 0),
            ("test", "n9", "n2", 0),
            ("test", "n1", "n2", 7),
        ];
        for (cluster, name, to, policies) in strangers {
            let local = LocalInfo::new(cluster, name, NodeId(1), 1).with_policies(policies);
            let peers = vec![(to.to_owned(), n2.addr.clone())];
            let peers = Peers::start(&local, peers, quick());
            let peer = peers.get(to).unwrap();
            until("refused", || peer.status().last_error.is_some()).await;
            assert!(!peer.is_usable());
            lines.push(peer.status().last_error.unwrap().to_string());
        }
        insta::assert_snapshot!(lines.join("\n"), @r#"
        peer n2: refused by the peer: it belongs to cluster "test": check the addresses and cluster names
        peer n3: refused by the peer: it is member "n2": check the members' addresses
        peer n2: refused by the peer: it knows no member of this name: add it to its configuration
        peer n2: refused by the peer: it resolves conflicts differently: let `buckets`, `limits.vector_actors` and `limits.vector_age_s` say the same on all nodes
        "#);
        assert!(n2.server.counters().refused >= 4);
        assert_eq!(n2.server.counters().accepted, 0);
    });
}

/// Sends `bytes` to the server and returns all that it answers until it closes.
async fn knock(addr: &str, bytes: &[u8]) -> Vec<u8> {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(bytes).await.unwrap();
    let mut answer = Vec::new();
    stream.read_to_end(&mut answer).await.unwrap();
    answer
}

#[test]
fn what_is_no_hello_is_answered_with_a_reason_and_closed() {
    run(async {
        let options = Options { handshake_timeout: Duration::from_millis(50), ..quick() };
        let n2 = server(options, stored).await;
        let reason = |answer: &[u8]| {
            let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
            frames.push(answer);
            let frame = frames.next_frame().unwrap().unwrap();
            assert_eq!(frame.kind, Kind::Refused);
            HandshakeRefusal::decode(frame.payload).unwrap()
        };
        let http = knock(&n2.addr, b"GET / HTTP/1.1\r\nHost: x\r\n\r\n").await;
        assert_eq!(reason(&http), HandshakeRefusal::Malformed);

        let mut hello = Vec::new();
        frame::encode(Kind::Hello, 100, &mut hello, |out| out.extend_from_slice(b"??")).unwrap();
        assert_eq!(reason(&knock(&n2.addr, &hello).await), HandshakeRefusal::Malformed);
        hello[5] = 2;
        let answer = knock(&n2.addr, &hello).await;
        assert_eq!(reason(&answer), HandshakeRefusal::OtherVersion { speaks: 1 });
        hello[8..12].copy_from_slice(&u32::MAX.to_be_bytes());
        hello[5] = 1;
        assert_eq!(reason(&knock(&n2.addr, &hello).await), HandshakeRefusal::Malformed);

        let half = &hello[..7];
        assert_eq!(knock(&n2.addr, half).await, b"", "who never finishes is dropped");
        until("all counted", || n2.server.counters().refused == 5).await;
        until("all closed", || n2.server.counters().connections == 0).await;
    });
}

#[test]
fn each_side_learns_what_the_other_has_seen_of_it() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let n2 = local("n2");
        let admit = |_: &str| Ok(());
        let mut infos = Vec::new();
        // Three starts of n1; the third finds an old copy of the folder.
        for generation in [4, 5, 5] {
            let n1 = LocalInfo::new("test", "n1", NodeId(1), generation);
            let peers = vec![("n2".to_owned(), listener.local_addr().unwrap().to_string())];
            let peers = Peers::start(&n1, peers, quick());
            let (mut stream, addr) = listener.accept().await.unwrap();
            let mut frames = FrameReader::new(HANDSHAKE_BYTES_MAX);
            let seen = handshake::answer(&mut stream, &mut frames, &n2, addr, admit).await;
            assert_eq!(seen.unwrap().sighting, n1.sighting());
            let peer = peers.get("n2").unwrap();
            until("usable", || peer.is_usable()).await;
            let info = peer.status().info.unwrap();
            assert_eq!(info.sighting, n2.sighting());
            infos.push((info.saw_us, info.saw_us.is_some_and(|seen| n1.is_outdated_by(&seen))));
        }
        assert_eq!(infos[0], (None, false));
        assert_eq!((infos[1].0.unwrap().generation, infos[1].1), (4, false));
        assert_eq!((infos[2].0.unwrap().generation, infos[2].1), (5, true));
    });
}
