//! Where programs and what they need lie: the system's folders, and toolchains in a user's home, which is otherwise closed.

use std::{
    collections::{BTreeMap, BTreeSet},
    env,
    ffi::{OsStr, OsString},
    fs,
    path::{Path, PathBuf},
};

/// Folders of the system. Not `/var`, `/run`, `/tmp`, `/home`: what lies there belongs to somebody.
const SYSTEM: [&str; 27] = [
    "/usr",
    "/bin",
    "/sbin",
    "/lib",
    "/lib32",
    "/lib64",
    "/opt",
    "/etc",
    "/proc",
    "/nix/store",
    "/nix/var/nix/profiles",
    "/gnu/store",
    "/snap",
    "/home/linuxbrew/.linuxbrew",
    "/sys/devices",
    "/sys/class",
    "/sys/bus",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/run/current-system",
    "/run/systemd/resolve",
    "/run/NetworkManager/resolv.conf",
    "/run/NetworkManager/no-stub-resolv.conf",
    "/run/resolvconf",
    "/var/lib/ca-certificates",
    "/var/lib/alternatives",
    "/var/lib/dpkg",
];

/// Toolchains by the variable that names their folder, and where in the home they are without it; then what of the folder is
/// needed: nothing named means all of it.
const TOOLCHAINS: &[(&str, &str, &[&str])] = &[
    // Not credentials.toml.
    ("CARGO_HOME", ".cargo", &["bin", "registry", "git", "config.toml", "config", "env"]),
    ("RUSTUP_HOME", ".rustup", &[]),
    ("NVM_DIR", ".nvm", &[]),
    ("PYENV_ROOT", ".pyenv", &[]),
    ("GOROOT", ".goroot", &[]),
    ("GOPATH", "go", &["bin", "pkg"]),
    ("JAVA_HOME", ".java", &[]),
    ("PNPM_HOME", ".local/share/pnpm", &[]),
    ("BUN_INSTALL", ".bun", &["bin", "install"]),
    ("DENO_DIR", ".deno", &[]),
    ("", ".volta", &[]),
    ("", ".asdf", &[]),
    ("", ".local/share/mise", &[]),
    ("", ".local/share/fnm", &[]),
    ("", ".local/share/uv", &["python", "tools"]),
    ("", ".local/share/pipx", &[]),
    ("", ".local/bin", &[]),
    ("", ".local/lib", &[]),
    ("", ".nix-profile", &[]),
    ("", ".sdkman/candidates", &[]),
    ("", ".rbenv", &[]),
    ("", ".rvm", &[]),
    ("", ".dotnet", &[]),
    ("", ".ghcup", &[]),
    ("", ".juliaup", &[]),
];
/// Certificates that everything needs where they are set.
const CERTIFICATES: [&str; 3] = ["SSL_CERT_FILE", "SSL_CERT_DIR", "NODE_EXTRA_CA_CERTS"];
/// In a home, what is never part of a toolchain.
const CREDENTIALS: &[&str] = &[
    ".ssh",
    ".gnupg",
    ".aws",
    ".azure",
    ".kube",
    ".docker",
    ".config/gh",
    ".config/gcloud",
    ".netrc",
    ".git-credentials",
    ".config/git/credentials",
    ".npmrc",
    ".pypirc",
    ".cargo/credentials",
    ".cargo/credentials.toml",
    ".local/share/keyrings",
    ".password-store",
    ".mozilla",
];

/// What agents can read without being told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Places {
    /// To be read.
    pub read: Vec<PathBuf>,
    /// To be left out, should somebody name a folder around it.
    pub withheld: Vec<PathBuf>,
}

/// Finds them by an environment: the system's folders, the toolchains of its user, what its `PATH` leads to.
pub fn readable_places(environment: &BTreeMap<OsString, OsString>) -> Places {
    let get = |name: &str| environment.get(OsStr::new(name)).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = get("HOME").map(|home| home.canonicalize().unwrap_or(home));
    let mut found = Found { home: home.clone(), read: BTreeSet::new() };
    for folder in SYSTEM {
        found.add(Path::new(folder));
    }
    for (variable, below, parts) in TOOLCHAINS {
        let folder = get(variable).or_else(|| Some(home.as_ref()?.join(below)));
        let Some(folder) = folder else { continue };
        if parts.is_empty() {
            found.add(&folder);
        }
        for part in *parts {
            found.add(&folder.join(part));
        }
    }
    for file in CERTIFICATES.iter().filter_map(|name| get(name)) {
        found.add(&file);
    }
    let path = environment.get(OsStr::new("PATH")).cloned().unwrap_or_default();
    for folder in env::split_paths(&path).filter(|folder| folder.is_absolute()) {
        found.add_programs(&folder);
    }
    let withheld = home.iter().flat_map(|home| CREDENTIALS.iter().map(|below| home.join(below)));
    Places { withheld: withheld.collect(), read: found.read.into_iter().collect() }
}

struct Found {
    home: Option<PathBuf>,
    read: BTreeSet<PathBuf>,
}

