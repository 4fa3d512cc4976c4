//! Every limit and time of the RPC floor, with the defaults that it runs on.

use std::time::Duration;

use super::frame::PAYLOAD_BYTES_MAX;
use super::pending::SLOTS_MAX;
use crate::domain::forgetting::SILENCE;

/// Limits and times of both sides of a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// How long one address may take to accept a connection.
    pub connect_timeout: Duration,
    /// How long a handshake may take, on either side, before the connection is dropped.
    pub handshake_timeout: Duration,
    /// The wait before the second attempt to connect; doubles with every further one, and each wait
    /// is drawn between a half and the whole of it.
    pub backoff_min: Duration,
    /// Where the doubling ends.
    pub backoff_max: Duration,
    /// `None`: peers are connected at once, and stay so. Else the first call that needs a peer
    /// connects it, and after so long without a call it is let go: for clusters where each
    /// member talks to few of the others.
    pub idle_after: Option<Duration>,
    /// A connection is asked for a sign of life so often.
    pub ping_interval: Duration,
    /// A peer of whom nothing was heard for so long, although it was asked, is not usable.
    pub silent_after: Duration,
    /// And after so long its connection is given up and made anew.
    pub dead_after: Duration,
    /// Calls of one peer that may be unanswered; the next is refused.
    pub in_flight_max: usize,
    /// Bytes queued for one peer at which the next call is refused.
    pub queue_bytes_max: usize,
    /// The longest request or reply, in bytes; 16 MiB at most.
    pub payload_bytes_max: usize,

    /// Incoming connections at which the next is refused.
    pub connections_max: usize,
    /// An incoming connection on which nothing moved for so long is closed: its caller sends a ping
    /// every second, so it is gone. What is forgotten relies on that: see [`SILENCE`].
    pub idle_timeout: Duration,
    /// Bytes of replies waiting for a slow reader at which no more of its requests are read.
    pub reply_bytes_max: usize,
    /// Requests of one connection that may wait inside the handler; the next is refused.
    pub waiting_per_connection_max: usize,
    /// Requests of all connections that may wait inside the handler; the next is refused.
    pub waiting_total_max: usize,
    /// What a refused caller is told to wait before it tries again.
    pub overload_retry: Duration,
    /// How long running work gets to finish when the server is asked to stop.
    pub drain_timeout: Duration,
    /// How long callers then get to close, once nothing runs for them: one that lives does so as soon
    /// as it hears goodbye, and one that was cut off never does.
    pub goodbye_timeout: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(1),
            handshake_timeout: Duration::from_secs(5),
            backoff_min: Duration::from_millis(50),
            backoff_max: Duration::from_secs(2),
            idle_after: None,
            ping_interval: Duration::from_secs(1),
            silent_after: Duration::from_millis(1500),
            dead_after: Duration::from_secs(3),
            in_flight_max: 4096,
            queue_bytes_max: 8 << 20,
            payload_bytes_max: PAYLOAD_BYTES_MAX,
            connections_max: 512,
            idle_timeout: SILENCE,
            reply_bytes_max: 8 << 20,
            waiting_per_connection_max: 2048,
            waiting_total_max: 8192,
            overload_retry: Duration::from_millis(100),
            drain_timeout: Duration::from_secs(5),
            goodbye_timeout: Duration::from_secs(1),
        }
    }
}

impl Options {
    /// What the values must be to each other.
    ///
    /// # Panics
    /// When they are not: whoever makes options from a file checks the file first.
    pub(super) fn check(&self) {
        assert!(self.ping_interval < self.silent_after, "silent before it was asked: {self:?}");
        assert!(self.silent_after <= self.dead_after, "dead before silent: {self:?}");
        assert!(self.idle_timeout > self.ping_interval, "idle between two pings: {self:?}");
        assert!(self.backoff_min <= self.backoff_max, "backoff shrinks: {self:?}");
        assert!((1..=SLOTS_MAX).contains(&self.in_flight_max), "in_flight_max: {self:?}");
        assert!((64..=PAYLOAD_BYTES_MAX).contains(&self.payload_bytes_max), "payload: {self:?}");
    }
}
