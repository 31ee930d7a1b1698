//! Takes `<dcp-message-id>…</dcp-message-id>` out of text, also when it comes in pieces.
//!
//! Plugins that prune the context teach models to number messages with this tag, and models then repeat it in what they say.
//! Nothing else between angle brackets is touched, and text is held back only while it could still be such a tag.

const OPEN: &str = "<dcp-message-id>";
const CLOSE: &str = "</dcp-message-id>";
/// Longest content of a tag, in bytes. What is longer is no tag, but somebody's text.
const MAX_CONTENT: usize = 256;

/// Takes the tags out of a text that comes in pieces.
#[derive(Clone, Debug, Default)]
pub(super) struct TagFilter {
    /// What was taken in and not given out: it could still be, or become, a tag.
    held: String,
}

impl TagFilter {
    /// Takes a piece, and gives what can be shown by now.
    pub(super) fn push(&mut self, piece: &str) -> String {
        self.held.push_str(piece);
        let mut out = String::with_capacity(self.held.len());
        let mut rest = self.held.as_str();
        while let Some(at) = rest.find('<') {
            out.push_str(&rest[..at]);
            rest = &rest[at..];
            match tag_at_start(rest) {
                Tag::Whole(length) => rest = &rest[length..],
                Tag::None => {
                    out.push('<');
                    rest = &rest[1..];
                }
                Tag::Perhaps => {
                    self.held = rest.to_owned();
                    return out;
                }
            }
        }
        out.push_str(rest);
        self.held.clear();
        out
    }

    /// Gives what was held back when nothing more comes: it was no tag.
    pub(super) fn finish(&mut self) -> String {
        let mut out = String::new();
        // Behind what looked like the start of a tag there may be whole ones.
        while let Some(first) = self.held.chars().next() {
            out.push(first);
            let rest = self.held.split_off(first.len_utf8());
            self.held.clear();
            out.push_str(&self.push(&rest));
        }
        out
    }
}

/// A whole text without the tags.
pub(super) fn strip(text: &str) -> String {
    if !text.contains(OPEN) {
        return text.to_owned();
    }
    let mut filter = TagFilter::default();
    let mut out = filter.push(text);
    out.push_str(&filter.finish());
    out
}

enum Tag {
    /// A tag of so many bytes.
    Whole(usize),
    /// Whatever follows, it is no tag.
    None,
    /// It depends on what follows.
    Perhaps,
}

/// Looks at a text that begins with `<`.
fn tag_at_start(text: &str) -> Tag {
    if !text.starts_with(OPEN) {
        return if OPEN.starts_with(text) { Tag::Perhaps } else { Tag::None };
    }
    let content = &text[OPEN.len()..];
    match content.find(CLOSE) {
        Some(length) if length <= MAX_CONTENT => Tag::Whole(OPEN.len() + length + CLOSE.len()),
        Some(_) => Tag::None,
        None if content.len() > MAX_CONTENT + CLOSE.len() => Tag::None,
        None => Tag::Perhaps,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn in_pieces(text: &str, size: usize) -> (String, Vec<String>) {
        let mut filter = TagFilter::default();
        let chars: Vec<char> = text.chars().collect();
        let mut pieces: Vec<String> =
            chars.chunks(size).map(|piece| filter.push(&piece.iter().collect::<String>())).collect();
        pieces.push(filter.finish());
        (pieces.concat(), pieces)
    }

    #[test]
    fn tags_go_however_the_text_is_cut_and_nothing_else_does() {
        let long = format!("<dcp-message-id>{}</dcp-message-id>", "x".repeat(300));
        let cases = [
            ("a<dcp-message-id>m0001</dcp-message-id>b", "ab"),
            ("<dcp-message-id>m1</dcp-message-id><dcp-message-id>m2</dcp-message-id>", ""),
            ("<dcp-message-id></dcp-message-id>🙂", "🙂"),
            (
                "a < b, <b>bold</b>, <dcp-message>, </dcp-message-id>",
                "a < b, <b>bold</b>, <dcp-message>, </dcp-message-id>",
            ),
            ("<<dcp-message-id>m</dcp-message-id>>", "<>"),
            ("<dcp-message-i", "<dcp-message-i"),
            ("<dcp-message-id>open", "<dcp-message-id>open"),
            ("<dcp-message-<dcp-message-id>m</dcp-message-id>", "<dcp-message-"),
            ("<dcp-message-id>a<dcp-message-id>b</dcp-message-id>c", "c"),
            (long.as_str(), long.as_str()),
        ];
        for (text, expected) in cases {
            assert_eq!(strip(text), expected, "whole: {text}");
            for size in 1..=text.chars().count() {
                assert_eq!(in_pieces(text, size).0, expected, "in pieces of {size}: {text}");
            }
        }
    }

    #[test]
    fn text_is_held_back_only_while_it_could_be_a_tag() {
        let mut filter = TagFilter::default();
        assert_eq!(filter.push("one <"), "one ");
        assert_eq!(filter.push("b> two <dcp-"), "<b> two ");
        assert_eq!(filter.push("x three"), "<dcp-x three");
        assert_eq!(filter.push(&format!("<dcp-message-id>{}", "y".repeat(274))).len(), 290);
    }
}
