//! `/metrics` and `/health` over HTTP/1.1 on an address of their own, for monitoring. Read only,
//! without authentication; one request a connection.

use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;

use crate::control::ControlPlane;
use crate::metrics;

/// Requests answered at the same time; more wait to be accepted.
const REQUESTS_MAX: usize = 16;
/// From accept to the end of the answer.
const REQUEST_WITHIN: Duration = Duration::from_secs(10);
/// Longest request head that is read; scrapers send a few hundred bytes.
const HEAD_BYTES_MAX: usize = 8 * 1024;
/// Out of descriptors: nothing tells when one is free again, so accepting pauses for this long.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// Answers until `stop`.
pub(super) async fn serve(
    listener: TcpListener,
    control: Arc<ControlPlane>,
    stop: CancellationToken,
) {
    let places = Arc::new(Semaphore::new(REQUESTS_MAX));
    loop {
        let accepted = async {
            let place = Arc::clone(&places).acquire_owned().await;
            (listener.accept().await, place)
        };
        let Some((accepted, place)) = stop.run_until_cancelled(accepted).await else { return };
        match accepted {
            Ok((stream, _)) => {
                let control = Arc::clone(&control);
                tokio::spawn(async move {
                    // A scraper that is slow or gone scrapes again.
                    let _ = tokio::time::timeout(REQUEST_WITHIN, answer(stream, &control)).await;
                    drop(place);
                });
            }
            Err(error) => {
                tracing::warn!(%error, "accept for monitoring");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn answer(mut stream: TcpStream, control: &ControlPlane) -> std::io::Result<()> {
    let mut head = Vec::new();
    while !head.windows(4).any(|end| end == b"\r\n\r\n") && head.len() < HEAD_BYTES_MAX {
        if stream.read_buf(&mut head).await? == 0 {
            break;
        }
    }
    let (status, body) = match target(&head) {
        Some("/metrics") => ("200 OK", metrics::prometheus(&control.samples())),
        Some("/health") => ("200 OK", "ok\n".to_owned()),
        Some(_) => ("404 Not Found", "there are /metrics and /health\n".to_owned()),
        None => ("405 Method Not Allowed", "only GET is answered\n".to_owned()),
    };
    let head = format!(
        "HTTP/1.1 {status}\r\nContent-Type: text/plain; version=0.0.4; charset=utf-8\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n",
        body.len()
    );
    stream.write_all(head.as_bytes()).await?;
    stream.write_all(body.as_bytes()).await?;
    stream.shutdown().await
}

/// The path of a GET request.
fn target(head: &[u8]) -> Option<&str> {
    let line = head.split(|&byte| byte == b'\r').next()?;
    let path = std::str::from_utf8(line).ok()?.strip_prefix("GET ")?.split(' ').next()?;
    path.split('?').next()
}

#[cfg(test)]
mod tests {
    use super::target;

    #[test]
    fn only_get_is_understood() {
        assert_eq!(target(b"GET /metrics?x=1 HTTP/1.1\r\nHost: a\r\n\r\n"), Some("/metrics"));
        for other in [&b"POST /metrics HTTP/1.1\r\n"[..], b"", b"GET", b"\xff\r\n"] {
            assert_eq!(target(other), None);
        }
    }
}
