//! What a server offers in a directory, and whether what was asked for is among it. Checked before a prompt, because
//! opencode takes a prompt first and fails later, or picks something else silently.

use std::collections::BTreeMap;

use super::wire::{Config, Mode, Providers};
use crate::{agent::AgentError, model::outcome::Ending};

/// Names suggested in an error.
const SUGGESTIONS: usize = 5;

/// Modes and models that can be used.
#[derive(Clone, Debug, Default)]
pub(super) struct Facts {
    /// Modes that a person can choose.
    modes: Vec<String>,
    default_mode: Option<String>,
    /// Limits of steps, by mode.
    step_limits: BTreeMap<String, u32>,
    /// Provider → model → variants.
    models: BTreeMap<String, BTreeMap<String, Vec<String>>>,
    default_model: Option<String>,
}

/// A model that can be used.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Resolved {
    /// `provider/model`.
    pub(super) model: String,
    /// Variant of the model.
    pub(super) variant: Option<String>,
}

impl Facts {
    /// Puts together what the server answered.
    pub(super) fn new(modes: Vec<Mode>, providers: Providers, config: Config) -> Self {
        let chosen = |mode: &Mode| !mode.hidden && matches!(mode.mode.as_str(), "primary" | "all");
        let models = |provider: super::wire::Provider| {
            let models = provider.models.into_iter().map(|(id, model)| (id, model.variants.into_keys().collect()));
            (provider.id, models.collect())
        };
        let step_limits = modes.iter().filter_map(|mode| Some((mode.name.clone(), mode.steps?))).collect();
        Self {
            step_limits,
            modes: modes.into_iter().filter(chosen).map(|mode| mode.name).collect(),
            default_mode: config.default_agent,
            models: providers.providers.into_iter().map(models).collect(),
            default_model: config.model,
        }
    }

    /// Every model, `provider/model`.
    pub(super) fn model_names(&self) -> Vec<String> {
        let all = self.models.iter();
        all.flat_map(|(provider, models)| models.keys().map(move |model| format!("{provider}/{model}"))).collect()
    }

    /// Steps after which a mode stops.
    pub(super) fn step_limit(&self, mode: &str) -> Option<u32> {
        self.step_limits.get(mode).copied()
    }

    /// The mode that will run.
    pub(super) fn mode(&self, asked: Option<&str>) -> Result<String, AgentError> {
        let has = |name: &str| self.modes.iter().any(|mode| mode == name);
        if let Some(name) = asked {
            if has(name) {
                return Ok(name.to_owned());
            }
            let message = format!("opencode has no mode \"{name}\" here; it has: {}", self.modes.join(", "));
            return Err(AgentError { ending: Ending::AgentInvalid, message });
        }
        let default = self.default_mode.as_deref().filter(|name| has(name)).or(has("build").then_some("build"));
        default.or(self.modes.first().map(String::as_str)).map(str::to_owned).ok_or_else(|| AgentError {
            ending: Ending::Misconfigured,
            message: "opencode has no mode that could run a prompt: its configuration turns them all off".to_owned(),
        })
    }

    /// The model that will run: as asked for, else ours by default, else opencode's by its configuration.
    pub(super) fn model(
        &self,
        asked: Option<&str>,
        variant: Option<&str>,
        our_default: Option<&str>,
        default_provider: Option<&str>,
    ) -> Result<Resolved, AgentError> {
        let Some(name) = asked.or(our_default).or(self.default_model.as_deref()).filter(|name| !name.is_empty()) else {
            return Err(AgentError {
                ending: Ending::Misconfigured,
                message: "no model is named: give the task or the project one, or set \"model\" in opencode's \
                          configuration; `millhand models` lists what can be used"
                    .to_owned(),
            });
        };
        let (provider, model) = match (name.split_once('/'), default_provider) {
            (Some(both), _) => both,
            (None, Some(provider)) => (provider, name),
            (None, None) => {
                return Err(self.invalid(
                    name,
                    &format!("\"{name}\" names no provider, and no default provider is set: write provider/model"),
                ));
            }
        };
        let Some(models) = self.models.get(provider) else {
            let known: Vec<_> = self.models.keys().cloned().collect();
            let has = if known.is_empty() { "none".to_owned() } else { known.join(", ") };
            return Err(
                self.invalid(name, &format!("opencode has no provider \"{provider}\" that it can use; it has: {has}"))
            );
        };
        let Some(variants) = models.get(model) else {
            return Err(self.invalid(name, &format!("provider \"{provider}\" has no model \"{model}\"")));
        };
        if let Some(variant) = variant
            && !variants.iter().any(|known| known == variant)
        {
            let has = if variants.is_empty() { "none".to_owned() } else { variants.join(", ") };
            let message = format!("model {provider}/{model} has no variant \"{variant}\"; it has: {has}");
            return Err(AgentError { ending: Ending::ModelInvalid, message });
        }
        Ok(Resolved { model: format!("{provider}/{model}"), variant: variant.map(str::to_owned) })
    }

