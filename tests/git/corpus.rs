//! The diff corpus: applying the patch to the base gives the checkpoint's tree, byte for byte, for everything git can hold.

use std::{
    fs,
    os::unix::{
        fs::{PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
};

use millhand::model::change::{ChangeKind, ChangeSet};

use super::repository::{World, odd, write};

fn kind_of(set: &ChangeSet, path: &[u8]) -> Option<ChangeKind> {
    set.files.iter().find(|file| file.path == path).map(|file| file.kind)
}

fn flags_of<'a>(set: &'a ChangeSet, path: &[u8]) -> &'a [String] {
    &set.files.iter().find(|file| file.path == path).unwrap_or_else(|| panic!("{}", path.escape_ascii())).flags
}

fn has_note(set: &ChangeSet, text: &str) -> bool {
    set.notes.iter().any(|note| note.contains(text))
}

fn make_executable(path: &Path) {
    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
}

fn base_files() -> Vec<(&'static str, &'static [u8])> {
    vec![
        ("a.txt", b"one\ntwo\nthree\n"),
        ("no-newline", b"no newline"),
        ("empty", b""),
        ("binary", b"\0\x01\x02binary\xff"),
        ("moved.txt", b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n13\n"),
        ("mode.sh", b"#!/bin/sh\n"),
        ("file-to-folder", b"was a file\n"),
        ("folder-to-file/inner", b"inner\n"),
        ("folder-to-file/deep/inner", b"inner\n"),
        ("file-to-link", b"target text\n"),
        ("sub/deep/x", b"x\n"),
        ("gone", b"gone\n"),
        ("Case", b"upper\n"),
        ("with space", b"space\n"),
        ("crlf.txt", b"a\r\nb\r\n"),
    ]
}

#[tokio::test]
async fn patch_gives_the_checkpoints_tree_for_every_kind_of_change() {
    let world = World::with(&base_files()).await;
    symlink("a.txt", world.source().join("link-to-file")).unwrap();
    world.commit("link");
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let at = |name: &str| worktree.path.join(name);

    write(&at("a.txt"), b"one\nTWO\nthree\nfour");
    write(&at("no-newline"), b"no newline, still");
    write(&at("empty"), b"now something\n");
    write(&at("binary"), b"\0\x01\x02BINARY\xfe\0");
    fs::rename(at("moved.txt"), at("sub/moved here.txt")).unwrap();
    write(&at("sub/moved here.txt"), b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\nthirteen\n");
    make_executable(&at("mode.sh"));
    fs::remove_file(at("file-to-folder")).unwrap();
    write(&at("file-to-folder/now"), b"was a file\n");
    fs::remove_dir_all(at("folder-to-file")).unwrap();
    write(&at("folder-to-file"), b"inner\n");
    fs::remove_file(at("file-to-link")).unwrap();
    symlink("target text\n", at("file-to-link")).unwrap();
    fs::remove_file(at("link-to-file")).unwrap();
    write(&at("link-to-file"), b"a.txt");
    fs::remove_file(at("gone")).unwrap();
    write(&at("case"), b"lower\n");
    write(&at("with space"), b"space\nmore\n");
    write(&at("new empty"), b"");
    write(&at("new dir/exec"), b"#!/bin/sh\n");
    make_executable(&at("new dir/exec"));
    write(&at("crlf.txt"), b"a\r\nb\r\nc\r\n");
    write(&at("only crs"), b"a\rb\r\r\n");
    write(&at("marker"), b"@@ -1 +1 @@\nGIT binary patch\ndiff --git a/x b/x\n--- a\n+++ b\n");
    symlink("/etc/passwd", at("link-out")).unwrap();
    symlink("../../../..", at("link-up")).unwrap();
    symlink("sub", at("link-in")).unwrap();
    symlink("nowhere", at("link-broken")).unwrap();
    for name in [
        b"new\nline".as_slice(),
        b"tab\there",
        b"quote\"d",
        b"back\\slash",
        b"not-utf8-\xff\xfe",
        b" lead",
        b"trail ",
        b"a b\tc",
        "ünï/cödé".as_bytes(),
        b"-dash",
        b"*star",
        b":colon",
        b"\x01\x7f",
    ] {
        write(&odd(&worktree.path, name), b"odd\n");
        let empty = [name, b".empty"].concat();
        write(&odd(&worktree.path, &empty), b"");
    }

    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(kind_of(&set, b"sub/moved here.txt"), Some(ChangeKind::Renamed));
    assert_eq!(kind_of(&set, b"mode.sh"), Some(ChangeKind::Modified));
    assert_eq!(kind_of(&set, b"file-to-link"), Some(ChangeKind::TypeChanged));
    assert_eq!(kind_of(&set, b"link-to-file"), Some(ChangeKind::TypeChanged));
    assert_eq!(kind_of(&set, b"gone"), Some(ChangeKind::Deleted));
    assert_eq!(kind_of(&set, b"link-out"), Some(ChangeKind::Added));
    assert!(set.files.iter().any(|file| file.path == b"binary" && file.is_binary));
    assert!(
        !set.files.iter().any(|file| file.patch.windows(5).any(|window| window == b"root:")),
        "a link was followed"
    );
    assert_eq!(set.notes, Vec::<String>::new());
}

#[tokio::test]
async fn odd_names_can_be_changed_moved_and_removed() {
    let names: [&[u8]; 6] = [b"new\nline", b"quote\" \\", b"\xff\xfe", b"sp ace", b"mo ve\n", b"de l\xff"];
    let world = World::empty().await;
    for name in names {
        write(&odd(&world.source(), name), b"1\n2\n3\n4\n5\n6\n7\n8\n9\n");
    }
    world.commit("odd");
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&odd(&worktree.path, b"new\nline"), b"1\n2\n3\n4\n5\n6\n7\n8\n9\nx");
    make_executable(&odd(&worktree.path, b"quote\" \\"));
    write(&odd(&worktree.path, b"\xff\xfe"), b"\0");
    make_executable(&odd(&worktree.path, b"sp ace"));
    fs::rename(odd(&worktree.path, b"mo ve\n"), odd(&worktree.path, b"ved\xff\n")).unwrap();
    fs::remove_file(odd(&worktree.path, b"de l\xff")).unwrap();
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert!(set.files.iter().all(|file| file.old_path.is_some() == (file.kind == ChangeKind::Renamed)));
    assert!(set.files.len() >= 5);
}

#[tokio::test]
async fn swapped_names_and_types_apply() {
    let long = b"1\n2\n3\n4\n5\n6\n7\n8\n9\n10\n11\n12\n";
    let other = b"a\nb\nc\nd\ne\nf\ng\nh\ni\nj\nk\nl\n";
    let world =
        World::with(&[("a", long), ("b", other), ("c", long), ("d/e", other), ("f", b"f1\nf2\nf3\nf4\n"), ("g", b"")])
            .await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let at = |name: &str| worktree.path.join(name);
    // a and b change places; c moves away and a link takes its place; d/e becomes d; f goes into a folder of its own name.
    fs::rename(at("a"), at("t")).unwrap();
    fs::rename(at("b"), at("a")).unwrap();
    fs::rename(at("t"), at("b")).unwrap();
    fs::rename(at("c"), at("c-moved")).unwrap();
    symlink("c-moved", at("c")).unwrap();
    fs::rename(at("d/e"), at("t")).unwrap();
    fs::remove_dir(at("d")).unwrap();
    fs::rename(at("t"), at("d")).unwrap();
    fs::rename(at("f"), at("t")).unwrap();
    fs::create_dir(at("f")).unwrap();
    fs::rename(at("t"), at("f/f")).unwrap();
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(kind_of(&set, b"c"), Some(ChangeKind::TypeChanged));
}

#[tokio::test]
async fn what_is_no_file_is_skipped_and_listed() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let at = |name: &str| worktree.path.join(name);
    rustix::fs::mkfifoat(rustix::fs::CWD, at("pipe"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    rustix::fs::mkfifoat(rustix::fs::CWD, at(".gitignore"), rustix::fs::Mode::from_raw_mode(0o644)).unwrap();
    symlink("/dev/zero", at(".gitattributes")).unwrap();
    let _socket = UnixListener::bind(at("socket")).unwrap();
    write(&at("sub/.GIT/config"), b"x");
    write(&at("git~1/config"), b"x");
    fs::create_dir(at("empty folder")).unwrap();
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.iter().map(|file| file.path.as_slice()).collect::<Vec<_>>(), [b".gitattributes".as_slice()]);
    for noted in ["pipe", "socket", "sub/.GIT", "git~1", ".gitignore"] {
        assert!(has_note(&set, noted), "{noted}: {:?}", set.notes);
    }
}

#[tokio::test]
async fn nested_repository_is_taken_as_plain_files() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let nested = worktree.path.join("vendor/lib");
    write(&nested.join("code.rs"), b"fn main() {}\n");
    world.git_in(&nested, &["init", "-q"]);
    world.git_in(&nested, &["add", "-A"]);
    world.git_in(&nested, &["commit", "-qm", "nested"]);
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(kind_of(&set, b"vendor/lib/code.rs"), Some(ChangeKind::Added));
    assert_eq!(set.files.len(), 1);
    assert!(has_note(&set, "nested repository"));
}

