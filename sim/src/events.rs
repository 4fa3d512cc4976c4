//! The typed events that the node is known to note, so that a sweep sees which never happened.
//!
//! The list is checked against the node's source: an event that is missing here fails a test.

/// Every kind that the node notes, sorted.
pub const NODE: &[&str] = &[
    "actor_retired",
    "compaction_done",
    "compaction_failed",
    "dot_minted",
    "edit_begun",
    "epochs_reserved",
    "exchange_done",
    "exchange_failed",
    "fallback_coordinates",
    "flush_failed",
    "folder_doubted",
    "forgetting_begun",
    "generation_raised",
    "hint_delivered",
    "hint_expired",
    "hint_refused",
    "hint_reresolved",
    "hint_stored",
    "hints_carried",
    "http_connection_timed_out",
    "identity_renewed",
    "listing_in_doubt",
    "log_recovered",
    "log_released",
    "log_stalled",
    "manifest_born",
    "many_siblings",
    "member_down",
    "member_restarted",
    "member_stopped",
    "member_suspect",
    "member_up",
    "memtable_flushed",
    "memtable_sealed",
    "minted_in_doubt",
    "minted_under",
    "object_healed",
    "object_let_go",
    "object_not_taken_back",
    "object_salvaged",
    "object_unsalvaged",
    "old_hints_dropped",
    "own_actor_learned",
    "range_doubted",
    "range_trusted",
    "read_hedged",
    "read_in_doubt",
    "read_repair",
    "rpc_connected",
    "rpc_deadline",
    "rpc_lost",
    "rpc_overloaded",
    "rpc_queue_full",
    "rpc_silent",
    "segment_replayed",
    "segment_rolled",
    "snapshot_made",
    "snapshot_restored",
    "table_lost",
    "table_written",
    "tombstone_forgotten",
    "too_many_siblings",
    "torn_edit_cut",
    "torn_tail_cut",
    "tree_built",
    "unborn_manifest_dropped",
    "unborn_segment_dropped",
    "vector_pruned",
    "write_forwarded",
];

/// Those of them that cannot happen yet, and why.
pub const NOT_YET: &[(&str, &str)] = &[
    // A hint goes elsewhere only when its owner is out of the ring, or no home replica of the key any more.
    ("hint_reresolved", "cannot happen before rings change"),
];

/// What the oracle counts rather than accuses.
pub const ORACLE: &[&str] = &["false_sibling"];

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;
    use std::path::Path;

    use super::NODE;

    #[test]
    fn every_event_of_the_node_is_listed() {
        let mut noted = BTreeSet::new();
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("../node/src");
        collect(&source, &mut noted);
        let listed: BTreeSet<String> = NODE.iter().map(|name| (*name).to_owned()).collect();
        assert_eq!(noted, listed, "left: what node/src notes; right: sim/src/events.rs");
        assert!(NODE.is_sorted());
    }

    fn collect(folder: &Path, noted: &mut BTreeSet<String>) {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                collect(&path, noted);
                continue;
            }
            let text = std::fs::read_to_string(&path).unwrap();
            for call in text.split("event::note(").skip(1) {
                if let Some(name) = call.trim_start().strip_prefix('"') {
                    noted.insert(name.split('"').next().unwrap_or_default().to_owned());
                }
            }
        }
    }
}