impl Found {
    /// Takes a path in, where it really lies. A folder that would open a whole home or disk is not taken.
    fn add(&mut self, path: &Path) -> bool {
        let Ok(path) = path.canonicalize() else { return false };
        if self.is_too_wide(&path) || self.is_withheld(&path) {
            return false;
        }
        if !self.covers(&path) {
            self.read.insert(path);
        }
        true
    }

    fn is_too_wide(&self, path: &Path) -> bool {
        let is_around_home = self.home.as_ref().is_some_and(|home| home.starts_with(path));
        let is_for_all = ["/var", "/run", "/tmp", "/home", "/root", "/dev", "/sys", "/mnt", "/media", "/srv"];
        path.parent().is_none() || is_around_home || is_for_all.iter().any(|folder| Path::new(folder) == path)
    }

    /// Where credentials are, whatever link led there.
    fn is_withheld(&self, path: &Path) -> bool {
        self.home.iter().any(|home| CREDENTIALS.iter().any(|below| path.starts_with(home.join(below))))
    }

    fn covers(&self, path: &Path) -> bool {
        path.ancestors().any(|folder| self.read.contains(folder))
    }

    /// A folder of the `PATH`: it, the libraries beside it, and where links in it lead.
    fn add_programs(&mut self, folder: &Path) {
        let Ok(folder) = folder.canonicalize() else { return };
        self.add(&folder);
        self.add_prefix(&folder);
        let Ok(entries) = fs::read_dir(&folder) else { return };
        for entry in entries.flatten() {
            if !entry.file_type().is_ok_and(|kind| kind.is_symlink()) {
                continue;
            }
            let Ok(program) = entry.path().canonicalize() else { continue };
            if self.covers(&program) || !program.is_file() {
                continue;
            }
            let Some(around) = program.parent() else { continue };
            self.add_prefix(around);
            if !self.covers(&program) && !self.add(around) {
                self.add(&program);
            }
        }
    }

    /// `<prefix>/bin` goes with `<prefix>/lib`, unless the prefix is one that holds more than programs.
    fn add_prefix(&mut self, bin: &Path) {
        let Some(prefix) = bin.parent().filter(|_| bin.file_name() == Some(OsStr::new("bin"))) else { return };
        let own = |below: &str| self.home.as_ref().is_some_and(|home| home.join(below) == prefix);
        let is_deep = prefix.components().count() > 2;
        let is_mixed = [".local", ".cargo", ".config", ".bun"].iter().any(|below| own(below));
        if is_deep && !is_mixed && ["lib", "lib64", "libexec"].iter().any(|name| prefix.join(name).is_dir()) {
            self.add(prefix);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    fn variables(pairs: &[(&str, &Path)]) -> BTreeMap<OsString, OsString> {
        pairs.iter().map(|(name, value)| (name.into(), value.as_os_str().to_owned())).collect()
    }

    fn file(path: &Path) -> std::io::Result<()> {
        fs::create_dir_all(path.parent().unwrap_or(path))?;
        fs::write(path, "")
    }

    #[test]
    fn toolchains_of_a_home_are_found_and_the_home_itself_stays_closed() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let home = folder.path().canonicalize()?.join("ada");
        for path in [".cargo/bin/cargo", ".cargo/credentials.toml", ".rustup/settings.toml", ".ssh/id", "notes", "x.sh"]
        {
            file(&home.join(path))?;
        }
        file(&home.join("sdk/v1/bin/tool"))?;
        file(&home.join("sdk/v1/lib/tool.so"))?;
        file(&home.join("apps/one/run"))?;
        fs::create_dir_all(home.join("bin"))?;
        symlink(home.join("sdk/v1/bin/tool"), home.join("bin/tool"))?;
        symlink(home.join("apps/one/run"), home.join("bin/run"))?;
        symlink(home.join("x.sh"), home.join("bin/x"))?;
        let found = readable_places(&variables(&[("HOME", &home), ("PATH", &home.join("bin"))]));
        let in_home: Vec<_> = found.read.iter().filter_map(|path| path.strip_prefix(&home).ok()).collect();
        let expected = [".cargo/bin", ".rustup", "apps/one", "bin", "sdk/v1", "x.sh"];
        assert_eq!(in_home, expected.map(Path::new));
        assert!(found.read.iter().any(|path| path == Path::new("/usr")));
        assert!(found.withheld.contains(&home.join(".ssh")));
        Ok(())
    }

    #[test]
    fn no_path_opens_a_home_or_the_disk() -> std::io::Result<()> {
        let folder = tempfile::tempdir()?;
        let home = folder.path().canonicalize()?;
        let wide = env::join_paths([Path::new("/"), &home, home.parent().unwrap_or(&home)]).unwrap_or_default();
        let found = readable_places(&variables(&[("HOME", &home), ("PATH", Path::new(&wide))]));
        assert!(found.read.iter().all(|path| !home.starts_with(path)), "{:?}", found.read);
        Ok(())
    }
}
