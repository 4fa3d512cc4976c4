//! Why a request failed, and how refusals of other nodes read here.

use crate::domain::causality::CausalContext;
use crate::domain::object::lww::TooFarAhead;
use crate::rpc::message::Refusal;
use crate::service::replica::ReplicaError;

/// Why a request failed. A write that failed its quorum may live on: the outcome is unknown.
#[derive(Debug, thiserror::Error)]
pub enum RequestError {
    /// Too few replicas could be reached.
    #[error(
        "{received} of {required} required replicas answered, and no more can be reached now: try again"
    )]
    QuorumUnmet {
        /// R or W.
        required: u8,
        /// Replicas that answered.
        received: u8,
        /// Of these, fallbacks with a hint.
        hinted: u8,
    },
    /// Too few replicas answered before the deadline.
    #[error(
        "{received} of {required} required replicas answered before the deadline: try again, or allow more time with timeout_ms"
    )]
    DeadlineExceeded {
        /// R or W.
        required: u8,
        /// Replicas that answered.
        received: u8,
        /// Of these, fallbacks with a hint.
        hinted: u8,
    },
    /// The key has too many siblings. Nothing was written.
    #[error(
        "the key has {limit} siblings or more: read it, merge them, and write with the context of that read"
    )]
    TooManySiblings {
        /// The limit.
        limit: usize,
        /// A context that covers the siblings.
        context: CausalContext,
    },
    /// The client's context is stamped too far in the future. Nothing was written.
    #[error(transparent)]
    TooFarAhead(TooFarAhead),
    /// The node that had to do it is over capacity. Nothing was written.
    #[error("the node is over capacity: try again in {retry_after_ms} ms")]
    Overloaded {
        /// When to try again.
        retry_after_ms: u64,
    },
    /// The pair is too large. Nothing was written.
    #[error(
        "key and value together are over the limit of {limit} bytes: store less, or raise limits.pair_bytes"
    )]
    PairTooLarge {
        /// The limit in bytes.
        limit: usize,
    },
    /// This node's own storage failed. Nothing was written.
    #[error(transparent)]
    Storage(ReplicaError),
}

impl RequestError {
    /// What another node's refusal of a forwarded write that wanted `required` acks means here.
    pub(super) fn of_refusal(refusal: Refusal, required: u8) -> Self {
        match refusal {
            Refusal::TooManySiblings { context, limit } => {
                Self::TooManySiblings { limit: limit as usize, context }
            }
            Refusal::QuorumUnmet { required, received, hinted } => {
                Self::QuorumUnmet { required, received, hinted }
            }
            Refusal::DeadlineExceeded { required, received, hinted } => {
                Self::DeadlineExceeded { required, received, hinted }
            }
            Refusal::TooFarAhead { ahead_ms } => Self::TooFarAhead(TooFarAhead { ahead_ms }),
            Refusal::PairTooLarge { limit } => Self::PairTooLarge { limit: limit as usize },
            Refusal::Overloaded { retry_after_ms } => {
                Self::Overloaded { retry_after_ms: u64::from(retry_after_ms) }
            }
            Refusal::StorageStalled { .. }
            | Refusal::NotHome
            | Refusal::Unready
            | Refusal::Doubtful { .. } => Self::QuorumUnmet { required, received: 0, hinted: 0 },
        }
    }
}

/// True when the node refused without beginning anything, for a reason that passes or is its own:
/// another node, or the same one later, may do it.
pub(super) fn is_passing(refusal: &Refusal) -> bool {
    match refusal {
        Refusal::Overloaded { .. }
        | Refusal::StorageStalled { .. }
        | Refusal::NotHome
        | Refusal::Unready => true,
        Refusal::TooManySiblings { .. }
        | Refusal::QuorumUnmet { .. }
        | Refusal::DeadlineExceeded { .. }
        | Refusal::PairTooLarge { .. }
        | Refusal::TooFarAhead { .. }
        | Refusal::Doubtful { .. } => false,
    }
}
