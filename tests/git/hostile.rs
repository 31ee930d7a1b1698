//! A worktree whose agent is an enemy: whatever it plants, the supervisor runs none of it and reads nothing outside.

use std::{
    fs,
    os::unix::{
        fs::{MetadataExt, PermissionsExt, symlink},
        process::CommandExt,
    },
    path::Path,
    process::Command,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use millhand::git::GitError;

use super::repository::{PROJECT, World, write};

/// A script that leaves a trace when anybody runs it.
fn plant(path: &Path, canary: &Path) {
    write(path, format!("#!/bin/sh\necho \"$0\" >> {}\ncat\n", canary.display()).as_bytes());
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

/// Everything known to make git run something, in a repository's own folder.
fn plant_configuration(git_dir: &Path, script: &Path, canary: &Path) {
    let run = script.display();
    let config = format!(
        "[core]\n\tfsmonitor = {run}\n\thooksPath = {hooks}\n\tpager = {run}\n\teditor = {run}\n\tsshCommand = {run}\n\
         \tgitProxy = {run}\n\talternateRefsCommand = {run}\n\tattributesFile = {attributes}\n\
         [filter \"evil\"]\n\tclean = {run}\n\tsmudge = {run}\n\tprocess = {run}\n\trequired = true\n\
         [filter \"lfs\"]\n\tclean = {run}\n\tsmudge = {run}\n\tprocess = {run}\n\
         [diff \"evil\"]\n\ttextconv = {run}\n\tcommand = {run}\n[diff]\n\texternal = {run}\n\
         [merge \"evil\"]\n\tdriver = {run} %O %A %B\n[gpg]\n\tprogram = {run}\n[commit]\n\tgpgSign = true\n\
         [uploadpack]\n\tpackObjectsHook = {run}\n[credential]\n\thelper = !{run}\n[include]\n\tpath = {included}\n",
        hooks = git_dir.join("evil-hooks").display(),
        attributes = git_dir.join("evil-attributes").display(),
        included = git_dir.join("evil-included").display(),
    );
    write(&git_dir.join("config"), config.as_bytes());
    write(&git_dir.join("evil-included"), format!("[core]\n\tfsmonitor = {run}\n").as_bytes());
    write(&git_dir.join("evil-attributes"), b"* filter=evil diff=evil merge=evil\n");
    write(&git_dir.join("info/attributes"), b"* filter=evil diff=evil merge=evil\n");
    for folder in ["hooks", "evil-hooks"] {
        for hook in
            ["post-checkout", "post-index-change", "pre-commit", "reference-transaction", "post-merge", "pre-auto-gc"]
        {
            plant(&git_dir.join(folder).join(hook), canary);
        }
    }
}

#[tokio::test]
async fn nothing_that_an_agent_plants_is_run() {
    let world = World::with(&[("a", b"a\n"), ("b.evil", b"b\n")]).await;
    let canary = world.path().join("canary");
    let mirror = world.mirror().await;
    let disguises: [fn(&Path, &Path); 5] = [
        |_, _| {},
        // The real thing is elsewhere, and `.git` points to it: as a link, as a file, by commondir.
        |git, evil| {
            fs::rename(git, evil).unwrap();
            symlink(evil, git).unwrap();
        },
        |git, evil| {
            fs::rename(git, evil).unwrap();
            fs::write(git, format!("gitdir: {}\n", evil.display())).unwrap();
        },
        |git, evil| {
            fs::rename(git, evil).unwrap();
            write(&git.join("commondir"), format!("{}\n", evil.display()).as_bytes());
            write(&git.join("HEAD"), b"ref: refs/heads/x\n");
        },
        |git, _| {
            write(&git.join("commondir"), b"/etc\n");
            write(&git.join("config.worktree"), b"[core]\n\tfsmonitor = false\n");
        },
    ];
    for (session, disguise) in (1..).zip(disguises) {
        let (worktree, base) = world.session(&mirror, session).await;
        let at = |name: &str| worktree.path.join(name);
        let script = at("evil.sh");
        plant(&script, &canary);
        plant_configuration(&at(".git"), &script, &canary);
        write(&at(".gitattributes"), b"* filter=evil diff=evil merge=evil\n*.big filter=lfs\n[attr]x filter=evil\n");
        write(&at("x.big"), b"content\n");
        write(&at("b.evil"), b"changed\n");
        write(&at(".gitmodules"), b"[submodule \"x\"]\n\tpath = x\n\turl = ext::sh -c id\n\tupdate = !sh\n");
        let nested = at("nested");
        fs::create_dir(&nested).unwrap();
        world.git_in(&nested, &["init", "-q"]);
        plant_configuration(&nested.join(".git"), &script, &canary);
        write(&nested.join("file"), b"x\n");
        disguise(&at(".git"), &at("evil-git"));
        let before = fs::read(mirror.path.join("config")).unwrap();
        let (_, set) = world.change_set(&mirror, &worktree).await;
        assert!(set.files.iter().any(|file| file.path == b"b.evil"));
        // Taken up again, given to another session, thrown away.
        let (again, _) = world.session(&mirror, session).await;
        let other = world.git.reset_worktree(&mirror, &again, session + 100, &base).await.unwrap();
        world.change_set(&mirror, &other).await;
        world.git.remove_worktree(&mirror, session + 100).await.unwrap();
        assert_eq!(fs::read(mirror.path.join("config")).unwrap(), before);
        assert!(!canary.exists(), "disguise {session}: {}", fs::read_to_string(&canary).unwrap());
    }
}

#[tokio::test]
async fn attributes_that_a_project_commits_run_nothing_either() {
    let world =
        World::with(&[(".gitattributes", b"* filter=evil\n*.big filter=lfs\n"), ("a", b"a\n"), ("x.big", b"x\n")])
            .await;
    let canary = world.path().join("canary");
    let script = world.path().join("evil.sh");
    plant(&script, &canary);
    let run = script.display();
    // Even where the user's own configuration defines the filter: agents' files never go through it.
    let config = format!(
        "[filter \"evil\"]\n\tclean = {run}\n\tsmudge = {run}\n[filter \"lfs\"]\n\tclean = {run}\n\tsmudge = {run}\n"
    );
    let path = world.path().join("user/.gitconfig");
    let own = fs::read_to_string(&path).unwrap();
    fs::write(&path, own + &config).unwrap();
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    write(&worktree.path.join("a"), b"b\n");
    let checkpoint = world.git.checkpoint(&mirror, &worktree, 1, "turn").await.unwrap();
    world.git.diff(&mirror, &base.commit, &checkpoint).await.unwrap();
    world.git.reset_worktree(&mirror, &worktree, 2, &base).await.unwrap();
    assert!(!canary.exists(), "{}", fs::read_to_string(&canary).unwrap());
}

#[tokio::test]
async fn folder_that_became_a_link_is_not_gone_through() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let outside = world.path().join("outside");
    write(&outside.join("secret"), b"secret\n");
    let (worktree, base) = world.session(&mirror, 1).await;
    fs::rename(&worktree.path, worktree.path.with_file_name("moved")).unwrap();
    symlink(&outside, &worktree.path).unwrap();
    let checkpoint = world.git.checkpoint(&mirror, &worktree, 1, "turn").await;
    assert!(matches!(checkpoint, Err(GitError::Planted { .. })), "{checkpoint:?}");
    let reset = world.git.reset_worktree(&mirror, &worktree, 2, &base).await;
    assert!(reset.is_err());
    // Made anew: the link is moved away, not what it points to.
    let (again, _) = world.session(&mirror, 1).await;
    assert!(again.path.symlink_metadata().unwrap().is_dir());
    assert_eq!(fs::read(outside.join("secret")).unwrap(), b"secret\n");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);

    let parent = worktree.path.parent().unwrap();
    fs::rename(parent, parent.with_file_name("worktrees-moved")).unwrap();
    symlink(&outside, parent).unwrap();
    let made = world.git.create_worktree(&mirror, 3, &base).await;
    assert!(matches!(made, Err(GitError::Planted { .. })), "{made:?}");
    assert_eq!(fs::read_dir(&outside).unwrap().count(), 1);
}

