use std::{fs, time::Duration};

use secrecy::ExposeSecret as _;

use super::{super::Timings, *};

fn with_file(text: &str) -> (tempfile::TempDir, Sources) {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("millhand.toml");
    fs::write(&file, text).expect("file");
    let sources = Sources { file: Some(file), ..Sources::default() };
    (folder, sources)
}

fn problem(text: &str) -> String {
    let (_folder, sources) = with_file(text);
    load(&sources).expect_err("refused").problem
}

fn variables(pairs: &[(&str, &str)]) -> Environment {
    pairs.iter().copied().collect()
}

#[test]
fn later_sources_win_key_by_key() {
    let (_folder, mut sources) = with_file("[worker]\nconcurrency = 3\n[timings]\nlease = \"40s\"\ndrain = \"1m\"\n");
    sources.environment = variables(&[("MILLHAND_WORKER_CONCURRENCY", "5"), ("MILLHAND_TIMINGS_DRAIN", "2m")]);
    sources.flags = vec![("worker.concurrency", "--concurrency", "7".to_owned())];
    let settings = load(&sources).expect("settings");
    assert_eq!(settings.worker.concurrency, Some(7), "flag");
    assert_eq!(settings.timings.drain, Duration::from_secs(120), "variable");
    assert_eq!(settings.timings.lease, Duration::from_secs(40), "file");
    assert_eq!(settings.timings.heartbeat, Timings::default().heartbeat, "default");
}

#[test]
fn unknown_keys_are_refused_with_the_key_that_was_meant() {
    assert_eq!(
        problem("[worker]\nconcurency = 3\n"),
        "unknown key \"worker.concurency\"; did you mean \"worker.concurrency\"?"
    );
    assert_eq!(problem("colour = true"), "unknown key \"colour\"; ops/millhand.example.toml lists all keys");
    assert!(problem("worker = 3").starts_with("unknown key \"worker\""));
    let error = load(&Sources {
        environment: variables(&[("MILLHAND_WORKER_CONCURENCY", "3"), ("MILLHAND_FAMILY", "theirs")]),
        ..Sources::default()
    });
    assert_eq!(
        error.expect_err("refused").to_string(),
        "MILLHAND_WORKER_CONCURENCY: unknown variable; did you mean MILLHAND_WORKER_CONCURRENCY?"
    );
}

#[test]
fn wrong_types_name_the_file_the_key_and_what_is_expected() {
    assert_eq!(
        problem("[worker]\nconcurrency = \"many\""),
        "worker.concurrency: expected \"auto\" or a whole number from 1 to 1000"
    );
    assert_eq!(
        problem("[worker]\nconcurrency = 0"),
        "worker.concurrency: expected \"auto\" or a whole number from 1 to 1000"
    );
    assert!(problem("[timings]\nlease = 20").starts_with("timings.lease: expected a time such as"));
    assert_eq!(problem("[database]\nlisten = 1"), "database.listen: expected true or false");
    assert_eq!(problem("home = \"relative\""), "home: expected an absolute path");
    assert!(problem("[timings]\nlease = \"5s\"").contains("timings.heartbeat must be at most half"));
    assert!(problem("[log]\nlevel = \"a=b=c\"").starts_with("log.level"));
    assert!(
        problem("[agent.opencode]\nconfig = \"{not json\"").starts_with("agent.opencode.config: not a JSON object")
    );
    assert!(problem("[worker\n").contains("TOML parse error"), "a syntax error shows its place");
    assert_eq!(problem("[sandbox]\nmode = true"), "sandbox.mode: expected \"on\" or \"off\"");
    assert_eq!(problem("[sandbox]\nread = [\"here\"]"), "sandbox.read: expected a list of absolute paths");
    assert!(problem("home = \"/m\"\n[sandbox]\nwrite = [\"/\"]").contains("around or in Millhand's own folder"));
    assert!(problem("home = \"/m\"\n[sandbox]\nread = [\"/m/private/x\"]").contains("private"));
    let missing = load(&Sources { file: Some("/nonexistent/millhand.toml".into()), ..Sources::default() });
    assert!(missing.expect_err("refused").problem.starts_with("cannot be read"));
}

