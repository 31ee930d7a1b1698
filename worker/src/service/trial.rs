//! Trying the sandbox out, for `millhand doctor`: do programs work inside, does it hold, and what can still be reached from it?

use std::{
    fs, io,
    os::unix::fs::{FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::Context;

use super::host::{agent_user, as_agent_user};
use crate::{
    agent::confine::Confinement,
    config::{Settings, private_folder},
    supervise::{AgentUser, ChildSpec, Exit, RunAs, Supervisor, allowed_environment, hand_over, sandbox_is_supported},
};

/// How long a program may take.
const WITHIN: Duration = Duration::from_secs(60);
/// Project ids start at 1.
const NO_PROJECT: i64 = 0;
/// What an agent does first with each program.
const PROGRAMS: [(&str, &str); 4] = [
    (
        "git",
        "git init -q trial && cd trial && git -c user.name=a -c user.email=a@example.invalid commit -qm x --allow-empty \
         && git --version",
    ),
    ("node", r#"node -e 'require("fs").writeFileSync("made", "x"); console.log(process.version)'"#),
    (
        "python3",
        "python3 -c 'import ssl, tempfile, platform; tempfile.TemporaryFile(); print(platform.python_version())'",
    ),
    ("cargo", "cargo init -q --vcs none made-crate && cd made-crate && cargo check -q --offline && cargo --version"),
];
/// Sockets that services listen on, which may do more for whoever asks than an agent should have.
const SOCKETS: [&str; 9] = [
    "/run/docker.sock",
    "/run/podman/podman.sock",
    "/run/containerd/containerd.sock",
    "/run/dbus/system_bus_socket",
    "/run/systemd/private",
    "/run/snapd.socket",
    "/run/postgresql/.s.PGSQL.5432",
    "/tmp/.s.PGSQL.5432",
    "/tmp/.X11-unix/X0",
];
/// The same, below the folder of a user's session.
const SESSION_SOCKETS: [&str; 6] =
    ["bus", "docker.sock", "podman/podman.sock", "gnupg/S.gpg-agent", "keyring/ssh", "systemd/private"];

/// How it went.
#[derive(Debug)]
pub struct SandboxTrial {
    /// Programs by name; what they said of themselves, or why they do not work. None: not installed.
    pub programs: Vec<(&'static str, Result<Option<String>, String>)>,
    /// What could be reached and must not be.
    pub leaks: Vec<String>,
    /// Sockets that an agent can connect to.
    pub sockets: Vec<PathBuf>,
}

/// Tries the sandbox of these settings. None: it is switched off.
///
/// # Errors
///
/// The kernel has no such sandbox, or nothing can be started in it.
pub async fn try_sandbox(settings: &Settings, millhand: PathBuf) -> anyhow::Result<Option<SandboxTrial>> {
    let Some(confinement) = Confinement::new(settings) else { return Ok(None) };
    anyhow::ensure!(sandbox_is_supported(), "this kernel has no Landlock with ABI 6 (Linux 6.12 or newer)");
    let user = agent_user(settings)?;
    let settings = &as_agent_user(settings, user.as_ref());
    let confinement = Confinement::new(settings).unwrap_or(confinement);
    let folder = match &user {
        Some(_) => settings.home.agents().join("trial"),
        None => settings.home.private().join("trial"),
    };
    make_folder(settings, &folder, user.as_ref()).with_context(|| format!("create {}", folder.display()))?;
    let run_as = user.map(|user| user.run_as);
    let supervisor = Supervisor::new(millhand, "trial");
    let trial = Trial { settings, confinement, run_as, folder: folder.clone(), supervisor };
    let tried = trial.run().await;
    fs::remove_dir_all(&folder).with_context(|| format!("remove {}", folder.display()))?;
    tried.map(Some)
}

/// The folder that programs are tried in, and its user's.
fn make_folder(settings: &Settings, folder: &Path, user: Option<&AgentUser>) -> io::Result<()> {
    private_folder(folder)?;
    if user.is_some() {
        fs::set_permissions(settings.home.agents(), fs::Permissions::from_mode(0o711))?;
    }
    hand_over(settings.home.root(), folder, user.map(|user| user.run_as))
}

struct Trial<'a> {
    settings: &'a Settings,
    confinement: Confinement,
    run_as: Option<RunAs>,
    folder: PathBuf,
    supervisor: Supervisor,
}

impl Trial<'_> {
    async fn run(&self) -> anyhow::Result<SandboxTrial> {
        let mut programs = Vec::new();
        for (name, script) in PROGRAMS {
            let script = format!("command -v {name} >/dev/null || exit 127; {script}");
            let (exit, lines) = self.shell(&script, &[]).await?;
            let last = lines.iter().rfind(|line| !line.trim().is_empty()).cloned().unwrap_or_default();
            programs.push((
                name,
                match exit {
                    Some(Exit::Code(0)) => {
                        Ok(Some(last.trim_start_matches(name).trim_start_matches(" version").trim().to_owned()))
                    }
                    Some(Exit::Code(127)) => Ok(None),
                    Some(exit) => Err(format!("{last} ({exit})")),
                    None => Err("it hangs".to_owned()),
                },
            ));
        }
        Ok(SandboxTrial { programs, leaks: self.leaks().await?, sockets: self.sockets() })
    }

    async fn leaks(&self) -> anyhow::Result<Vec<String>> {
        let user = self.settings.environment.get("HOME").map(PathBuf::from).unwrap_or_default();
        let marker = self.settings.home.private().join("trial-secret");
        fs::write(&marker, "x").with_context(|| format!("write {}", marker.display()))?;
        let script = r#"for file do if cat "$file" >/dev/null 2>&1; then echo "$file can be read"; fi; done
            if (: >"$1") 2>/dev/null; then echo "$1 can be written"; fi"#;
        let files = [marker.clone(), "/etc/shadow".into(), user.join(".ssh/id_rsa"), user.join(".ssh/id_ed25519")];
        let answer = self.shell(script, &files).await;
        fs::remove_file(&marker).with_context(|| format!("remove {}", marker.display()))?;
        let (exit, lines) = answer?;
        anyhow::ensure!(exit.is_some(), "a shell hangs in the sandbox");
        Ok(lines)
    }

    async fn shell(&self, script: &str, arguments: &[PathBuf]) -> anyhow::Result<(Option<Exit>, Vec<String>)> {
        let mut spec = ChildSpec::new("trial", "/bin/sh", &self.folder);
        spec.args = vec!["-c".into(), script.into(), "sh".into()];
        spec.args.extend(arguments.iter().map(Into::into));
        spec.env = allowed_environment(self.settings.environment.0.clone(), &[]);
        spec.env.extend(self.confinement.variables(&self.folder));
        spec.env.insert("TMPDIR".into(), self.folder.clone().into());
        spec.run_as = self.run_as;
        spec.sandbox = Some(self.confinement.sandbox(NO_PROJECT, &self.folder));
        let child = self.supervisor.spawn(spec).await?;
        let exit = tokio::time::timeout(WITHIN, child.exited()).await.ok();
        child.stop_gently().await;
        Ok((exit, child.tail().into_iter().map(|line| line.text).collect()))
    }

    /// Landlock does not govern connecting to these; the user's rights do.
    fn sockets(&self) -> Vec<PathBuf> {
        let session = format!("/run/user/{}", rustix::process::geteuid().as_raw());
        let named = self.settings.environment.get("SSH_AUTH_SOCK").map(PathBuf::from);
        let found = SOCKETS.iter().map(PathBuf::from);
        let found = found.chain(SESSION_SOCKETS.iter().map(|name| Path::new(&session).join(name))).chain(named);
        found.filter(|path| accepts(path).unwrap_or(false)).collect()
    }
}

fn accepts(socket: &Path) -> io::Result<bool> {
    Ok(fs::metadata(socket)?.file_type().is_socket()
        && rustix::fs::access(socket, rustix::fs::Access::WRITE_OK).is_ok())
}
