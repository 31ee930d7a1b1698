//! Packing the mirrors, to which each checkpoint adds loose objects.
//!
//! Readers are at work meanwhile: turns, applies, the agents' own repositories. So a pack is only ever added, and a loose object goes only once
//! it is in one: who looks for it finds it there. What no ref leads to stays as it is; it may be about to get one.

use std::{fs, path::Path};

use super::{Git, GitError, blocking, command::LOCAL_LIMIT, error::PathContext, lock::Lock};

/// Loose objects of a mirror that are let be, as git does.
pub const LOOSE_OBJECTS: usize = 6_700;

impl Git {
    /// Packs every mirror with more loose objects than these that nobody fetches into just now. Answers how many there were.
    pub async fn pack_mirrors(&self, more_than: usize) -> Result<u64, GitError> {
        let mirrors = self.home().mirrors();
        let due = blocking(move || {
            let mut due = Vec::new();
            for mirror in fs::read_dir(&mirrors).on("list", &mirrors)? {
                let path = mirror.on("list", &mirrors)?.path();
                if let Some(id) = project_of(&path)
                    && has_more_loose_objects(&path.join("objects"), more_than)
                {
                    due.push((id, path));
                }
            }
            Ok(due)
        })
        .await?;
        let mut packed = 0;
        for (id, path) in due {
            let file = self.private().join("locks").join(format!("p{id}.lock"));
            let Some(lock) = blocking(move || Lock::try_acquire(&file)).await? else { continue };
            let pack = self.plain("pack the mirror").git_dir(&path).args(["repack", "-l", "-q", "-n"]);
            pack.holding(&lock)?.limit(LOCAL_LIMIT).run().await?;
            let prune = self.plain("remove what is packed").git_dir(&path).args(["prune-packed", "--quiet"]);
            prune.holding(&lock)?.limit(LOCAL_LIMIT).run().await?;
            tracing::info!(project = id, "packed a mirror's loose objects");
            packed += 1;
        }
        Ok(packed)
    }
}

/// Whose mirror a folder is; none for one that is still being made, and anything else.
fn project_of(path: &Path) -> Option<i64> {
    path.file_name()?.to_str()?.strip_suffix(".git")?.parse().ok()
}

fn has_more_loose_objects(objects: &Path, than: usize) -> bool {
    let mut count = 0;
    for first in 0..=u8::MAX {
        count += fs::read_dir(objects.join(format!("{first:02x}"))).map_or(0, Iterator::count);
        if count > than {
            return true;
        }
    }
    false
}
