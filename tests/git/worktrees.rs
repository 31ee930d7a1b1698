//! Mirrors and worktrees: the user's repository untouched, sessions apart, kills survived.

use std::{fs, os::unix::fs::symlink, path::Path};

use millhand::git::{Git, GitError};

use super::repository::{PROJECT, World, environment, fingerprint, write};

#[tokio::test]
async fn users_repository_stays_the_same_byte_for_byte() {
    let world = World::with(&[("a", b"a\n"), ("sub/b", b"b\n")]).await;
    world.user(&["branch", "other"]);
    world.user(&["tag", "-a", "v1", "-m", "v1"]);
    world.user(&["gc", "-q"]);
    world.write("a", b"uncommitted\n");
    world.write("untracked", b"x\n");
    world.write("loose", b"loose\n");
    world.user(&["add", "loose"]);
    world.user(&["commit", "-qm", "loose", "loose"]);
    // Old enough that a library would think of refreshing an object's time.
    let before = fingerprint(&world.source());
    let source = world.git.inspect(&world.source_text()).await.unwrap();
    assert_eq!((source.uncommitted, source.branch()), (2, Some("main")));
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    write(&worktree.path.join("a"), b"uncommitted\n");
    write(&worktree.path.join("sub/c"), b"b\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.len(), 2);
    let pooled = world.git.reset_worktree(&mirror, &worktree, 2, &base).await.unwrap();
    write(&pooled.path.join("copy"), b"b\n");
    world.change_set(&mirror, &pooled).await;
    assert!(!world.mirror().await.fetched);
    world.git.remove_worktree(&mirror, 2).await.unwrap();
    assert_eq!(fingerprint(&world.source()), before);
    let alternates = mirror.path.join("objects/info/alternates");
    assert!(!alternates.exists() || fs::read(alternates).unwrap().is_empty());
}

#[tokio::test]
async fn agent_finds_a_whole_repository_of_its_own() {
    let world = World::with(&[("a", b"a\n")]).await;
    world.user(&["branch", "feature/x"]);
    world.user(&["tag", "v1"]);
    world.user(&["remote", "add", "origin", "https://user:secret@example.org/team/acme.git"]);
    world.user(&["update-ref", "refs/remotes/origin/main", "HEAD"]);
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 7).await;
    let agent = |arguments: &[&str]| world.git_in(&worktree.path, arguments);
    assert_eq!(agent(&["status", "--porcelain", "-b"]), "## millhand/s7...origin/main");
    assert_eq!(agent(&["rev-parse", "HEAD", "feature/x", "v1", "origin/main"]), [base.commit.as_str(); 4].join("\n"));
    assert_eq!(agent(&["config", "remote.origin.url"]), "https://example.org/team/acme.git");
    assert_eq!(agent(&["config", "--local", "user.name"]), "Ada");
    assert_eq!(agent(&["fsck", "--connectivity-only"]), "");
    assert!(!world.try_git(&worktree.path, &["push", "origin", "HEAD"]).status.success());
    write(&worktree.path.join("b"), b"b\n");
    agent(&["add", "-A"]);
    agent(&["commit", "-qm", "work"]);
    write(&worktree.path.join("c"), b"c\n");
    agent(&["add", "c"]);
    write(&worktree.path.join("d"), b"d\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    let paths: Vec<_> = set.files.iter().map(|file| file.path.clone()).collect();
    assert_eq!(paths, [b"b", b"c", b"d"], "committed, staged and untracked count the same");
    for folder in [worktree.path.join(".git"), mirror.path.clone()] {
        let found = std::process::Command::new("grep").args(["-r", "secret"]).arg(folder).output().unwrap();
        assert!(found.stdout.is_empty(), "{}", String::from_utf8_lossy(&found.stdout));
    }
}

#[tokio::test]
async fn sessions_see_nothing_of_each_other() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (one, _) = world.session(&mirror, 1).await;
    let (two, _) = world.session(&mirror, 2).await;
    write(&one.path.join("a"), b"one\n");
    world.git_in(&one.path, &["stash"]);
    world.git_in(&one.path, &["branch", "mine"]);
    write(&one.path.join(".git/hooks/pre-commit"), b"#!/bin/sh\nexit 1\n");
    assert_eq!(world.git_in(&two.path, &["stash", "list"]), "");
    assert!(!world.git_in(&two.path, &["branch", "--list"]).contains("mine"));
    assert_eq!(fs::read_dir(two.path.join(".git/hooks")).unwrap().count(), 0);
    let worktrees = world.git_in(&two.path, &["worktree", "list"]);
    assert_eq!(worktrees.lines().count(), 1, "{worktrees}");
    assert!(!world.try_git(&two.path, &["worktree", "remove", "--force", one.path.to_str().unwrap()]).status.success());
    assert!(one.path.join("a").exists());
}

