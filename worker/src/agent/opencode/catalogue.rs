//! The model catalogue of a server: just the providers in use.
//!
//! opencode's own has hundreds of providers, and loading it in each directory costs time and memory. So the installed
//! opencode is asked once for all that it knows (a probe), the providers in use are cut out of the answer, and the cut is cached by
//! version and configuration. A provider is in use if its variable is set, if the user is logged in to it, or if a
//! configuration names it.

use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    ffi::OsStr,
    fs, io,
    path::PathBuf,
};

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use sha2::{Digest, Sha256};

use super::{OpencodeSetup, config::UserOpencode, wire::Providers};

/// The form of cached cuts; a change makes old ones unused.
const FORM: u32 = 1;

/// A catalogue, and what comes with it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
pub(super) struct Catalogue {
    /// In the form of models.dev, as `OPENCODE_MODELS_PATH` wants it.
    pub(super) models: Value,
    /// What the form of models.dev cannot say, as opencode's configuration.
    pub(super) overlay: Value,
    /// The variables that the providers in use read.
    pub(super) variables: BTreeSet<String>,
    /// Whether it is a cut; if not, the server loads all it knows.
    pub(super) is_cut: bool,
}

impl Catalogue {
    /// Nothing in it: for configurations that declare all their models themselves.
    pub(super) fn empty() -> Self {
        Self { models: json!({}), overlay: json!({}), variables: BTreeSet::new(), is_cut: true }
    }

    /// All that opencode knows: for the probe.
    pub(super) fn whole() -> Self {
        Self { is_cut: false, ..Self::empty() }
    }
}

/// Whether the operator's configuration limits the providers to ones that it declares whole, with models and all. Then
/// there is nothing to look up.
pub(super) fn is_self_contained(operator: Option<&Value>) -> bool {
    let Some(operator) = operator else { return false };
    let Some(enabled) = operator.get("enabled_providers").and_then(Value::as_array) else { return false };
    !enabled.is_empty()
        && enabled.iter().all(|id| {
            let provider = id.as_str().and_then(|id| operator.get("provider")?.get(id));
            provider.is_some_and(|provider| {
                provider.get("npm").is_some()
                    && provider.get("models").and_then(Value::as_object).is_some_and(|models| !models.is_empty())
            })
        })
}

/// Where the cut for this version and configuration is cached.
pub(super) fn cache_path(setup: &OpencodeSetup, version: &str) -> PathBuf {
    let user = UserOpencode::of(&setup.environment);
    let mut hash = Sha256::new();
    let mut add = |bytes: &[u8]| {
        hash.update(bytes.len().to_le_bytes());
        hash.update(bytes);
    };
    add(&FORM.to_le_bytes());
    add(version.as_bytes());
    add(setup.extra_config.as_ref().map(Value::to_string).unwrap_or_default().as_bytes());
    for login in user.logins() {
        add(login.as_bytes());
    }
    // Names only: which variables are set decides which providers are in use.
    for name in setup.environment.keys() {
        add(name.as_encoded_bytes());
    }
    let stamped = user
        .config
        .iter()
        .flat_map(|folder| ["config.json", "opencode.json", "opencode.jsonc"].map(|n| folder.join(n)));
    for path in stamped.chain(user.models) {
        let stamp = fs::metadata(&path).and_then(|metadata| Ok((metadata.len(), metadata.modified()?)));
        add(format!("{} {stamp:?}", path.display()).as_bytes());
    }
    let digest: String = hash.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    setup.cache.join(format!("catalogue-{version}-{digest}.json"))
}

/// The cached cut, if there is one that can be read.
pub(super) fn read_cached(path: &std::path::Path) -> Option<Catalogue> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// Keeps a cut for the next start.
pub(super) fn write_cached(path: &std::path::Path, catalogue: &Catalogue) -> io::Result<()> {
    super::folders::write_private(path, serde_json::to_string(catalogue)?.as_bytes())
}

/// A provider as `GET /provider` tells of it.
#[derive(Deserialize)]
struct Known {
    id: String,
    #[serde(default)]
    name: String,
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    models: BTreeMap<String, Value>,
}

