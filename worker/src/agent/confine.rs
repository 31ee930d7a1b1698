//! What an agent may reach, whichever agent it is: its project's folder to write, the system and toolchains to read.

use std::{
    collections::BTreeMap,
    ffi::{OsStr, OsString},
    path::{Path, PathBuf},
};

use crate::{
    config::{Home, SandboxMode, SandboxSettings, Settings},
    supervise::{Sandbox, readable_places},
};

/// Where package managers keep what they download, and git its user's configuration: by variable, where it is below the user's home
/// without one, and its name in the project's own folder.
const CACHED: [(&str, &str, &str); 4] = [
    ("npm_config_cache", ".npm", "npm"),
    ("CARGO_HOME", ".cargo", "cargo"),
    ("GOPATH", "go", "go"),
    // A file. git gives up altogether on one that it finds but may not read.
    ("GIT_CONFIG_GLOBAL", ".gitconfig", "gitconfig"),
];

/// Folder of these in a project's own.
pub const CACHES: &str = "caches";

/// How agents of this host are confined.
#[derive(Clone, Debug)]
pub struct Confinement {
    settings: SandboxSettings,
    home: Home,
    environment: BTreeMap<OsString, OsString>,
}

impl Confinement {
    /// As the settings have it; none if they say not at all.
    pub fn new(settings: &Settings) -> Option<Self> {
        (settings.sandbox.mode == SandboxMode::On).then(|| Self {
            settings: settings.sandbox.clone(),
            home: settings.home.clone(),
            environment: settings.environment.0.clone(),
        })
    }

    /// The sandbox of a project's agents, whose own folder is `folder`. Looks at the disk.
    pub fn sandbox(&self, project_id: i64, folder: &Path) -> Sandbox {
        let mut places = readable_places(&self.environment);
        places.read.push(self.home.tools());
        // What the worktrees' repositories borrow from; the mirror's configuration can hold the remote's password.
        places.read.push(self.home.mirror(project_id).join("objects"));
        places.read.extend(self.settings.read.iter().cloned());
        places.withheld.push(self.home.root().to_owned());
        let mut write = vec![folder.to_owned()];
        write.extend(self.settings.write.iter().cloned());
        Sandbox { read: places.read, write, withheld: places.withheld }
    }

    /// What agents may write outside their projects' folders.
    pub fn writable(&self) -> &[PathBuf] {
        &self.settings.write
    }

    /// Variables that lead package managers into the project's own folder, as far as they may not write the user's.
    pub fn variables(&self, folder: &Path) -> BTreeMap<OsString, OsString> {
        let get = |name: &str| self.environment.get(OsStr::new(name)).map(PathBuf::from);
        let caches = CACHED.iter().filter(|(variable, below, _)| {
            let users = get(variable).or_else(|| Some(get("HOME")?.join(below)));
            !users.is_some_and(|users| self.settings.write.iter().any(|path| users.starts_with(path)))
        });
        caches.map(|(variable, _, name)| ((*variable).into(), folder.join(CACHES).join(name).into())).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caches_are_the_projects_own_unless_the_users_may_be_written() {
        let mut settings = Settings::new(Home::new("/m"));
        settings.environment = [("HOME", "/home/ada")].into_iter().collect();
        let variables = |settings: &Settings| {
            Confinement::new(settings)
                .map(|confinement| confinement.variables(Path::new("/m/agents/1")))
                .unwrap_or_default()
        };
        assert_eq!(variables(&settings)[OsStr::new("CARGO_HOME")], "/m/agents/1/caches/cargo");
        settings.sandbox.write = vec!["/home/ada/.cargo".into()];
        assert!(!variables(&settings).contains_key(OsStr::new("CARGO_HOME")));
        assert!(variables(&settings).contains_key(OsStr::new("npm_config_cache")));
        settings.sandbox.mode = SandboxMode::Off;
        assert!(variables(&settings).is_empty());
    }
}
