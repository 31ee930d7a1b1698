//! Budgets: what may be claimed while limits are reached, and amounts as people write them.

use std::str::FromStr;

use rust_decimal::Decimal;

/// One limit, as far as the claim needs it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limit {
    /// It holds for each task or session by itself.
    pub is_own: bool,
    /// Key of the project that it holds for; none: all.
    pub project_id: Option<i64>,
    /// It is reached, which is known of those that are shared.
    pub is_over: bool,
}

/// What may be claimed, as far as budgets go.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gate {
    limits: Vec<Limit>,
}

impl Gate {
    /// The gate that these limits make.
    pub fn new(limits: Vec<Limit>) -> Self {
        Self { limits }
    }

    /// Whether there is any limit, so that what turns spend has to be watched.
    pub fn is_metered(&self) -> bool {
        !self.limits.is_empty()
    }

    /// Whether tasks of a project may be claimed at all.
    pub fn lets(&self, project_id: i64) -> bool {
        !self.limits.iter().any(|limit| limit.is_over && limit.project_id.is_none_or(|its| its == project_id))
    }

    /// Whether tasks have to be looked at one by one, as there are limits of their own or of their sessions.
    pub fn has_own_limits(&self) -> bool {
        self.limits.iter().any(|limit| limit.is_own)
    }
}

/// An amount as people write it: `5`, `$0.50`, `200ktok`, `2.5Mtok`, `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Amount {
    /// USD.
    Usd(Decimal),
    /// Tokens of all kinds.
    Tokens(i64),
    /// No limit.
    None,
}

impl FromStr for Amount {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        const FORM: &str = "expected USD such as 5 or 0.50, tokens such as 200ktok or 2Mtok, or none";
        if text == "none" {
            return Ok(Self::None);
        }
        let number = |text: &str| {
            let number = Decimal::from_str(text).map_err(|_| FORM.to_owned())?;
            if number.is_sign_negative() && !number.is_zero() { Err(FORM.to_owned()) } else { Ok(number) }
        };
        let Some(count) = text.strip_suffix("tokens").or_else(|| text.strip_suffix("tok")) else {
            let usd = number(text.strip_prefix('$').unwrap_or(text))?;
            // What the column holds.
            return if usd.trunc() < Decimal::from(1_000_000_000) && usd.round_dp(9) == usd {
                Ok(Self::Usd(usd))
            } else {
                Err("an amount of USD is less than a billion, and has at most 9 decimals".to_owned())
            };
        };
        let count = count.trim_end();
        let (count, unit) = match count.char_indices().next_back() {
            Some((at, 'k' | 'K')) => (&count[..at], 1_000),
            Some((at, 'M')) => (&count[..at], 1_000_000),
            Some((at, 'G')) => (&count[..at], 1_000_000_000),
            _ => (count, 1),
        };
        let tokens = number(count)?.checked_mul(Decimal::from(unit)).ok_or_else(|| FORM.to_owned())?;
        i64::try_from(tokens).map(Self::Tokens).map_err(|_| FORM.to_owned())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_limit_that_is_reached_closes_its_project_or_all() {
        let limit = |is_own, project_id, is_over| Limit { is_own, project_id, is_over };
        let cases = [
            (vec![], [true, true], false),
            (vec![limit(false, Some(1), false)], [true, true], false),
            (vec![limit(false, Some(1), true)], [false, true], false),
            (vec![limit(false, None, true)], [false, false], false),
            (vec![limit(true, None, false), limit(false, Some(2), true)], [true, false], true),
        ];
        for (limits, lets, own) in cases {
            let gate = Gate::new(limits.clone());
            assert_eq!([gate.lets(1), gate.lets(2)], lets, "{limits:?}");
            assert_eq!((gate.has_own_limits(), gate.is_metered()), (own, !limits.is_empty()), "{limits:?}");
        }
    }

    #[test]
    fn amounts_are_read_as_people_write_them() {
        let usd = |text: &str| Ok(Amount::Usd(text.parse().expect("number")));
        let cases = [
            ("5", usd("5")),
            ("$0.50", usd("0.50")),
            ("0", usd("0")),
            ("none", Ok(Amount::None)),
            ("200ktok", Ok(Amount::Tokens(200_000))),
            ("2.5Mtok", Ok(Amount::Tokens(2_500_000))),
            ("7 tokens", Ok(Amount::Tokens(7))),
        ];
        for (text, wanted) in cases {
            assert_eq!(text.parse::<Amount>(), wanted, "{text}");
        }
        for wrong in ["", "-1", "five", "$", "1e99", "tok", "-5tok", "9999999999", "0.0000000001", "99999999999Gtok"] {
            assert!(wrong.parse::<Amount>().is_err(), "{wrong}");
        }
    }
}
