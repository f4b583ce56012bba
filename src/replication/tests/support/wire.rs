//! The network between a connector and its source, which can fail.

use std::sync::{Arc, Mutex};

use tokio::io::copy_bidirectional;
use tokio::net::{TcpListener, TcpStream};
use tokio::task::{JoinHandle, JoinSet};

/// Forwards connections to a port of this machine until dropped.
pub(in super::super) struct Wire {
    port: u16,
    open: Arc<Mutex<JoinSet<()>>>,
    accepting: JoinHandle<()>,
}

impl Wire {
    pub(in super::super) async fn to(port: u16) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).await.unwrap();
        let own_port = listener.local_addr().unwrap().port();
        let open = Arc::new(Mutex::new(JoinSet::new()));
        let connections = Arc::clone(&open);
        let accepting = tokio::spawn(async move {
            loop {
                let (near, _) = listener.accept().await.unwrap();
                connections.lock().unwrap().spawn(forward(near, port));
            }
        });
        Self { port: own_port, open, accepting }
    }

    pub(in super::super) fn port(&self) -> u16 {
        self.port
    }

    /// Ends every connection wherever it is, amid a message as often as not.
    pub(in super::super) fn cut(&self) {
        self.open.lock().unwrap().abort_all();
    }
}

/// Refused or broken, the other end sees the same: the connection ends.
async fn forward(mut near: TcpStream, port: u16) {
    if let Ok(mut far) = TcpStream::connect(("127.0.0.1", port)).await {
        drop(copy_bidirectional(&mut near, &mut far).await);
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}
