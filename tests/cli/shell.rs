//! What shells, `man` and pagers get.

use anyhow::{Context as _, Result};

use super::Cli;

#[tokio::test]
async fn shells_and_man_know_the_commands_before_there_are_any_settings() -> Result<()> {
    let cli = Cli::new().await?;
    for shell in ["bash", "zsh", "fish"] {
        let ran = cli.run(&["--config", "/nowhere/at/all.toml", "completions", shell]).await?;
        assert_eq!(ran.code, 0, "{}", ran.stderr);
        assert!(ran.text().contains("checkpoints"), "{shell}");
        if shell == "bash" {
            let script = cli.folder().join("millhand.bash");
            std::fs::write(&script, &ran.stdout)?;
            let ask = "source \"$1\"; COMP_WORDS=(millhand wor); COMP_CWORD=1; _millhand millhand wor millhand; echo \"${COMPREPLY[*]}\"";
            let output = std::process::Command::new("bash").args(["-c", ask, "bash"]).arg(&script).output()?;
            assert_eq!(String::from_utf8_lossy(&output.stdout).trim(), "worktree worker", "{output:?}");
        }
    }
    assert_eq!(cli.run(&["completions", "nosuch"]).await?.code, 2);

    let folder = cli.folder().join("man/man1");
    let ran = cli.run(&["man", folder.to_str().context("folder")?]).await?;
    assert_eq!(ran.code, 0, "{}", ran.stderr);
    for page in ["millhand.1", "millhand-run.1", "millhand-worktree-reap.1"] {
        assert!(std::fs::read_to_string(folder.join(page))?.contains(".TH"), "{page}");
    }
    assert_eq!(cli.run(&["man", "/dev/null/man"]).await?.code, 2);
    Ok(())
}

#[tokio::test]
async fn a_diff_at_a_terminal_goes_through_the_users_pager() -> Result<()> {
    let cli = Cli::new().await?;
    cli.some_of_everything().await?;
    let paged = cli.folder().join("paged");
    let pager = format!("cat >{}", paged.display());
    for arguments in ["diff t1", "diff --patch t1", "review t1"] {
        let _ = std::fs::remove_file(&paged);
        let Some((code, screen)) =
            cli.at_a_terminal(cli.folder(), arguments, &[("GIT_PAGER", &pager), ("TERM", "xterm")], None).await?
        else {
            crate::support::not_run!("a pager at a terminal: the program script (util-linux) is not there");
            return Ok(());
        };
        assert_eq!(code, 0, "{screen}");
        let text = std::fs::read_to_string(&paged)?;
        assert!(text.contains("\u{1b}[32m+world"), "coloured: {text}");
        assert!(!text.contains("\u{1b}]0;owned"), "and safe: {text}");
        // A reader who has seen enough is no error.
        let (code, screen) =
            cli.at_a_terminal(cli.folder(), arguments, &[("GIT_PAGER", "true")], None).await?.context("script")?;
        assert_eq!(code, 0, "{screen}");
    }
    Ok(())
}
