//! Other targets: a named branch, a new branch of a remote, a project that is nothing but a URL.

use std::{fs, os::unix::process::CommandExt as _};

use millhand::actions::{ApplyRequest, Target};

use super::{FILES, Rig, request, work, write};
use crate::support::world::{git, make_repository};

fn to(branch: &str) -> ApplyRequest {
    ApplyRequest { target: Target::Branch(branch.to_owned()), ..request() }
}

#[tokio::test]
async fn another_branch_takes_changes_and_the_base_stays() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    let main = rig.commit("src/a.sh", "echo theirs\n");
    let applied = rig.try_apply(session, &to("feature/x")).await.expect("a new branch");
    assert_eq!(
        rig.user(&["rev-parse", "feature/x^{tree}"]),
        tree,
        "as it was reviewed, from where the session started"
    );
    assert_eq!(rig.user(&["rev-parse", "main"]), main);
    assert_eq!((applied.branch.as_str(), applied.worktree), ("feature/x", None));
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_ne!(base, main);

    rig.send(session, |path| write(path, "more", "more\n")).await;
    rig.try_apply(session, &to("feature/x")).await.expect("one that is there");
    assert_eq!(rig.user(&["rev-list", "--count", "main..feature/x"]), "2");
    let (_, _, tree) = rig.open_set(session).await;
    assert_eq!(rig.user(&["rev-parse", "feature/x^{tree}"]), tree);
    for bad in ["", "-x", "a..b", "a b", "HEAD", "x.lock", "a/"] {
        let why = rig.try_apply(session, &to(bad)).await.expect_err("refused").to_string();
        assert!(why.contains("no name for a branch") || why.contains("applied already"), "{bad}: {why}");
    }
}

#[tokio::test]
async fn a_branch_is_pushed_to_the_remote_and_moves_only_forward() {
    let rig = Rig::new().await;
    git(&rig.root, &["clone", "-q", "--bare", "acme", "remote.git"]).expect("clone");
    rig.user(&["remote", "add", "origin", rig.root.join("remote.git").to_str().expect("path")]);
    let session = rig.session(work).await;
    let (_, _, tree) = rig.open_set(session).await;
    let push = ApplyRequest { push: true, ..request() };
    let before = rig.user(&["rev-parse", "main"]);
    let applied = rig.try_apply(session, &push).await.expect("pushed");
    assert_eq!(applied.branch, format!("millhand/s{session}"));
    let remote = rig.root.join("remote.git");
    let at = |name: &str| git(&remote, &["rev-parse", name]).expect("rev-parse");
    assert_eq!(at(&format!("millhand/s{session}^{{tree}}")), tree);
    assert_eq!(rig.user(&["rev-parse", "main"]), before, "the user's own branches stay");
    assert_eq!(rig.user(&["for-each-ref", "refs/heads"]).lines().count(), 1);

    // Somebody else goes on with it; the next one is on top.
    let name = format!("millhand/s{session}");
    git(&rig.root, &["clone", "-q", "-b", &name, "remote.git", "colleague"]).expect("clone");
    write(&rig.root.join("colleague"), "theirs", "theirs\n");
    let colleague = rig.root.join("colleague");
    for arguments in [&["add", "-A"][..], &["commit", "-qm", "theirs"], &["push", "-q"]] {
        git(&colleague, arguments).expect("git");
    }
    rig.send(session, |path| write(path, "more", "more\n")).await;
    rig.try_apply(session, &push).await.expect("on top");
    assert_eq!(at(&format!("{name}^")), git(&colleague, &["rev-parse", "HEAD"]).expect("head"));
    assert_eq!(git(&remote, &["show", &format!("{name}:theirs")]).expect("show"), "theirs");
}

