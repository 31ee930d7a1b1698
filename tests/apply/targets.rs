//! Other targets: a named branch, a new branch of a remote, a project that is nothing but a URL.

use std::os::unix::process::CommandExt as _;

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
