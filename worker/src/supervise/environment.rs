//! What an agent may see of our environment: an allow-list, as anything else may be a secret or a way out of the sandbox.

use std::{collections::BTreeMap, ffi::OsString};

/// Passed on where they are set.
const ALLOWED: &[&str] = &[
    "PATH",
    "HOME",
    "USER",
    "LOGNAME",
    "SHELL",
    "LANG",
    "LANGUAGE",
    "TERM",
    "COLORTERM",
    "NO_COLOR",
    "TZ",
    "TZDIR",
    // Behind a proxy, or with a certificate authority of one's own, nothing works without these.
    "HTTP_PROXY",
    "HTTPS_PROXY",
    "NO_PROXY",
    "ALL_PROXY",
    "http_proxy",
    "https_proxy",
    "no_proxy",
    "all_proxy",
    "SSL_CERT_FILE",
    "SSL_CERT_DIR",
    "NODE_EXTRA_CA_CERTS",
    // Where toolchains are.
    "CARGO_HOME",
    "RUSTUP_HOME",
    "RUSTUP_TOOLCHAIN",
    "GOROOT",
    "GOPATH",
    "JAVA_HOME",
    "NVM_DIR",
    "PNPM_HOME",
    "BUN_INSTALL",
    "DENO_DIR",
    "PYENV_ROOT",
    "NIX_PATH",
    "LD_LIBRARY_PATH",
];
/// Beginnings of names that are passed on.
const ALLOWED_PREFIXES: &[&str] = &["LC_"];
/// Never passed on, whatever the configuration says: our own secrets, and sockets that lead out of the sandbox.
const REFUSED: &[&str] = &["DATABASE_URL", "XDG_RUNTIME_DIR", "SSH_AUTH_SOCK", "DOCKER_HOST", "OPENCODE_AUTH_CONTENT"];
/// Beginnings of names that are never passed on.
const REFUSED_PREFIXES: &[&str] = &["PG", "MILLHAND_", "DBUS_", "OPENCODE_SERVER_"];

/// Whether a variable may be passed to an agent whose project names these besides.
pub fn is_allowed(name: &str, extra: &[String]) -> bool {
    let refused = REFUSED.contains(&name) || REFUSED_PREFIXES.iter().any(|prefix| name.starts_with(prefix));
    let allowed = ALLOWED.contains(&name)
        || ALLOWED_PREFIXES.iter().any(|prefix| name.starts_with(prefix))
        || extra.iter().any(|extra| extra == name);
    allowed && !refused
}

/// What an agent may see of an environment: the allow-list and the `extra` names, without what is always refused.
pub fn allowed_environment(
    environment: impl IntoIterator<Item = (OsString, OsString)>,
    extra: &[String],
) -> BTreeMap<OsString, OsString> {
    environment.into_iter().filter(|(name, _)| name.to_str().is_some_and(|name| is_allowed(name, extra))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_allow_list_and_extra_names_pass_and_secrets_never() {
        let names = [
            "PATH",
            "LC_ALL",
            "ANTHROPIC_API_KEY",
            "OTHER_API_KEY",
            "DATABASE_URL",
            "PGPASSWORD",
            "PGHOST",
            "MILLHAND_HOME",
            "MILLHAND_FAMILY",
            "DBUS_SESSION_BUS_ADDRESS",
            "XDG_RUNTIME_DIR",
            "SSH_AUTH_SOCK",
            "DOCKER_HOST",
            "LD_PRELOAD",
        ];
        let environment = names.map(|name| (OsString::from(name), OsString::from("value")));
        let everything = names.map(str::to_owned).into_iter().filter(|n| n != "OTHER_API_KEY" && n != "LD_PRELOAD");
        let passed = allowed_environment(environment, &everything.collect::<Vec<_>>());
        assert_eq!(passed.keys().collect::<Vec<_>>(), ["ANTHROPIC_API_KEY", "LC_ALL", "PATH"]);
    }
}