/// Cuts the providers in use out of what a probe answered.
///
/// `connected` are those that the probe could use without any variable: by login or configuration.
pub(super) fn cut(all: &Value, connected: &Providers, setup: &OpencodeSetup) -> Catalogue {
    let known: Vec<Known> = all
        .get("all")
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .filter_map(|provider| serde_json::from_value(provider.clone()).ok())
        .collect();
    let mut used: HashSet<String> = connected.providers.iter().map(|provider| provider.id.clone()).collect();
    used.extend(UserOpencode::of(&setup.environment).logins());
    let is_set = |name: &String| setup.environment.get(OsStr::new(name)).is_some_and(|value| !value.is_empty());
    let mut models = Map::new();
    let mut overlay = Map::new();
    let mut variables = BTreeSet::new();
    for provider in known {
        if !used.contains(&provider.id) && !provider.env.iter().any(is_set) {
            continue;
        }
        variables.extend(provider.env.iter().cloned());
        let variants: Map<String, Value> = provider
            .models
            .iter()
            .filter_map(|(id, model)| Some((id, model.get("variants")?.as_object()?)))
            .filter(|(_, variants)| !variants.is_empty())
            .map(|(id, variants)| (id.clone(), json!({"variants": variants})))
            .collect();
        if !variants.is_empty() {
            overlay.insert(provider.id.clone(), json!({"models": variants}));
        }
        let listed: Map<String, Value> =
            provider.models.iter().map(|(id, model)| (id.clone(), as_models_dev(id, model))).collect();
        models.insert(
            provider.id.clone(),
            json!({"id": provider.id, "name": provider.name, "env": provider.env, "models": listed}),
        );
    }
    Catalogue { models: Value::Object(models), overlay: json!({"provider": overlay}), variables, is_cut: true }
}

/// A model of opencode's, in the form of models.dev.
fn as_models_dev(id: &str, model: &Value) -> Value {
    let can = |name: &str| model["capabilities"][name].as_bool().unwrap_or(false);
    let modalities = |direction: &str| -> Vec<String> {
        let of = model["capabilities"][direction].as_object();
        of.into_iter().flatten().filter(|(_, on)| on.as_bool() == Some(true)).map(|(name, _)| name.clone()).collect()
    };
    let price = |cost: &Value| {
        let mut price = json!({
            "input": number(&cost["input"]),
            "output": number(&cost["output"]),
            "cache_read": number(&cost["cache"]["read"]),
            "cache_write": number(&cost["cache"]["write"]),
        });
        if cost["tier"].is_object() {
            price["tier"] = cost["tier"].clone();
        }
        price
    };
    let mut cost = price(&model["cost"]);
    if let Some(tiers) = model["cost"]["tiers"].as_array() {
        cost["tiers"] = tiers.iter().map(price).collect();
    }
    if model["cost"]["experimentalOver200K"].is_object() {
        cost["context_over_200k"] = price(&model["cost"]["experimentalOver200K"]);
    }
    let mut listed = json!({
        "id": model["api"]["id"].as_str().unwrap_or(id),
        "name": model["name"].as_str().unwrap_or(id),
        "release_date": model["release_date"].as_str().unwrap_or_default(),
        "attachment": can("attachment"),
        "reasoning": can("reasoning"),
        "temperature": can("temperature"),
        "tool_call": can("toolcall"),
        "cost": cost,
        "limit": {"context": number(&model["limit"]["context"]), "output": number(&model["limit"]["output"])},
        "modalities": {"input": modalities("input"), "output": modalities("output")},
        "provider": {"npm": model["api"]["npm"], "api": model["api"]["url"]},
    });
    for name in ["family", "status"] {
        // "active" is what a missing status means, and not among those that may be written.
        if model[name].is_string() && model[name] != "active" {
            listed[name] = model[name].clone();
        }
    }
    if model["limit"]["input"].is_number() {
        listed["limit"]["input"] = model["limit"]["input"].clone();
    }
    if !model["capabilities"]["interleaved"].is_null() && model["capabilities"]["interleaved"] != json!(false) {
        listed["interleaved"] = model["capabilities"]["interleaved"].clone();
    }
    listed
}

fn number(value: &Value) -> Value {
    if value.is_number() { value.clone() } else { json!(0) }
}
