//! A way to a server on which answers can be late.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt, copy};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

use super::Server;

/// Ends when it is dropped.
pub struct SlowWay {
    port: u16,
    delay: watch::Sender<Duration>,
    close: watch::Sender<()>,
    connections: Arc<AtomicUsize>,
    _ways: JoinSet<()>,
}

impl SlowWay {
    /// One that is not slow yet.
    pub async fn to(server: &Server) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let (delay, told) = watch::channel(Duration::ZERO);
        let (port, target) = (listener.local_addr().unwrap().port(), server.port());
        let (close, closed) = watch::channel(());
        let connections = Arc::<AtomicUsize>::default();
        let count = connections.clone();
        let mut ways = JoinSet::new();
        ways.spawn(async move {
            let mut connections = JoinSet::new();
            while let Ok((client, _)) = listener.accept().await {
                count.fetch_add(1, Ordering::Relaxed);
                let (told, mut closed) = (told.clone(), closed.clone());
                closed.mark_unchanged();
                connections.spawn(async move {
                    tokio::select! {
                        () = pass_on(client, target, told) => {}
                        _ = closed.changed() => {}
                    }
                });
            }
        });
        Self {
            port,
            delay,
            close,
            connections,
            _ways: ways,
        }
    }

    /// Closes all connections that there are.
    pub fn close(&self) {
        self.close.send_replace(());
    }

    /// How many connections have been made.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    pub fn url(&self) -> String {
        format!("redis://127.0.0.1:{}/", self.port)
    }

    /// From now on every answer is so late. What is asked arrives at once.
    pub fn answers_after(&self, delay: Duration) {
        self.delay.send_replace(delay);
    }
}

async fn pass_on(mut client: TcpStream, target: u16, delay: watch::Receiver<Duration>) {
    let Ok(mut server) = TcpStream::connect(("127.0.0.1", target)).await else {
        return;
    };
    let (mut asked, mut answers) = client.split();
    let (mut from_server, mut to_server) = server.split();
    let answering = async {
        let mut piece = [0; 4096];
        while let Ok(read @ 1..) = from_server.read(&mut piece).await {
            let late = *delay.borrow();
            tokio::time::sleep(late).await;
            if answers.write_all(&piece[..read]).await.is_err() {
                break;
            }
        }
    };
    tokio::select! {
        _ = copy(&mut asked, &mut to_server) => {}
        () = answering => {}
    }
}
