//! The `millhand` command.

use std::process::ExitCode;

use millhand::{postgres::keeper, supervise::shim};

fn main() -> ExitCode {
    // Before anything that starts a thread: these have one only.
    let command = std::env::args_os().nth(1);
    match command.as_ref().and_then(|command| command.to_str()) {
        Some("shim") => shim::main(),
        Some("postgres-shim") => keeper::main(),
        _ => millhand::cli::main(std::env::args_os()),
    }
}
