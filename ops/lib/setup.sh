# Sourced by the scripts in ops/: finds what a build or a test needs, installs what a package manager can, says the rest.

# Reasons why some tests cannot run here; ops/test lists them.
NOT_RUN=()

step() { printf '\n== %s\n' "$1"; }
fail() {
    printf 'error: %s\n' "$1" >&2
    exit 1
}

# Installs Debian packages as root; says what to type otherwise.
install_packages() {
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        step "installing: $*"
        apt-get install --yes --no-install-recommends "$@" >/dev/null 2>&1 ||
            { apt-get update >/dev/null && apt-get install --yes --no-install-recommends "$@" >/dev/null; }
    else
        return 1
    fi
}

need_rust() {
    command -v cargo >/dev/null || fail "Rust is missing: install it with rustup (https://rustup.rs), then run this again"
    command -v cc >/dev/null || install_packages gcc libc6-dev || fail "a C compiler is missing: install gcc"
}

need_git() {
    command -v git >/dev/null || install_packages git || fail "git is missing: install it, then run this again"
}

need_node() {
    command -v npm >/dev/null || install_packages nodejs npm ||
        fail "npm is missing: install Node.js 18 or newer, then run this again"
}

# The tests of the private Postgres run on Debian's version as well, where it can be had.
want_debian_postgres() {
    compgen -G '/usr/lib/postgresql/*/bin/initdb' >/dev/null && return
    install_packages postgresql || NOT_RUN+=("tests on Debian's Postgres: /usr/lib/postgresql is not there, and installing it needs root")
}

# The tests of the dashboard run in a real browser, where it can be had.
want_chromium() {
    command -v chromium >/dev/null && return
    install_packages chromium || NOT_RUN+=("the dashboard in a browser: chromium is not there, and installing it needs root")
}

# A worker whose clock is set by an hour is tested where it can be had.
want_libfaketime() {
    compgen -G '/usr/lib/*/faketime/libfaketimeMT.so.1' >/dev/null && return
    install_packages libfaketime || NOT_RUN+=("a worker whose clock is set: libfaketime is not there, and installing it needs root")
}
