//! Sends the requests that `opendal` signs. An answer to a request for a range is read and checked here: all bytes of the range and
//! no others, or an error with the status and what the store said. Other answers pass as they are, as long as they are short: metadata, receipts,
//! credentials. Knows nothing of any store.

use bytes::Bytes;
use futures_util::stream;
use http::{HeaderMap, Method, Request, Response, StatusCode, header};
use oci_registry::client::{ClientError, Urgency, Via, ranged_answer, retry_after};
use opendal::{Buffer, Error, ErrorKind, HttpBody, HttpTransport, HttpTransporter, Result};
use parking_lot::Mutex;
use std::fmt;
use std::ops::Range;

/// Longest answer that is no data, in bytes.
const MAX_ANSWER: usize = 1 << 20;
/// Longest part of an error's body that is looked at, in bytes.
const MAX_ERROR: usize = 4096;
/// Longest text taken from there, in characters.
const MAX_SAID: usize = 200;

/// A transport that sends by `http`, and what is about blobs by the connections through a proxy, where there is one.
pub(super) fn checked(
    http: reqwest::Client,
    proxy: Option<(Via, reqwest::Client)>,
    urgency: Urgency,
) -> HttpTransporter {
    HttpTransporter::new(Checked { http, proxy, urgency })
}

/// What went wrong, on its way through an error of `opendal`.
pub(super) struct Carried(Mutex<Option<ClientError>>);

impl Carried {
    /// The error, for the first who asks.
    pub fn take(&self) -> Option<ClientError> {
        self.0.lock().take()
    }
}

impl fmt::Debug for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.lock().fmt(out)
    }
}

impl fmt::Display for Carried {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &*self.0.lock() {
            Some(error) => error.fmt(out),
            None => out.write_str("told before"),
        }
    }
}

impl std::error::Error for Carried {}

/// `error` as one of `opendal`, whose own trying again wants to know whether it may pass.
fn carry(error: ClientError) -> Error {
    let passes = matches!(error, ClientError::Transport(_) | ClientError::Timeout { .. });
    let carried = Carried(Mutex::new(Some(error)));
    Error::new(ErrorKind::Unexpected, "the request failed").with_temporary(passes).set_source(carried)
}

struct Checked {
    http: reqwest::Client,
    proxy: Option<(Via, reqwest::Client)>,
    urgency: Urgency,
}

/// Is it about a blob? If not, it is about credentials: of the instance, which no proxy can reach, or of a service that gives tokens; neither is
/// any proxy's business. They are had by other methods, and never in part.
fn is_of_blob(request: &reqwest::Request) -> bool {
    let of_google = request.url().path().starts_with("/storage/v1/b/");
    of_google || request.method() == Method::HEAD || request.headers().contains_key(header::RANGE)
}

impl Checked {
    /// `request` as it is named to a proxy, with what peers want to know.
    fn request(&self, request: reqwest::Request) -> reqwest::RequestBuilder {
        let (url, mut request) = (request.url().clone(), request);
        let Some((via, http)) = self.proxy.as_ref().filter(|_| is_of_blob(&request)) else {
            return reqwest::RequestBuilder::from_parts(self.http.clone(), request);
        };
        *request.url_mut() = via.named(url.clone());
        let request = reqwest::RequestBuilder::from_parts(http.clone(), request);
        Via::hinted(request, &url, self.urgency)
    }
}

impl HttpTransport for Checked {
    async fn fetch(&self, request: Request<Buffer>) -> Result<Response<HttpBody>> {
        let range = asked(request.headers());
        let (parts, body) = request.into_parts();
        let request = reqwest::Request::try_from(Request::from_parts(parts, body.to_bytes()))
            .map_err(|error| Error::new(ErrorKind::ConfigInvalid, error.without_url().to_string()))?;
        let answer = self.request(request).send().await.map_err(|error| carry(error.into()))?;
        let (status, headers) = (answer.status(), answer.headers().clone());
        let Some(range) = range else { return Ok(answer_of(status, headers, short(answer).await?)) };
        let found = match status {
            StatusCode::OK | StatusCode::PARTIAL_CONTENT | StatusCode::RANGE_NOT_SATISFIABLE => {
                ranged_answer(answer, &range, |said| said.to_owned()).await
            }
            _ => Err(refusal(answer).await),
        };
        Ok(answer_of(StatusCode::PARTIAL_CONTENT, headers, found.map_err(carry)?))
    }
}

/// An answer with a body that is there. A `HEAD` says how long the body would be, so the header stays.
fn answer_of(status: StatusCode, headers: HeaderMap, body: Bytes) -> Response<HttpBody> {
    let size = body.len() as u64;
    let stream = stream::iter((!body.is_empty()).then(|| Ok(Buffer::from(body))));
    let mut answer = Response::new(HttpBody::new(stream, Some(size)));
    *answer.status_mut() = status;
    *answer.headers_mut() = headers;
    answer
}

