//! What happens at each bound.

use super::*;

#[test]
fn calls_over_the_bounds_are_refused_and_counted() {
    run(async {
        let n2 = server(quick(), never).await;
        let options = Options { in_flight_max: 2, payload_bytes_max: 1000, ..quick() };
        let (_peers, peer) = connected(&n2.addr, options).await;
        let kept = [peer.call(long(), &fetch("1")), peer.call(long(), &fetch("2"))];
        let full = CallError::NotSent(NotSent::QueueFull);
        assert_eq!(peer.call(long(), &fetch("3")).await, Err(full));
        assert_eq!(peer.status().counters.queue_full, 1);
        drop(kept);
        let large = Request::Replicate { key: key("k"), object: object(vec![0; 1000]) };
        let too_large = CallError::NotSent(NotSent::TooLarge { max: 1000 });
        assert_eq!(peer.call(long(), &large).await, Err(too_large));
        assert_eq!(peer.status().in_flight, 0, "dropped and refused calls hold no slot");
        let passed = CallError::NotSent(NotSent::DeadlinePassed);
        assert_eq!(peer.call(head(Duration::ZERO), &fetch("4")).await, Err(passed));
    });
}

#[test]
fn a_peer_that_reads_nothing_fills_the_queue_only_to_its_bound() {
    run(async {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let options = Options { queue_bytes_max: 1 << 20, in_flight_max: 1 << 20, ..quick() };
        let (_peers, peer) = caller(&listener.local_addr().unwrap().to_string(), options);
        let (stream, _frames) = accept_by_hand(&listener).await;
        until("usable", || peer.is_usable()).await;
        let request = Request::Replicate { key: key("k"), object: object(vec![0; 64 << 10]) };
        let mut calls = Vec::new();
        let mut refused = 0;
        // The kernel's buffers fill first; then ours does, and stays full.
        while refused < 100 {
            let call = peer.call(long(), &request);
            task::yield_now().await;
            let full = peer.status().counters.queue_full;
            refused = if full > refused { full } else { refused };
            calls.push(call);
            assert!(peer.status().queued_bytes <= (1 << 20) + (65 << 10));
            time::sleep(Duration::from_micros(10)).await;
        }
        drop(stream);
        let mut never_left = 0;
        for call in calls {
            let error = call.await.unwrap_err();
            never_left +=
                usize::from(matches!(error, CallError::NotSent(NotSent::ConnectionLost(_))));
        }
        assert!(never_left > 0, "what was still queued here provably never left");
    });
}

#[test]
fn requests_that_wait_are_bounded_and_the_rest_is_told_so() {
    run(async {
        let options = Options { waiting_per_connection_max: 2, ..quick() };
        let n2 = server(options, never).await;
        let (_peers, peer) = connected(&n2.addr, quick()).await;
        let _kept = [peer.call(long(), &fetch("1")), peer.call(long(), &fetch("2"))];
        let overloaded = Reply::Refused(Refusal::Overloaded { retry_after_ms: 100 });
        assert_eq!(peer.call(long(), &fetch("3")).await, Ok(overloaded));
        let ServerCounters { overloaded, waiting, .. } = n2.server.counters();
        assert_eq!((overloaded, waiting), (1, 2));
    });
}

#[test]
fn a_slow_reader_holds_up_itself() {
    run(async {
        let handled = Arc::new(AtomicUsize::new(0));
        let count = Arc::clone(&handled);
        let options = Options { reply_bytes_max: 1 << 20, ..quick() };
        let n2 = server(options, move |_, _, request| {
            let nth = count.fetch_add(1, Ordering::Relaxed);
            let Request::Fetch { key, .. } = request else { panic!("{request:?}") };
            assert_eq!(key.name(), nth.to_string());
            let reply = Reply::Found(object(vec![7; 64 << 10]));
            if nth.is_multiple_of(2) {
                return Handled::Now(reply);
            }
            Handled::Later(Box::pin(async { reply }))
        })
        .await;
        let (mut stream, mut frames) = call_by_hand(&n2.addr).await;
        let total = 2000;
        let mut bytes = Vec::new();
        for i in 0..total {
            bytes.extend(request_frame(i + 1, Duration::from_secs(60), &fetch(i)));
        }
        stream.write_all(&bytes).await.unwrap();
        // 2,000 replies are 128 MiB. The kernel takes a few of them, the server one more.
        let mut before = usize::MAX;
        while handled.load(Ordering::Relaxed) != before {
            before = handled.load(Ordering::Relaxed);
            time::sleep(Duration::from_millis(100)).await;
        }
        assert!(before > 16 && before < 1500, "{before} handled for a caller that reads nothing");
        let mut seen = vec![false; total as usize];
        for _ in 0..total {
            let (number, _) = next_reply(&mut stream, &mut frames).await.expect("a reply each");
            assert!(!std::mem::replace(&mut seen[number as usize - 1], true), "twice: {number}");
        }
    });
}
