//! A process whose first thread has ended: it looks dead, and is not.

use std::{fs, path::Path, process::Command};

use anyhow::Result;

/// Says `headless <pid>`, and cannot be asked to end.
const SCRIPT: &str = r#"
import ctypes, os, signal, threading, time
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("headless", os.getpid(), flush=True)
threading.Thread(target=time.sleep, args=(1000,)).start()
ctypes.CDLL(None).pthread_exit(None)
"#;

/// Writes one into a folder. Returns the command that runs it; none where there is nothing to run it.
pub fn command(folder: &Path) -> Result<Option<String>> {
    // What is on the PATH may be a script that finds the program.
    let Ok(asked) = Command::new("python3").args(["-c", "import sys; print(sys.executable)"]).output() else {
        super::not_run!("a process without its first thread: there is no python3");
        return Ok(None);
    };
    let script = folder.join("headless.py");
    fs::write(&script, SCRIPT)?;
    Ok(Some(format!("{} {}", String::from_utf8(asked.stdout)?.trim(), script.display())))
}

/// Whether it runs.
pub fn runs(pid: u32) -> bool {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).unwrap_or_default();
    let threads = fs::read_dir(format!("/proc/{pid}/task")).map_or(0, Iterator::count);
    stat.rsplit(") ").next().is_some_and(|rest| rest.starts_with('Z')) && threads > 1
}
