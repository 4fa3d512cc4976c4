//! A small HTTP/1.1 client of a Starling node: for the command line, the load generator and the
//! simulator's clients. It runs in both worlds.
//!
//! One [`Client`] is one keep-alive connection to one node; requests go one after the other. It
//! connects when first needed, and again when the node has closed the connection between two
//! requests, or when none was sent for [`IDLE_MAX`]: a machine that lost its power says nothing when
//! it comes back, so an old connection may be dead and the first request on it lost. It never repeats a request of which a byte may have left: a caller that counts
//! outcomes must be told "unknown" when that is the truth, and [`ClientError`] says which it is.
//!
//! What it does not do: TLS, redirects, pipelining, pooling, retries.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use bytes::{Bytes, BytesMut};
use http_body_util::{BodyExt, Full};
use hyper::body::{Body, Incoming};
use hyper::client::conn::http1;
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue, InvalidHeaderValue};
use hyper::http::uri::InvalidUri;
use hyper::{Method, Uri};
use percent_encoding::{AsciiSet, NON_ALPHANUMERIC, utf8_percent_encode};

use crate::http::io::HyperIo;
use crate::runtime::net::TcpStream;
use crate::runtime::task::{self, JoinHandle};
use crate::runtime::time::{self, Instant};

#[cfg(test)]
#[cfg(not(madsim))]
mod tests;

/// The most bytes of an answer's body, unless [`Client::body_bytes_max`] says otherwise.
pub const BODY_BYTES_MAX: usize = 64 * 1024 * 1024;

/// How long a connection may rest between two requests and still be used. Shorter than the time
/// after which a node closes it by default (`timeouts.idle_ms`), so that a request does not cross
/// the node's FIN.
pub const IDLE_MAX: Duration = Duration::from_secs(4);

/// Carries a causal context, both ways.
pub const CAUSAL_CONTEXT: HeaderName = HeaderName::from_static("causal-context");

/// Carries a request's id, both ways.
pub const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

/// What a path segment carries as it is (RFC 3986: unreserved).
const ESCAPED: &AsciiSet =
    &NON_ALPHANUMERIC.remove(b'-').remove(b'_').remove(b'.').remove(b'~').remove(b'/');

/// One request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Its method.
    pub method: Method,
    /// Its path and query, percent-encoded: see [`kv_target`].
    pub target: String,
    /// The causal context it carries, if any.
    pub context: Option<String>,
    /// Its id, in the logs of every node it touches. None: the node gives it one.
    pub request_id: Option<String>,
    /// Its body. A body that is not empty is sent as JSON.
    pub body: Bytes,
}

/// The answer to a [`Request`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The HTTP status.
    pub status: u16,
    /// The causal context that came with it.
    pub context: Option<String>,
    /// `Retry-After`, in seconds.
    pub retry_after: Option<u64>,
    /// `Content-Type`.
    pub content_type: Option<String>,
    /// The whole body.
    pub body: Bytes,
}

/// Why there is no answer. Only after [`Broken`](ClientError::Broken), a
/// [`Deadline`](ClientError::Deadline) with `sent`, and [`TooLarge`](ClientError::TooLarge) may
/// the request have taken effect.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The request cannot be put in HTTP. Nothing was sent; correct it.
    #[error("cannot send the request: {what} {source}")]
    Invalid {
        /// Which part of it.
        what: &'static str,
        /// What is wrong with that.
        source: Unfit,
    },
    /// No connection. Nothing was sent; try again, or try another node.
    #[error("cannot connect to {address}: {source}; is a node running there?")]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What went wrong.
        source: io::Error,
    },
    /// The connection broke before the whole answer came. The outcome is unknown.
    #[error("the connection to {address} broke before the answer came ({reason}): outcome unknown")]
    Broken {
        /// Where to.
        address: SocketAddr,
        /// What went wrong.
        reason: String,
    },
    /// The deadline passed. If `sent`, the outcome is unknown; else nothing was sent.
    #[error("no answer from {address} in time: {}", late_outcome(*.sent))]
    Deadline {
        /// Where to.
        address: SocketAddr,
        /// True once a part of the request may have left.
        sent: bool,
    },
    /// The answer's body is longer than this client takes. The node did answer.
    #[error("the answer of {address}, with status {status}, has more than {limit_bytes} bytes")]
    TooLarge {
        /// Where to.
        address: SocketAddr,
        /// The answer's HTTP status.
        status: u16,
        /// The most that this client takes.
        limit_bytes: usize,
    },
}

