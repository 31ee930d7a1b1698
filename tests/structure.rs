//! The shape of the code: modules point one way, and the documents say what is there.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

/// A module may use those of lower floors, and itself; never one of its own floor or above.
const FLOORS: &[&[&str]] = &[
    &["model", "scripted"],
    &["config"],
    &["supervise", "tools"],
    &["postgres"],
    &["store", "git", "agent"],
    &["worktrees"],
    &["turn", "actions"],
    &["loops", "api"],
    &["service"],
    &["bench"],
    &["cli"],
];

fn floor(module: &str) -> Option<usize> {
    FLOORS.iter().position(|floor| floor.contains(&module))
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("workspace").to_owned()
}

fn sources(folder: &Path, found: &mut Vec<PathBuf>) {
    for entry in fs::read_dir(folder).expect("folder") {
        let path = entry.expect("entry").path();
        if path.is_dir() {
            sources(&path, found);
        } else if path.extension().is_some_and(|e| e == "rs") {
            found.push(path);
        }
    }
}

/// The top-level modules named behind `crate::` in a source file, comments aside.
fn used(source: &str) -> BTreeSet<String> {
    let code: String =
        source.lines().filter(|line| !line.trim_start().starts_with("//")).map(|line| format!("{line}\n")).collect();
    let mut modules = BTreeSet::new();
    for (at, _) in code.match_indices("crate::") {
        let rest = &code[at + "crate::".len()..];
        if let Some(group) = rest.strip_prefix('{') {
            // Names at the group's own level: `crate::{a::{b, c}, d}` names a and d.
            let (mut depth, mut name) = (0_usize, String::new());
            for c in group.chars() {
                match c {
                    '{' => depth += 1,
                    '}' if depth == 0 => break,
                    '}' => depth -= 1,
                    ',' if depth == 0 => {}
                    _ if depth == 0 => {
                        name.push(c);
                        continue;
                    }
                    _ => continue,
                }
                if depth == 0 || c == '{' {
                    modules.extend(first_name(&name));
                    name.clear();
                }
            }
            modules.extend(first_name(&name));
        } else {
            modules.extend(first_name(rest));
        }
    }
    modules
}

fn first_name(path: &str) -> Option<String> {
    let name: String = path.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect();
    (!name.is_empty()).then_some(name)
}

#[test]
fn grouped_and_nested_imports_are_understood() {
    let source = "use crate::{\n    agent::{Backend, x::{Y}},\n    git::Git,\n    model,\n};\nfn f() { crate::store::g() }\n// crate::cli";
    assert_eq!(used(source).into_iter().collect::<Vec<_>>(), ["agent", "git", "model", "store"]);
}

#[test]
fn modules_use_lower_floors_only() {
    let src = root().join("worker/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let mut wrong = Vec::new();
    let mut edges = 0;
    for file in files {
        let inside = file.strip_prefix(&src).expect("inside");
        let module = inside.components().next().expect("name").as_os_str().to_string_lossy().replace(".rs", "");
        if module == "main" || module == "lib" {
            continue;
        }
        let Some(own) = floor(&module) else {
            wrong.push(format!("{module}: on no floor; put it on one in tests/structure.rs and ARCHITECTURE.md"));
            continue;
        };
        for other in used(&fs::read_to_string(&file).expect("source")) {
            match floor(&other) {
                _ if other == module => {}
                Some(theirs) if theirs < own => edges += 1,
                Some(_) => wrong.push(format!("{}: uses {other}, which is not below it", inside.display())),
                None => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
    assert!(edges > 20, "the test finds too little: {edges}");
}

#[test]
fn each_foreign_library_stays_in_its_module() {
    let src = root().join("worker/src");
    let mut files = Vec::new();
    sources(&src, &mut files);
    let homes: &[(&str, &[&str])] =
        &[("tokio_postgres", &["store", "postgres"]), ("git2", &["git"]), ("sse_stream", &["agent"])];
    let mut wrong = Vec::new();
    for file in files {
        let inside = file.strip_prefix(&src).expect("inside");
        let module = inside.components().next().expect("name").as_os_str().to_string_lossy().replace(".rs", "");
        let source = fs::read_to_string(&file).expect("source");
        for (library, allowed) in homes {
            if source.contains(&format!("{library}::")) && !allowed.contains(&module.as_str()) {
                wrong.push(format!("{}: uses {library}", inside.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn the_architecture_page_names_every_module() {
    let page = fs::read_to_string(root().join("ARCHITECTURE.md")).expect("ARCHITECTURE.md");
    for module in FLOORS.iter().copied().flatten() {
        assert!(page.contains(&format!("`{module}`")), "ARCHITECTURE.md does not mention `{module}`");
    }
}
