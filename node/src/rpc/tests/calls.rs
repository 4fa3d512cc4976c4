//! Calls: answers, order, deadlines, signs of life.

use super::*;

#[test]
fn ten_thousand_calls_at_once_each_get_their_own_answer() {
    run(async {
        let options = Options { in_flight_max: 10_000, ..quick() };
        let n2 = server(
            Options { waiting_per_connection_max: 10_000, waiting_total_max: 10_000, ..quick() },
            |_, _, request| {
                let Request::Fetch { key, .. } = request else { panic!("{request:?}") };
                let reply = Reply::Found(object(key.name().as_bytes().to_vec()));
                if key.token().0 % 2 == 0 {
                    return Handled::Now(reply);
                }
                Handled::Later(Box::pin(async move {
                    // Out of order: each waits a while of its own.
                    for _ in 0..key.token().0 % 7 {
                        task::yield_now().await;
                    }
                    reply
                }))
            },
        )
        .await;
        let (_peers, peer) = connected(&n2.addr, options).await;
        let calls: Vec<_> = (0..10_000).map(|i| peer.call(long(), &fetch(i))).collect();
        for (i, call) in calls.into_iter().enumerate() {
            let expected = Reply::Found(object(i.to_string().into_bytes()));
            assert_eq!(call.await, Ok(expected), "call {i}");
        }
        let counters = peer.status().counters;
        assert_eq!((counters.calls, counters.replies), (10_000, 10_000));
        assert_eq!(n2.server.counters().requests, 10_000);
        assert_eq!(n2.server.counters().waiting, 0);
    });
}

#[test]
fn requests_arrive_in_the_order_of_the_calls_with_id_and_deadline() {
    run(async {
        let seen = Arc::new(std::sync::Mutex::new(Vec::new()));
        let log = Arc::clone(&seen);
        let n2 = server(quick(), move |head, from, request| {
            let Request::Fetch { key, .. } = request else { panic!("{request:?}") };
            let left = head.deadline.since(time::now());
            assert!(left > Duration::from_secs(5) && left <= Duration::from_secs(30), "{left:?}");
            assert_eq!((head.request_id, &*from.name), (77, "n1"));
            log.lock().unwrap().push(key.name().to_owned());
            Handled::Now(Reply::Absent)
        })
        .await;
        let (_peers, peer) = connected(&n2.addr, quick()).await;
        let calls: Vec<_> = (0..100).map(|i| peer.call(long(), &fetch(i))).collect();
        for call in calls.into_iter().rev() {
            assert_eq!(call.await, Ok(Reply::Absent));
        }
        let expected: Vec<String> = (0..100).map(|i| i.to_string()).collect();
        assert_eq!(*seen.lock().unwrap(), expected);
    });
}

#[test]
fn a_silent_peer_costs_the_deadline_then_its_usability_then_the_connection() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options {
            ping_interval: Duration::from_millis(50),
            silent_after: Duration::from_millis(150),
            dead_after: Duration::from_millis(400),
            ..quick()
        };
        let (_peers, peer) = caller(&listener.local_addr().unwrap().to_string(), options);
        let _silent = accept_by_hand(&listener).await;
        until("usable", || peer.is_usable()).await;
        let up = time::now();
        let patient = peer.call(long(), &fetch("patient"));
        let hasty = peer.call(head(Duration::from_millis(30)), &fetch("hasty"));
        assert_eq!(hasty.await, Err(CallError::Deadline));
        let waited = time::now().since(up);
        assert!(waited >= Duration::from_millis(30), "{waited:?}");
        assert!(waited < Duration::from_millis(130), "later than its deadline: {waited:?}");
        until("silent", || peer.status().state == PeerState::Silent).await;
        assert!(!peer.is_usable());
        let error = patient.await.unwrap_err();
        assert!(matches!(&error, CallError::Lost(why) if why.contains("nothing was heard")));
        let waited = time::now().since(up);
        assert!(waited >= Duration::from_millis(300) && waited < Duration::from_secs(5));
        assert_eq!(peer.status().counters.deadlines, 1);
    });
}

#[test]
fn a_deadline_before_all_others_wakes_the_timekeeper() {
    run(async {
        let n2 = server(quick(), never).await;
        let (_peers, peer) = connected(&n2.addr, quick()).await;
        // By now the connection's one timer is set for its next ping, half a second away or more.
        assert_eq!(peer.call(long(), &Request::Ping).await, Ok(Reply::Pong));
        let patient = peer.call(long(), &fetch("patient"));
        let began = time::now();
        for limit_ms in [60, 20] {
            let limit = Duration::from_millis(limit_ms);
            assert_eq!(peer.call(head(limit), &fetch("hasty")).await, Err(CallError::Deadline));
        }
        let waited = time::now().since(began);
        assert!(waited >= Duration::from_millis(80), "{waited:?}");
        assert!(waited < Duration::from_millis(400), "later than the deadlines: {waited:?}");
        drop(patient);
    });
}

#[test]
fn a_peer_that_answers_nothing_but_pings_stays_usable() {
    run(async {
        let options = Options {
            ping_interval: Duration::from_millis(5),
            silent_after: Duration::from_millis(2000),
            dead_after: Duration::from_millis(4000),
            ..quick()
        };
        let n2 = server(quick(), never).await;
        let (_peers, peer) = connected(&n2.addr, options).await;
        let call = peer.call(head(Duration::from_millis(100)), &fetch("x"));
        assert_eq!(call.await, Err(CallError::Deadline));
        assert!(peer.is_usable());
        assert!(peer.status().rtt.is_some(), "pings measure the round trip");
        assert_eq!(peer.call(long(), &Request::Ping).await, Ok(Reply::Pong));
    });
}

#[test]
fn a_late_request_is_dropped_and_counted() {
    run(async {
        let n2 = server(quick(), stored).await;
        let (mut stream, mut frames) = call_by_hand(&n2.addr).await;
        let mut bytes = request_frame(1, Duration::ZERO, &fetch("late"));
        bytes.extend(request_frame(2, Duration::from_secs(1), &fetch("in time")));
        stream.write_all(&bytes).await.unwrap();
        assert_eq!(next_reply(&mut stream, &mut frames).await, Some((2, Reply::Stored)));
        assert_eq!(n2.server.counters().late, 1);
    });
}