#[tokio::test]
async fn worktree_that_is_there_is_taken_up_as_it_is() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    write(&worktree.path.join("work"), b"work\n");
    world.write("later", b"later\n");
    world.commit("later");
    let mirror = world.mirror().await;
    assert!(mirror.fetched);
    let (again, later) = world.session(&mirror, 1).await;
    assert_ne!(later.commit, base.commit);
    assert_eq!(again, worktree, "a session keeps its base");
    assert_eq!(fs::read(worktree.path.join("work")).unwrap(), b"work\n");
}

#[tokio::test]
async fn kill_at_any_point_of_making_a_worktree_is_mended() {
    let world = World::with(&[("a", b"a\n"), ("b/c", b"c\n")]).await;
    let mirror = world.mirror().await;
    let meta = mirror.path.join("worktrees/s1");
    type Damage = fn(&Path, &Path);
    let breakages: [(&str, Damage); 6] = [
        ("only the folder", |_, meta| fs::remove_dir_all(meta).unwrap()),
        ("only what the mirror knows", |path, meta| {
            fs::remove_dir_all(path).unwrap();
            fs::remove_file(meta.join("millhand-ready")).unwrap();
        }),
        ("half checked out, index locked", |path, meta| {
            fs::remove_file(meta.join("millhand-ready")).unwrap();
            fs::remove_file(path.join("a")).unwrap();
            fs::remove_dir_all(path.join(".git")).unwrap();
            fs::remove_file(meta.join("index")).unwrap();
            fs::write(meta.join("index.lock"), b"").unwrap();
        }),
        ("no agent's repository", |path, meta| {
            fs::remove_file(meta.join("millhand-ready")).unwrap();
            fs::remove_dir_all(path.join(".git")).unwrap();
        }),
        ("no marker", |_, meta| fs::remove_file(meta.join("millhand-ready")).unwrap()),
        ("nothing", |path, meta| {
            fs::remove_dir_all(path).unwrap();
            fs::remove_dir_all(meta).unwrap();
        }),
    ];
    for (name, damage) in breakages {
        let (worktree, _) = world.session(&mirror, 1).await;
        damage(&worktree.path, &meta);
        let (worktree, _) = world.session(&mirror, 1).await;
        assert_eq!(world.git_in(&worktree.path, &["status", "--porcelain"]), "", "{name}");
        let (_, set) = world.change_set(&mirror, &worktree).await;
        assert_eq!(set.files, [], "{name}");
    }
}

#[tokio::test]
async fn broken_repository_of_an_agent_is_rebuilt_around_its_files() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let breakages: [fn(&Path); 4] = [
        |git| fs::remove_dir_all(git).unwrap(),
        |git| {
            fs::remove_dir_all(git).unwrap();
            fs::write(git, "gitdir: /nowhere\n").unwrap();
        },
        |git| {
            fs::rename(git, git.with_file_name("moved")).unwrap();
            symlink("moved", git).unwrap();
        },
        |git| fs::remove_file(git.join("HEAD")).unwrap(),
    ];
    for (session, damage) in (1..).zip(breakages) {
        let (worktree, _) = world.session(&mirror, session).await;
        write(&worktree.path.join("work"), b"work\n");
        damage(&worktree.path.join(".git"));
        let (again, _) = world.session(&mirror, session).await;
        assert_eq!(fs::read(again.path.join("work")).unwrap(), b"work\n");
        assert!(world.git_in(&again.path, &["status", "--porcelain"]).contains("?? work"));
    }
}