#[tokio::test]
async fn what_is_swapped_while_it_is_read_never_leads_outside() {
    let world = World::with(&[("dir/a", b"inside\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let outside = world.path().join("outside");
    for number in 0..50 {
        write(&outside.join(format!("f{number}")), b"SECRET CANARY\n");
        write(&worktree.path.join(format!("dir/f{number}")), b"inside\n");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, path, outside) = (stop.clone(), worktree.path.clone(), outside.clone());
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                fs::rename(path.join("dir"), path.join("aside")).unwrap();
                symlink(&outside, path.join("dir")).unwrap();
                fs::remove_file(path.join("dir")).unwrap();
                fs::rename(path.join("aside"), path.join("dir")).unwrap();
                let file = path.join("dir/f7");
                fs::remove_file(&file).unwrap();
                symlink(outside.join("f7"), &file).unwrap();
                fs::remove_file(&file).unwrap();
                fs::write(&file, b"inside\n").unwrap();
            }
        })
    };
    for task in 0..100 {
        let checkpoint = world.git.checkpoint(&mirror, &worktree, task, "turn").await.unwrap();
        let found = world.try_git(&mirror.path, &["grep", "-q", "SECRET CANARY", &checkpoint.tree]);
        assert_eq!(found.status.code(), Some(1), "content from outside is in the tree");
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
}

