//! Lists, page by page: a page begins behind the last item of the one before it, so that what is inserted meanwhile moves nothing.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD as BASE64};
use serde::{Serialize, de::DeserializeOwned};
use utoipa::ToSchema;

use super::problem::Problem;

/// Items of a page, unless asked otherwise.
const DEFAULT: u32 = 50;
/// Items of a page at most.
const MOST: u32 = 500;

/// A page of a list.
#[derive(Debug, Serialize, ToSchema)]
pub(super) struct List<T> {
    /// The items.
    items: Vec<T>,
    /// What to give as `cursor` to get the next page; null: there is none.
    next: Option<String>,
}

impl<T> List<T> {
    /// A list that is short by nature, and given whole.
    pub(super) fn whole(items: Vec<T>) -> Self {
        Self { items, next: None }
    }
}

/// Which page.
#[derive(Clone, Copy, Debug)]
pub(super) struct Page<C> {
    limit: usize,
    /// The place that the page is behind.
    pub(super) after: Option<C>,
}

impl<C: Serialize + DeserializeOwned> Page<C> {
    /// Reads `limit` and `cursor`.
    pub(super) fn new(limit: Option<u32>, cursor: Option<&str>) -> Result<Self, Problem> {
        let limit = limit.unwrap_or(DEFAULT);
        if limit == 0 || limit > MOST {
            return Err(Problem::bad(format!("limit is a number from 1 to {MOST}")));
        }
        let after = cursor.map(decode).transpose()?;
        Ok(Self { limit: limit as usize, after })
    }

    /// How many rows to read: one more than the page has, to see whether there are more.
    pub(super) fn rows(&self) -> i64 {
        i64::try_from(self.limit).unwrap_or(i64::MAX).saturating_add(1)
    }

    /// The page that these rows make.
    pub(super) fn of<T>(&self, mut rows: Vec<T>, place: impl Fn(&T) -> C) -> List<T> {
        let more = rows.len() > self.limit;
        rows.truncate(self.limit);
        let next = rows.last().filter(|_| more).map(|last| encode(&place(last)));
        List { items: rows, next }
    }
}

fn encode(place: &impl Serialize) -> String {
    BASE64.encode(serde_json::to_vec(place).unwrap_or_default())
}

fn decode<C: DeserializeOwned>(cursor: &str) -> Result<C, Problem> {
    let bytes = BASE64.decode(cursor).ok();
    bytes
        .and_then(|bytes| serde_json::from_slice(&bytes).ok())
        .ok_or_else(|| Problem::bad("cursor is not one that this list has given").hint("take it from \"next\""))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_begins_behind_the_last_item() {
        let first = Page::<i64>::new(Some(2), None).expect("page");
        assert_eq!((first.rows(), first.after), (3, None));
        let list = first.of(vec![9, 7, 5], |id| *id);
        assert_eq!(list.items, [9, 7]);
        let next = list.next.expect("more");
        let second = Page::<i64>::new(Some(2), Some(&next)).expect("page");
        assert_eq!(second.after, Some(7));
        assert_eq!(second.of(vec![5, 3], |id| *id).next, None, "as many as asked for, and no more");
    }

    #[test]
    fn what_is_no_page_is_refused() {
        for (limit, cursor) in
            [(Some(0), None), (Some(501), None), (None, Some("")), (None, Some("Wzdd!")), (None, Some("IngI"))]
        {
            assert!(Page::<i64>::new(limit, cursor).is_err(), "{limit:?} {cursor:?}");
        }
    }
}
