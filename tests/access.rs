//! Access: tokens, logins, who may call what, and what the roles of the database may do.

mod http;
mod roles;
mod roles_use;
mod server;
pub mod tokens;