/// The same line, turn after turn: what the target has of the session already is no conflict with what came after it.
#[tokio::test]
async fn an_apply_does_not_conflict_with_an_earlier_one_of_its_session() {
    let rig = Rig::new().await;
    git(&rig.root, &["clone", "-q", "--bare", "acme", "remote.git"]).expect("clone");
    rig.user(&["remote", "add", "origin", rig.root.join("remote.git").to_str().expect("path")]);
    let push = ApplyRequest { push: true, ..request() };
    let session = rig
        .session(|path| {
            work(path);
            write(path, "new/file.txt", "one\n");
        })
        .await;
    for (turn, text) in [(1, "two\n"), (2, "three\n")] {
        rig.try_apply(session, &push).await.unwrap_or_else(|error| panic!("push {turn}: {error}"));
        rig.send(session, |path| write(path, "new/file.txt", text)).await;
        rig.try_apply(session, &to("topic")).await.unwrap_or_else(|error| panic!("topic {turn}: {error}"));
        rig.send(session, |path| write(path, "src/moved.txt", text)).await;
    }
    // Only some of it: the others stay as they were applied.
    rig.send(session, |path| {
        write(path, "new/file.txt", "four\n");
        write(path, "src/moved.txt", "four\n");
    })
    .await;
    rig.try_apply(session, &ApplyRequest { only: vec!["new".to_owned()], ..to("topic") }).await.expect("some");
    assert_eq!(rig.user(&["show", "topic:new/file.txt"]), "four");
    assert_eq!(rig.user(&["show", "topic:src/moved.txt"]), "two");
    let (_, _, tree) = rig.open_set(session).await;
    rig.try_apply(session, &to("topic")).await.expect("the rest");
    assert_eq!(rig.user(&["rev-parse", "topic^{tree}"]), tree);
}

#[tokio::test]
async fn what_a_turn_makes_of_lines_that_are_applied_meanwhile_is_kept() {
    let rig = Rig::new().await;
    let session = rig.session(work).await;
    rig.sql(&format!("INSERT INTO millhand.tasks (session_id, prompt) VALUES ({session}, 'and then')")).await;
    let (claimed, mirror, worktree) = rig.begin().await;
    write(&worktree.path, "README.md", "# acme\none\ntwo\nthree\nfour\nfive\nSEVEN\n");
    assert!(rig.apply(session).await.not_rebased.is_some(), "a turn runs");
    rig.end(&claimed, &mirror, &worktree).await;
    rig.applier.recover_all().await.expect("settle");
    let base: String = rig.one("SELECT base_commit FROM millhand.sessions").await;
    assert_eq!(base, rig.user(&["rev-parse", "main"]), "it is measured against what was applied");
    rig.send(session, |path| write(path, "more", "more\n")).await;
    let paths: Vec<_> = rig.decided(session).await.into_iter().map(|(path, _)| path).collect();
    assert_eq!(paths, ["README.md", "more"]);
    rig.apply(session).await;
    assert!(rig.read("README.md").is_some_and(|text| text.ends_with("SEVEN\n")));
}

#[tokio::test]
async fn a_push_goes_where_the_users_own_would() {
    let rig = Rig::new().await;
    git(&rig.root, &["clone", "-q", "--bare", "acme", "remote.git"]).expect("clone");
    git(&rig.root, &["clone", "-q", "--bare", "acme", "fork.git"]).expect("clone");
    rig.user(&["remote", "add", "origin", "../remote.git"]);
    let session = rig.session(work).await;
    let push = |branch: &str| ApplyRequest { push: true, ..to(branch) };
    rig.try_apply(session, &ApplyRequest { only: vec!["docs".to_owned()], ..push("feature") })
        .await
        .expect("a relative path");
    git(&rig.root.join("remote.git"), &["branch", "-m", "feature", "feature/x"]).expect("rename");
    rig.try_apply(session, &ApplyRequest { only: vec!["new".to_owned()], ..push("feature/x") })
        .await
        .expect("a folder of that name");
    assert_eq!(git(&rig.root.join("remote.git"), &["show", "feature/x:new/file.txt"]).expect("show"), "new");
    rig.user(&["config", "remote.origin.pushurl", "../fork.git"]);
    rig.try_apply(session, &ApplyRequest { only: vec!["README.md".to_owned()], ..push("feature") })
        .await
        .expect("to the fork");
    assert!(git(&rig.root.join("fork.git"), &["rev-parse", "feature"]).is_ok());
}

