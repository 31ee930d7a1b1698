//! What an agent is told that begins a chat anew in the middle, because the conversation of before is on another host or lost. Pure.

/// Turns that are told of at most.
pub const MOST_TURNS: i64 = 20;
/// Longest digest, in characters.
const MOST_CHARS: usize = 8_000;
/// Longest text of one side of a turn, in characters.
const MOST_OF_ONE: usize = 600;

/// A prompt, preceded by what was asked and answered before (newest first, [`MOST_TURNS`] at most). Without anything before it is the prompt itself.
pub fn with_digest(prompt: &str, before: &[(String, Option<String>)]) -> String {
    let mut told = Vec::new();
    let mut left = MOST_CHARS;
    for (asked, answered) in before {
        let answered = answered.as_deref().unwrap_or("(no answer was recorded)");
        let turn = format!("Asked: {}\nAnswered: {}\n", shorten(asked), shorten(answered));
        let length = turn.chars().count();
        if length > left {
            break;
        }
        left -= length;
        told.push(turn);
    }
    if told.is_empty() {
        return prompt.to_owned();
    }
    let omitted = if told.len() < before.len() { "Earlier turns are left out.\n\n" } else { "" };
    told.reverse();
    format!(
        "This conversation began elsewhere, and you have no memory of it. The files are as it left them. What was asked and answered so \
         far, shortened:\n\n{omitted}{}\nNow go on with this:\n\n{prompt}",
        told.join("\n")
    )
}

fn shorten(text: &str) -> String {
    let text = text.trim();
    match text.char_indices().nth(MOST_OF_ONE) {
        Some((at, _)) => format!("{}…", &text[..at]),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn turn(asked: &str, answered: &str) -> (String, Option<String>) {
        (asked.to_owned(), Some(answered.to_owned()))
    }

    #[test]
    fn without_a_past_the_prompt_stays_as_it_is() {
        assert_eq!(with_digest("Go", &[]), "Go");
    }

    #[test]
    fn the_past_is_told_in_order_and_the_prompt_comes_last() {
        let text = with_digest("Third", &[turn("Second", "Done 2"), turn("First", "Done 1")]);
        let at = |words: &str| text.find(words).unwrap_or_else(|| panic!("{words} in {text}"));
        assert!(at("First") < at("Done 1") && at("Done 1") < at("Second") && at("Second") < at("Done 2"));
        assert!(text.ends_with("Now go on with this:\n\nThird"));
        assert!(!text.contains("left out"));
    }

    #[test]
    fn it_is_bounded_and_says_what_it_leaves_out() {
        let long = "ä".repeat(10_000);
        let many: Vec<_> = (0..100).map(|_| turn(&long, &long)).collect();
        let text = with_digest("Go", &many);
        assert!(text.chars().count() < MOST_CHARS + 500, "{}", text.chars().count());
        assert!(text.contains("left out") && text.contains('…'));
    }
}
