//! What an opencode server is started with: its folders, its configuration, its environment.
//!
//! The user's own opencode works as it is: its global configuration is copied and its other files linked into the
//! server's private configuration folder, its logins are one symbolic link, and the variables that its providers need are
//! passed by name. What we insist on goes on top; what are only better defaults goes underneath.
//!
//! Nothing here reads the environment of the process: it is an argument. Secrets go into files with mode 0600 in the
//! server's folder, not into its environment, which the agent's shell inherits.

use std::{
    collections::{BTreeMap, BTreeSet},
    ffi::{OsStr, OsString},
    fs, io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    time::Duration,
};

use serde_json::{Value, json};
use sha2::{Digest, Sha256};

use super::{
    OpencodeSetup,
    catalogue::Catalogue,
    folders::{Folders, create_below, write_private},
};
use crate::{
    agent::{AgentProject, confine::Confinement},
    model::ask::AskPolicy,
    supervise::{self, RunAs, Sandbox},
};

/// Names of opencode's global configuration, the later over the earlier.
const CONFIG_FILES: [&str; 3] = ["config.json", "opencode.json", "opencode.jsonc"];
/// What of the user's configuration folder is neither copied nor linked: opencode makes its own.
const NOT_LINKED: [&str; 6] =
    ["node_modules", "package.json", "package-lock.json", "bun.lock", "bun.lockb", ".gitignore"];
/// Longest configuration file that is read.
const MAX_CONFIG: u64 = 4 << 20;

/// Where the user's own opencode keeps its things.
#[derive(Clone, Debug, Default)]
pub(super) struct UserOpencode {
    /// `~/.config/opencode`.
    pub(super) config: Option<PathBuf>,
    /// `~/.local/share/opencode/auth.json`.
    pub(super) auth: Option<PathBuf>,
    /// `~/.cache/opencode/models.json`: the model catalogue as the user's opencode last fetched it.
    pub(super) models: Option<PathBuf>,
    /// Their home.
    pub(super) home: Option<PathBuf>,
}

impl UserOpencode {
    /// Finds them by an environment.
    pub(super) fn of(environment: &BTreeMap<OsString, OsString>) -> Self {
        let folder = |variable: &str, below_home: &str| {
            let named = environment.get(OsStr::new(variable)).map(PathBuf::from).filter(|path| path.is_absolute());
            let home = || environment.get(OsStr::new("HOME")).map(|home| Path::new(home).join(below_home));
            named.or_else(home).map(|path| path.join("opencode"))
        };
        Self {
            config: folder("XDG_CONFIG_HOME", ".config"),
            auth: folder("XDG_DATA_HOME", ".local/share").map(|path| path.join("auth.json")),
            models: folder("XDG_CACHE_HOME", ".cache")
                .map(|path| path.join("models.json"))
                .filter(|path| path.is_file()),
            home: environment.get(OsStr::new("HOME")).map(PathBuf::from),
        }
    }

    /// The user's configuration files, by name.
    fn config_files(&self) -> io::Result<BTreeMap<&'static str, Vec<u8>>> {
        let mut files = BTreeMap::new();
        let Some(folder) = &self.config else { return Ok(files) };
        for name in CONFIG_FILES {
            let path = folder.join(name);
            match fs::metadata(&path) {
                Ok(metadata) if metadata.len() > MAX_CONFIG => {
                    return Err(io::Error::other(format!("{} is larger than {MAX_CONFIG} bytes", path.display())));
                }
                Ok(_) => drop(files.insert(name, fs::read(&path)?)),
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                Err(error) => return Err(io::Error::new(error.kind(), format!("{}: {error}", path.display()))),
            }
        }
        Ok(files)
    }

    /// The providers that the user has logged in to, by the keys of `auth.json`.
    pub(super) fn logins(&self) -> Vec<String> {
        let text = self.auth.as_deref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let logins: BTreeMap<String, serde::de::IgnoredAny> = serde_json::from_slice(&text).unwrap_or_default();
        logins.into_keys().collect()
    }

    /// What of `auth.json` is a secret, as it is now.
    fn keys(&self) -> Vec<String> {
        let text = self.auth.as_deref().and_then(|path| fs::read(path).ok()).unwrap_or_default();
        let mut keys = Vec::new();
        texts_under(
            &serde_json::from_slice(&text).unwrap_or_default(),
            &["key", "token", "access", "refresh"],
            &mut keys,
        );
        keys
    }
}

