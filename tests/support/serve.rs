//! Serving: the port, its connections, TLS.

use std::sync::{Arc, atomic::Ordering};

use hyper::service::service_fn;
use hyper_util::{
    rt::{TokioExecutor, TokioIo},
    server::conn::auto,
};
use rustls::{
    ServerConfig,
    crypto::aws_lc_rs,
    pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, TcpSocket, TcpStream},
    task::JoinSet,
};
use tokio_rustls::TlsAcceptor;

use super::{Shared, api};

/// A free port of this machine.
pub(super) fn listen() -> TcpListener {
    let socket = TcpSocket::new_v4().unwrap();
    socket.bind(([127, 0, 0, 1], 0).into()).unwrap();
    // Room for a crowd that comes all at once.
    socket.listen(4096).unwrap()
}

/// TLS for a name, and the certificate that clients must trust.
pub(super) fn tls_for(name: &str) -> (TlsAcceptor, reqwest::Certificate) {
    let made = rcgen::generate_simple_self_signed([name.to_owned()]).unwrap();
    let certificate = made.cert.der().clone();
    let trusted = reqwest::Certificate::from_der(&certificate).unwrap();
    let key = PrivatePkcs8KeyDer::from(made.signing_key.serialize_der());
    // Named here, since the tests' own code may settle the provider of the process.
    let mut config = ServerConfig::builder_with_provider(aws_lc_rs::default_provider().into())
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![certificate], PrivateKeyDer::from(key))
        .unwrap();
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    (TlsAcceptor::from(Arc::new(config)), trusted)
}

/// Serves until it is dropped, and all connections with it.
pub(super) async fn serve(listener: TcpListener, tls: Option<TlsAcceptor>, qyapi: Arc<Shared>) {
    let mut connections = JoinSet::new();
    loop {
        if let Ok((stream, _)) = listener.accept().await {
            qyapi.connections.fetch_add(1, Ordering::Relaxed);
            connections.spawn(connection(stream, tls.clone(), qyapi.clone()));
        }
        while connections.try_join_next().is_some() {}
    }
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, qyapi: Arc<Shared>) {
    let _ = stream.set_nodelay(true);
    match tls {
        None => http(stream, qyapi).await,
        Some(tls) => {
            if let Ok(stream) = tls.accept(stream).await {
                http(stream, qyapi).await;
            }
        }
    }
}

/// HTTP/1.1 or HTTP/2, as the client begins it.
async fn http(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static, qyapi: Arc<Shared>) {
    let service = service_fn(move |request| api::answer(qyapi.clone(), request));
    let mut server = auto::Builder::new(TokioExecutor::new());
    // A test may hold back any number of calls on one connection.
    server.http2().max_concurrent_streams(None);
    // A connection that ends badly is the client's to notice.
    let _ = server.serve_connection(TokioIo::new(stream), service).await;
}
