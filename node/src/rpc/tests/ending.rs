//! How connections end: death, damage, idleness, drain, stop.

use super::*;

#[test]
fn a_dead_server_fails_all_calls_at_once_and_a_new_one_is_found() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        let (_peers, peer) = caller(&addr, quick());
        let (mut stream, mut frames) = accept_by_hand(&listener).await;
        until("usable", || peer.is_usable()).await;
        let calls: Vec<_> = (0..100).map(|i| peer.call(long(), &fetch(i))).collect();
        for _ in 0..100 {
            next_request(&mut stream, &mut frames).await;
        }
        let began = time::now();
        drop((stream, listener));
        for call in calls {
            let error = call.await.unwrap_err();
            assert!(error.was_sent() && matches!(error, CallError::Lost(_)), "{error:?}");
        }
        assert!(time::now().since(began) < Duration::from_secs(5), "calls waited for a dead peer");
        assert!(!peer.is_usable());
        let refused = peer.call(long(), &fetch("x")).await.unwrap_err();
        assert_eq!(refused, CallError::NotSent(NotSent::NotConnected));
        assert!(!refused.was_sent());

        let n2 = server_at(&addr, quick(), stored).await;
        until("usable again", || peer.is_usable()).await;
        assert_eq!(peer.call(long(), &fetch("x")).await, Ok(Reply::Stored));
        assert_eq!(n2.server.counters().accepted, 1);
        let counters = peer.status().counters;
        assert_eq!((counters.connects, counters.lost, counters.not_connected), (2, 100, 1));
    });
}

#[test]
fn damage_on_a_running_connection_closes_it() {
    run(async {
        let n2 = server(quick(), stored).await;
        let good = request_frame(5, Duration::from_secs(1), &fetch("k"));
        let mut flipped = good.clone();
        *flipped.last_mut().unwrap() ^= 1;
        let mut huge = good.clone();
        huge[8] = 0xff;
        let mut unknown = Vec::new();
        frame::encode(Kind::Request, 100, &mut unknown, |out| out.extend_from_slice(&[9; 30]))
            .unwrap();
        let mut misplaced = Vec::new();
        frame::encode(Kind::Reply, 100, &mut misplaced, |_| {}).unwrap();
        for (i, bad) in [flipped, huge, unknown, misplaced].into_iter().enumerate() {
            let (mut stream, mut frames) = call_by_hand(&n2.addr).await;
            stream.write_all(&good).await.unwrap();
            assert_eq!(next_reply(&mut stream, &mut frames).await, Some((5, Reply::Stored)));
            stream.write_all(&bad).await.unwrap();
            assert_eq!(next_reply(&mut stream, &mut frames).await, None, "case {i}");
            until("counted", || n2.server.counters().malformed == i as u64 + 1).await;
        }
    });
}

#[test]
fn a_bad_reply_ends_the_connection_not_the_process() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (_peers, peer) = caller(&listener.local_addr().unwrap().to_string(), quick());
        let (mut stream, mut frames) = accept_by_hand(&listener).await;
        until("usable", || peer.is_usable()).await;
        let call = peer.call(long(), &fetch("k"));
        next_request(&mut stream, &mut frames).await;
        let mut bad = Vec::new();
        frame::encode(Kind::Reply, 100, &mut bad, |out| out.extend_from_slice(&[99; 12])).unwrap();
        stream.write_all(&bad).await.unwrap();
        let error = call.await.unwrap_err();
        assert!(matches!(&error, CallError::Lost(why) if why.contains("malformed reply")));
    });
}

#[test]
fn a_connection_without_a_sign_of_life_is_closed() {
    run(async {
        let options = Options {
            idle_timeout: Duration::from_millis(60),
            ping_interval: Duration::from_millis(20),
            silent_after: Duration::from_millis(2000),
            dead_after: Duration::from_millis(2000),
            ..quick()
        };
        let n2 = server(options.clone(), stored).await;
        let (mut stream, mut frames) = call_by_hand(&n2.addr).await;
        assert_eq!(next_reply(&mut stream, &mut frames).await, None);
        until("closed", || n2.server.counters().connections == 0).await;
    });
}

#[test]
fn draining_finishes_what_runs_and_takes_nothing_new() {
    run(async {
        let go = Arc::new(Notify::new());
        let gate = Arc::clone(&go);
        let n2 = server(quick(), move |_, _, _| {
            let gate = Arc::clone(&gate);
            Handled::Later(Box::pin(async move {
                gate.notified().await;
                Reply::Stored
            }))
        })
        .await;
        let (_peers, peer) = connected(&n2.addr, quick()).await;
        let call = peer.call(long(), &fetch("1"));
        until("running", || n2.server.counters().waiting == 1).await;
        n2.shutdown.notify_one();
        until("leaving", || peer.status().state == PeerState::Leaving).await;
        assert!(!peer.is_usable());
        let refused = CallError::NotSent(NotSent::NotConnected);
        assert_eq!(peer.call(long(), &fetch("2")).await, Err(refused));
        assert!(!n2.done.is_finished());
        go.notify_one();
        assert_eq!(call.await, Ok(Reply::Stored));
        n2.done.await.unwrap();
        assert_eq!(n2.server.counters().connections, 0);
        assert_eq!(peer.status().counters.lost, 0);
    });
}

