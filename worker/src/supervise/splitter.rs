//! Splits what a child prints into lines, with a bound on each.

/// Collects bytes until a line is complete. Holds at most the bound, however long the line.
pub(crate) struct Splitter {
    line: Vec<u8>,
    limit: usize,
    left_out: u64,
}

impl Splitter {
    pub(crate) fn new(limit: usize) -> Self {
        Self { line: Vec::new(), limit, left_out: 0 }
    }

    /// Takes bytes, and gives the lines that they complete.
    pub(crate) fn feed(&mut self, mut bytes: &[u8]) -> Vec<String> {
        let mut lines = Vec::new();
        while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
            self.keep(&bytes[..end]);
            lines.push(self.take());
            bytes = &bytes[end + 1..];
        }
        self.keep(bytes);
        lines
    }

    /// What is left when the stream ends without an end of line.
    pub(crate) fn finish(&mut self) -> Option<String> {
        (!self.line.is_empty()).then(|| self.take())
    }

    fn keep(&mut self, bytes: &[u8]) {
        let room = self.limit.saturating_sub(self.line.len()).min(bytes.len());
        self.line.extend_from_slice(&bytes[..room]);
        self.left_out += (bytes.len() - room) as u64;
    }

    fn take(&mut self) -> String {
        let mut text = String::from_utf8_lossy(self.line.strip_suffix(b"\r").unwrap_or(&self.line)).into_owned();
        if self.left_out > 0 {
            text.push_str(&format!(" … [{} bytes left out]", self.left_out));
        }
        self.line.clear();
        self.left_out = 0;
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_may_come_in_any_pieces() {
        let text = "one\r\n\ntwo är\nlast";
        for size in 1..text.len() {
            let mut splitter = Splitter::new(100);
            let mut lines: Vec<_> = text.as_bytes().chunks(size).flat_map(|piece| splitter.feed(piece)).collect();
            lines.extend(splitter.finish());
            assert_eq!(lines, ["one", "", "two är", "last"], "in pieces of {size}");
            assert_eq!(splitter.finish(), None);
        }
    }

    #[test]
    fn a_line_without_end_is_held_only_up_to_the_bound() {
        let mut splitter = Splitter::new(1000);
        for _ in 0..1000 {
            assert!(splitter.feed(&[b'x'; 100_000]).is_empty());
        }
        assert!(splitter.line.capacity() < 10_000);
        let lines = splitter.feed(b"\nnext\n");
        assert!(
            lines[0].starts_with("xxx") && lines[0].ends_with(" … [99999000 bytes left out]"),
            "{}",
            lines[0].len()
        );
        assert_eq!(lines[1], "next");
    }

    #[test]
    fn bytes_that_are_no_text_are_replaced() {
        assert_eq!(Splitter::new(10).feed(b"a\xff\x00b\n"), ["a\u{fffd}\0b"]);
    }
}
