//! Lists that are sent item by item: the next items are made when those before were sent, so a list of
//! megabytes costs some kilobytes of memory.

use std::io;

use bytes::Bytes;
use futures_util::{Stream, stream};
use serde::Serialize;

use super::client_budget::ClientBudget;
use super::error::ApiError;
use super::paced;
use super::response::Body;
use crate::api::IndexItem;
use crate::budget::Held;
use crate::build::{Filter, Listing, Place};
use crate::scheduler::Reader;

/// Bytes of items that are sent at once.
const CHUNK: usize = 8 << 10;
/// Bytes that are held for a list: items being sent, others prepared ahead, and builds that are read.
const LIST_BYTES: u64 = 96 << 10;
/// Builds that are read at once, where they are small.
const READ_BATCH: usize = 16;
/// Bytes of builds that are read and not sent yet: some have 16 KiB of params. At least one is read.
const READ_AHEAD: usize = 32 << 10;

/// Holds the memory of a list.
///
/// # Errors
/// 503 where the server holds as much as it may.
pub(super) fn hold(budget: &ClientBudget) -> Result<Held, ApiError> {
    budget.hold(LIST_BYTES)
}

/// A JSON array of values between two texts, each written when it is about to be sent.
pub(super) fn of_values<T: Serialize + Send + 'static>(
    held: Held,
    head: String,
    values: impl Iterator<Item = T> + Send + 'static,
    tail: String,
) -> Body {
    let mut values = values.peekable();
    let (mut head, mut tail) = (Some(head), Some(tail));
    let chunks = std::iter::from_fn(move || {
        if head.is_none() && values.peek().is_none() {
            return tail.take().map(|tail| Ok(tail.into()));
        }
        let mut chunk = head.take().unwrap_or_default().into_bytes();
        while chunk.len() < CHUNK
            && let Some(value) = values.next()
        {
            if let Err(error) = serde_json::to_writer(&mut chunk, &value) {
                return Some(Err(error.into()));
            }
            if values.peek().is_some() {
                chunk.push(b',');
            }
        }
        Some(Ok(Bytes::from(chunk)))
    });
    paced::body(stream::iter(chunks), held)
}

/// The items of an index: at most `limit` builds that match `filter`, up to the place `last`.
pub(super) fn of_builds(
    held: Held,
    reader: Reader,
    filter: Filter,
    limit: usize,
    last: Option<Place>,
) -> Body {
    paced::body(index(reader, filter, limit, last), held)
}

/// An index while it is sent.
struct Index {
    reader: Reader,
    /// Where it continues; `None` after the last build.
    filter: Option<Filter>,
    left: usize,
    last: Option<Place>,
    /// Builds that were read and will be sent next.
    read: std::vec::IntoIter<Listing>,
    is_begun: bool,
    is_ended: bool,
}

fn index(
    reader: Reader,
    filter: Filter,
    limit: usize,
    last: Option<Place>,
) -> impl Stream<Item = io::Result<Bytes>> + Send + 'static {
    let index = Index {
        reader,
        filter: Some(filter),
        left: limit,
        last,
        read: Vec::new().into_iter(),
        is_begun: false,
        is_ended: false,
    };
    stream::try_unfold(index, |mut index| async move {
        let chunk = index.chunk().await?;
        Ok(chunk.map(|chunk| (chunk, index)))
    })
}

impl Index {
    async fn chunk(&mut self) -> io::Result<Option<Bytes>> {
        if self.is_ended {
            return Ok(None);
        }
        let mut chunk = Vec::new();
        while chunk.len() < CHUNK {
            let Some(listing) = self.next().await? else {
                self.is_ended = true;
                chunk.extend_from_slice(if self.is_begun { b"]" } else { b"[]" });
                break;
            };
            chunk.push(if self.is_begun { b',' } else { b'[' });
            self.is_begun = true;
            let item = listing.json(IndexItem::written)?;
            chunk.extend_from_slice(item.get().as_bytes());
        }
        Ok(Some(chunk.into()))
    }

    async fn next(&mut self) -> io::Result<Option<Listing>> {
        loop {
            if let Some(listing) = self.read.next() {
                // If builds were removed meanwhile, those after them belong to the next page.
                let is_behind = |last: &Place| listing.place().is_behind(last);
                if self.last.as_ref().is_some_and(is_behind) {
                    continue;
                }
                return Ok(Some(listing));
            }
            let Some(filter) = self.filter.take().filter(|_| self.left > 0) else {
                return Ok(None);
            };
            let mut count = self.left.min(READ_BATCH);
            let (builds, next) = loop {
                let list = self.reader.list(filter.clone(), count).await;
                let (builds, next) = list.map_err(|error| {
                    // The client only sees that the list is incomplete.
                    tracing::error!(
                        error = &error as &dyn std::error::Error,
                        "a list could not be sent to its end"
                    );
                    io::Error::other(error)
                })?;
                let few = within(builds.iter().map(Listing::bytes), READ_AHEAD);
                if few >= builds.len() {
                    break (builds, next);
                }
                // Listed again, because only the index knows where a shorter list continues.
                count = few;
            };
            self.left -= count;
            self.read = builds.into_iter();
            self.filter = next.map(|place| Filter {
                before: Some(place),
                ..filter
            });
        }
    }
}

/// How many of the first take at most `most` bytes together: one at least.
fn within(sizes: impl Iterator<Item = usize>, most: usize) -> usize {
    let mut sum = 0_usize;
    let fitting = sizes.take_while(|bytes| {
        sum = sum.saturating_add(*bytes);
        sum <= most
    });
    fitting.count().max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn builds_are_read_ahead_within_a_bound_and_at_least_one() {
        let within = |sizes: &[usize]| within(sizes.iter().copied(), 32);
        assert_eq!(within(&[3; 16]), 10);
        assert_eq!(within(&[3; 8]), 8);
        assert_eq!(within(&[30, 3, 1]), 1);
        assert_eq!(within(&[40, 1]), 1);
        assert_eq!(within(&[]), 1);
    }
}
