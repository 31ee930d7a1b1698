//! Values of settings: how each type is read from the file and from a variable, and how it is written.

use std::{net::SocketAddr, path::PathBuf, time::Duration};

use secrecy::{ExposeSecret, SecretString};
use toml::Value;

use super::duration;

/// A type that a setting can have.
pub(super) trait Setting: Sized {
    /// What a person should have written, for the error.
    const EXPECTED: &'static str;

    /// From the file.
    fn from_toml(value: &Value) -> Result<Self, String>;

    /// From a variable or a flag.
    fn from_text(text: &str) -> Result<Self, String>;

    /// As the file would have it; none for "not set".
    fn to_toml(&self) -> Option<Value>;
}

fn expected<T: Setting>() -> String {
    format!("expected {}", T::EXPECTED)
}

impl Setting for bool {
    const EXPECTED: &'static str = "true or false";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_bool().ok_or_else(expected::<Self>)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err(expected::<Self>()),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Boolean(*self))
    }
}

impl Setting for i32 {
    const EXPECTED: &'static str = "a whole number, not negative";

    fn from_toml(value: &Value) -> Result<Self, String> {
        let number = value.as_integer().and_then(|n| Self::try_from(n).ok());
        number.filter(|n| *n >= 0).ok_or_else(expected::<Self>)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        text.parse().ok().filter(|n| *n >= 0).ok_or_else(expected::<Self>)
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Integer(i64::from(*self)))
    }
}

/// A number, or `"auto"` (none) for one that is worked out.
impl Setting for Option<usize> {
    const EXPECTED: &'static str = "\"auto\" or a whole number from 1 to 1000";

    fn from_toml(value: &Value) -> Result<Self, String> {
        match value {
            Value::String(text) if text == "auto" => Ok(None),
            Value::Integer(number @ 1..=1000) => Ok(usize::try_from(*number).ok()),
            _ => Err(expected::<Self>()),
        }
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let value = text.parse().map_or_else(|_| Value::String(text.to_owned()), Value::Integer);
        Self::from_toml(&value)
    }

    fn to_toml(&self) -> Option<Value> {
        Some(match self {
            None => Value::String("auto".to_owned()),
            Some(number) => Value::Integer(i64::try_from(*number).unwrap_or(i64::MAX)),
        })
    }
}

/// A size in bytes, or `"none"`.
impl Setting for Option<i64> {
    const EXPECTED: &'static str = "\"none\" or a size such as \"500MB\", \"20GB\"";

    fn from_toml(value: &Value) -> Result<Self, String> {
        Self::from_text(value.as_str().unwrap_or_default())
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text == "none" {
            return Ok(None);
        }
        let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
        let (number, unit) = (text[..digits].parse::<i64>().ok(), text[digits..].trim());
        let unit = SIZES.iter().find(|(name, _)| *name == unit).map(|(_, bytes)| *bytes);
        number.zip(unit).and_then(|(number, unit)| number.checked_mul(unit)).map(Some).ok_or_else(expected::<Self>)
    }

    fn to_toml(&self) -> Option<Value> {
        let Some(bytes) = *self else { return Some(Value::String("none".to_owned())) };
        let (unit, size) = SIZES.iter().rev().find(|(_, size)| bytes % size == 0).copied().unwrap_or(("B", 1));
        Some(Value::String(format!("{}{unit}", bytes / size)))
    }
}

const SIZES: [(&str, i64); 4] = [("B", 1), ("MB", 1_000_000), ("GB", 1_000_000_000), ("TB", 1_000_000_000_000)];

impl Setting for Duration {
    const EXPECTED: &'static str = "a time such as \"500ms\", \"20s\", \"10m\", \"1h 30m\"";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_str().and_then(duration::parse).ok_or_else(expected::<Self>)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        duration::parse(text).ok_or_else(expected::<Self>)
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(duration::render(*self)))
    }
}