#[tokio::test]
async fn submodule_stays_the_commit_that_it_was() {
    let world = World::with(&[("a", b"a\n")]).await;
    let commit = world.user(&["rev-parse", "HEAD"]);
    world.write(".gitmodules", b"[submodule \"s\"]\n\tpath = mod\n\turl = ../other\n");
    world.user(&["add", ".gitmodules"]);
    for name in ["mod", "mod-gone", "mod-file"] {
        world.user(&["update-index", "--add", "--cacheinfo", &format!("160000,{commit},{name}")]);
    }
    world.user(&["commit", "-qm", "submodules"]);
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files, []);
    write(&worktree.path.join("mod/inside"), b"inside\n");
    fs::remove_dir(worktree.path.join("mod-gone")).unwrap();
    fs::remove_dir(worktree.path.join("mod-file")).unwrap();
    write(&worktree.path.join("mod-file"), b"now a file\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(kind_of(&set, b"mod-gone"), Some(ChangeKind::Deleted));
    assert_eq!(kind_of(&set, b"mod-file"), Some(ChangeKind::TypeChanged));
    assert_eq!(flags_of(&set, b"mod-gone"), ["submodule"]);
    assert_eq!(set.files.len(), 2);
    assert!(has_note(&set, "submodule with files in it"));
}

