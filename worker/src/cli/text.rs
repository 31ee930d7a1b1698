//! Texts for a terminal: made safe, shortened, numbers and times as people read them.

use std::{borrow::Cow, fmt::Write as _};

use chrono::{DateTime, Utc};
use rust_decimal::Decimal;

/// Characters that could steer a terminal, or make text read as something else than it is: controls, and the ones that
/// change the direction of writing.
fn is_unsafe(c: char) -> bool {
    c.is_control()
        || matches!(c, '\u{200e}' | '\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{061c}')
}

fn escape(text: &str, keep: impl Fn(char) -> bool) -> Cow<'_, str> {
    if !text.chars().any(|c| is_unsafe(c) && !keep(c)) {
        return Cow::Borrowed(text);
    }
    let mut safe = String::with_capacity(text.len() + 8);
    for c in text.chars() {
        if is_unsafe(c) && !keep(c) {
            let _ = write!(safe, "{}", c.escape_unicode());
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// Text from agents and repositories, with lines and tabs kept and all else that steers a terminal made visible.
pub(super) fn safe(text: &str) -> Cow<'_, str> {
    escape(text, |c| matches!(c, '\n' | '\t'))
}

/// The same on one line.
pub(super) fn safe_line(text: &str) -> String {
    let joined = text.split_whitespace().collect::<Vec<_>>().join(" ");
    escape(&joined, |_| false).into_owned()
}

/// The same, cut to so many characters.
pub(super) fn short(text: &str, at_most: usize) -> String {
    // Cut before it is made safe: a long text need not be walked whole.
    let head: String = text.chars().take(at_most.saturating_mul(4)).collect();
    let line = safe_line(&head);
    if line.chars().count() <= at_most && head.len() == text.len() {
        return line;
    }
    let mut cut: String = line.chars().take(at_most.saturating_sub(1)).collect();
    cut.push('…');
    cut
}

/// JSON made safe for a terminal: such characters stand only inside its strings, where they may be escaped.
pub(super) fn safe_json(json: &str) -> Cow<'_, str> {
    if !json.chars().any(is_unsafe) {
        return Cow::Borrowed(json);
    }
    let mut safe = String::with_capacity(json.len() + 16);
    for c in json.chars() {
        if is_unsafe(c) {
            let _ = write!(safe, "\\u{:04x}", u32::from(c));
        } else {
            safe.push(c);
        }
    }
    Cow::Owned(safe)
}

/// USD, exact to the hundredth of a cent where it is small.
pub(super) fn money(usd: Decimal) -> String {
    if usd.is_zero() {
        return "$0".to_owned();
    }
    if usd >= Decimal::ONE {
        return format!("${:.2}", usd.round_dp(2));
    }
    let rounded = usd.round_dp(4);
    if rounded.is_zero() { "<$0.0001".to_owned() } else { format!("${rounded:.4}") }
}

/// A cost that may not be all: of some steps nobody knows what they cost.
pub(super) fn cost(usd: Decimal, unknown_steps: i64) -> String {
    match (usd.is_zero(), unknown_steps > 0) {
        (_, false) => money(usd),
        (true, true) => "unknown".to_owned(),
        (false, true) => format!("{} + unknown", money(usd)),
    }
}

/// Tokens, as 980, 12.3k, 4.5M.
pub(super) fn tokens(count: i64) -> String {
    let of = |unit: i64, letter: char| format!("{}.{}{letter}", count / unit, count % unit * 10 / unit);
    if count < 10_000 {
        count.to_string()
    } else if count < 1_000_000 {
        of(1000, 'k')
    } else {
        of(1_000_000, 'M')
    }
}

/// Bytes, as 980 B, 12.3 MB, 4.5 GB.
pub(super) fn bytes(count: i64) -> String {
    let of = |unit: i64, name: &str| format!("{}.{} {name}", count / unit, count % unit * 10 / unit);
    match count {
        ..1000 => format!("{count} B"),
        1000..1_000_000 => of(1000, "kB"),
        1_000_000..1_000_000_000 => of(1_000_000, "MB"),
        _ => of(1_000_000_000, "GB"),
    }
}

/// How long ago, in one unit.
pub(super) fn ago(time: DateTime<Utc>, now: DateTime<Utc>) -> String {
    match span((now - time).num_seconds()) {
        span if span == "0s" => "now".to_owned(),
        span => format!("{span} ago"),
    }
}

/// A time span in seconds, in one unit.
pub(super) fn span(seconds: i64) -> String {
    let seconds = seconds.max(0);
    if seconds < 120 {
        format!("{seconds}s")
    } else if seconds < 7200 {
        format!("{}m", seconds / 60)
    } else if seconds < 172_800 {
        format!("{}h", seconds / 3600)
    } else {
        format!("{}d", seconds / 86_400)
    }
}

/// The start of a commit's id, as git shows it.
pub(super) fn commit(id: &str) -> String {
    safe_line(&id.chars().take(12).collect::<String>())
}

/// "1 file", "2 files".
pub(super) fn count(number: i64, of: &str) -> String {
    if number == 1 { format!("1 {of}") } else { format!("{number} {of}s") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_from_an_agent_steers_the_terminal() {
        assert_eq!(
            safe("red \u{1b}[31m\r\u{9b}2J\u{202e}txt\n\tend"),
            "red \\u{1b}[31m\\u{d}\\u{9b}2J\\u{202e}txt\n\tend"
        );
        assert_eq!(safe_line("a\nb\t\u{7}c"), "a b \\u{7}c");
        assert_eq!(safe_json("{\"a\":\"\u{9b}\u{7f}\u{202e}é\"}"), "{\"a\":\"\\u009b\\u007f\\u202eé\"}");
        assert!(matches!(safe("plain é 漢字\n"), Cow::Borrowed(_)));
    }

    #[test]
    fn long_texts_are_cut_and_say_so() {
        assert_eq!(short("one two", 7), "one two");
        assert_eq!(short("one two three", 8), "one two…");
        assert_eq!(short(&"é".repeat(1000), 3), "éé…");
        assert_eq!(short(&format!("{}x", " ".repeat(100)), 10), "…");
    }

    #[test]
    fn numbers_read_well_at_every_size() {
        let usd = |text: &str| money(text.parse().expect("number"));
        assert_eq!(
            [usd("0"), usd("0.00001"), usd("0.0123"), usd("12.345678")],
            ["$0", "<$0.0001", "$0.0123", "$12.35"]
        );
        let partly = |text: &str| cost(text.parse().expect("number"), 2);
        assert_eq!([partly("0"), partly("1.5"), cost(Decimal::ZERO, 0)], ["unknown", "$1.50 + unknown", "$0"]);
        assert_eq!([tokens(0), tokens(9999), tokens(12_345), tokens(4_560_000)], ["0", "9999", "12.3k", "4.5M"]);
        assert_eq!([bytes(980), bytes(12_345_678), bytes(4_560_000_000)], ["980 B", "12.3 MB", "4.5 GB"]);
        assert_eq!([span(-5), span(119), span(120), span(7200), span(172_800)], ["0s", "119s", "2m", "2h", "2d"]);
    }
}
