//! Placeholders in what a script says.

use serde_json::Value;

/// What placeholders stand for in one request.
pub(super) struct Placeholders<'a> {
    /// The last prompt's text.
    pub(super) prompt: &'a str,
    /// Number of the turn in its conversation, from 1.
    pub(super) turn: usize,
}

impl Placeholders<'_> {
    /// Fills the placeholders in; what a prompt brings along is not looked at again.
    pub(super) fn fill(&self, text: &str) -> String {
        let mut filled = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(start) = rest.find("{{") {
            let (before, from) = rest.split_at(start);
            filled.push_str(before);
            if let Some(after) = from.strip_prefix("{{prompt}}") {
                filled.push_str(self.prompt);
                rest = after;
            } else if let Some(after) = from.strip_prefix("{{turn}}") {
                filled.push_str(&self.turn.to_string());
                rest = after;
            } else {
                filled.push('{');
                rest = &from[1..];
            }
        }
        filled.push_str(rest);
        filled
    }

    /// Fills the placeholders of all strings in a value; keys are left alone.
    pub(super) fn fill_value(&self, value: &Value) -> Value {
        match value {
            Value::String(text) => Value::String(self.fill(text)),
            Value::Array(items) => items.iter().map(|item| self.fill_value(item)).collect(),
            Value::Object(fields) => {
                Value::Object(fields.iter().map(|(key, value)| (key.clone(), self.fill_value(value))).collect())
            }
            Value::Null | Value::Bool(_) | Value::Number(_) => value.clone(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prompt_and_turn_are_filled_in_once() {
        let placeholders = Placeholders { prompt: "say {{turn}}", turn: 3 };
        assert_eq!(placeholders.fill("{{{prompt}}} {{turn}}{{x}}{{"), "{say {{turn}}} 3{{x}}{{");
        let value = serde_json::json!({"{{turn}}": ["{{turn}}", 1, null]});
        assert_eq!(placeholders.fill_value(&value), serde_json::json!({"{{turn}}": ["3", 1, null]}));
    }
}
