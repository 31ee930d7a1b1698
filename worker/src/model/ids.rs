//! Ids as people see and type them: `t42` is a task, `s7` a session, `c9` a chat.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

macro_rules! id {
    ($(#[$doc:meta])* $name:ident, $prefix:literal) => {
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
        #[serde(transparent)]
        pub struct $name(pub i64);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, concat!($prefix, "{}"), self.0)
            }
        }
    };
}

id!(
    /// A task, shown as `t42`.
    TaskId, "t"
);
id!(
    /// A session, shown as `s7`.
    SessionId, "s"
);
id!(
    /// A chat, shown as `c9`.
    ChatId, "c"
);
id!(
    /// An ask, shown as `a12`.
    AskId, "a"
);
id!(
    /// A webhook, shown as `wh3`.
    WebhookId, "wh"
);
id!(
    /// A delivery to a webhook, shown as `d17`.
    DeliveryId, "d"
);
id!(
    /// A token of the API, or a browser that was logged in, shown as `tok3`.
    TokenId, "tok"
);

/// What was typed is not the id of an ask.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an ask: use a12, as the inbox shows it")]
pub struct AskIdError(String);

impl FromStr for AskId {
    type Err = AskIdError;

    fn from_str(text: &str) -> Result<Self, AskIdError> {
        let digits = text.strip_prefix('a').unwrap_or(text);
        let is_number = !digits.is_empty() && digits.bytes().all(|byte| byte.is_ascii_digit());
        let number = digits.parse().ok().filter(|_| is_number);
        number.map(Self).ok_or_else(|| AskIdError(text.to_owned()))
    }
}

/// Any id that a person may type.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AnyId {
    /// `t42`, or a bare `42`.
    Task(TaskId),
    /// `s7`.
    Session(SessionId),
    /// `c9`.
    Chat(ChatId),
}

/// What was typed is not an id.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("\"{0}\" is not an id: use t42 for a task, s7 for a session, c9 for a chat (a bare number is a task)")]
pub struct IdError(String);

impl FromStr for AnyId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let error = || IdError(text.to_owned());
        let (kind, digits) = match text.as_bytes().first() {
            Some(kind @ (b't' | b's' | b'c')) => (*kind, &text[1..]),
            _ => (b't', text),
        };
        if digits.is_empty() || !digits.bytes().all(|b| b.is_ascii_digit()) {
            return Err(error());
        }
        let number = digits.parse().map_err(|_| error())?;
        Ok(match kind {
            b's' => Self::Session(SessionId(number)),
            b'c' => Self::Chat(ChatId(number)),
            _ => Self::Task(TaskId(number)),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_ask_is_typed_with_its_prefix_or_without() {
        assert_eq!("a12".parse(), Ok(AskId(12)));
        assert_eq!("12".parse(), Ok(AskId(12)));
        for bad in ["", "a", "t12", "a-1", "+1", "99999999999999999999"] {
            assert!(bad.parse::<AskId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn prefix_tells_the_kind_and_a_bare_number_is_a_task() {
        assert_eq!("t42".parse(), Ok(AnyId::Task(TaskId(42))));
        assert_eq!("42".parse(), Ok(AnyId::Task(TaskId(42))));
        assert_eq!("s7".parse(), Ok(AnyId::Session(SessionId(7))));
        assert_eq!("c9".parse(), Ok(AnyId::Chat(ChatId(9))));
        for bad in ["", "t", "x7", "-1", "t-1", "t 1", "99999999999999999999", "ü1"] {
            assert!(bad.parse::<AnyId>().is_err(), "{bad}");
        }
    }
}
