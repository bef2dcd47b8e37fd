//! Methods of the loader service over HTTP/2. The bytes of batches go from their memory to the socket without a copy.

use std::convert::Infallible;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http::{HeaderValue, Request, Response, header};
use tonic::Status;
use tonic::body::Body;
use tonic::codec::{BufferSettings, Streaming};
use tonic::codegen::Service;
use tonic::server::NamedService;
use tonic_prost::ProstDecoder;

use super::client::Client;
use super::hub::Hub;
use super::metrics;
use crate::wire::framing::Pieces;
use crate::wire::path;

/// Largest request in bytes; a list of 50,000 cases is smaller.
const REQUEST_LIMIT: usize = 4 << 20;

/// The service `hiend.loader.v1.Loader`.
#[derive(Clone)]
pub(super) struct Rpc {
    hub: Arc<Hub>,
}

impl Rpc {
    pub(super) fn new(hub: &Arc<Hub>) -> Self {
        Self { hub: Arc::clone(hub) }
    }
}

impl NamedService for Rpc {
    const NAME: &'static str = "hiend.loader.v1.Loader";
}

impl Service<Request<Body>> for Rpc {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Pin<Box<dyn Future<Output = Result<Response<Body>, Infallible>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let hub = Arc::clone(&self.hub);
        Box::pin(async move {
            Ok(match answer(hub, request).await {
                Ok(body) => {
                    let mut response = Response::new(Body::new(body));
                    let grpc = HeaderValue::from_static("application/grpc");
                    response.headers_mut().insert(header::CONTENT_TYPE, grpc);
                    response
                }
                Err(status) => {
                    metrics::refused(&status);
                    tracing::debug!(code = ?status.code(), "request refused: {}", status.message());
                    status.into_http()
                }
            })
        })
    }
}

async fn answer(hub: Arc<Hub>, request: Request<Body>) -> Result<Pieces, Status> {
    let client = request.extensions().get::<Arc<Client>>().cloned();
    let client = client.ok_or_else(|| Status::internal("a request without a connection"))?;
    hub.authorize(&client, request.headers().get(header::AUTHORIZATION).map(HeaderValue::as_bytes))?;
    match request.uri().path() {
        path::OPEN => {
            let request = message(request).await?;
            // Selecting cases and hashing them takes milliseconds, too long for a thread that serves connections.
            let facts = tokio::task::spawn_blocking(move || hub.open(request)).await;
            Ok(Pieces::response(&facts.map_err(|err| ended(&err))??))
        }
        path::FETCH => Ok(hub.fetch(&client, message(request).await?).await?.body),
        path::SHARE => {
            let request = message(request).await?;
            let memory = tokio::task::spawn_blocking(move || hub.share(&client, &request)).await;
            Ok(Pieces::response(&memory.map_err(|err| ended(&err))??))
        }
        other => Err(Status::unimplemented(format!("no method {other}"))),
    }
}

/// Status for work that ended without a result. Another server may do work that a shutdown cancelled.
fn ended(error: &tokio::task::JoinError) -> Status {
    if error.is_cancelled() {
        Status::unavailable("the server is shutting down")
    } else {
        Status::aborted(error.to_string())
    }
}

/// Reads the only message of a request.
async fn message<T: prost::Message + Default + Send + 'static>(request: Request<Body>) -> Result<T, Status> {
    let decoder = ProstDecoder::<T>::new(BufferSettings::default());
    let mut stream = Streaming::new_request(decoder, request.into_body(), None, Some(REQUEST_LIMIT));
    stream.message().await?.ok_or_else(|| Status::invalid_argument("a request without a message"))
}