/// The half-open range that headers ask for.
fn asked(headers: &HeaderMap) -> Option<Range<u64>> {
    let (first, last) = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?.split_once('-')?;
    Some(first.parse().ok()?..last.parse::<u64>().ok()?.checked_add(1)?)
}

/// A body that is no data.
async fn short(mut answer: reqwest::Response) -> Result<Bytes> {
    let mut found = Vec::new();
    while let Some(part) = answer.chunk().await.map_err(|error| carry(error.into()))? {
        if part.len() > MAX_ANSWER.saturating_sub(found.len()) {
            return Err(carry(ClientError::Answer { found: "an answer that is too long" }));
        }
        found.extend_from_slice(&part);
    }
    Ok(found.into())
}

/// An answer that is none: its status, when to come again, and what the store says of it.
async fn refusal(mut answer: reqwest::Response) -> ClientError {
    let code = answer.status().as_u16();
    let wanted = answer.headers().get(header::RETRY_AFTER).and_then(|value| value.to_str().ok());
    let retry_after = wanted.and_then(retry_after);
    let mut body = Vec::new();
    // A body that breaks off says what it said.
    while let Ok(Some(part)) = answer.chunk().await {
        body.extend_from_slice(&part);
        if body.len() >= MAX_ERROR {
            body.truncate(MAX_ERROR);
            break;
        }
    }
    ClientError::Status { code, said: said(&String::from_utf8_lossy(&body)), retry_after }
}

/// Code and message of an error in XML or JSON, as stores send it. Nothing else of it: there may be keys and signatures in the rest.
fn said(body: &str) -> String {
    let fields = [("Code", "code"), ("Message", "message")];
    let found = fields.iter().filter_map(|(xml, json)| element(body, xml).or_else(|| member(body, json)));
    let text: String = found.collect::<Vec<_>>().join(": ").chars().take(MAX_SAID).collect();
    text.chars().map(|c| if c.is_control() { ' ' } else { c }).collect()
}

/// Text of the first element `name`.
fn element<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("<{name}>"))?;
    Some(rest.split_once("</").map_or(rest, |(text, _)| text).trim())
}

/// Text of the first member `name`.
fn member<'a>(body: &'a str, name: &str) -> Option<&'a str> {
    let (_, rest) = body.split_once(&format!("\"{name}\""))?;
    let rest = rest.trim_start().strip_prefix(':')?.trim_start();
    let rest = rest.trim_start_matches('"');
    Some(rest.split(['"', ',', '}']).next()?.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_are_understood() {
        let of = |text: &str| asked(&HeaderMap::from_iter([(header::RANGE, text.parse().unwrap())]));
        assert_eq!(of("bytes=0-0"), Some(0..1));
        assert_eq!(of("bytes=10-19"), Some(10..20));
        for wrong in ["bytes=-5", "bytes=5-", "bytes=a-b", "items=0-1", "bytes=0-18446744073709551615"] {
            assert_eq!(of(wrong), None, "{wrong}");
        }
        assert_eq!(asked(&HeaderMap::new()), None);
    }

    #[test]
    fn a_proxy_sees_requests_for_blobs_only() {
        let of = |method: Method, url: &str, range: bool| {
            let mut request = reqwest::Request::new(method, url.parse().unwrap());
            if range {
                request.headers_mut().insert(header::RANGE, "bytes=0-0".parse().unwrap());
            }
            is_of_blob(&request)
        };
        assert!(of(Method::GET, "http://s/blobs/0a", true));
        assert!(of(Method::HEAD, "http://s/blobs/0a", false));
        assert!(of(Method::GET, "http://s/storage/v1/b/blobs/o/0a", false));
        for (method, url) in [
            (Method::PUT, "http://169.254.169.254/latest/api/token"),
            (Method::GET, "http://169.254.169.254/latest/meta-data/iam/security-credentials/blobs"),
            (Method::GET, "http://100.100.100.200/latest/meta-data/ram/security-credentials/"),
            (
                Method::GET,
                "http://metadata.google.internal/computeMetadata/v1/instance/service-accounts/default/token",
            ),
            (Method::POST, "https://sts.amazonaws.com/?Action=AssumeRoleWithWebIdentity"),
        ] {
            assert!(!of(method, url, false), "{url}");
        }
    }

    #[test]
    fn of_an_error_only_code_and_message_are_told() {
        let s3 = "<?xml version=\"1.0\"?>\n<Error><Code>SignatureDoesNotMatch</Code><Message>It does not.\n</Message>\
                  <AWSAccessKeyId>AKIA</AWSAccessKeyId><StringToSign>x</StringToSign></Error>";
        assert_eq!(said(s3), "SignatureDoesNotMatch: It does not.");
        let gcs = r#"{"error": {"code": 403, "message": "no \u0020", "errors": []}}"#;
        assert_eq!(said(gcs), "403: no \\u0020");
        assert_eq!(said("AKIA went wrong"), "");
        assert_eq!(said(&format!("<Code>{}", "x".repeat(5000))).len(), MAX_SAID);
    }
}
