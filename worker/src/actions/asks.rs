//! Answering what agents ask.

use super::{ActionError, Result};
use crate::{
    model::ids::AskId,
    store::{Store, asks::AskRow},
};

/// What a person answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reply {
    /// It may: this time, or always in this worktree.
    Allow {
        /// Not to be asked again.
        always: bool,
    },
    /// It may not. With a message it goes on, without one its turn stops.
    Reject {
        /// What it is to do instead.
        message: Option<String>,
    },
    /// Answers to questions, one list for each.
    Replies(Vec<Vec<String>>),
}

/// What answering did.
#[derive(Clone, Debug, PartialEq)]
pub struct Answered {
    /// False: nobody waits for the answer any more.
    pub changed: bool,
    /// The ask, as it is now.
    pub ask: AskRow,
}

/// An ask.
pub async fn ask(store: &Store, id: i64) -> Result<AskRow> {
    store.ask(id).await?.ok_or_else(|| ActionError::NotFound {
        what: format!("there is no ask {}", AskId(id)),
        hint: "see what is asked: millhand inbox".to_owned(),
    })
}

/// Answers an ask.
pub async fn answer(store: &Store, id: i64, reply: &Reply) -> Result<Answered> {
    let (word, message, replies) = match reply {
        Reply::Allow { always: false } => ("once", None, None),
        Reply::Allow { always: true } => ("always", None, None),
        Reply::Reject { message } => ("reject", message.as_deref(), None),
        Reply::Replies(replies) => ("reply", None, Some(replies.as_slice())),
    };
    let texts = message.into_iter().chain(replies.into_iter().flatten().flatten().map(String::as_str));
    if texts.into_iter().any(|text| text.contains('\0')) {
        return Err(ActionError::Refused {
            what: "the answer has a NUL, which Postgres cannot store".to_owned(),
            hint: Some("an answer is text".to_owned()),
        });
    }
    let changed = store.answer_ask(id, word, message, replies).await?;
    Ok(Answered { changed, ask: ask(store, id).await? })
}