#[tokio::test]
async fn line_ends_are_normalised_as_git_would() {
    let attributes = b"*.txt text\n*.auto text=auto\n*.dos text eol=crlf\n*.bin binary\n*.id ident\n";
    let world =
        World::with(&[(".gitattributes", attributes), ("a.txt", b"a\n"), ("a.dos", b"a\nb\n"), ("k.id", b"$Id$\n")])
            .await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    assert_eq!(fs::read(worktree.path.join("a.dos")).unwrap(), b"a\r\nb\r\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files, []);
    let control = world.path().join("control");
    world.git_in(world.path(), &["clone", "-q", "source", "control"]);
    for (name, bytes) in [
        ("a.txt", b"a\r\nb\rc\r\n".as_slice()),
        ("b.auto", b"a\r\nb\r\n"),
        ("c.auto", b"a\r\n\0\r\n"),
        ("d.auto", b"a\rb\r\n"),
        ("a.dos", b"a\r\nb\r\nc\r\n"),
        ("e.bin", b"a\r\n"),
        ("k.id", b"$Id: 123 $\nx\n"),
        ("plain", b"a\r\n"),
    ] {
        write(&worktree.path.join(name), bytes);
        write(&control.join(name), bytes);
    }
    let (checkpoint, _) = world.change_set(&mirror, &worktree).await;
    world.git_in(&control, &["add", "-A"]);
    assert_eq!(checkpoint.tree, world.git_in(&control, &["write-tree"]));
}

#[tokio::test]
async fn file_that_is_only_touched_is_no_change_whatever_the_attributes_say() {
    // Committed before the attributes: text with CRLF, content that should be in LFS.
    let world = World::with(&[("a.txt", b"a\r\nb\r\n"), ("raw.big", b"raw content")]).await;
    world.write(".gitattributes", b"*.txt text\n*.big filter=lfs -text\n");
    world.user(&["add", ".gitattributes"]);
    world.user(&["commit", "-qm", "attributes"]);
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    for name in ["a.txt", "raw.big"] {
        let bytes = fs::read(worktree.path.join(name)).unwrap();
        write(&worktree.path.join(name), &bytes);
    }
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files, []);
}

