//! Durations as people write them: `500ms`, `20s`, `10m`, `1h 30m`.

use std::time::Duration;

const UNITS: [(&str, u64); 5] = [("d", 86_400_000), ("h", 3_600_000), ("m", 60_000), ("s", 1000), ("ms", 1)];

/// Reads a duration; none if it is not one. A bare number is refused: nobody can tell its unit.
pub fn parse(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit())?;
        let number: u64 = rest[..digits].parse().ok()?;
        rest = &rest[digits..];
        let letters = rest.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(rest.len());
        let (_, milliseconds) = UNITS.iter().find(|(unit, _)| *unit == &rest[..letters])?;
        total = total.checked_add(number.checked_mul(*milliseconds)?)?;
        rest = rest[letters..].trim_start();
    }
    Some(Duration::from_millis(total))
}

/// Writes a duration the shortest way that [`parse`] reads back; parts of a millisecond are dropped.
pub fn render(duration: Duration) -> String {
    let mut left = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (unit, milliseconds) in UNITS {
        if left >= milliseconds {
            parts.push(format!("{}{unit}", left / milliseconds));
            left %= milliseconds;
        }
    }
    if parts.is_empty() { "0s".to_owned() } else { parts.join(" ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_read_back_and_a_unit_is_required() {
        for (text, milliseconds) in
            [("500ms", 500), ("20s", 20_000), ("10m", 600_000), ("1h 30m", 5_400_000), ("1d", 86_400_000), ("0s", 0)]
        {
            assert_eq!(parse(text), Some(Duration::from_millis(milliseconds)), "{text}");
            assert_eq!(render(Duration::from_millis(milliseconds)), text);
        }
        assert_eq!(parse(" 1h30m "), Some(Duration::from_secs(5400)));
        for bad in
            ["", " ", "20", "s", "-1s", "1.5s", "1 s", "1x", "99999999999999999999s", "18446744073709551615d", "1µs"]
        {
            assert_eq!(parse(bad), None, "{bad}");
        }
    }
}