#[test]
fn draining_cuts_off_who_does_not_finish() {
    run(async {
        let options = Options { drain_timeout: Duration::from_millis(50), ..quick() };
        let n2 = server(options, never).await;
        let (_peers, peer) = connected(&n2.addr, quick()).await;
        let call = peer.call(long(), &fetch("1"));
        until("running", || n2.server.counters().waiting == 1).await;
        n2.shutdown.notify_one();
        n2.done.await.unwrap();
        assert!(matches!(call.await, Err(CallError::Lost(_))));
    });
}

#[test]
fn draining_does_not_wait_for_a_caller_that_hears_nothing_once_nothing_runs() {
    run(async {
        let options = Options {
            drain_timeout: Duration::from_secs(3600),
            goodbye_timeout: Duration::from_millis(300),
            ..quick()
        };
        let go = Arc::new(Notify::new());
        let gate = Arc::clone(&go);
        let n2 = server(options, move |_, _, _| {
            let gate = Arc::clone(&gate);
            Handled::Later(Box::pin(async move {
                gate.notified().await;
                Reply::Stored
            }))
        })
        .await;
        // It hears nothing of the goodbye, and never closes.
        let (mut stream, mut frames) = call_by_hand(&n2.addr).await;
        let frame = request_frame(5, Duration::from_secs(60), &fetch("k"));
        stream.write_all(&frame).await.unwrap();
        until("running", || n2.server.counters().waiting == 1).await;
        n2.shutdown.notify_one();
        // Work is waited for longer than callers are; and then its reply has time to leave.
        time::sleep(Duration::from_millis(600)).await;
        assert!(!n2.done.is_finished(), "work that runs was cut off");
        go.notify_one();
        // The goodbye, and the reply.
        for kind in [Kind::Goodbye, Kind::Reply] {
            let came = loop {
                if let Some(frame) = frames.next_frame().unwrap() {
                    break frame.kind;
                }
                assert_ne!(frames.fill(&mut stream).await.unwrap(), 0, "cut off before {kind:?}");
            };
            assert_eq!(came, kind);
        }
        let ended = time::timeout(Duration::from_secs(10), n2.done).await;
        assert!(ended.is_ok(), "waited for one who hears nothing");
        drop(stream);
    });
}

#[test]
fn peers_that_are_dropped_or_stopped_close_their_connections() {
    run(async {
        let n2 = server(quick(), never).await;
        let (peers, peer) = connected(&n2.addr, quick()).await;
        let seen = peers.version();
        let call = peer.call(long(), &fetch("1"));
        peers.stop();
        assert!(matches!(call.await, Err(CallError::NotSent(_) | CallError::Lost(_))));
        assert_ne!(peers.changed(seen).await, seen);
        assert_eq!(peer.status().state, PeerState::Stopped);
        until("closed", || n2.server.counters().connections == 0).await;
        let (peers, peer) = connected(&n2.addr, quick()).await;
        drop(peers);
        until("stopped", || peer.status().state == PeerState::Stopped).await;
    });
}

#[test]
fn a_peer_that_calls_us_is_called_back_at_once() {
    run(async {
        // Nobody listens there yet, and the next attempt is an hour away.
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap().to_string();
        drop(listener);
        let hour = Duration::from_secs(3600);
        let options = Options { backoff_min: hour, backoff_max: hour, ..quick() };
        let n1 = local("n1");
        let peers = Peers::start(&n1, vec![("n2".to_owned(), addr.clone())], options);
        let peer = peers.get("n2").unwrap();
        until("down", || peer.status().state == PeerState::Down).await;
        let down_since = peer.status().since;

        let n2 = server_at(&addr, quick(), stored).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let own = listener.local_addr().unwrap().to_string();
        let handler = Arc::new(Scripted { answer: Box::new(stored) });
        let own_side = Server::new(&n1, handler, quick());
        task::spawn(async move { own_side.serve(listener, std::future::pending()).await });
        let back = Peers::start(&local("n2"), vec![("n1".to_owned(), own)], quick());
        assert!(back.get("n1").unwrap().wait_usable(long().deadline).await);
        until("usable", || peer.is_usable()).await;
        assert_eq!(n2.server.counters().accepted, 1);
        assert!(peer.status().since > down_since);
    });
}
