//! The end of sessions, and their beginning again.

use super::Result;
use crate::store::Store;

/// Closes a session: it takes no more tasks. Refused while it has open ones; false if it was closed.
pub async fn close_session(store: &Store, session_id: i64) -> Result<bool> {
    Ok(store.close_session(session_id).await?)
}

/// Opens a session again; false if it was open.
pub async fn reopen_session(store: &Store, session_id: i64) -> Result<bool> {
    Ok(store.reopen_session(session_id).await?)
}
