//! Pure values and decisions: no task, clock, entropy, file or socket is named here. Time comes in
//! as an argument, randomness as `&mut impl Rng`, decisions go out as values.
//!
//! The words of the field, each used one way only:
//!
//! | word | meaning |
//! |---|---|
//! | key | bucket plus name; what a client reads and writes ([`key`]) |
//! | token | a point on the ring: the first 64 bits of murmur3 x64 128 |
//! | partition | one of Q equal arcs of the ring |
//! | vnode | one of the points that a node puts on the ring |
//! | preference list | the nodes of a partition in walking order |
//! | home replica | one of the first N of the preference list |
//! | fallback | any later node of the preference list |
//! | hint | an object kept for a member that could not take it, its owner ([`hint`]: how fast it goes there) |
//! | coordinator | the home replica that mints the dot of a write and gathers its acks |
//! | actor | (node id, epoch): who mints; never two processes, never one key twice ([`causality`]) |
//! | dot | (actor, counter): the name of one write |
//! | version vector | for each actor, the counter up to which its dots are known |
//! | causal context | the dots that somebody has seen: a vector and the dots above its gaps |
//! | sibling | one live value or tombstone of an object, under its dot ([`object`]) |
//! | tombstone | a sibling that says deleted |
//! | heartbeat | a count that a member raises each interval: its sign of life ([`membership`]) |
//! | incarnation | orders the processes and addresses of one name: the higher one is the newer |
//! | suspect | a member that is silent and does not answer, as one other member says |
//! | down | a member that enough live members suspect at once |
//! | anti-entropy | comparing and healing replicas in the background ([`merkle`]) |
//! | exchange | one such comparison of a partition between two home replicas |
//! | doubtful | of a copy: it may lack what was acked, so it does not count in reads |
//! | spent | of an object: all its siblings are tombstones or expired, so that it may be [`forgotten`](forgetting) |
//! | fresh | of a write to a copy in doubt: minted here since the doubt began ([`merkle::vouching`]) |
//! | tally | counts the replies to one request and says when they are enough |

pub mod causality;
pub mod codec;
pub mod context_token;
pub mod forgetting;
pub mod hash;
pub mod hint;
pub mod key;
pub mod listing;
pub mod membership;
pub mod merkle;
pub mod mint;
pub mod object;
pub mod policy;
pub mod quorum;
pub mod ring;

#[cfg(test)]
mod tests;