#[tokio::test]
async fn deleted_worktree_comes_back_as_of_its_last_checkpoint() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&worktree.path.join("work"), b"work\n");
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    fs::remove_dir_all(&worktree.path).unwrap();
    let (again, _) = world.session(&mirror, 1).await;
    assert_eq!(again, worktree);
    let (after, _) = world.change_set(&mirror, &again).await;
    assert_eq!(after.tree, checkpoint.tree);
}

#[tokio::test]
async fn pooled_worktree_keeps_nothing_of_the_session_before() {
    let world =
        World::with(&[("a", b"a\n"), ("sub/b", b"b\n"), (".gitignore", b"target/\n"), ("gone", b"x\n"), ("t", b"t\n")])
            .await;
    let mirror = world.mirror().await;
    let (one, _) = world.session(&mirror, 1).await;
    let outside = world.path().join("outside");
    write(&outside.join("precious"), b"precious\n");
    write(&one.path.join("a"), b"changed\n");
    write(&one.path.join("new"), b"new\n");
    world.change_set(&mirror, &one).await;
    write(&one.path.join("target/poison"), b"poison\n");
    write(&one.path.join("after checkpoint"), b"x\n");
    write(&one.path.join("nested/file"), b"x\n");
    world.git_in(&one.path.join("nested"), &["init", "-q"]);
    fs::remove_dir_all(one.path.join("sub")).unwrap();
    symlink(&outside, one.path.join("sub")).unwrap();
    fs::remove_file(one.path.join("gone")).unwrap();
    fs::remove_file(one.path.join("t")).unwrap();
    write(&one.path.join("t/in the way"), b"x\n");
    fs::remove_dir_all(one.path.join(".git")).unwrap();
    symlink(&outside, one.path.join(".git")).unwrap();
    let deep = (0..600).fold(one.path.clone(), |path, _| path.join("d"));
    let _ = std::process::Command::new("sh")
        .args(["-c", "i=0; while [ $i -lt 600 ]; do mkdir d && cd d || exit 1; i=$((i+1)); done"])
        .current_dir(&one.path)
        .status()
        .unwrap();
    assert!(deep.components().count() > 600);

    world.write("later", b"later\n");
    world.commit("later");
    let mirror = world.mirror().await;
    let base = world.git.resolve_base(&mirror, Some("main")).await.unwrap();
    let two = world.git.reset_worktree(&mirror, &one, 2, &base).await.unwrap();
    assert!(!one.path.exists());
    assert_eq!(world.git_in(&two.path, &["status", "--porcelain", "--ignored", "-b"]), "## millhand/s2...origin/main");
    let mut names: Vec<_> = fs::read_dir(&two.path).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    names.sort();
    assert_eq!(names, [".git", ".gitignore", "a", "gone", "later", "sub", "t"]);
    assert_eq!(fs::read(outside.join("precious")).unwrap(), b"precious\n");
    assert!(world.git_in(&two.path, &["branch", "--list"]).lines().all(|line| !line.contains("s1")));
    let (_, set) = world.change_set(&mirror, &two).await;
    assert_eq!(set.files, []);
}

#[tokio::test]
async fn two_ask_for_the_same_mirror_and_worktree_at_once() {
    let world = World::with(&[("a", b"a\n")]).await;
    for round in 0..5 {
        world.write("a", format!("{round}\n").as_bytes());
        world.commit("more");
        // Several `Git`s are as several processes: what holds between them is the lock files.
        let mut asking = tokio::task::JoinSet::new();
        for _ in 0..4 {
            let git = Git::new(None, environment(world.path()), world.home()).await.unwrap();
            let source = world.source_text();
            asking.spawn(async move {
                let mirror = git.ensure_mirror(PROJECT, &source, None).await?;
                let base = git.resolve_base(&mirror, None).await?;
                Ok::<_, GitError>((git.create_worktree(&mirror, round, &base).await?, mirror.fetched))
            });
        }
        let made: Vec<_> = asking.join_all().await.into_iter().map(Result::unwrap).collect();
        assert!(made.iter().all(|(worktree, _)| *worktree == made[0].0));
        assert_eq!(made.iter().filter(|(_, fetched)| *fetched).count(), 1);
        assert_eq!(world.git_in(&made[0].0.path, &["status", "--porcelain"]), "");
    }
}

