//! Who makes the ring, remembered on disk: so that a founded cluster starts again in any order, and with
//! members away.
//!
//! The first start waits until gossip has told of all founders. From then on the file `members.json` in the data
//! folder says where each was last, and with which zone and vnodes the ring was made: these never change
//! for a ring that holds data, whatever a member's configuration says later.
//!
//! The file is replaced as a whole: written under another name, synced, renamed. That happens again when
//! gossip tells that one of them is somewhere else ([`follow`]): else a node that was away while all others
//! moved would ask at old addresses alone.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use serde_json::{Value, json};

use super::gossip::Gossip;
use crate::domain::causality::NodeId;
use crate::domain::membership::MemberInfo;
use crate::runtime::fs::{self, File, OpenMode};
use crate::runtime::time;

const NAME: &str = "members.json";
const NEW_NAME: &str = "members.json.new";
const VERSION: u64 = 1;

/// The file is replaced once in so long at most, however often members move.
const SAVE_EVERY: Duration = Duration::from_secs(5);

/// Why the remembered members can't be used.
#[derive(Debug, thiserror::Error)]
pub enum RosterError {
    /// The disk.
    #[error("{0}")]
    Disk(#[from] io::Error),
    /// The file holds something else.
    #[error(
        "{NAME} in the data folder is damaged ({0}): remove it, and the node asks the others anew"
    )]
    Damaged(String),
}

/// The remembered members; empty when there are none yet.
///
/// # Errors
/// [`RosterError`].
pub async fn load(folder: &Path) -> Result<Vec<MemberInfo>, RosterError> {
    let file = match File::open(&folder.join(NAME), OpenMode::Read).await {
        Ok(file) => file,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error.into()),
    };
    let length = usize::try_from(file.len().await?).unwrap_or(usize::MAX);
    let bytes = file.read_at(0, length.min(16 << 20)).await?;
    let value: Value =
        serde_json::from_slice(&bytes).map_err(|error| RosterError::Damaged(error.to_string()))?;
    read(&value).ok_or_else(|| RosterError::Damaged("a field is missing or odd".to_owned()))
}

/// Remembers `members`, durably when this returns.
///
/// # Errors
/// What the disk says; what was remembered before stays then.
pub async fn save(folder: &Path, members: &[MemberInfo]) -> io::Result<()> {
    let (path, new) = (folder.join(NAME), folder.join(NEW_NAME));
    match fs::remove_file(&new).await {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        Ok(()) | Err(_) => {}
    }
    let text = serde_json::to_vec_pretty(&write(members))?;
    let file = File::open(&new, OpenMode::CreateNew).await?;
    file.write_all_at_and_sync(0, Bytes::from(text)).await?;
    drop(file);
    fs::rename(&new, &path).await?;
    fs::sync_dir(folder).await
}

/// Saves `members`, which were saved before, each time that one of them has moved. Ends never; dropping it
/// leaves the file as it was or as it was to be.
pub async fn follow(folder: PathBuf, mut members: Vec<MemberInfo>, gossip: Gossip) {
    loop {
        let moved = gossip.moved(&members).await;
        match save(&folder, &moved).await {
            Ok(()) => members = moved,
            Err(error) => {
                tracing::warn!(%error, "cannot remember where members are now: trying again");
            }
        }
        time::sleep(SAVE_EVERY).await;
    }
}

fn write(members: &[MemberInfo]) -> Value {
    let one = |member: &MemberInfo| {
        json!({
            "name": &*member.name, "id": member.node.0.to_string(), "generation": member.generation,
            "gossip": member.gossip.to_string(), "rpc": &*member.rpc, "http": &*member.http,
            "zone": &*member.zone, "datacenter": &*member.datacenter, "vnodes": member.vnodes,
        })
    };
    json!({"version": VERSION, "members": members.iter().map(one).collect::<Vec<_>>()})
}

fn read(value: &Value) -> Option<Vec<MemberInfo>> {
    if value["version"].as_u64()? != VERSION {
        return None;
    }
    let one = |member: &Value| {
        Some(MemberInfo {
            name: member["name"].as_str()?.into(),
            node: NodeId(member["id"].as_str()?.parse().ok()?),
            generation: member["generation"].as_u64()?,
            process: 0,
            gossip: member["gossip"].as_str()?.parse().ok()?,
            rpc: member["rpc"].as_str()?.into(),
            http: member["http"].as_str()?.into(),
            zone: member["zone"].as_str()?.into(),
            datacenter: member["datacenter"].as_str()?.into(),
            vnodes: u32::try_from(member["vnodes"].as_u64()?).ok()?,
            load: 0,
        })
    };
    value["members"].as_array()?.iter().map(one).collect()
}

#[cfg(test)]
#[cfg(not(madsim))]
mod tests {
    use super::*;
    use crate::runtime::task;

    fn member(name: &str, vnodes: u32) -> MemberInfo {
        MemberInfo {
            name: name.into(),
            node: NodeId(u64::MAX),
            generation: 3,
            process: 0,
            gossip: "[::1]:7001".parse().unwrap(),
            rpc: "db-1.internal:7001".into(),
            http: "db-1.internal:8001".into(),
            zone: "z".into(),
            datacenter: "d".into(),
            vnodes,
            load: 0,
        }
    }

    #[test]
    fn what_is_saved_is_loaded_and_damage_is_told() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path();
        task::block_on(1, async {
            assert!(load(path).await.unwrap().is_empty());
            for members in [vec![member("a", 1), member("b", 0)], vec![member("c", 4096)]] {
                save(path, &members).await.unwrap();
                assert_eq!(load(path).await.unwrap(), members);
            }
            for damage in
                ["", "{", "{}", r#"{"version":2,"members":[]}"#, r#"{"version":1,"members":[{}]}"#]
            {
                std::fs::write(path.join(NAME), damage).unwrap();
                let error = load(path).await.unwrap_err().to_string();
                assert!(error.contains("remove it"), "{error}");
            }
        })
        .unwrap();
    }
}