/// What is wrong with a part of a request.
#[derive(Debug, thiserror::Error)]
pub enum Unfit {
    /// The target is no path and query.
    #[error("{0}")]
    Target(#[from] InvalidUri),
    /// A header holds what a header cannot.
    #[error("{0}")]
    Header(#[from] InvalidHeaderValue),
}

/// One keep-alive connection to one node. Dropping it closes the connection and ends the task
/// behind it.
#[derive(Debug)]
pub struct Client {
    address: SocketAddr,
    host: HeaderValue,
    body_bytes_max: usize,
    connection: Option<Connection>,
}

/// An open connection: hyper's handle, and the task that does its reading and writing.
#[derive(Debug)]
struct Connection {
    sender: http1::SendRequest<Full<Bytes>>,
    driver: JoinHandle<()>,
    /// Not used any more when it has rested until then.
    stale_at: Instant,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.driver.abort();
    }
}

impl Request {
    /// A request without a body.
    pub fn new(method: Method, target: impl Into<String>) -> Request {
        let target = target.into();
        Request { method, target, context: None, request_id: None, body: Bytes::new() }
    }

    /// `GET target`.
    pub fn get(target: impl Into<String>) -> Request {
        Request::new(Method::GET, target)
    }

    /// `PUT target` with a JSON body.
    pub fn put(target: impl Into<String>, body: impl Into<Bytes>) -> Request {
        Request { body: body.into(), ..Request::new(Method::PUT, target) }
    }

    /// `DELETE target`.
    pub fn delete(target: impl Into<String>) -> Request {
        Request::new(Method::DELETE, target)
    }

    /// The same request carrying `context`.
    #[must_use]
    pub fn with_context(self, context: Option<String>) -> Request {
        Request { context, ..self }
    }

    fn into_http(
        self,
        host: &HeaderValue,
    ) -> Result<hyper::Request<Full<Bytes>>, (&'static str, Unfit)> {
        let target = Uri::try_from(self.target).map_err(|e| ("target", Unfit::from(e)))?;
        let header = |what, value: String| {
            HeaderValue::try_from(value).map_err(|error| (what, Unfit::from(error)))
        };
        let has_body = !self.body.is_empty();
        let mut request = hyper::Request::new(Full::new(self.body));
        *request.method_mut() = self.method;
        *request.uri_mut() = target;
        let headers = request.headers_mut();
        headers.insert(header::HOST, host.clone());
        if has_body {
            let json = HeaderValue::from_static("application/json");
            headers.insert(header::CONTENT_TYPE, json);
        }
        if let Some(context) = self.context {
            headers.insert(CAUSAL_CONTEXT, header("causal context", context)?);
        }
        if let Some(id) = self.request_id {
            headers.insert(REQUEST_ID, header("request id", id)?);
        }
        Ok(request)
    }
}

/// The target of a key: `/v1/kv/{bucket}/{key}`, percent-encoded, with the query `parameters`.
pub fn kv_target(bucket: &str, key: &str, parameters: &[(&str, &str)]) -> String {
    // The slashes of a key stand as they are; one in a bucket would end it.
    let bucket = utf8_percent_encode(bucket, ESCAPED).to_string().replace('/', "%2F");
    let mut target = format!("/v1/kv/{bucket}/{}", utf8_percent_encode(key, ESCAPED));
    for (index, (name, value)) in parameters.iter().enumerate() {
        let mark = if index == 0 { '?' } else { '&' };
        let value = utf8_percent_encode(value, ESCAPED);
        target.push_str(&format!("{mark}{name}={value}"));
    }
    target
}

impl Client {
    /// A client of the node at `address`. Connects when it is first needed.
    pub fn new(address: SocketAddr) -> Client {
        let host = HeaderValue::try_from(address.to_string());
        Client {
            address,
            host: host.expect("an address is made of letters that a header may hold"),
            body_bytes_max: BODY_BYTES_MAX,
            connection: None,
        }
    }

    /// The same client, which takes answers of at most `limit_bytes`.
    #[must_use]
    pub fn body_bytes_max(self, limit_bytes: usize) -> Client {
        Client { body_bytes_max: limit_bytes, ..self }
    }

    /// The node's address.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// True while a connection is open and the node is not known to have closed it.
    pub fn is_connected(&self) -> bool {
        self.connection.as_ref().is_some_and(|connection| !connection.sender.is_closed())
    }

