//! What agents put into files that belong into Git LFS: a checkpoint keeps the content in the mirror's store, and a pointer to it in the tree.
//! Whoever applies the pointer needs the content, too.

use std::{
    fs,
    path::{Path, PathBuf},
};

use git2::{Oid, Repository};

use super::{Git, GitError, Mirror, blocking, checkouts, error::PathContext, mirror, normalise};

impl Git {
    /// A file that a remote would get only the pointer of, if the commit were pushed: its content is on this host alone.
    pub async fn lfs_only_here(
        &self,
        mirror: &Mirror,
        old: Option<&str>,
        new: &str,
    ) -> Result<Option<PathBuf>, GitError> {
        let (path, old, new) = (mirror.path.clone(), old.map(str::to_owned), new.to_owned());
        blocking(move || {
            let kept = path.join("lfs/objects");
            if !kept.is_dir() {
                return Ok(None);
            }
            let (differences, _) = checkouts::compare(&path, old.as_deref(), &new, None)?;
            let repository = mirror::open(&path)?;
            let is_here = |id: Oid| place_of(&repository, id).is_some_and(|below| kept.join(below).is_file());
            let found = differences.into_iter().find(|one| one.new.is_some_and(|(_, id)| is_here(id)));
            Ok(found.map(|one| PathBuf::from(<std::ffi::OsStr as std::os::unix::ffi::OsStrExt>::from_bytes(&one.path))))
        })
        .await
    }
}

/// Copies the content that these blobs point to from the mirror's store into a repository's, where its filter looks for it.
pub(super) fn bring(mirror: &Path, common: &Path, blobs: &[Oid]) -> Result<(), GitError> {
    let kept = mirror.join("lfs/objects");
    if !kept.is_dir() {
        return Ok(());
    }
    let repository = mirror::open(mirror)?;
    for id in blobs {
        let Some(below) = place_of(&repository, *id) else { continue };
        let (from, to) = (kept.join(&below), common.join("lfs/objects").join(&below));
        if !from.is_file() || to.exists() {
            continue;
        }
        let folder = to.parent().unwrap_or(common);
        fs::create_dir_all(folder).on("create", folder)?;
        let temporary = tempfile::NamedTempFile::new_in(folder).on("write into", folder)?;
        fs::copy(&from, temporary.path()).on("copy", &from)?;
        temporary.persist(&to).map_err(|error| error.error).on("write", &to)?;
    }
    Ok(())
}

/// Where in a store the content lies that a blob points to; none if it is no pointer.
fn place_of(repository: &Repository, blob: Oid) -> Option<PathBuf> {
    let blob = repository.find_blob(blob).ok()?;
    if !normalise::is_lfs_pointer(blob.content()) {
        return None;
    }
    let text = String::from_utf8_lossy(blob.content()).into_owned();
    let hash = text
        .lines()
        .find_map(|line| line.strip_prefix("oid sha256:"))
        .filter(|hash| hash.len() == 64 && hash.bytes().all(|byte| byte.is_ascii_hexdigit()))?;
    Some(Path::new(&hash[..2]).join(&hash[2..4]).join(hash))
}