#[tokio::test]
async fn closed_folders_and_files_do_not_fail_a_checkpoint() {
    let world = World::with(&[("dir/a", b"a\n"), ("file", b"f\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    fs::set_permissions(worktree.path.join("dir"), fs::Permissions::from_mode(0o000)).unwrap();
    fs::set_permissions(worktree.path.join("file"), fs::Permissions::from_mode(0o000)).unwrap();
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files, []);
    let again = world.git.reset_worktree(&mirror, &worktree, 2, &base).await.unwrap();
    assert_eq!(world.git_in(&again.path, &["status", "--porcelain"]), "");
}

/// No permissions stop root: it runs the test again as nobody, and is done then.
fn ran_as_nobody(test: &str) -> bool {
    const NOBODY: u32 = 65_534;
    if !rustix::process::geteuid().is_root() {
        return false;
    }
    let mut command = Command::new(std::env::current_exe().unwrap());
    command.args(["--exact", &format!("git::hostile::{test}")]).uid(NOBODY).gid(NOBODY).current_dir("/");
    let output = command.output().unwrap();
    let text = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && text.contains("1 passed"), "{text}{}", String::from_utf8_lossy(&output.stderr));
    true
}

fn set_mode(path: &Path, mode: u32) {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).unwrap();
}

#[tokio::test]
async fn folder_that_can_be_listed_but_not_gone_through_is_not_recorded_as_deleted() {
    if ran_as_nobody("folder_that_can_be_listed_but_not_gone_through_is_not_recorded_as_deleted") {
        return;
    }
    let world = World::with(&[("a", b"a\n"), ("src/b", b"b\n"), ("src/inner/c", b"c\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    let src = worktree.path.join("src");
    for mode in [0o644, 0o444, 0o000] {
        set_mode(&src.join("inner"), mode);
        set_mode(&src, mode);
        let (_, set) = world.change_set(&mirror, &worktree).await;
        assert_eq!(set.files, [], "mode {mode:o}");
        set_mode(&worktree.path, mode);
        let (_, set) = world.change_set(&mirror, &worktree).await;
        assert_eq!(set.files, [], "mode {mode:o}, of the worktree itself");
    }
    set_mode(&src, 0o600);
    let again = world.git.reset_worktree(&mirror, &worktree, 2, &base).await.unwrap();
    assert_eq!(world.git_in(&again.path, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn worktree_that_may_not_be_written_can_be_moved_all_the_same() {
    if ran_as_nobody("worktree_that_may_not_be_written_can_be_moved_all_the_same") {
        return;
    }
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    for mode in [0o555, 0o000] {
        set_mode(&worktree.path, mode);
        world.git.trash_worktree(&mirror, 1, "s1-0").await.unwrap();
        assert!(!worktree.path.exists());
        let restored = world.git.restore_worktree(&mirror, 1, &base, Some("s1-0"), None).await.unwrap();
        assert_eq!(world.git_in(&restored.path, &["status", "--porcelain"]), "");
    }
    set_mode(&worktree.path, 0o555);
    let again = world.git.reset_worktree(&mirror, &worktree, 2, &base).await.unwrap();
    set_mode(&again.path, 0o555);
    world.git.remove_worktree(&mirror, 2).await.unwrap().unwrap();
}

#[tokio::test]
async fn place_that_becomes_a_link_while_a_worktree_is_made_never_leads_outside() {
    let files: Vec<_> = (0..200).map(|number| format!("f{number}")).collect();
    let files: Vec<(&str, &[u8])> = files.iter().map(|name| (name.as_str(), b"theirs\n".as_slice())).collect();
    let world = World::with(&files).await;
    let mirror = world.mirror().await;
    let outside = world.path().join("outside");
    for (name, _) in &files {
        write(&outside.join(name), b"precious\n");
    }
    let stop = Arc::new(AtomicBool::new(false));
    let swapper = {
        let (stop, folder, outside) = (stop.clone(), world.home().worktree(PROJECT, 1), outside.clone());
        let folder = folder.parent().unwrap().to_owned();
        std::thread::spawn(move || {
            while !stop.load(Ordering::Relaxed) {
                for session in 1..=20 {
                    let place = folder.join(format!("s{session}"));
                    if place.symlink_metadata().is_ok_and(|found| found.is_dir()) {
                        let _ = fs::rename(&place, folder.join(format!("moved-{session}")));
                        let _ = symlink(&outside, &place);
                    }
                }
            }
        })
    };
    for session in 1..=20 {
        let base = world.git.resolve_base(&mirror, None).await.unwrap();
        // Whether it succeeds is not the question.
        let made = world.git.create_worktree(&mirror, session, &base).await;
        if let Ok(worktree) = made {
            let _ = world.git.reset_worktree(&mirror, &worktree, session, &base).await;
        }
    }
    stop.store(true, Ordering::Relaxed);
    swapper.join().unwrap();
    assert_eq!(fs::read_dir(&outside).unwrap().count(), files.len());
    for (name, _) in files {
        assert_eq!(fs::read(outside.join(name)).unwrap(), b"precious\n", "{name}");
    }
}

#[tokio::test]
async fn file_with_a_second_name_or_odd_permissions_is_not_handed_to_the_next_session() {
    let world = World::with(&[("linked", b"a\n"), ("open", b"b\n"), ("plain", b"c\n")]).await;
    let mirror = world.mirror().await;
    let (one, base) = world.session(&mirror, 1).await;
    let second = world.path().join("second name");
    fs::hard_link(one.path.join("linked"), &second).unwrap();
    set_mode(&one.path.join("open"), 0o4666);
    let two = world.git.reset_worktree(&mirror, &one, 2, &base).await.unwrap();
    fs::write(&second, b"poison\n").unwrap();
    assert_eq!(fs::read(two.path.join("linked")).unwrap(), b"a\n");
    assert_eq!(fs::metadata(two.path.join("linked")).unwrap().nlink(), 1);
    let modes = ["open", "plain"].map(|name| fs::metadata(two.path.join(name)).unwrap().mode());
    assert_eq!(modes[0], modes[1]);
    assert_eq!(world.git_in(&two.path, &["status", "--porcelain"]), "");
}

#[tokio::test]
async fn folder_is_measured_through_no_link() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    assert!(world.git.disk_use(&worktree.path, 1000).await.unwrap().entries > 0);
    let parent = worktree.path.parent().unwrap();
    fs::rename(parent, world.path().join("outside")).unwrap();
    symlink(world.path().join("outside"), parent).unwrap();
    assert_eq!(world.git.disk_use(&worktree.path, 1000).await.unwrap().entries, 0);
}