#[tokio::test]
async fn lfs_content_becomes_a_pointer_and_is_kept() {
    let pointer = format!("version https://git-lfs.github.com/spec/v1\noid sha256:{}\nsize 3\n", "0".repeat(64));
    let attributes = b"*.big filter=lfs diff=lfs merge=lfs -text\n*.odd filter=other\n";
    let world = World::with(&[(".gitattributes", attributes), ("old.big", pointer.as_bytes())]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files, []);
    let content = vec![7_u8; 3 << 20];
    write(&worktree.path.join("new.big"), &content);
    write(&worktree.path.join("empty.big"), b"");
    write(&worktree.path.join("x.odd"), b"as it is\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(flags_of(&set, b"new.big"), ["lfs"]);
    assert_eq!(flags_of(&set, b"x.odd"), ["attributes"]);
    let new = set.files.iter().find(|file| file.path == b"new.big").unwrap();
    let text = String::from_utf8(new.patch.clone()).unwrap();
    let hash = text.lines().find_map(|line| line.strip_prefix("+oid sha256:")).unwrap();
    let kept = mirror.path.join("lfs/objects").join(&hash[..2]).join(&hash[2..4]).join(hash);
    assert_eq!(fs::read(kept).unwrap(), content);
    assert!(text.contains("+size 3145728"));
}

#[tokio::test]
async fn other_encoding_is_unchanged_if_the_bytes_are_the_checkouts_and_flagged_if_not() {
    let world = World::empty().await;
    world.write(".gitattributes", b"*.u16 text working-tree-encoding=UTF-16LE-BOM eol=lf\n");
    let utf16 = |text: &str| -> Vec<u8> {
        [0xfeff].into_iter().chain(text.encode_utf16()).flat_map(u16::to_le_bytes).collect()
    };
    world.write("a.u16", &utf16("hé\n"));
    world.write("b.u16", &utf16("b\n"));
    world.commit("encoded");
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    assert_eq!(fs::read(worktree.path.join("a.u16")).unwrap(), utf16("hé\n"));
    // Written again with the same bytes: the stat data is new, the content is not.
    write(&worktree.path.join("a.u16"), &utf16("hé\n"));
    write(&worktree.path.join("b.u16"), &utf16("b\nc\n"));
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.len(), 1);
    assert_eq!(flags_of(&set, b"b.u16"), ["encoding"]);
}

