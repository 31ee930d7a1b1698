//! Taking known secrets out of what an agent says: as they are, in base64 and percent-encoded, also where they come in pieces.
//!
//! For what people read later: transcripts, asks, summaries, errors. Never for patches: what an agent writes is what is reviewed and applied.

use std::{collections::HashMap, fmt};

use aho_corasick::{AhoCorasick, MatchKind};
use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD},
};
use serde_json::Value;

use super::event::AgentEvent;

/// What stands where a secret was.
pub const REDACTED: &str = "[redacted]";
/// Shortest secret, in bytes, that is looked for: shorter ones are parts of words.
const SHORTEST: usize = 12;
/// Longest one: what is held back of a stream is shorter than its longest form.
const LONGEST: usize = 4096;

/// Knows the secrets of one agent's server.
pub struct Redactor {
    forms: Vec<String>,
    finder: Option<AhoCorasick>,
}

impl fmt::Debug for Redactor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Redactor").field("forms", &self.forms.len()).finish_non_exhaustive()
    }
}

impl Redactor {
    /// For these secrets. Those that are too short to be told from words are left out.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let known = secrets.into_iter().map(str::trim).filter(|secret| (SHORTEST..=LONGEST).contains(&secret.len()));
        let mut forms: Vec<String> = known.flat_map(forms).collect();
        forms.sort();
        forms.dedup();
        let build = || AhoCorasick::builder().match_kind(MatchKind::LeftmostLongest).build(&forms).ok();
        let finder = if forms.is_empty() { None } else { build() };
        Self { forms, finder }
    }

    /// The text without them; none: there are none in it.
    pub fn clean(&self, text: &str) -> Option<String> {
        let finder = self.finder.as_ref().filter(|finder| finder.is_match(text))?;
        Some(finder.replace_all(text, &vec![REDACTED; self.forms.len()]))
    }

    /// The text without them.
    pub fn cleaned(&self, text: String) -> String {
        self.clean(&text).unwrap_or(text)
    }

    /// Every text in a value without them. True: something was taken out.
    pub fn clean_value(&self, value: &mut Value) -> bool {
        match value {
            Value::String(text) => self.clean(text).map(|clean| *text = clean).is_some(),
            Value::Array(items) => items.iter_mut().fold(false, |found, item| self.clean_value(item) | found),
            Value::Object(fields) => {
                let mut found = fields.values_mut().fold(false, |found, field| self.clean_value(field) | found);
                if fields.keys().any(|name| self.clean(name).is_some()) {
                    found = true;
                    *fields =
                        std::mem::take(fields).into_iter().map(|(name, value)| (self.cleaned(name), value)).collect();
                }
                found
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
    }

    /// Where the end of a text begins that may be the beginning of a secret.
    fn open_end(&self, text: &str) -> usize {
        let longest = self.forms.iter().map(String::len).max().unwrap_or(0);
        let from = text.len().saturating_sub(longest.saturating_sub(1));
        let is_open = |at: &usize| {
            text.get(*at..).is_some_and(|end| !end.is_empty() && self.forms.iter().any(|form| form.starts_with(end)))
        };
        (from..text.len()).find(is_open).unwrap_or(text.len())
    }
}

/// What one turn says, without secrets.
#[derive(Debug, Default)]
pub struct Redaction {
    /// By part: the end of what has streamed, which may be the beginning of a secret.
    held: HashMap<String, String>,
}

impl Redaction {
    /// The event without secrets; none: what it says is held back, until it is seen what follows.
    pub fn take(&mut self, redactor: &Redactor, mut event: AgentEvent) -> Option<AgentEvent> {
        if redactor.finder.is_none() {
            return Some(event);
        }
        match &mut event {
            AgentEvent::TextDelta { part, delta } | AgentEvent::ReasoningDelta { part, delta } => {
                let mut text = self.held.remove(part).unwrap_or_default();
                text.push_str(delta);
                text = redactor.cleaned(text);
                let held = text.split_off(redactor.open_end(&text));
                if !held.is_empty() {
                    self.held.insert(part.clone(), held);
                }
                *delta = text;
                return (!delta.is_empty()).then_some(event);
            }
            AgentEvent::Text { part, .. } | AgentEvent::Reasoning { part, .. } => drop(self.held.remove(part)),
            _ => {}
        }
        let Ok(mut value) = serde_json::to_value(&event) else { return Some(event) };
        if redactor.clean_value(&mut value) {
            // It is the same with other texts in it.
            return serde_json::from_value(value).ok();
        }
        Some(event)
    }
}

/// What a secret may look like.
fn forms(secret: &str) -> Vec<String> {
    let mut forms = vec![secret.to_owned()];
    // Within a longer text, base64 depends on where in a group of three bytes the secret begins; what its neighbours have a part in is left out.
    for (before, skipped) in [(0, 0), (1, 2), (2, 3)] {
        let bytes = [&[0; 2][..before], secret.as_bytes()].concat();
        let whole = bytes.len() * 8 / 6;
        forms.push(STANDARD_NO_PAD.encode(&bytes)[skipped..whole].to_owned());
        forms.push(URL_SAFE_NO_PAD.encode(&bytes)[skipped..whole].to_owned());
    }
    let percent = |upper: bool| -> String {
        let encode = |byte: &u8| match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => char::from(*byte).to_string(),
            other if upper => format!("%{other:02X}"),
            other => format!("%{other:02x}"),
        };
        secret.as_bytes().iter().map(encode).collect()
    };
    forms.extend([percent(true), percent(false)]);
    // As it stands within JSON.
    forms.push(Value::from(secret).to_string().trim_matches('"').to_owned());
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECRET: &str = "ca/na+ry=\"5f3a9b?&c1d7e2";

    fn delta(text: &str) -> AgentEvent {
        AgentEvent::TextDelta { part: "p".to_owned(), delta: text.to_owned() }
    }

    #[test]
    fn every_form_is_taken_out_wherever_it_begins() {
        let redactor = Redactor::new([SECRET, "short"]);
        for before in ["", "x", "xy", "xyz"] {
            let whole = format!("{before}{SECRET}{before}");
            for said in [
                whole.clone(),
                STANDARD_NO_PAD.encode(&whole),
                URL_SAFE_NO_PAD.encode(&whole),
                forms(SECRET)[7].clone(),
                forms(SECRET)[8].clone(),
                serde_json::to_string(&whole).expect("JSON"),
            ] {
                let clean = redactor.clean(&format!("it is {said}.")).unwrap_or_else(|| panic!("{said}"));
                assert!(clean.starts_with("it is ") && clean.contains(REDACTED), "{clean}");
                assert!(clean.len() < REDACTED.len() + 30, "{clean}");
            }
        }
        assert_eq!(redactor.clean("too short to be one, and nothing else"), None);
    }

    #[test]
    fn what_streams_shows_no_secret_however_it_is_cut() {
        let redactor = Redactor::new([SECRET]);
        for size in 1..=SECRET.len() + 3 {
            let said: Vec<char> = format!("so: {SECRET}, then ca/na, then {}.", forms(SECRET)[2]).chars().collect();
            let mut redaction = Redaction::default();
            let mut shown = String::new();
            for piece in said.chunks(size) {
                if let Some(AgentEvent::TextDelta { delta, .. }) =
                    redaction.take(&redactor, delta(&String::from_iter(piece)))
                {
                    shown.push_str(&delta);
                }
            }
            assert_eq!(shown, "so: [redacted], then ca/na, then [redacted].", "{size}");
        }
    }

    #[test]
    fn events_are_cleaned_in_all_their_texts() {
        let redactor = Redactor::new([SECRET]);
        let call = serde_json::json!({ "kind": "tool", "part": "p", "call": { "call_id": "c", "tool": "bash", "status": "completed",
            "input": { "command": [format!("echo {SECRET}")] }, "output": SECRET } });
        let event: AgentEvent = serde_json::from_value(call).expect("an event");
        let clean = Redaction::default().take(&redactor, event.clone()).expect("it is told");
        let text = serde_json::to_string(&clean).expect("JSON");
        assert!(!text.contains("ca/na") && text.matches(REDACTED).count() == 2, "{text}");
        assert_eq!(Redaction::default().take(&Redactor::new([]), event.clone()), Some(event));
    }
}
