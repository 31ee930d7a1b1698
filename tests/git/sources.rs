//! Kinds of source: each works, or is refused with an error that says what to do.

use std::{fs, path::Path};

use millhand::git::{GitError, Head, SourceKind};

use super::repository::{PROJECT, World, write};

async fn refusal(world: &World, given: &str) -> String {
    match world.git.inspect(given).await {
        Err(GitError::BadSource { problem, .. }) => problem,
        other => panic!("{given}: {other:?}"),
    }
}

/// The source works from end to end, and its mirror needs nothing of it any more.
pub(super) async fn assert_works(world: &World, given: &str) {
    let source = world.git.inspect(given).await.unwrap();
    let mirror = world.git.ensure_mirror(PROJECT, &source.location, None).await.unwrap();
    let (worktree, _) = world.session(&mirror, 1).await;
    assert_eq!(world.git_in(&worktree.path, &["status", "--porcelain"]), "");
    write(&worktree.path.join("new"), b"new\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.len(), 1, "{:?}", set.files);
    world.git_in(&mirror.path, &["fsck", "--connectivity-only", "--no-dangling"]);
    let again = world.git.ensure_mirror(PROJECT, &source.location, None).await.unwrap();
    assert!(!again.fetched || source.kind == SourceKind::Url, "nothing is new, so nothing is fetched");
}

#[tokio::test]
async fn what_is_no_source_is_refused_with_a_reason() {
    let world = World::with(&[("a", b"a\n")]).await;
    write(&world.path().join("file"), b"x");
    fs::create_dir(world.path().join("plain")).unwrap();
    let at = |name: &str| world.path().join(name).to_str().unwrap().to_owned();
    world.git_in(world.path(), &["init", "-q", "--object-format=sha256", "sha256"]);
    world.git_in(world.path(), &["init", "-q", "--ref-format=reftable", "reftable"]);
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let cases = [
        (String::new(), "empty"),
        ("  ".to_owned(), "empty"),
        (at("missing"), "does not exist"),
        (at("file"), "not a folder"),
        (at("plain"), "not a git repository"),
        (at("sha256"), "SHA-256"),
        (at("reftable"), "git refs migrate"),
        (format!("file://{}", at("source")), "give the path"),
        ("ext::sh -c id".to_owned(), "remote helper"),
        ("--upload-pack=id".to_owned(), "dash"),
        (format!("{}\n", at("source")), "control character"),
        (mirror.path.to_str().unwrap().to_owned(), "Millhand's own"),
        (worktree.path.to_str().unwrap().to_owned(), "Millhand's own"),
    ];
    for (given, reason) in cases {
        let problem = refusal(&world, &given).await;
        assert!(problem.contains(reason), "{given}: {problem}");
    }
}

#[tokio::test]
async fn folder_inside_a_repository_names_the_repository() {
    let world = World::with(&[("sub/deep/a", b"a\n")]).await;
    let source = world.git.inspect(world.source().join("sub/deep").to_str().unwrap()).await.unwrap();
    assert_eq!(Path::new(&source.location), world.source().canonicalize().unwrap());
    assert_eq!((source.suggested_name.as_str(), source.kind), ("source", SourceKind::Path));
}

#[tokio::test]
async fn bare_repository_works() {
    let world = World::with(&[("a", b"a\n")]).await;
    world.git_in(world.path(), &["clone", "-q", "--bare", "source", "bare.git"]);
    let bare = world.path().join("bare.git");
    assert!(world.git.inspect(bare.to_str().unwrap()).await.unwrap().is_bare);
    assert_works(&world, bare.to_str().unwrap()).await;
}

#[tokio::test]
async fn linked_worktree_works_with_its_own_branch() {
    let world = World::with(&[("a", b"a\n")]).await;
    world.user(&["worktree", "add", "-q", "-b", "side", "../linked"]);
    let linked = world.path().join("linked");
    let source = world.git.inspect(linked.to_str().unwrap()).await.unwrap();
    assert_eq!(source.branch(), Some("side"));
    assert_works(&world, linked.to_str().unwrap()).await;
}

#[tokio::test]
async fn unborn_branch_works_and_the_patch_applies_to_the_empty_repository() {
    let world = World::empty().await;
    assert_eq!(world.git.inspect(&world.source_text()).await.unwrap().head, Head::Unborn("main".to_owned()));
    let mirror = world.mirror().await;
    let (worktree, base) = world.session(&mirror, 1).await;
    assert_eq!(base.branch.as_deref(), Some("main"));
    write(&worktree.path.join("first"), b"first\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    write(&world.path().join("patch"), &set.files[0].patch);
    world.user(&["apply", "--index", "../patch"]);
    assert_eq!(world.user(&["write-tree"]), set.tree_id);
    world.user(&["commit", "-qm", "first"]);
    let mirror = world.mirror().await;
    let base = world.git.resolve_base(&mirror, None).await.unwrap();
    assert_eq!(base.commit, world.user(&["rev-parse", "HEAD"]));
}

#[tokio::test]
async fn shallow_clone_works_and_grows() {
    let world = World::with(&[("a", b"1\n")]).await;
    for number in 2..6 {
        world.write("a", format!("{number}\n").as_bytes());
        world.commit("more");
    }
    let url = format!("file://{}", world.source().display());
    world.git_in(world.path(), &["clone", "-q", "--depth=2", &url, "shallow"]);
    let shallow = world.path().join("shallow");
    assert!(world.git.inspect(shallow.to_str().unwrap()).await.unwrap().is_shallow);
    assert_works(&world, shallow.to_str().unwrap()).await;
    world.write("a", b"6\n");
    world.commit("more");
    world.git_in(&shallow, &["pull", "-q"]);
    let mirror = world.git.ensure_mirror(PROJECT, shallow.to_str().unwrap(), None).await.unwrap();
    let (worktree, _) = world.session(&mirror, 2).await;
    assert_eq!(world.git_in(&worktree.path, &["rev-list", "--count", "HEAD"]), "3");
}

#[tokio::test]
async fn partial_clone_is_completed_from_its_remote_or_refused() {
    let world = World::with(&[("a", b"1\n"), ("b", b"b\n")]).await;
    world.write("a", b"2\n");
    world.commit("more");
    world.user(&["config", "uploadpack.allowFilter", "true"]);
    let url = format!("file://{}", world.source().display());
    world.git_in(world.path(), &["clone", "-q", "--filter=blob:none", &url, "partial"]);
    let partial = world.path().join("partial");
    write(&partial.join("local"), b"local\n");
    world.git_in(&partial, &["add", "-A"]);
    world.git_in(&partial, &["commit", "-qm", "local"]);
    assert_works(&world, partial.to_str().unwrap()).await;
    let missing = world.git_in(&world.home().mirror(PROJECT), &["rev-list", "--objects", "--all", "--missing=print"]);
    assert!(!missing.contains('?'), "{missing}");
    world.git_in(&partial, &["config", "--unset", "remote.origin.url"]);
    assert!(refusal(&world, partial.to_str().unwrap()).await.contains("partial clone"));
}

#[tokio::test]
async fn repository_that_borrows_objects_is_copied_whole() {
    let world = World::with(&[("a", b"a\n")]).await;
    world.git_in(world.path(), &["clone", "-q", "--shared", "source", "borrower"]);
    let borrower = world.path().join("borrower");
    let mirror = world.git.ensure_mirror(PROJECT, borrower.to_str().unwrap(), None).await.unwrap();
    fs::remove_dir_all(world.source()).unwrap();
    world.git_in(&mirror.path, &["fsck", "--full"]);
    let (worktree, _) = world.session(&mirror, 1).await;
    assert!(worktree.path.join("a").exists());
}

#[tokio::test]
async fn repository_of_another_owner_works() {
    let world = World::with(&[("a", b"a\n")]).await;
    if !rustix::process::geteuid().is_root() {
        crate::support::not_run!("only root can give a repository away");
        return;
    }
    let given_away =
        std::process::Command::new("chown").args(["-R", "12345:12345"]).arg(world.source()).status().unwrap();
    assert!(given_away.success());
    assert_works(&world, &world.source_text()).await;
}

#[tokio::test]
async fn detached_head_is_the_base() {
    let world = World::with(&[("a", b"1\n")]).await;
    world.user(&["checkout", "-q", "--detach"]);
    world.write("a", b"2\n");
    world.commit("on no branch");
    let mirror = world.mirror().await;
    let base = world.git.resolve_base(&mirror, None).await.unwrap();
    assert_eq!((base.branch.as_deref(), base.commit.as_str()), (None, world.user(&["rev-parse", "HEAD"]).as_str()));
    assert_works(&world, &world.source_text()).await;
}

#[tokio::test]
async fn unknown_branch_lists_names_like_it() {
    let world = World::with(&[("a", b"a\n")]).await;
    for name in ["feature/login", "feature/logout", "release"] {
        world.user(&["branch", name]);
    }
    let mirror = world.mirror().await;
    let Err(error) = world.git.resolve_base(&mirror, Some("feature/logn")).await else { panic!("resolved") };
    assert_eq!(error.to_string(), "no branch \"feature/logn\"; did you mean feature/login, feature/logout?");
    let Err(error) = world.git.resolve_base(&mirror, Some("../../x\0")).await else { panic!("resolved") };
    assert!(error.to_string().contains("no branch"), "{error}");
}

#[tokio::test]
async fn deleted_and_moved_branches_are_followed_and_checkpoints_survive_it() {
    let world = World::with(&[("a", b"a\n")]).await;
    world.user(&["branch", "topic"]);
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    world.user(&["branch", "-D", "topic"]);
    world.user(&["branch", "topic/deeper"]);
    world.user(&["commit", "-q", "--amend", "--allow-empty", "-m", "rewritten"]);
    let mirror = world.mirror().await;
    assert!(mirror.fetched);
    assert!(world.git.resolve_base(&mirror, Some("topic")).await.is_err());
    world.git.resolve_base(&mirror, Some("topic/deeper")).await.unwrap();
    world.git_in(&mirror.path, &["cat-file", "-e", &checkpoint.commit]);
    world.git_in(&mirror.path, &["cat-file", "-e", &worktree.base_commit]);
}

#[tokio::test]
async fn url_without_a_server_fails_soon_and_shows_no_password() {
    let world = World::empty().await;
    let Err(error) = world.git.inspect("http://user:secret@127.0.0.1:1/x.git").await else { panic!("reached") };
    let text = error.to_string();
    assert!(text.contains("could not reach") && !text.contains("secret"), "{text}");
}
