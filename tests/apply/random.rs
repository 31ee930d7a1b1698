//! Random work, applied to an untouched base: the branch gets the checkpoint's tree, byte for byte.

use proptest::{
    prelude::*,
    strategy::ValueTree as _,
    test_runner::{Config, TestRunner},
};

use super::{Rig, request, write};
use crate::git::random::{a_step, attributes, take};

const CASES: usize = 12;

#[tokio::test]
async fn random_work_applied_to_an_untouched_base_gives_the_identical_tree() {
    let rig = Rig::new().await;
    let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
    let steps = (attributes(), prop::collection::vec(a_step(), 5..40));
    let mut applied = 0;
    for _ in 0..CASES {
        let (attributes, steps) = steps.new_tree(&mut runner).expect("steps").current();
        let session = rig
            .session(|path| {
                write(path, ".gitattributes", &attributes);
                steps.iter().for_each(|step| take(path, step));
            })
            .await;
        let (_, state, tree) = rig.open_set(session).await;
        assert_eq!(state, "open");
        match rig.try_apply(session, &request()).await {
            Ok(_) => {}
            // Nothing was changed that could be applied.
            Err(error) if error.to_string().contains("nothing to apply") => continue,
            // Where attributes have changed since a file was written, git itself may take it for modified: then so do we, and the user commits.
            Err(error) if error.to_string().contains("has changes of yours in the way") => {
                let error = error.to_string();
                let path = error.split('\'').nth(1).unwrap_or_default();
                let modified = rig.user(&["-c", "core.quotePath=off", "status", "--porcelain", "-z"]);
                assert!(!path.is_empty() && modified.contains(path), "{attributes:?} {steps:?}: {error}; {modified:?}");
                rig.user(&["add", "-A"]);
                rig.user(&["commit", "-q", "--allow-empty", "-m", "as git would have it"]);
                continue;
            }
            Err(error) => panic!("{attributes:?} {steps:?}: {error}"),
        }
        assert_eq!(rig.user(&["rev-parse", "main^{tree}"]), tree, "{attributes:?} {steps:?}");
        applied += 1;
    }
    assert!(applied > CASES / 2, "{applied}");
}
