//! The calls of one peer that wait for their answers.
//!
//! A slab: a call's number holds its slot and a count that no two calls share, so an answer that
//! comes after its caller has gone finds nobody, and can't be taken for another call's. Numbers start
//! above zero; zero is the connection's own ping.
//!
//! Deadlines need no timer for each call: the connection has one, set to the earliest; when it fires,
//! [`expire`](Pending::expire) looks through all slots once and says when to come again. Calls mostly
//! end long before their deadline, so that is rare.

use std::task::{Context, Poll, Waker};

use super::message::Reply;
use super::peer::CallError;
use crate::runtime::time::Instant;

/// Bits of a number that hold its slot.
const SLOT_BITS: u32 = 20;
/// Slots that numbers have room for.
pub(super) const SLOTS_MAX: usize = 1 << SLOT_BITS;

/// What a call comes back with.
pub(super) type Outcome = Result<Reply, CallError>;

#[derive(Debug, Default)]
pub(super) struct Pending {
    slots: Vec<Slot>,
    free: Vec<usize>,
    /// Calls so far; the upper part of the next number.
    count: u64,
    waiting: usize,
}

#[derive(Debug)]
struct Slot {
    number: u64,
    state: State,
}

#[derive(Debug)]
enum State {
    Free,
    Waiting {
        waker: Option<Waker>,
        deadline: Instant,
        /// Where in the connection's stream of bytes the request starts.
        position: u64,
    },
    /// Answered; its caller has yet to look.
    Done(Outcome),
}

impl Pending {
    /// Calls that hold a slot: waiting, or answered and not yet looked at.
    pub(super) fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Calls without an answer.
    pub(super) fn waiting(&self) -> usize {
        self.waiting
    }

    /// Takes a slot for a call whose request starts at `position`; returns its number.
    pub(super) fn insert(&mut self, deadline: Instant, position: u64) -> u64 {
        let at = self.free.pop().unwrap_or(self.slots.len());
        assert!(at < SLOTS_MAX, "more than {SLOTS_MAX} calls at once");
        self.count += 1;
        self.waiting += 1;
        let number = self.count << SLOT_BITS | at as u64;
        let slot = Slot { number, state: State::Waiting { waker: None, deadline, position } };
        match self.slots.get_mut(at) {
            Some(free) => *free = slot,
            None => self.slots.push(slot),
        }
        number
    }

    /// Hands `outcome` to the call, if it still waits; the waker is to be woken without the lock.
    pub(super) fn complete(&mut self, number: u64, outcome: Outcome) -> Option<Waker> {
        let slot = self.slot(number)?;
        let State::Waiting { waker, .. } = &mut slot.state else { return None };
        let waker = waker.take();
        slot.state = State::Done(outcome);
        self.waiting -= 1;
        waker
    }

    /// Takes the call's outcome, or notes whom to wake.
    ///
    /// # Panics
    /// When the call has no slot: its future was polled after it was done.
    pub(super) fn poll(&mut self, number: u64, cx: &mut Context<'_>) -> Poll<Outcome> {
        let slot = self.slot(number).expect("a call is not polled after it was done");
        match &mut slot.state {
            State::Waiting { waker: Some(known), .. } if known.will_wake(cx.waker()) => {
                Poll::Pending
            }
            State::Waiting { waker, .. } => {
                *waker = Some(cx.waker().clone());
                Poll::Pending
            }
            State::Done(_) | State::Free => match self.release(number) {
                Some(State::Done(outcome)) => Poll::Ready(outcome),
                Some(State::Waiting { .. } | State::Free) | None => {
                    unreachable!("the slot was seen to be done")
                }
            },
        }
    }

    /// Gives the slot back; the call's caller has gone.
    pub(super) fn forget(&mut self, number: u64) {
        if let Some(State::Waiting { .. }) = self.release(number) {
            self.waiting -= 1;
        }
    }

    /// Ends every call whose deadline is not after `now`, and adds whom to wake. Returns the earliest
    /// deadline left.
    pub(super) fn expire(&mut self, now: Instant, wakers: &mut Vec<Waker>) -> Option<Instant> {
        let mut earliest: Option<Instant> = None;
        for slot in &mut self.slots {
            let State::Waiting { waker, deadline, .. } = &mut slot.state else { continue };
            if *deadline > now {
                earliest = Some(earliest.map_or(*deadline, |e| e.min(*deadline)));
                continue;
            }
            wakers.extend(waker.take());
            slot.state = State::Done(Err(CallError::Deadline));
            self.waiting -= 1;
        }
        earliest
    }

