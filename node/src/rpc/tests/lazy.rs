//! Peers that are connected only while somebody needs them, and peers that move.

use super::*;

fn lazy() -> Options {
    Options { idle_after: Some(Duration::from_millis(50)), ..quick() }
}

#[test]
fn the_first_call_connects_and_disuse_lets_go() {
    run(async {
        let n2 = server(quick(), stored).await;
        let (_peers, peer) = caller(&n2.addr, lazy());
        until("idle", || peer.is_idle()).await;
        assert_eq!(n2.server.counters().accepted, 0);
        assert_eq!(peer.call(long(), &fetch("1")).await, Err(NotSent::NotConnected.into()));
        for round in 1..=2 {
            assert!(peer.wait_usable(long().deadline).await);
            assert!(!peer.is_idle());
            assert_eq!(peer.call(long(), &fetch("2")).await, Ok(Reply::Stored));
            until("idle again", || peer.is_idle()).await;
            until("closed", || n2.server.counters().connections == 0).await;
            assert_eq!(n2.server.counters().accepted, round);
        }
    });
}

#[test]
fn a_connection_with_a_call_under_way_is_not_let_go() {
    run(async {
        let n2 = server(quick(), never).await;
        let options = Options {
            ping_interval: Duration::from_millis(20),
            silent_after: Duration::from_secs(5),
            dead_after: Duration::from_secs(9),
            ..lazy()
        };
        let (_peers, peer) = caller(&n2.addr, options);
        assert!(peer.wait_usable(long().deadline).await);
        let call = peer.call(head(Duration::from_millis(300)), &fetch("1"));
        assert_eq!(call.await, Err(CallError::Deadline), "not lost with its connection");
        until("idle", || peer.is_idle()).await;
    });
}

#[test]
fn a_peer_that_moved_is_found_at_its_new_address_without_waiting() {
    run(async {
        let hour = Duration::from_secs(3600);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let nowhere = listener.local_addr().unwrap().to_string();
        drop(listener);
        let patient = Options { backoff_min: hour, backoff_max: hour, ..quick() };
        let (_peers, peer) = caller(&nowhere, patient);
        until("down", || peer.status().state == PeerState::Down).await;
        let n2 = server(quick(), stored).await;
        peer.set_address(&n2.addr);
        assert!(peer.wait_usable(long().deadline).await);
        assert_eq!(*peer.status().addr, *n2.addr);
    });
}
