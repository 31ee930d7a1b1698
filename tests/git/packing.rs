//! Mirrors are packed while others read and write them, and nothing is taken from anybody.

use std::{fs, path::Path};

use super::repository::{World, fingerprint, write};

fn loose(mirror: &Path) -> usize {
    let folders = (0..=u8::MAX).map(|first| mirror.join(format!("objects/{first:02x}")));
    folders.map(|folder| fs::read_dir(folder).map_or(0, Iterator::count)).sum()
}

#[tokio::test]
async fn loose_objects_are_packed_and_whoever_reads_misses_nothing() {
    let world = World::with(&[("a", b"a\n")]).await;
    let before = fingerprint(&world.source());
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    // Opened before, as by a turn under way: it knows no pack that comes.
    let reader = git2::Repository::open_bare(&mirror.path).unwrap();
    let unnamed = reader.blob(b"no ref leads here yet\n").unwrap();
    for number in 0..40 {
        write(&worktree.path.join(format!("d{number}/file")), format!("{number}\n").as_bytes());
    }
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    let many = loose(&mirror.path);
    assert!(many > 80, "{many}");

    assert_eq!(world.git.pack_mirrors(many).await.unwrap(), 0, "not more than that");
    assert_eq!(world.git.pack_mirrors(many - 1).await.unwrap(), 1);
    assert_eq!(loose(&mirror.path), 1, "the one that no ref leads to");
    assert_eq!(reader.find_blob(unnamed).unwrap().content(), b"no ref leads here yet\n");
    let commit = reader.find_commit(git2::Oid::from_str(&checkpoint.commit).unwrap()).unwrap();
    let mut files = 0;
    commit
        .tree()
        .unwrap()
        .walk(git2::TreeWalkMode::PreOrder, |_, entry| {
            files += usize::from(entry.kind() == Some(git2::ObjectType::Blob) && reader.find_blob(entry.id()).is_ok());
            git2::TreeWalkResult::Ok
        })
        .unwrap();
    assert_eq!(files, 41);
    assert_eq!(world.git_in(&worktree.path, &["fsck", "--no-dangling"]), "", "the agent's own repository");
    assert_eq!(fingerprint(&world.source()), before, "the user's is not touched");

    // And it goes on.
    write(&worktree.path.join("d0/file"), b"changed\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    world.assert_applies(&mirror, &set);
    let packs = fs::read_dir(mirror.path.join("objects/pack")).unwrap().count();
    assert_eq!(world.git.pack_mirrors(0).await.unwrap(), 1);
    assert!(fs::read_dir(mirror.path.join("objects/pack")).unwrap().count() > packs, "a pack is only ever added");
}

#[tokio::test(flavor = "multi_thread")]
async fn checkpoints_made_while_a_mirror_is_packed_are_whole() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let packing = async {
        for _ in 0..5 {
            world.git.pack_mirrors(0).await.unwrap();
        }
    };
    let working = async {
        for round in 0..8 {
            for number in 0..20 {
                write(&worktree.path.join(format!("file{number}")), format!("{round} {number}\n").as_bytes());
            }
            let (_, set) = world.change_set(&mirror, &worktree).await;
            world.assert_applies(&mirror, &set);
        }
    };
    tokio::join!(packing, working);
    assert_eq!(
        world.git_in(&worktree.path, &["--git-dir", mirror.path.to_str().unwrap(), "fsck", "--no-dangling"]),
        ""
    );
}
