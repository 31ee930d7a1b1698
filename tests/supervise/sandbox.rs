//! The sandbox, tried from inside by a shell.

use std::os::{linux::net::SocketAddrExt, unix::net};

use millhand::supervise::{Sandbox, readable_places, sandbox_is_supported};

use super::*;

/// What a shell in the sandbox can do: the names of those tries that succeed, in order.
async fn succeeds(spec: ChildSpec, tries: &[(&str, String)]) -> Result<Vec<String>> {
    let mut spec = spec;
    let tries = tries.iter().map(|(name, script)| format!("if ( {script} ) >/dev/null 2>&1; then echo '{name}'; fi"));
    spec.args = vec!["-c".into(), tries.collect::<Vec<_>>().join("\n").into()];
    let child = start(&supervisor(), spec).await?;
    assert_eq!(child.exited().await, Exit::Code(0), "{:?}", child.tail());
    Ok(child.tail().into_iter().map(|line| line.text).collect())
}

/// A folder to write, one to read, one that is closed, and a shell confined to that.
fn confined() -> Result<(TempDir, ChildSpec)> {
    ensure!(sandbox_is_supported(), "these tests need Linux 6.12 or newer");
    let folder = TempDir::new()?;
    let root = folder.path().canonicalize()?;
    for name in ["own", "open/private", "closed/.ssh"] {
        fs::create_dir_all(root.join(name))?;
        fs::write(root.join(name).join("file"), "secret")?;
    }
    fs::write(root.join("open/file"), "x")?;
    fs::write(root.join("closed/file"), "secret")?;
    let mut spec = shell(&folder, "");
    spec.cwd = root.join("own");
    let environment = std::env::vars_os().filter(|(name, _)| name == "PATH" || name == "HOME").collect();
    spec.env.clone_from(&environment);
    spec.env.insert("GIT_CONFIG_GLOBAL".into(), root.join("own/gitconfig").into());
    let places = readable_places(&environment);
    let mut sandbox = Sandbox { read: places.read, write: vec![root.join("own")], withheld: places.withheld };
    sandbox.read.push(root.join("open"));
    sandbox.withheld.push(root.join("open/private"));
    spec.sandbox = Some(sandbox);
    Ok((folder, spec))
}

#[tokio::test]
async fn a_confined_child_reaches_what_it_was_given_and_nothing_else() -> Result<()> {
    let (folder, spec) = confined()?;
    let root = folder.path().canonicalize()?;
    let at = |name: &str| root.join(name).display().to_string();
    let (own, open, closed) = (at("own"), at("open"), at("closed"));
    std::os::unix::fs::symlink(root.join("closed/.ssh/file"), root.join("own/link"))?;
    let tries = [
        (
            "write own",
            format!("echo x >{own}/new && mkdir {own}/a {own}/b && mv {own}/new {own}/a/ && ln {own}/a/new {own}/b/"),
        ),
        ("read own", format!("cat {own}/file")),
        ("read open", format!("cat {open}/file")),
        ("write open", format!("echo x >{open}/new")),
        ("append to open", format!("echo x >>{open}/file")),
        ("truncate open", format!("truncate -s 0 {open}/file")),
        ("read withheld", format!("cat {open}/private/file")),
        ("list withheld", format!("ls {open}/private")),
        ("read closed", format!("cat {closed}/file")),
        ("list closed", format!("ls {closed}")),
        ("read through a link", format!("cat {own}/link")),
        ("write closed", format!("echo x >{closed}/.ssh/new")),
        ("move out", format!("mv {own}/file {closed}/")),
        ("move in", format!("mv {closed}/file {own}/stolen")),
        ("link in", format!("ln {closed}/.ssh/file {own}/stolen")),
        ("remove closed", format!("rm {closed}/.ssh/file")),
        ("read shadow", "cat /etc/shadow".to_owned()),
        ("read host keys", "cat /etc/ssh/ssh_host_*_key".to_owned()),
        ("read passwd", "cat /etc/passwd".to_owned()),
        ("read proc", "cat /proc/meminfo /proc/self/environ".to_owned()),
        ("write proc", "echo x >/proc/sys/kernel/core_pattern".to_owned()),
        ("devices", "echo x >/dev/null && head -c 1 /dev/urandom".to_owned()),
        ("disks", "head -c 1 /dev/[svx]d[a-z]".to_owned()),
        ("home", "ls ~".to_owned()),
        ("tmp", "echo x >/tmp/millhand-sandbox-test".to_owned()),
        ("mount", "mount -t tmpfs none /mnt".to_owned()),
        ("chroot", "chroot / true".to_owned()),
        ("away", format!("setsid sh -c 'cat {closed}/file'")),
    ];
    let expected = ["write own", "read own", "read open", "read passwd", "read proc", "devices"];
    assert_eq!(succeeds(spec, &tries).await?, expected);
    for name in ["closed/file", "closed/.ssh/file"] {
        assert_eq!(fs::read_to_string(root.join(name))?, "secret");
    }
    Ok(())
}

