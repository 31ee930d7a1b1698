//! What the tests share: a cluster, homes, repositories, scripted models.

pub mod api;
pub mod binary;
pub mod db;
pub mod desk;
pub mod headless;
pub mod model;
pub mod opencode;
pub mod pooler;
pub mod programs;
pub mod proxy;
pub mod receiver;
pub mod wait;
pub mod worker;
pub mod world;

pub use api::serve_api;
pub use binary::millhand;
pub use db::TestDb;
pub use programs::tools_folder;
pub use wait::wait_until;

/// Says that a test cannot run here, and why. Straight to stderr: what a test that passes prints is swallowed.
macro_rules! not_run {
    ($($why:tt)*) => {{
        use std::io::Write as _;
        let why = format!($($why)*);
        let _ = writeln!(std::io::stderr(), "NOT RUN: {why}");
    }};
}
pub(crate) use not_run;
