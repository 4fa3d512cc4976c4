//! A listing of the keys with a prefix: pages of R home replicas, merged ([`domain::listing`](crate::domain::listing)).
//!
//! Home replicas alone are asked, so a listing is always strict: what a fallback keeps for one that is away is not in it until
//! it is handed over. A home whose copy is in doubt counts for nothing. Whoever lacks something of what the others show is
//! repaired afterwards, [`REPAIRS_MAX`] keys of a page at the most: anti-entropy does the rest.

use std::sync::Arc;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;

use super::read::Source;
use super::{Coordinator, RequestError};
use crate::domain::listing::{self, Listing, Merged, Page};
use crate::domain::ring::NodeIndex;
use crate::rpc::CallError;
use crate::rpc::message::{Refusal, Reply, Request, RequestHead};
use crate::runtime::{event, time};
use crate::service::replica::Replica;

/// Keys of a page that are repaired.
const REPAIRS_MAX: usize = 64;

impl Coordinator {
    /// The next page of `listing`, from `required` home replicas.
    ///
    /// # Errors
    /// [`RequestError::QuorumUnmet`] and [`RequestError::DeadlineExceeded`].
    pub async fn list(
        &self,
        head: RequestHead,
        listing: &Listing,
        required: u8,
    ) -> Result<Merged, RequestError> {
        self.metrics.listings.increment();
        let (cluster, key) = (&self.cluster, &listing.prefix);
        let request = Request::List(listing.clone());
        // The last is asked first.
        let mut sources = self.sources(key, false);
        let own = cluster.me().filter(|me| cluster.home(key).contains(me));
        sources.extend(own.map(Source::Home));
        let mut pages: Vec<(NodeIndex, Page)> = Vec::new();
        let mut waiting = FuturesUnordered::new();
        let mut hedge_at = time::now() + self.patience.hedge;
        while pages.len() < usize::from(required) {
            let wanted = usize::from(required) - pages.len();
            while waiting.len() < wanted
                && let Some(source) = sources.pop()
            {
                waiting.push(self.page_of(source.node(), head, &request));
            }
            if waiting.len() < wanted {
                return Err(self.unmet(head.deadline, required, pages.len() as u8, 0));
            }
            tokio::select! {
                biased;
                Some((node, page)) = waiting.next() => pages.extend(page.map(|page| (node, page))),
                () = time::sleep_until(hedge_at), if !sources.is_empty() => {
                    hedge_at = time::now() + self.patience.hedge;
                    if let Some(source) = sources.pop() {
                        waiting.push(self.page_of(source.node(), head, &request));
                    }
                }
            }
        }
        // In the order of the home replicas, whoever came first.
        pages.sort_by_key(|(node, _)| *node);
        let policy = self.replica.rules().policies.of(key.bucket());
        let merged = listing::merge(listing, policy, &pages);
        let stale = merged.entries.iter().filter(|(_, answer)| !answer.stale.is_empty());
        for (key, answer) in stale.take(REPAIRS_MAX) {
            self.repair(head.request_id, key, cluster.home(key), answer);
        }
        Ok(merged)
    }

    /// The page of a home replica; `None`: it gave none that counts.
    async fn page_of(
        &self,
        node: NodeIndex,
        head: RequestHead,
        request: &Request,
    ) -> (NodeIndex, Option<Page>) {
        let reply = match (self.cluster.peer(node), request) {
            (None, Request::List(listing)) => Ok(page(self.replica.clone(), listing.clone()).await),
            _ => self.ask(node, head, request).await,
        };
        let page = match reply {
            Ok(Reply::Listed(page)) => Some(page),
            other => {
                note(head, node, &other);
                None
            }
        };
        (node, page)
    }
}

fn note(head: RequestHead, node: NodeIndex, reply: &Result<Reply, CallError>) {
    tracing::debug!(request_id = head.request_id, node = node.0, ?reply, "no page that counts");
}

/// This replica's page, or why it has none that counts.
pub(in crate::service) async fn page(replica: Arc<Replica>, listing: Listing) -> Reply {
    match replica.list(&listing).await {
        Ok(Some(page)) => Reply::Listed(page),
        Ok(None) => {
            event::note("listing_in_doubt", listing.prefix.token().0, 0);
            Reply::Refused(Refusal::Doubtful { held: None })
        }
        Err(error) => Reply::Refused(Refusal::StorageStalled { reason: error.to_string() }),
    }
}