#[tokio::test]
async fn unfinished_clone_and_left_over_locks_are_no_obstacle() {
    let world = World::with(&[("a", b"a\n")]).await;
    let path = world.home().mirror(PROJECT);
    write(&path.with_extension("git.unfinished").join("HEAD"), b"half");
    let mirror = world.mirror().await;
    for lock in ["packed-refs.lock", "shallow.lock", "refs/mirror/heads/main.lock"] {
        write(&mirror.path.join(lock), b"");
    }
    world.write("a", b"b\n");
    world.commit("more");
    let mirror = world.mirror().await;
    let base = world.git.resolve_base(&mirror, None).await.unwrap();
    assert_eq!(base.commit, world.user(&["rev-parse", "HEAD"]));
}

#[tokio::test]
async fn removed_worktree_goes_to_the_trash_and_its_checkpoint_stays() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&worktree.path.join("work"), b"work\n");
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    let trashed = world.git.remove_worktree(&mirror, 1).await.unwrap().unwrap();
    assert!(!worktree.path.exists());
    assert_eq!(fs::read(trashed.join("work")).unwrap(), b"work\n");
    let kept = world.git_in(&mirror.path, &["rev-parse", "refs/millhand/sessions/1/1"]);
    assert_eq!(kept, checkpoint.commit);
    assert_eq!(world.git.remove_worktree(&mirror, 1).await.unwrap(), None);
}

#[tokio::test]
async fn newest_checkpoint_is_the_last_not_that_of_the_highest_task() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    // Task 9 long ago; task 3, retried, just now.
    let tree = world.git_in(&mirror.path, &["rev-parse", &format!("{}^{{tree}}", base.commit)]);
    let who = "M <m@localhost> 1000000000 +0000";
    let old = format!("tree {tree}\nparent {}\nauthor {who}\ncommitter {who}\n\nold\n", base.commit);
    write(&world.path().join("old"), old.as_bytes());
    let file = world.path().join("old");
    let old = world.git_in(&mirror.path, &["hash-object", "-t", "commit", "-w", file.to_str().unwrap()]);
    world.git_in(&mirror.path, &["update-ref", "refs/millhand/sessions/1/9", &old]);
    write(&worktree.path.join("new"), b"new\n");
    let newest = world.git.checkpoint(&mirror, &worktree, 3, "turn").await.unwrap();
    assert_eq!(world.git.last_checkpoint(&mirror, 1).await.unwrap(), Some(newest.commit));
}

#[tokio::test]
async fn what_lies_in_a_place_and_is_not_whole_goes_to_the_trash() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&worktree.path.join("work"), b"work\n");
    fs::remove_file(mirror.path.join("worktrees/s1/millhand-ready")).unwrap();
    world.session(&mirror, 1).await;
    assert!(!worktree.path.join("work").exists());
    let slots: Vec<_> = fs::read_dir(world.home().trash()).unwrap().map(|slot| slot.unwrap().path()).collect();
    assert_eq!(slots.len(), 1);
    assert_eq!(fs::read(slots[0].join("worktree/work")).unwrap(), b"work\n");
    assert!(slots[0].join("meta/index").exists());
    assert_eq!(fs::read_dir(world.home().pool(PROJECT)).unwrap().count(), 0, "nothing half made is left");
}

#[tokio::test]
async fn objects_that_lost_their_content_with_the_power_are_written_again() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&worktree.path.join("new"), b"new\n");
    write(&worktree.path.join("large"), &vec![b'x'; 17 << 20]);
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    let ids = ["^{tree}", ":new", ":large"]
        .map(|name| world.git_in(&mirror.path, &["rev-parse", &format!("{}{name}", checkpoint.commit)]));
    for id in ids {
        let path = mirror.path.join("objects").join(&id[..2]).join(&id[2..]);
        fs::remove_file(&path).unwrap();
        fs::write(&path, b"").unwrap();
    }
    fs::write(mirror.path.join("worktrees/s1/millhand-boot"), "another run of the machine").unwrap();
    let (again, _) = world.change_set(&mirror, &worktree).await;
    assert_eq!(again.tree, checkpoint.tree);
    assert_eq!(world.git_in(&mirror.path, &["cat-file", "-p", &format!("{}:new", again.commit)]), "new");
    let size = world.git_in(&mirror.path, &["cat-file", "-s", &format!("{}:large", again.commit)]);
    assert_eq!(size, (17 << 20).to_string());
}