#[tokio::test]
async fn a_base_that_was_deleted_is_not_made_anew_unasked() {
    let rig = Rig::new().await;
    rig.user(&["checkout", "-qb", "feature"]);
    rig.sql("UPDATE millhand.projects SET base_branch = 'feature'").await;
    let session = rig.session(work).await;
    rig.user(&["checkout", "-q", "main"]);
    rig.user(&["branch", "-qD", "feature"]);
    let why = rig.refusal(session, &request()).await;
    assert!(why.contains("the branch feature is gone"), "{why}");
    rig.try_apply(session, &to("feature")).await.expect("asked for");
}

/// What is in LFS is brought along wherever it can be, and a pointer to nothing is not pushed.
#[tokio::test]
async fn lfs_content_comes_with_its_pointer() {
    let rig = Rig::with(&[("README.md", "acme\n"), (".gitattributes", "*.bin filter=lfs -text\n")]).await;
    git(&rig.root, &["clone", "-q", "--bare", "acme", "remote.git"]).expect("clone");
    rig.user(&["remote", "add", "origin", "../remote.git"]);
    let session = rig
        .session(|path| {
            write(path, "big.bin", "big\n");
            write(path, "small", "small\n");
        })
        .await;
    let push = ApplyRequest { push: true, ..request() };
    let why = rig.refusal(session, &push).await;
    assert!(why.contains("big.bin") && why.contains("LFS"), "{why}");
    rig.try_apply(session, &ApplyRequest { only: vec!["small".to_owned()], ..push }).await.expect("the others");
    rig.try_apply(session, &to("topic")).await.expect("a branch that is checked out nowhere");
    let pointer = rig.user(&["show", "topic:big.bin"]);
    let hash = pointer.lines().find_map(|line| line.strip_prefix("oid sha256:")).expect("a pointer").to_owned();
    let content = rig.source().join(".git/lfs/objects").join(&hash[..2]).join(&hash[2..4]).join(&hash);
    assert_eq!(std::fs::read_to_string(content).expect("content"), "big\n");
}

/// Serves a folder of repositories by git's own protocol, and lets people push.
struct Daemon {
    port: u16,
    process: std::process::Child,
}

impl Daemon {
    fn start(folder: &std::path::Path) -> Self {
        let port =
            std::net::TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("port").port();
        let process = std::process::Command::new("git")
            .args(["daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"])
            .arg(format!("--port={port}"))
            .arg(format!("--base-path={}", folder.display()))
            .arg(folder)
            .stdin(std::process::Stdio::null())
            .stdout(std::process::Stdio::null())
            .stderr(std::process::Stdio::null())
            // git starts the daemon as another process: both are ended together.
            .process_group(0)
            .spawn()
            .expect("git daemon");
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        while std::net::TcpStream::connect(("127.0.0.1", port)).is_err() {
            assert!(std::time::Instant::now() < deadline, "git daemon does not listen");
            std::thread::yield_now();
        }
        Self { port, process }
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let group = i32::try_from(self.process.id()).ok().and_then(rustix::process::Pid::from_raw);
        if let Some(group) = group {
            let _ = rustix::process::kill_process_group(group, rustix::process::Signal::KILL);
        }
        let _ = self.process.wait();
    }
}

