//! Bodies, always bounded: as long as asked for, or an error.

use super::error::ClientError;
use super::header::{content_range, retry_after};
use bytes::Bytes;
use reqwest::header::{CONTENT_RANGE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use std::ops::Range;

/// Longest part of an error's body that is shown, in bytes.
const MAX_SAID: usize = 256;
/// Longest part of it that is looked at: a secret that begins in what is shown ends within this.
const MAX_HEARD: usize = 16 << 10;
/// Where a server ignores ranges, no byte beyond this is asked for: everything before it must be transferred.
pub const MAX_IGNORED: u64 = 64 << 20;
/// Longest range asked for at once, in bytes; a chunk is at most 16 MiB.
pub const MAX_READ: u64 = 256 << 20;

/// A header as text; `None`: not there, or no text.
pub fn text(headers: &HeaderMap, name: HeaderName) -> Option<&str> {
    headers.get(name).and_then(|value| value.to_str().ok())
}

/// The bytes of `range` out of an answer to a request for it: all of them and no more. `redact` takes secrets out of what is said.
pub async fn range(
    mut response: Response,
    range: &Range<u64>,
    redact: impl Fn(&str) -> String,
) -> Result<Bytes, ClientError> {
    let length = range.end.saturating_sub(range.start);
    let size = usize::try_from(length).ok().filter(|_| length <= MAX_READ);
    let size = size.ok_or(ClientError::TooLong { limit: MAX_READ })?;
    match response.status() {
        StatusCode::PARTIAL_CONTENT => {
            check_range(&response, range)?;
            match response.content_length() {
                Some(found) if found < length => return Err(ClientError::Short { found }),
                Some(found) if found > length => {
                    return Err(ClientError::WrongRange {
                        asked: range.clone(),
                        found: format!("{found} bytes"),
                    });
                }
                _ => {}
            }
            let found = exactly(&mut response, 0, size).await?;
            match response.chunk().await? {
                Some(more) if !more.is_empty() => {
                    Err(ClientError::WrongRange { asked: range.clone(), found: "more bytes".into() })
                }
                _ => Ok(found),
            }
        }
        // The whole blob. Empty ones come from overloaded caches, so a length says little here.
        StatusCode::OK if range.end > MAX_IGNORED => Err(ClientError::RangesIgnored { limit: MAX_IGNORED }),
        StatusCode::OK => match response.content_length() {
            Some(found) if found < range.end => {
                Err(ClientError::Short { found: found.saturating_sub(range.start) })
            }
            _ => exactly(&mut response, range.start, size).await,
        },
        StatusCode::RANGE_NOT_SATISFIABLE => match whole_size(&response) {
            Some(size) if size < range.end => Err(ClientError::OutOfRange { size }),
            _ => Err(status(response, redact).await),
        },
        _ => Err(status(response, redact).await),
    }
}

/// Size of the whole blob as a 206 or 416 answer has it.
fn whole_size(response: &Response) -> Option<u64> {
    text(response.headers(), CONTENT_RANGE).and_then(content_range).and_then(|found| found.size)
}

/// Size of the blob out of an answer to a request for its first byte.
pub async fn size(mut response: Response, redact: impl Fn(&str) -> String) -> Result<u64, ClientError> {
    let found = match response.status() {
        StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => whole_size(&response),
        StatusCode::OK => response.content_length(),
        _ => return Err(status(response, redact).await),
    };
    if response.status() == StatusCode::PARTIAL_CONTENT {
        // So that the connection can be used again; what comes does not matter.
        let _byte = response.chunk().await?;
    }
    found.ok_or(ClientError::Answer { found: "an answer without a size" })
}

/// Are the bytes of a 206 answer those of `range`?
fn check_range(response: &Response, range: &Range<u64>) -> Result<(), ClientError> {
    let field = text(response.headers(), CONTENT_RANGE);
    let found = field.and_then(content_range);
    match found.as_ref().map(|found| (&found.range, found.size)) {
        Some((Some(found), _)) if found == range => Ok(()),
        // Cut at the end of the blob, as RFC 9110 wants it.
        Some((Some(found), Some(size)))
            if found.start == range.start && found.end == size && size < range.end =>
        {
            Err(ClientError::OutOfRange { size })
        }
        _ => {
            let shown = |field: &str| line(field.as_bytes().get(..MAX_SAID).unwrap_or(field.as_bytes()));
            let found = field.map_or("no Content-Range".into(), shown);
            Err(ClientError::WrongRange { asked: range.clone(), found })
        }
    }
}

/// `size` bytes of the body behind the first `skip`.
async fn exactly(response: &mut Response, mut skip: u64, size: usize) -> Result<Bytes, ClientError> {
    let mut found = Vec::new();
    while found.len() < size {
        let Some(mut part) = response.chunk().await? else {
            return Err(ClientError::Short { found: found.len() as u64 });
        };
        let before = usize::try_from(skip).unwrap_or(usize::MAX).min(part.len());
        drop(part.split_to(before));
        skip = skip.saturating_sub(before as u64);
        part.truncate(size - found.len());
        if part.len() == size {
            return Ok(part);
        }
        // Only once bytes come: whoever promises and does not send costs no memory.
        if found.is_empty() && !part.is_empty() {
            found.reserve_exact(size);
        }
        found.extend_from_slice(&part);
    }
    Ok(found.into())
}

/// The whole body, at most `limit` bytes.
pub async fn all(response: &mut Response, limit: usize) -> Result<Vec<u8>, ClientError> {
    let mut found = Vec::new();
    while let Some(part) = response.chunk().await? {
        if part.len() > limit.saturating_sub(found.len()) {
            return Err(ClientError::Answer { found: "an answer that is too long" });
        }
        found.extend_from_slice(&part);
    }
    Ok(found)
}

/// An answer that is none, as an error: its status, when to come again, and the first line of its body.
pub async fn status(mut response: Response, redact: impl Fn(&str) -> String) -> ClientError {
    let code = response.status().as_u16();
    let retry_after = text(response.headers(), RETRY_AFTER).and_then(retry_after);
    let mut body = Vec::new();
    // A body that breaks off says what it said.
    while let Ok(Some(part)) = response.chunk().await {
        body.extend_from_slice(part.get(..MAX_HEARD.min(part.len())).unwrap_or(&part));
        if body.len() >= MAX_HEARD || body.trim_ascii_start().contains(&b'\n') {
            break;
        }
    }
    let said = redact(&line(&body));
    let end = said.char_indices().map(|(at, _)| at).find(|at| *at >= MAX_SAID);
    ClientError::Status {
        code,
        said: said.get(..end.unwrap_or(said.len())).unwrap_or_default().to_owned(),
        retry_after,
    }
}

/// The first line of `bytes` as printable text.
fn line(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    let line = text.lines().map(str::trim).find(|line| !line.is_empty()).unwrap_or_default();
    line.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}