/// What a server of this setup knows beside its password and must not be read in transcripts: variables that are secrets by their names, keys
/// in the operator's configuration, and the user's logins.
pub(super) fn secrets(setup: &OpencodeSetup) -> Vec<String> {
    let variables = setup.environment.iter().filter(|(name, _)| supervise::is_secret(&name.to_string_lossy()));
    let mut secrets: Vec<String> = variables.filter_map(|(_, value)| value.to_str().map(str::to_owned)).collect();
    if let Some(config) = &setup.extra_config {
        texts_under(config, &["apiKey"], &mut secrets);
    }
    secrets.extend(UserOpencode::of(&setup.environment).keys());
    secrets
}

/// The texts of all fields of these names, wherever they are.
fn texts_under(value: &Value, names: &[&str], into: &mut Vec<String>) {
    match value {
        Value::Object(fields) => {
            for (name, field) in fields {
                match field {
                    Value::String(text) if names.contains(&name.as_str()) => into.push(text.clone()),
                    other => texts_under(other, names, into),
                }
            }
        }
        Value::Array(items) => items.iter().for_each(|item| texts_under(item, names, into)),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Everything that a server's behaviour depends on, before it is written anywhere.
#[derive(Clone, Debug)]
pub(super) struct Plan {
    user: UserOpencode,
    user_files: BTreeMap<&'static str, Vec<u8>>,
    /// Better defaults, which the user's own configuration overrides.
    defaults: Value,
    /// The operator's configuration, on top of the user's.
    operator: Value,
    /// What we insist on, on top of all.
    insisted: Value,
    /// Passed from the worker's environment.
    passed: BTreeMap<OsString, OsString>,
    trusted: bool,
    lsp: bool,
    catalogue: Catalogue,
    project_id: i64,
    confinement: Option<Confinement>,
}

/// What a server is started with, beside its files.
#[derive(Clone)]
pub(super) struct Launch {
    binary: PathBuf,
    environment: BTreeMap<OsString, OsString>,
    pub(super) sandbox: Option<Sandbox>,
    pub(super) run_as: Option<RunAs>,
}

impl Launch {
    /// The whole environment.
    pub(super) fn environment_with(&self, password: &str) -> BTreeMap<OsString, OsString> {
        let mut environment = self.environment.clone();
        environment.insert("OPENCODE_SERVER_PASSWORD".into(), password.into());
        environment
    }

    /// A hash of it all, but for the password: the same for servers that can do the same.
    pub(super) fn print(&self) -> String {
        let mut sandbox = self.sandbox.clone();
        for paths in
            sandbox.iter_mut().flat_map(|sandbox| [&mut sandbox.read, &mut sandbox.write, &mut sandbox.withheld])
        {
            paths.sort();
            paths.dedup();
        }
        let mut hash = Sha256::new();
        hash.update(format!("{:?} {:?} {sandbox:?} {:?}", self.binary, self.environment, self.run_as));
        hash.finalize().iter().map(|byte| format!("{byte:02x}")).collect()
    }
}

impl Plan {
    /// Plans the server of a project.
    pub(super) fn new(setup: &OpencodeSetup, project: &AgentProject, catalogue: Catalogue) -> io::Result<Self> {
        let user = UserOpencode::of(&setup.environment);
        let user_files = user.config_files()?;
        let operator = setup.extra_config.clone().unwrap_or_else(|| json!({}));
        let insisted = insist_on(setup, project.asks, &operator);
        let mut names = project.env_pass.clone();
        names.extend(catalogue.variables.iter().cloned());
        for text in user_files.values().map(|bytes| String::from_utf8_lossy(bytes)).chain([operator.to_string().into()])
        {
            names.extend(env_references(&text));
        }
        let mut defaults = default_permissions(project.asks);
        merge_over(&mut defaults, &provider_timeouts(&catalogue, &operator, setup.timings.provider_silence));
        let mut operator = operator;
        merge_under(&mut operator, &catalogue.overlay);
        Ok(Self {
            user,
            user_files,
            defaults,
            operator,
            insisted,
            passed: supervise::allowed_environment(setup.environment.clone(), &names),
            trusted: project.trusted,
            lsp: setup.lsp,
            catalogue,
            project_id: project.id,
            confinement: setup.confinement.clone(),
        })
    }

    /// Whether the repository's own configuration is loaded.
    pub(super) fn is_trusted(&self) -> bool {
        self.trusted
    }

    /// Hash of everything that a conversation may depend on. The model catalogue is not in it: new models change nothing for a
    /// conversation with an old one.
    pub(super) fn hash(&self, version: &str) -> String {
        let mut hash = Sha256::new();
        let mut add = |bytes: &[u8]| {
            hash.update(bytes.len().to_le_bytes());
            hash.update(bytes);
        };
        add(version.as_bytes());
        for (name, bytes) in &self.user_files {
            add(name.as_bytes());
            add(bytes);
        }
        add(self.defaults.to_string().as_bytes());
        add(self.operator.to_string().as_bytes());
        add(self.insisted.to_string().as_bytes());
        for name in self.passed.keys() {
            add(name.as_encoded_bytes());
        }
        add(&[u8::from(self.trusted), u8::from(self.lsp)]);
        hash.finalize().iter().take(16).map(|byte| format!("{byte:02x}")).collect()
    }

    /// Writes folders and files.
    pub(super) fn write(&self, folders: &Folders) -> io::Result<()> {
        let kinds = ["config", "data", "state", "cache"];
        for folder in kinds.iter().map(|kind| folders.xdg(kind)).chain([folders.root.clone(), folders.tmp.clone()]) {
            create_below(&folders.own, &folder)?;
        }
        create_below(&folders.own, &folders.config())?;
        self.write_config(&folders.config())?;
        let data = folders.xdg("data").join("opencode");
        create_below(&folders.own, &data)?;
        self.link_logins(&data)?;
        write_private(&folders.operator_config(), self.operator.to_string().as_bytes())?;
        write_private(&folders.catalogue(), self.catalogue.models.to_string().as_bytes())
    }

    /// What the server is started with. Looks at the disk.
    pub(super) fn launch(&self, setup: &OpencodeSetup, folders: &Folders) -> Launch {
        let sandbox = self.sandbox(setup, folders);
        let run_as = setup.user.as_ref().map(|user| user.run_as);
        Launch { binary: setup.binary.clone(), environment: self.environment(folders), sandbox, run_as }
    }

    fn environment(&self, folders: &Folders) -> BTreeMap<OsString, OsString> {
        let mut environment = self.passed.clone();
        if let Some(confinement) = &self.confinement {
            environment.extend(confinement.variables(&folders.own));
        }
        let mut set = |name: &str, value: &OsStr| drop(environment.insert(name.into(), value.to_owned()));
        set("XDG_CONFIG_HOME", folders.xdg("config").as_os_str());
        set("XDG_DATA_HOME", folders.xdg("data").as_os_str());
        set("XDG_STATE_HOME", folders.xdg("state").as_os_str());
        set("XDG_CACHE_HOME", folders.xdg("cache").as_os_str());
        set("TMPDIR", folders.tmp.as_os_str());
        set("OPENCODE_CONFIG", folders.operator_config().as_os_str());
        set("OPENCODE_CONFIG_CONTENT", OsStr::new(&self.insisted.to_string()));
        if self.catalogue.is_cut {
            set("OPENCODE_MODELS_PATH", folders.catalogue().as_os_str());
        } else if let Some(models) = &self.user.models {
            set("OPENCODE_MODELS_PATH", models.as_os_str());
        }
        set("OPENCODE_DISABLE_MODELS_FETCH", OsStr::new("1"));
        set("OPENCODE_DISABLE_AUTOUPDATE", OsStr::new("1"));
        if !self.lsp {
            set("OPENCODE_DISABLE_LSP_DOWNLOAD", OsStr::new("1"));
        }
        if !self.trusted {
            set("OPENCODE_DISABLE_PROJECT_CONFIG", OsStr::new("1"));
        }
        environment
    }

    fn sandbox(&self, setup: &OpencodeSetup, folders: &Folders) -> Option<Sandbox> {
        let mut sandbox = self.confinement.as_ref()?.sandbox(self.project_id, &folders.own);
        sandbox.read.push(setup.binary.clone());
        sandbox.read.extend(self.user.models.clone());
        if let Some(config) = &self.user.config {
            sandbox.read.push(config.clone());
            // Those who keep their configuration elsewhere have links to it here.
            let entries = fs::read_dir(config).into_iter().flatten().flatten();
            sandbox.read.extend(entries.filter_map(|entry| entry.path().canonicalize().ok()));
        }
        for text in self.texts() {
            sandbox.read.extend(file_references(&text, &self.user));
        }
        // The only file outside: tokens rotate, and a copy of them would be worth nothing.
        sandbox.write.extend(self.user.auth.clone());
        Some(sandbox)
    }

    /// The configuration that names variables and files.
    fn texts(&self) -> Vec<String> {
        let files = self.user_files.values().map(|bytes| String::from_utf8_lossy(bytes).into_owned());
        files.chain([self.operator.to_string()]).collect()
    }

    /// The server's global configuration folder: our defaults lowest, copies of the user's files, links to the rest.
    ///
    /// Copies, because opencode writes into configuration files that lack a `$schema`.
    fn write_config(&self, folder: &Path) -> io::Result<()> {
        for entry in fs::read_dir(folder)? {
            let entry = entry?;
            let is_ours = entry.file_name().to_str().is_some_and(|name| CONFIG_FILES.contains(&name));
            if is_ours || entry.file_type()?.is_symlink() {
                fs::remove_file(entry.path())?;
            }
        }
        let mut files = self.user_files.clone();
        if let Some(lowest) = files.remove("config.json") {
            // Its place is needed for our defaults; the next free one keeps the order.
            let free = CONFIG_FILES.into_iter().skip(1).find(|name| !files.contains_key(name));
            files.insert(free.unwrap_or("config.json"), lowest);
        }
        files.entry("config.json").or_insert_with(|| self.defaults.to_string().into_bytes());
        for (name, bytes) in &files {
            write_private(&folder.join(name), bytes)?;
        }
        let Some(user) = self.user.config.as_deref().filter(|path| path.is_dir()) else { return Ok(()) };
        for entry in fs::read_dir(user)? {
            let entry = entry?;
            let name = entry.file_name();
            let is_skipped =
                name.to_str().is_some_and(|name| CONFIG_FILES.contains(&name) || NOT_LINKED.contains(&name));
            let link = folder.join(&name);
            if !is_skipped && fs::symlink_metadata(&link).is_err() {
                symlink(entry.path(), link)?;
            }
        }
        Ok(())
    }

    /// Logins are one file, the user's own: copies would break tokens that rotate. It need not exist yet.
    fn link_logins(&self, data: &Path) -> io::Result<()> {
        let Some(auth) = &self.user.auth else { return Ok(()) };
        let link = data.join("auth.json");
        match fs::symlink_metadata(&link) {
            Ok(_) if fs::read_link(&link).is_ok_and(|target| target == *auth) => return Ok(()),
            Ok(_) => fs::remove_file(&link)?,
            Err(_) => {}
        }
        symlink(auth, link)
    }
}

/// What we insist on, with what the operator says of the same keys.
fn insist_on(setup: &OpencodeSetup, policy: AskPolicy, operator: &Value) -> Value {
    let mut insisted = json!({
        "autoupdate": false,
        "share": "disabled",
        // A question that nobody answers stops the turn; one that cannot be asked does not.
        "permission": {"question": if policy == AskPolicy::Inbox { "allow" } else { "deny" }},
    });
    if let Value::Object(insisted) = &mut insisted {
        // `true` is opencode's default for these, which may mean more than `true`: leave it alone then.
        for (name, on) in [("snapshot", setup.snapshot), ("lsp", setup.lsp), ("formatter", setup.formatter)] {
            if !on {
                insisted.insert(name.to_owned(), Value::Bool(false));
            }
        }
        for (name, value) in insisted {
            match (value, operator.get(name)) {
                (_, None) => {}
                (value @ Value::Object(_), Some(theirs @ Value::Object(_))) => merge_over(value, theirs),
                (value, Some(theirs)) => *value = theirs.clone(),
            }
        }
    }
    insisted
}

/// Rules for what opencode asks about by default. Rules of the configuration reach subagents, answers to asks do not.
fn default_permissions(policy: AskPolicy) -> Value {
    let answer = match policy {
        AskPolicy::Allow => "allow",
        AskPolicy::Reject => "deny",
        AskPolicy::Inbox => "ask",
    };
    let in_a_loop = if policy == AskPolicy::Inbox { "ask" } else { "deny" };
    json!({
        "permission": {
            // Never allowed by default: nobody watches, and a loop costs money.
            "doom_loop": in_a_loop,
            "external_directory": answer,
            "read": {"*": "allow", "*.env": answer, "*.env.*": answer, "*.env.example": "allow"},
        },
    })
}

/// How long the providers in use may say nothing, before and during an answer. opencode's own bound is 5 minutes.
fn provider_timeouts(catalogue: &Catalogue, operator: &Value, silence: Duration) -> Value {
    let ms = u64::try_from(silence.as_millis()).unwrap_or(u64::MAX);
    let names = |value: &Value| value.as_object().into_iter().flatten().map(|(id, _)| id.clone()).collect::<Vec<_>>();
    let declared = operator.get("provider").map(names).unwrap_or_default();
    let options = json!({"options": {"chunkTimeout": ms, "headerTimeout": ms}});
    let providers = names(&catalogue.models).into_iter().chain(declared).map(|id| (id, options.clone()));
    json!({"provider": providers.collect::<serde_json::Map<_, _>>()})
}

/// Merges `from` into `into`, key by key; `from` wins.
fn merge_over(into: &mut Value, from: &Value) {
    match (into, from) {
        (Value::Object(into), Value::Object(from)) => {
            for (key, value) in from {
                merge_over(into.entry(key.clone()).or_insert(Value::Null), value);
            }
        }
        (into, from) => into.clone_from(from),
    }
}

/// Merges `from` into `into`, key by key; what is there stays.
fn merge_under(into: &mut Value, from: &Value) {
    if let (Value::Object(into), Value::Object(from)) = (into, from) {
        for (key, value) in from {
            match into.get_mut(key) {
                Some(there) => merge_under(there, value),
                None => drop(into.insert(key.clone(), value.clone())),
            }
        }
    }
}

/// The names in `{env:NAME}`, by which opencode's configuration takes in variables.
fn env_references(text: &str) -> BTreeSet<String> {
    let names = text.split("{env:").skip(1).filter_map(|rest| rest.split_once('}'));
    names.map(|(name, _)| name.trim().to_owned()).filter(|name| !name.is_empty() && name.len() < 200).collect()
}

/// The files in `{file:path}`, by which opencode's configuration takes in keys.
fn file_references(text: &str, user: &UserOpencode) -> Vec<PathBuf> {
    let names = text.split("{file:").skip(1).filter_map(|rest| rest.split_once('}'));
    let resolved = names.filter_map(|(name, _)| match name.trim().strip_prefix("~/") {
        Some(below) => Some(user.home.as_ref()?.join(below)),
        None => Some(user.config.as_ref()?.join(name.trim())),
    });
    resolved.filter(|path| path.is_file()).collect()
}
