//! The `millhand` program, as built for this run.

use std::{
    env,
    path::{Path, PathBuf},
    process::Command,
    sync::OnceLock,
};

/// The folder that cargo builds into: the test program lies in `<target>/<profile>/deps`.
fn profile_folder() -> PathBuf {
    let program = env::current_exe().expect("the test program's path");
    program.ancestors().nth(2).expect("the profile's folder").to_owned()
}

/// cargo's target folder.
pub fn target_folder() -> PathBuf {
    profile_folder().parent().expect("the target folder").to_owned()
}

/// The path of `millhand`, which is built once per run: testing the tests' crate alone does not build it.
///
/// `MILLHAND_TEST_MILLHAND` names one that is built already, for a run as a user who cannot build.
pub fn millhand() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        if let Some(built) = env::var_os("MILLHAND_TEST_MILLHAND") {
            return built.into();
        }
        let profile = profile_folder();
        let mut build = Command::new(env!("CARGO"));
        // The same selection as the tests were built with: another one has other features, and builds everything again.
        build.args(["build", "--quiet", "--offline", "--workspace", "--all-targets", "--target-dir"]);
        build.arg(target_folder()).current_dir(concat!(env!("CARGO_MANIFEST_DIR"), "/.."));
        // What cargo tells this test program about its own crate: ring's build script watches it, so that ring and all
        // that stands on it would be built again, and once more by the next build outside of a test.
        for (name, _) in env::vars_os() {
            let about_us = ["CARGO_MANIFEST_", "CARGO_PKG_", "CARGO_BIN_", "CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE"];
            if name.to_str().is_some_and(|name| about_us.iter().any(|prefix| name.starts_with(prefix))) {
                build.env_remove(name);
            }
        }
        if profile.ends_with("release") {
            build.arg("--release");
        }
        let status = build.status().expect("cargo");
        assert!(status.success(), "cargo build of millhand: {status}");
        profile.join("millhand")
    })
}