    fn invalid(&self, name: &str, what: &str) -> AgentError {
        let near = self.near(name);
        let hint = if near.is_empty() { String::new() } else { format!("; did you mean {}", near.join(" or ")) };
        AgentError {
            ending: Ending::ModelInvalid,
            message: format!("{what}{hint}; `millhand models` lists what can be used"),
        }
    }

    /// Names like this one, nearest first.
    fn near(&self, name: &str) -> Vec<String> {
        let wanted = name.rsplit('/').next().unwrap_or(name).to_ascii_lowercase();
        let mut ranked: Vec<(usize, String)> = self
            .model_names()
            .into_iter()
            .filter_map(|candidate| {
                let model =
                    candidate.split_once('/').map_or(candidate.as_str(), |(_, model)| model).to_ascii_lowercase();
                let distance = distance(&wanted, &model);
                let alike = distance <= (wanted.len() / 3).max(2) || model.contains(&wanted);
                alike.then_some((distance, candidate))
            })
            .collect();
        ranked.sort();
        ranked.into_iter().take(SUGGESTIONS).map(|(_, name)| name).collect()
    }
}

/// How many letters have to change.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().take(200).collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.chars().take(200).enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let change = diagonal + usize::from(x != *y);
            diagonal = row[j + 1];
            row[j + 1] = change.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn facts() -> Facts {
        let models = |names: &[&str]| -> BTreeMap<String, Vec<String>> {
            names.iter().map(|name| ((*name).to_owned(), vec!["high".to_owned()])).collect()
        };
        Facts {
            modes: vec!["build".to_owned(), "plan".to_owned()],
            default_mode: None,
            step_limits: BTreeMap::new(),
            models: BTreeMap::from([
                ("anthropic".to_owned(), models(&["claude-sonnet-4-5", "claude-opus-4-7"])),
                ("openrouter".to_owned(), models(&["z-ai/glm-5"])),
            ]),
            default_model: None,
        }
    }

    #[test]
    fn models_are_found_by_full_name_or_by_the_default_provider() {
        let facts = facts();
        let model = |asked, provider| facts.model(asked, None, None, provider).map(|resolved| resolved.model);
        assert_eq!(model(Some("anthropic/claude-opus-4-7"), None).expect("found"), "anthropic/claude-opus-4-7");
        assert_eq!(model(Some("claude-opus-4-7"), Some("anthropic")).expect("found"), "anthropic/claude-opus-4-7");
        assert_eq!(model(Some("openrouter/z-ai/glm-5"), None).expect("found"), "openrouter/z-ai/glm-5");
        let none = model(None, None).expect_err("none named");
        assert_eq!(none.ending, Ending::Misconfigured);
        assert!(none.message.contains("millhand models"));
    }

    #[test]
    fn a_wrong_name_is_refused_with_near_matches_and_never_replaced() {
        let facts = facts();
        for asked in ["anthropic/claude-sonet-4-5", "claude-sonnet-4-5", "antropic/claude-sonnet-4-5"] {
            let error = facts.model(Some(asked), None, None, None).expect_err("refused");
            assert_eq!(error.ending, Ending::ModelInvalid);
            assert!(error.message.contains("anthropic/claude-sonnet-4-5"), "{}", error.message);
            assert!(error.message.contains("millhand models"));
        }
        let error = facts.model(Some("anthropic/claude-opus-4-7"), Some("hgih"), None, None).expect_err("refused");
        assert!(error.message.contains("high"), "{}", error.message);
    }

    #[test]
    fn modes_are_the_primary_ones_and_build_by_default() {
        let facts = facts();
        assert_eq!(facts.mode(None).expect("a mode"), "build");
        assert_eq!(facts.mode(Some("plan")).expect("a mode"), "plan");
        let error = facts.mode(Some("general")).expect_err("refused");
        assert_eq!(error.ending, Ending::AgentInvalid);
        assert!(error.message.contains("build, plan"));
        let mode =
            |name: &str, mode: &str, hidden| Mode { name: name.to_owned(), mode: mode.to_owned(), hidden, steps: None };
        let modes = vec![mode("title", "primary", true), mode("general", "subagent", false), mode("x", "all", false)];
        assert_eq!(Facts::new(modes, Providers::default(), Config::default()).mode(None).expect("a mode"), "x");
    }
}
