//! Keeping what this process knows from others of its user: no reading of its memory, and no secrets in what `/proc` shows of its
//! environment.

use std::{
    fs::{File, OpenOptions},
    io,
    os::unix::fs::FileExt,
};

use rustix::process::DumpableBehavior;

/// Parts of names of variables whose values are secrets.
const SECRET: [&str; 6] = ["DATABASE_URL", "PASSWORD", "TOKEN", "SECRET", "CREDENTIAL", "_KEY"];

/// Makes this process unreadable for others (debuggers and core dumps too), and blanks the secrets in the environment that it was started
/// with. Whoever needs them has read them by now. Call it while there is one thread.
pub fn hide_this_process() {
    // In this order: afterwards our memory is root's alone, and not even we may write to it by its file.
    if let Err(error) = blank_environment() {
        tracing::debug!(%error, "the environment stays as it is");
    }
    if let Err(error) = rustix::process::set_dumpable_behavior(DumpableBehavior::NotDumpable) {
        tracing::debug!(%error, "this process stays readable for its user");
    }
}

/// Through the kernel's file of our memory: the block that `/proc/<pid>/environ` shows is not what `unsetenv` changes.
fn blank_environment() -> io::Result<()> {
    let stat = std::fs::read_to_string("/proc/self/stat")?;
    let invalid = || io::Error::from(io::ErrorKind::InvalidData);
    let after_name = stat.rsplit_once(") ").ok_or_else(invalid)?.1;
    // proc(5): env_start and env_end are fields 50 and 51, and the state, the first one here, is field 3.
    let mut places = after_name.split_ascii_whitespace().skip(47).map(str::parse::<u64>);
    let (start, end) = (places.next().and_then(Result::ok), places.next().and_then(Result::ok));
    let (start, end) = (start.ok_or_else(invalid)?, end.ok_or_else(invalid)?);
    let mut block = vec![0; usize::try_from(end.checked_sub(start).ok_or_else(invalid)?).map_err(|_| invalid())?];
    File::open("/proc/self/mem")?.read_exact_at(&mut block, start)?;
    let memory = OpenOptions::new().write(true).open("/proc/self/mem")?;
    let mut at = start;
    for entry in block.split(|byte| *byte == 0) {
        if let Some(name) = entry.iter().position(|byte| *byte == b'=')
            && is_secret(&String::from_utf8_lossy(&entry[..name]))
        {
            let value = entry.len() - name - 1;
            memory.write_all_at(&vec![0; value], at + name as u64 + 1)?;
        }
        at += entry.len() as u64 + 1;
    }
    Ok(())
}

/// Whether a variable of this name holds a secret.
pub fn is_secret(name: &str) -> bool {
    let name = name.to_ascii_uppercase();
    SECRET.iter().any(|part| name.contains(part))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_are_known_by_their_names() {
        for name in ["DATABASE_URL", "MILLHAND_DATABASE_URL", "PGPASSWORD", "ANTHROPIC_API_KEY", "github_token"] {
            assert!(is_secret(name), "{name}");
        }
        for name in ["PATH", "HOME", "TMPDIR", "LANG", "KEYBOARD"] {
            assert!(!is_secret(name), "{name}");
        }
    }
}