#[tokio::test]
async fn ignored_files_are_left_out_and_tracked_ones_kept() {
    let world = World::with(&[("src/a", b"a\n"), ("tracked.log", b"log\n"), ("build/kept", b"kept\n")]).await;
    world.write(".gitignore", b"*.log\nbuild/\n");
    world.commit("ignore");
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    write(&worktree.path.join("tracked.log"), b"changed\n");
    write(&worktree.path.join("other.log"), b"ignored\n");
    write(&worktree.path.join("build/kept"), b"changed\n");
    write(&worktree.path.join("build/out"), b"ignored\n");
    write(&worktree.path.join("src/.gitignore"), b"!x.log\n");
    write(&worktree.path.join("src/x.log"), b"not ignored\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    let paths: Vec<_> = set.files.iter().map(|file| String::from_utf8_lossy(&file.path).into_owned()).collect();
    assert_eq!(paths, ["build/kept", "src/.gitignore", "src/x.log", "tracked.log"]);
    assert_eq!(flags_of(&set, b"src/.gitignore"), ["ignore_rules"]);
    assert!(has_note(&set, "ignore rules changed"));
}

#[tokio::test]
async fn large_files_text_and_binary_apply() {
    let text: Vec<u8> = (0..400_000).flat_map(|line| format!("line {line} of a large file\n").into_bytes()).collect();
    let mut noise = vec![0_u8; 20 << 20];
    let mut state = 1_u32;
    for byte in &mut noise {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        *byte = (state >> 24) as u8;
    }
    let world = World::with(&[("text", &text), ("noise", &noise)]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let mut changed = text.clone();
    changed.extend_from_slice(b"and one more");
    changed[0] = b'L';
    write(&worktree.path.join("text"), &changed);
    noise[1 << 20] ^= 1;
    write(&worktree.path.join("noise"), &noise);
    write(&worktree.path.join("large text"), &[text.as_slice(); 2].concat());
    let (_, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.len(), 3);
}

#[tokio::test]
async fn many_files_apply_and_the_second_checkpoint_reads_none() {
    let world = World::with(&[("a", b"a\n")]).await;
    for number in 0..2000 {
        world.write(&format!("d{}/f{number}", number % 40), format!("{number}\n").as_bytes());
    }
    world.commit("many");
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    for number in (0..2000).step_by(3) {
        write(&worktree.path.join(format!("d{}/f{number}", number % 40)), format!("changed {number}\n").as_bytes());
        write(&worktree.path.join(format!("n{}/f{number}", number % 40)), format!("new {number}\n").as_bytes());
    }
    fs::remove_dir_all(worktree.path.join("d7")).unwrap();
    let (first, set) = world.change_set(&mirror, &worktree).await;
    assert_eq!(set.files.len(), 667 + 667 + 50 - (0..2000).filter(|n| n % 3 == 0 && n % 40 == 7).count());
    let again = world.git.checkpoint(&mirror, &worktree, 1, "turn").await.unwrap();
    assert_eq!(first.tree, again.tree);
}

#[tokio::test]
async fn same_size_edits_in_the_same_tick_are_seen() {
    let world = World::with(&[("a", b"0000")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    let mut seen = std::collections::HashSet::new();
    for round in 0..100 {
        write(&worktree.path.join("a"), format!("{round:04}").as_bytes());
        let checkpoint = world.git.checkpoint(&mirror, &worktree, 1, "turn").await.unwrap();
        assert!(seen.insert(checkpoint.tree), "round {round} was not seen");
    }
}

#[tokio::test]
async fn review_flags_name_what_runs_by_itself() {
    let world = World::with(&[("a", b"a\n")]).await;
    let mirror = world.mirror().await;
    let (worktree, _) = world.session(&mirror, 1).await;
    for name in [".github/workflows/ci.yml", ".envrc", "build.rs", "package.json", "tool"] {
        write(&worktree.path.join(name), b"x\n");
    }
    make_executable(&worktree.path.join("tool"));
    write(&worktree.path.join("plain.rs"), b"x\n");
    let (_, set) = world.change_set(&mirror, &worktree).await;
    for name in [".github/workflows/ci.yml", ".envrc", "build.rs", "package.json", "tool"] {
        assert_eq!(flags_of(&set, name.as_bytes()), ["executes"], "{name}");
    }
    assert!(flags_of(&set, b"plain.rs").is_empty());
}