    /// Sends `request` and waits for its whole answer until `deadline`. Any HTTP status is an
    /// answer. After an error, and when dropped before its end, the connection is closed, and the
    /// next request opens another.
    ///
    /// # Errors
    /// See [`ClientError`], which says of each whether the request may have taken effect.
    pub async fn send(
        &mut self,
        request: Request,
        deadline: Instant,
    ) -> Result<Response, ClientError> {
        let request = request.into_http(&self.host);
        let mut request =
            request.map_err(|(what, source)| ClientError::Invalid { what, source })?;
        // A connection that was open may turn out to be closed as the request is handed over. hyper
        // then gives the request back untouched, and a new connection gets it.
        loop {
            let (mut connection, reused) = self.connect(deadline).await?;
            let answer = connection.sender.try_send_request(request);
            let answer = time::timeout_at(deadline, answer).await;
            let answer = answer.map_err(|_| self.late(true))?;
            match answer {
                Ok(answer) => {
                    let answer = self.read_body(answer, deadline).await?;
                    connection.stale_at = time::now() + IDLE_MAX;
                    self.connection = Some(connection);
                    return Ok(answer);
                }
                Err(mut refused) => match refused.take_message() {
                    Some(unsent) if reused => request = unsent,
                    Some(_) => return Err(self.unsent(&refused.into_error())),
                    None => return Err(self.broken(&refused.into_error())),
                },
            }
        }
    }

    /// The open connection, if it still serves (then true), or a new one. It is taken out of
    /// `self`, so that it is dropped unless its answer is read to the end.
    async fn connect(&mut self, deadline: Instant) -> Result<(Connection, bool), ClientError> {
        let fresh = self.connection.take().filter(|open| time::now() < open.stale_at);
        if let Some(mut connection) = fresh {
            let ready = time::timeout_at(deadline, connection.sender.ready()).await;
            if ready.map_err(|_| self.late(false))?.is_ok() {
                return Ok((connection, true));
            }
        }
        let opened = time::timeout_at(deadline, self.open()).await;
        Ok((opened.map_err(|_| self.late(false))??, false))
    }

    async fn open(&self) -> Result<Connection, ClientError> {
        let failed = |source| ClientError::Connect { address: self.address, source };
        let stream = TcpStream::connect(self.address).await.map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        let (sender, connection) = http1::handshake(HyperIo::new(stream))
            .await
            .map_err(|error| failed(io::Error::other(error)))?;
        let driver = task::spawn(async move {
            // Whoever waits for an answer is told by hyper as well.
            if let Err(error) = connection.await {
                tracing::trace!(%error, "client connection ended");
            }
        });
        let mut connection = Connection { sender, driver, stale_at: time::now() + IDLE_MAX };
        let ready = connection.sender.ready().await;
        ready.map_err(|error| failed(io::Error::other(error)))?;
        Ok(connection)
    }

    async fn read_body(
        &self,
        answer: hyper::Response<Incoming>,
        deadline: Instant,
    ) -> Result<Response, ClientError> {
        let status = answer.status().as_u16();
        let limit_bytes = self.body_bytes_max;
        let too_large = ClientError::TooLarge { address: self.address, status, limit_bytes };
        let (head, mut body) = answer.into_parts();
        if body.size_hint().lower() > limit_bytes as u64 {
            return Err(too_large);
        }
        let mut first = Bytes::new();
        let mut rest = BytesMut::new();
        loop {
            let frame = time::timeout_at(deadline, body.frame()).await;
            let frame = match frame.map_err(|_| self.late(true))? {
                None => break,
                Some(frame) => frame.map_err(|error| self.broken(&error))?,
            };
            let Ok(data) = frame.into_data() else { continue };
            if first.len() + rest.len() + data.len() > limit_bytes {
                return Err(too_large);
            }
            // Most answers come in one piece, and are handed on without a copy.
            if first.is_empty() {
                first = data;
            } else {
                rest.extend_from_slice(&data);
            }
        }
        let body =
            if rest.is_empty() { first } else { Bytes::from([first, rest.freeze()].concat()) };
        let text = |name| header_text(&head.headers, name);
        Ok(Response {
            status,
            context: text(CAUSAL_CONTEXT),
            retry_after: text(header::RETRY_AFTER).and_then(|seconds| seconds.parse().ok()),
            content_type: text(header::CONTENT_TYPE),
            body,
        })
    }

    fn late(&self, sent: bool) -> ClientError {
        ClientError::Deadline { address: self.address, sent }
    }

    fn broken(&self, error: &hyper::Error) -> ClientError {
        ClientError::Broken { address: self.address, reason: error.to_string() }
    }

    /// A new connection ended before it took the request.
    fn unsent(&self, error: &hyper::Error) -> ClientError {
        let source = io::Error::new(io::ErrorKind::ConnectionReset, error.to_string());
        ClientError::Connect { address: self.address, source }
    }
}

fn late_outcome(sent: bool) -> &'static str {
    if sent { "outcome unknown" } else { "could not connect, so nothing was sent" }
}

fn header_text(headers: &HeaderMap, name: HeaderName) -> Option<String> {
    headers.get(name)?.to_str().ok().map(str::to_owned)
}
