//! `WWW-Authenticate`, `Content-Range`, `Range` of uploads, `Location`, `Retry-After` and `Cache-Control`, on text that is anything.

use oci_registry::client::{self, Url};

/// A good field of each kind.
pub const SEEDS: &[&str] = &[
    r#"Bearer realm="https://a.io/token",service="r.io",scope="repository:a/b:pull,push",error="invalid_token""#,
    r#"Negotiate, Basic realm="a \"b\"", charset=UTF-8"#,
    "bytes 0-41/42",
    "bytes */42",
    "bytes=0-41",
    "https://s3.io:8443/b/x?X-Amz-Signature=0a&y#z",
    "//s3.io/../x",
    "120",
    "public, max-age=60",
];

/// Takes `data` for each of the fields. Panics when what is accepted is out of bounds, or more than there is.
pub fn try_bytes(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let found = client::challenges(&text);
    let params = found.iter().flat_map(|one| &one.params).map(|(key, value)| key.len() + value.len());
    let length = found.iter().map(|one| one.scheme.len()).sum::<usize>() + params.sum::<usize>();
    assert!(length <= text.len(), "{length} bytes out of {}", text.len());
    assert!(found.iter().all(|one| !one.scheme.is_empty() && one.params.len() <= 32) && found.len() <= 33);
    if let Some(found) = client::content_range(&text)
        && let Some(range) = &found.range
    {
        assert!(range.start < range.end && found.size.is_none_or(|size| range.end <= size));
    }
    if let Some(range) = client::upload_range(&text) {
        assert!(range.start == 0 && range.end > 0);
    }
    let _times = (client::retry_after(&text), client::max_age(&text));
    let at = Url::parse("https://r.io/v2/a/b/blobs/sha256:0a").unwrap_or_else(|error| panic!("{error}"));
    if let Some(url) = client::location(&at, &text) {
        assert!(
            matches!(url.scheme(), "http" | "https") && url.host_str().is_some_and(|host| !host.is_empty())
        );
        assert!(client::location(&at, url.as_str()).is_some_and(|again| again == url), "{url}");
    }
}