    /// Ends every waiting call with what `error` makes of its position, and adds whom to wake.
    pub(super) fn fail_all(&mut self, error: impl Fn(u64) -> CallError, wakers: &mut Vec<Waker>) {
        for slot in &mut self.slots {
            let State::Waiting { waker, position, .. } = &mut slot.state else { continue };
            wakers.extend(waker.take());
            slot.state = State::Done(Err(error(*position)));
        }
        self.waiting = 0;
    }

    fn slot(&mut self, number: u64) -> Option<&mut Slot> {
        let at = (number % SLOTS_MAX as u64) as usize;
        self.slots.get_mut(at).filter(|slot| slot.number == number)
    }

    fn release(&mut self, number: u64) -> Option<State> {
        let slot = self.slot(number)?;
        let state = std::mem::replace(&mut slot.state, State::Free);
        slot.number = 0;
        self.free.push((number % SLOTS_MAX as u64) as usize);
        Some(state)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;

    fn at(ns: u64) -> Instant {
        Instant::from_nanos(ns)
    }

    fn poll(pending: &mut Pending, number: u64) -> Poll<Outcome> {
        pending.poll(number, &mut Context::from_waker(Waker::noop()))
    }

    #[test]
    fn an_answer_reaches_its_own_call_and_frees_the_slot() {
        let mut pending = Pending::default();
        let first = pending.insert(at(10), 0);
        let second = pending.insert(at(10), 50);
        assert!(poll(&mut pending, second).is_pending());
        assert!(pending.complete(second, Ok(Reply::Stored)).is_some());
        assert!(pending.complete(second, Ok(Reply::Absent)).is_none(), "answered twice");
        assert_eq!((pending.len(), pending.waiting()), (2, 1));
        assert_eq!(poll(&mut pending, second), Poll::Ready(Ok(Reply::Stored)));
        assert!(poll(&mut pending, first).is_pending());
        assert_eq!((pending.len(), pending.waiting()), (1, 1));
    }

    #[test]
    fn a_late_answer_finds_nobody_even_if_the_slot_is_in_use_again() {
        let mut pending = Pending::default();
        let gone = pending.insert(at(10), 0);
        pending.forget(gone);
        let next = pending.insert(at(10), 0);
        assert_eq!(gone % SLOTS_MAX as u64, next % SLOTS_MAX as u64, "the same slot");
        assert!(pending.complete(gone, Ok(Reply::Stored)).is_none());
        assert!(poll(&mut pending, next).is_pending());
        assert!(pending.complete(u64::MAX, Ok(Reply::Stored)).is_none());
        assert!(pending.complete(0, Ok(Reply::Stored)).is_none());
    }

    #[test]
    fn deadlines_end_what_is_due_and_name_the_next() {
        let mut pending = Pending::default();
        let numbers: Vec<u64> = [30, 10, 20].map(|ns| pending.insert(at(ns), 0)).into();
        let mut wakers = Vec::new();
        assert!(poll(&mut pending, numbers[2]).is_pending());
        assert_eq!(pending.expire(at(20), &mut wakers), Some(at(30)));
        assert_eq!(wakers.len(), 1, "only one was waited for");
        assert_eq!(poll(&mut pending, numbers[1]), Poll::Ready(Err(CallError::Deadline)));
        assert_eq!(poll(&mut pending, numbers[2]), Poll::Ready(Err(CallError::Deadline)));
        assert_eq!((pending.len(), pending.waiting()), (1, 1));
    }

    #[test]
    fn a_lost_connection_ends_all_calls() {
        let mut pending = Pending::default();
        let numbers: Vec<u64> = [0, 100].map(|position| pending.insert(at(1), position)).into();
        let lost = |position| match position {
            0 => CallError::Lost(Arc::from("gone")),
            _ => CallError::Deadline,
        };
        pending.fail_all(lost, &mut Vec::new());
        assert_eq!(pending.waiting(), 0);
        assert_eq!(poll(&mut pending, numbers[0]), Poll::Ready(Err(lost(0))));
        assert_eq!(poll(&mut pending, numbers[1]), Poll::Ready(Err(lost(100))));
        assert_eq!(pending.len(), 0);
    }
}
