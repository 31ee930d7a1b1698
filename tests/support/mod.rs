//! What the tests share: a cluster, homes, repositories, scripted models.

pub mod binary;
pub mod db;
pub mod model;
pub mod opencode;
pub mod programs;
pub mod proxy;
pub mod wait;
pub mod worker;
pub mod world;

pub use binary::millhand;
pub use db::TestDb;
pub use programs::tools_folder;
pub use wait::wait_until;
