//! Random work in a folder: our walk gives the tree that `git add -A` and `git write-tree` give, and the patch gives it too.

use std::{
    fs,
    os::unix::fs::{PermissionsExt, symlink},
    path::Path,
};

use proptest::{prelude::*, test_runner::TestRunner};

use super::repository::{World, write};

#[derive(Clone, Debug)]
pub(crate) enum Step {
    Write { path: String, content: Vec<u8> },
    Remove { path: String },
    Rename { from: String, to: String },
    Link { path: String, target: String },
    Executable { path: String, on: bool },
    Ignore { folder: String, rules: String },
    Checkpoint,
}

fn a_path() -> impl Strategy<Value = String> {
    let name = prop::sample::select(vec!["a", "b", "c.txt", "d.log", "é", "f g", "h.auto", "A", "k\n"]);
    prop::collection::vec(name, 1..4).prop_map(|names| names.join("/"))
}

fn content() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![
        Just(Vec::new()),
        prop::collection::vec(prop::sample::select(vec!["x\n", "y\r\n", "z", "\0", "\r", "long line of text\n"]), 1..6)
            .prop_map(|parts| parts.concat().into_bytes()),
        (0..40_u8).prop_map(|seed| (0..30)
            .flat_map(|line| format!("line {}\n", line * (1 + seed % 3)).into_bytes())
            .collect()),
    ]
}

fn rules() -> impl Strategy<Value = String> {
    let rule = prop::sample::select(vec![
        "*.log", "!d.log", "/a/", "b/*", "**/c.txt", "!b/c.txt", "a/**", "\\é", "f?g", "[a-c]", "#x", "", "A ", "!a/",
        "*.auto",
    ]);
    prop::collection::vec(rule, 0..4).prop_map(|rules| rules.join("\n") + "\n")
}

pub(crate) fn attributes() -> impl Strategy<Value = String> {
    let rule = prop::sample::select(vec![
        "*.txt text",
        "*.auto text=auto",
        "a/** -text",
        "* text=auto",
        "b eol=crlf",
        "*.log binary",
    ]);
    prop::collection::vec(rule, 0..3).prop_map(|rules| rules.join("\n") + "\n")
}

pub(crate) fn a_step() -> impl Strategy<Value = Step> {
    prop_oneof![
        6 => (a_path(), content()).prop_map(|(path, content)| Step::Write { path, content }),
        2 => a_path().prop_map(|path| Step::Remove { path }),
        2 => (a_path(), a_path()).prop_map(|(from, to)| Step::Rename { from, to }),
        1 => (a_path(), a_path()).prop_map(|(path, target)| Step::Link { path, target }),
        1 => (a_path(), any::<bool>()).prop_map(|(path, on)| Step::Executable { path, on }),
        1 => (prop::sample::select(vec!["", "a", "b/a"]), rules()).prop_map(|(folder, rules)| Step::Ignore { folder: folder.into(), rules }),
        2 => Just(Step::Checkpoint),
    ]
}

/// Does the step as far as it is possible; the same in two folders that are the same.
pub(crate) fn take(folder: &Path, step: &Step) {
    let at = |path: &str| folder.join(path);
    let is_inside = |path: &Path| {
        path.ancestors()
            .skip(1)
            .take_while(|above| *above != folder)
            .all(|above| above.symlink_metadata().map_or(true, |found| found.is_dir()))
    };
    match step {
        Step::Write { path, content } if is_inside(&at(path)) && !at(path).is_symlink() && !at(path).is_dir() => {
            write(&at(path), content);
        }
        Step::Remove { path } if is_inside(&at(path)) => {
            let _ = fs::remove_file(at(path)).or_else(|_| fs::remove_dir_all(at(path)));
        }
        Step::Rename { from, to } if is_inside(&at(from)) && is_inside(&at(to)) => {
            let _ = fs::create_dir_all(at(to).parent().unwrap());
            let _ = fs::rename(at(from), at(to));
        }
        Step::Link { path, target } if is_inside(&at(path)) && at(path).parent().unwrap().is_dir() => {
            let _ = symlink(target, at(path));
        }
        Step::Executable { path, on }
            if is_inside(&at(path)) && at(path).symlink_metadata().is_ok_and(|found| found.is_file()) =>
        {
            fs::set_permissions(at(path), fs::Permissions::from_mode(if *on { 0o755 } else { 0o644 })).unwrap();
        }
        Step::Ignore { folder: below, rules } if at(below).symlink_metadata().is_ok_and(|found| found.is_dir()) => {
            write(&at(below).join(".gitignore"), rules.as_bytes());
        }
        _ => {}
    }
}

#[test]
fn random_work_gives_the_tree_that_git_gives() {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let config =
        ProptestConfig { cases: 24, failure_persistence: None, max_shrink_iters: 200, ..ProptestConfig::default() };
    // From the start, and not among the steps: git normalises a file that it thinks racy when the attributes change, others not.
    let steps = (attributes(), prop::collection::vec(a_step(), 5..40));
    TestRunner::new(config)
        .run(&steps, |(attributes, steps)| {
            runtime.block_on(compare(&attributes, &steps));
            Ok(())
        })
        .unwrap();
}

async fn compare(attributes: &str, steps: &[Step]) {
    let world = World::with(&[
        (".gitattributes", attributes.as_bytes()),
        ("a/a", b"a\n"),
        ("b", b"1\n2\n3\n4\n5\n"),
        ("c.txt", b"x\r\n"),
        ("h.auto", b"y\r\n"),
    ])
    .await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    world.git_in(world.path(), &["clone", "-q", "source", "control"]);
    let control = world.path().join("control");
    for step in steps.iter().chain([&Step::Checkpoint]) {
        if matches!(step, Step::Checkpoint) {
            let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
            world.git_in(&control, &["add", "-A"]);
            let expected = world.git_in(&control, &["write-tree"]);
            if checkpoint.tree != expected {
                let both =
                    format!("git --git-dir={} diff-tree -r {expected} {}", mirror.path.display(), checkpoint.tree);
                let ours = world.git_in(&mirror.path, &["ls-tree", "-r", &checkpoint.tree]);
                let theirs = world.git_in(&control, &["ls-tree", "-r", &expected]);
                panic!("{both}\nours:\n{ours}\ngit's:\n{theirs}\nafter {attributes:?} {steps:?}");
            }
        } else {
            take(&worktree.path, step);
            take(&control, step);
        }
    }
}