#[tokio::test]
async fn a_confined_child_signals_and_reads_no_process_but_its_own() -> Result<()> {
    let (_folder, spec) = confined()?;
    let mut other = Command::new("sleep").arg("1000").env("SECRET", "canary").stdin(Stdio::null()).spawn()?;
    let (us, other_pid) = (std::process::id(), other.id());
    let name = format!("millhand-{}", uuid::Uuid::new_v4());
    let _listener = net::UnixListener::bind_addr(&net::SocketAddr::from_abstract_name(&name)?)?;
    let perl = format!(
        r#"perl -MSocket -e 'socket(S, PF_UNIX, SOCK_STREAM, 0); exit(connect(S, pack_sockaddr_un("\0{name}")) ? 0 : 1)'"#
    );
    assert!(Command::new("sh").args(["-c", &perl]).status()?.success(), "it can be reached from outside: {perl}");
    let tries = [
        ("signal its own", "sleep 1000 & kill -KILL $!".to_owned()),
        ("signal the worker", format!("kill -CONT {us}")),
        ("signal the shim", "kill -CONT $PPID".to_owned()),
        ("signal another", format!("kill -KILL {other_pid}")),
        ("environment of the worker", format!("cat /proc/{us}/environ")),
        ("environment of another", format!("cat /proc/{other_pid}/environ")),
        ("memory of another", format!("head -c 1 /proc/{other_pid}/maps")),
        ("files of another", format!("readlink /proc/{other_pid}/fd/0")),
        ("root of another", format!("ls /proc/{other_pid}/root/")),
        ("abstract socket", perl),
    ];
    let succeeded = succeeds(spec, &tries).await;
    assert!(lives(other_pid), "the other one lives");
    other.kill()?;
    other.wait()?;
    assert_eq!(succeeded?, ["signal its own"]);
    Ok(())
}

#[tokio::test]
async fn a_confined_child_has_no_privileges_and_its_family_is_still_ended() -> Result<()> {
    let (_folder, mut spec) = confined()?;
    spec.args = vec!["-c".into(), format!("grep -E '^(Cap|NoNewPrivs)' /proc/self/status; {STUBBORN}").into()];
    let child = start(&supervisor(), spec).await?;
    let away = announced(&child, "away").await?;
    let status: Vec<_> = child.tail().into_iter().map(|line| line.text.replace('\t', " ")).collect();
    for name in ["CapInh", "CapPrm", "CapEff", "CapAmb"] {
        assert!(status.contains(&format!("{name}: 0000000000000000")), "{name}: {status:?}");
    }
    assert!(status.contains(&"NoNewPrivs: 1".to_owned()), "{status:?}");
    assert!(child.stop(SHORT).await.is_some());
    assert!(!lives(away));
    Ok(())
}

#[tokio::test]
async fn programs_work_in_the_sandbox() -> Result<()> {
    let (_folder, spec) = confined()?;
    let git = "git init -q r && cd r && echo x >f && git add f && git -c user.name=a -c user.email=a@b commit -qm x";
    let tries = [
        ("git", git.to_owned()),
        ("node", r#"node -e 'require("fs").writeFileSync("made", process.version)'"#.to_owned()),
        ("a pipe", "ps | grep -q . && [ $(seq 3 | tail -1) = 3 ]".to_owned()),
    ];
    assert_eq!(succeeds(spec, &tries).await?, ["git", "node", "a pipe"]);
    Ok(())
}