impl Setting for String {
    const EXPECTED: &'static str = "a text";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_str().map(str::to_owned).ok_or_else(expected::<Self>)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.to_owned())
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.clone()))
    }
}

/// An empty text means "not set", so that a variable can take back what the file says.
impl Setting for Option<String> {
    const EXPECTED: &'static str = "a text";

    fn from_toml(value: &Value) -> Result<Self, String> {
        String::from_toml(value).map(|text| (!text.is_empty()).then_some(text))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok((!text.is_empty()).then(|| text.to_owned()))
    }

    fn to_toml(&self) -> Option<Value> {
        self.clone().map(Value::String)
    }
}

impl Setting for Option<SecretString> {
    const EXPECTED: &'static str = "a text";

    fn from_toml(value: &Value) -> Result<Self, String> {
        Option::<String>::from_toml(value).map(|text| text.map(SecretString::from))
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Option::<String>::from_text(text).map(|text| text.map(SecretString::from))
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().map(|secret| Value::String(secret.expose_secret().to_owned()))
    }
}

impl Setting for PathBuf {
    const EXPECTED: &'static str = "an absolute path";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_str().ok_or_else(expected::<Self>).and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let path = Self::from(text);
        if path.is_absolute() { Ok(path) } else { Err(expected::<Self>()) }
    }

    fn to_toml(&self) -> Option<Value> {
        self.to_str().map(|path| Value::String(path.to_owned()))
    }
}

impl Setting for Option<PathBuf> {
    const EXPECTED: &'static str = "an absolute path";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_str().ok_or_else(expected::<Self>).and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        if text.is_empty() { Ok(None) } else { PathBuf::from_text(text).map(Some) }
    }

    fn to_toml(&self) -> Option<Value> {
        self.as_ref().and_then(PathBuf::to_toml)
    }
}

/// An address with its port, or `off`.
impl Setting for Option<SocketAddr> {
    const EXPECTED: &'static str = "an address with its port, such as \"127.0.0.1:7341\", or \"off\"";

    fn from_toml(value: &Value) -> Result<Self, String> {
        value.as_str().ok_or_else(expected::<Self>).and_then(Self::from_text)
    }

    fn from_text(text: &str) -> Result<Self, String> {
        match text {
            "off" => Ok(None),
            address => address.parse().map(Some).map_err(|_| expected::<Self>()),
        }
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::String(self.map_or_else(|| "off".to_owned(), |address| address.to_string())))
    }
}

/// In a variable, separated by `,`.
impl Setting for Vec<String> {
    const EXPECTED: &'static str = "a list of texts";

    fn from_toml(value: &Value) -> Result<Self, String> {
        let texts = value.as_array().ok_or_else(expected::<Self>)?;
        texts.iter().map(|text| text.as_str().map(str::to_owned).ok_or_else(expected::<Self>)).collect()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        Ok(text.split(',').map(str::trim).filter(|text| !text.is_empty()).map(str::to_owned).collect())
    }

    fn to_toml(&self) -> Option<Value> {
        Some(Value::Array(self.iter().cloned().map(Value::String).collect()))
    }
}

/// In a variable, separated by `:` as in `PATH`.
impl Setting for Vec<PathBuf> {
    const EXPECTED: &'static str = "a list of absolute paths";

    fn from_toml(value: &Value) -> Result<Self, String> {
        let paths = value.as_array().ok_or_else(expected::<Self>)?;
        paths.iter().map(|path| PathBuf::from_toml(path).map_err(|_| expected::<Self>())).collect()
    }

    fn from_text(text: &str) -> Result<Self, String> {
        let paths = text.split(':').filter(|path| !path.is_empty());
        paths.map(|path| PathBuf::from_text(path).map_err(|_| expected::<Self>())).collect()
    }

    fn to_toml(&self) -> Option<Value> {
        self.iter()
            .map(|path| path.to_str().map(|path| Value::String(path.to_owned())))
            .collect::<Option<_>>()
            .map(Value::Array)
    }
}