#[test]
fn the_database_comes_from_the_most_specific_place() {
    let (_folder, mut sources) = with_file("[database]\nurl = \"postgres://file/x\"\n");
    sources.environment = variables(&[("DATABASE_URL", "postgres://generic/x"), ("PGHOST", "pg")]);
    let url = |sources: &Sources| {
        let database = load(sources).expect("settings").database;
        (database.url.map(|url| url.expose_secret().to_owned()), database.url_from)
    };
    assert_eq!(url(&sources).0.as_deref(), Some("postgres://file/x"), "ours before everybody's");
    sources.environment.0.insert("MILLHAND_DATABASE_URL".into(), "postgres://ours/x".into());
    assert_eq!(url(&sources), (Some("postgres://ours/x".to_owned()), "MILLHAND_DATABASE_URL".to_owned()));

    let generic = Sources { environment: variables(&[("DATABASE_URL", "postgres://generic/x")]), ..Sources::default() };
    assert_eq!(url(&generic), (Some("postgres://generic/x".to_owned()), "DATABASE_URL".to_owned()));
    let pg = Sources { environment: variables(&[("PGHOST", "pg"), ("PGPASSWORD", "geheim")]), ..Sources::default() };
    let database = load(&pg).expect("settings").database;
    assert!(!database.is_private());
    assert!(!format!("{database:?}").contains("geheim"));
    assert!(load(&Sources::default()).expect("settings").database.is_private());
}

#[test]
fn the_home_follows_the_user() {
    let root = |environment, is_root| {
        load(&Sources { environment, is_root, ..Sources::default() }).expect("settings").home.root().to_path_buf()
    };
    assert_eq!(root(variables(&[("HOME", "/home/ada")]), false), Path::new("/home/ada/.local/share/millhand"));
    assert_eq!(
        root(variables(&[("HOME", "/home/ada"), ("XDG_DATA_HOME", "/data")]), false),
        Path::new("/data/millhand")
    );
    assert_eq!(root(variables(&[("HOME", "/root")]), true), Path::new("/var/lib/millhand"));
    assert_eq!(root(variables(&[("HOME", "/root"), ("MILLHAND_HOME", "/m")]), true), Path::new("/m"));
}

/// The example has every key commented out, at its default, below a comment that says what it is.
#[test]
fn the_example_file_and_the_code_agree() {
    let example =
        fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../ops/millhand.example.toml")).expect("file");
    let is_key = |line: &str| {
        line.strip_prefix("# ")
            .and_then(|l| l.split_once(" = "))
            .is_some_and(|(name, _)| !name.is_empty() && name.bytes().all(|b| b.is_ascii_lowercase() || b == b'_'))
    };
    let lines: Vec<_> = example.lines().collect();
    let mut text = String::new();
    for (number, line) in lines.iter().enumerate() {
        if is_key(line) {
            assert!(
                number > 0 && lines[number - 1].starts_with("# ") && !is_key(lines[number - 1]),
                "no comment: {line}"
            );
            text.push_str(&line[2..]);
        } else {
            text.push_str(line);
        }
        text.push('\n');
    }
    let mut documented = Vec::new();
    flatten("", &Value::Table(text.parse().expect("valid TOML")), &mut documented);
    let names: Vec<_> = documented.iter().map(|(name, _)| name.as_str()).collect();
    let keys: Vec<_> = KEYS.iter().map(|key| key.name).collect();
    assert_eq!(
        {
            let mut n = names;
            n.sort_unstable();
            n
        },
        {
            let mut k = keys;
            k.sort_unstable();
            k
        }
    );

    let defaults = Settings::new(Home::new("/var/lib/millhand"));
    for (name, value) in &documented {
        let key = KEYS.iter().find(|key| key.name == name).expect("known");
        let mut settings = defaults.clone();
        (key.from_toml)(&mut settings, value).unwrap_or_else(|error| panic!("{name}: {error}"));
        if let Some(default) = (key.to_toml)(&defaults) {
            assert_eq!(*value, default, "default of {name}");
        }
    }
    // As it stands, with everything commented out, it changes nothing.
    let (_folder, sources) = with_file(&example);
    load(&sources).expect("the example loads");
}