#[tokio::test]
async fn a_project_by_url_takes_changes_by_push_with_compare_and_swap() {
    let folder = tempfile::tempdir().expect("folder");
    make_repository(&folder.path().join("first"), FILES).expect("repository");
    git(folder.path(), &["clone", "-q", "--bare", "first", "served/acme.git"]).expect("clone");
    let daemon = Daemon::start(&folder.path().join("served"));
    let url = format!("git://127.0.0.1:{}/acme.git", daemon.port);
    let rig = Rig::on(folder, &url).await;
    let session = rig.session(work).await;
    // The remote moves on in between.
    git(&rig.root, &["clone", "-q", "served/acme.git", "colleague"]).expect("clone");
    let colleague = rig.root.join("colleague");
    write(&colleague, "theirs", "theirs\n");
    for arguments in [&["add", "-A"][..], &["commit", "-qm", "theirs"], &["push", "-q"]] {
        git(&colleague, arguments).expect("git");
    }
    let applied = rig.apply(session).await;
    assert_eq!((applied.branch.as_str(), applied.remote.as_deref()), ("main", Some(url.as_str())));
    assert_eq!((applied.not_rebased, applied.pull_request), (None, None));
    let served = rig.root.join("served/acme.git");
    assert_eq!(git(&served, &["log", "--format=%s", "main"]).expect("log"), "Do it\ntheirs\nfirst");
    rig.send(session, |path| write(path, "more", "more\n")).await;
    assert_eq!(rig.decided(session).await, [("more".to_owned(), "pending".to_owned())]);
    let hook = served.join("hooks/update");
    std::fs::create_dir_all(served.join("hooks")).expect("hooks");
    std::fs::write(&hook, "#!/bin/sh\necho protected by policy >&2\nexit 1\n").expect("hook");
    std::fs::set_permissions(&hook, std::os::unix::fs::PermissionsExt::from_mode(0o755)).expect("hook");
    let why = rig.try_apply(session, &request()).await.expect_err("refused").to_string();
    assert!(why.contains("refused") && why.contains("protected by policy"), "{why}");
    assert_eq!(rig.decided(session).await, [("more".to_owned(), "pending".to_owned())]);
}

#[tokio::test]
async fn a_commit_is_signed_as_the_users_git_does_it_if_asked() {
    let mut rig = Rig::new().await;
    let key = rig.root.join("user/key");
    let made = std::process::Command::new("ssh-keygen")
        .args(["-q", "-t", "ed25519", "-N", "", "-C", "ada@example.org", "-f"])
        .arg(&key)
        .status();
    if !made.is_ok_and(|made| made.success()) {
        crate::support::not_run!("signed commits: the program ssh-keygen (openssh-client) is not there");
        return;
    }
    let public = fs::read_to_string(key.with_extension("pub")).expect("key");
    let signers = rig.root.join("user/signers");
    fs::write(&signers, format!("ada@example.org {public}")).expect("signers");
    let config = format!(
        "[user]\n\tname = Ada\n\temail = ada@example.org\n\tsigningKey = {}\n[gpg]\n\tformat = ssh\n",
        key.display()
    );
    fs::write(rig.root.join("user/.gitconfig"), config).expect("config");
    let verify = |rig: &Rig| {
        std::process::Command::new("git")
            .args(["-c", &format!("gpg.ssh.allowedSignersFile={}", signers.display()), "verify-commit", "main"])
            .current_dir(rig.source())
            .output()
            .expect("git")
    };
    let session = rig.session(|path| write(path, "a.txt", "a\n")).await;
    rig.apply(session).await;
    assert!(!verify(&rig).status.success(), "it is opt-in");
    rig.applier.settings.sign = true;
    let session = rig.session(|path| write(path, "b.txt", "b\n")).await;
    rig.apply(session).await;
    let verified = verify(&rig);
    let said = String::from_utf8_lossy(&verified.stderr);
    assert!(verified.status.success() && said.contains("Good \"git\" signature for ada@example.org"), "{said}");

    // A key that is not there: nothing is applied, and it is said.
    fs::remove_file(&key).expect("remove");
    fs::remove_file(key.with_extension("pub")).expect("remove");
    let session = rig.session(|path| write(path, "c.txt", "c\n")).await;
    let why = rig.refusal(session, &request()).await;
    assert!(why.contains("sign"), "{why}");
}
