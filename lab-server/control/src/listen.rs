//! Connections of an HTTP interface, within bounds: so many, each of which says what it wants and
//! reads what it gets, or is closed.
//!
//! Must not know: what is asked, and who may.

use std::future::Future;
use std::pin::pin;
use std::time::Duration;

use axum::Router;
use hyper::server::conn::http1;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinSet;

/// Connections at a time: people, scripts and scrapers of one program. Each costs a descriptor, of
/// which a shard's neighbour has few, and [`BUFFER`] at most.
const MOST: usize = 64;

/// A request's head is complete so long after a connection is ready for it, or the connection is
/// closed: a scraper every 15 s connects anew.
const HEAD: Duration = Duration::from_secs(10);

/// A peer that takes nothing of an answer for so long is cut off.
const STALLED: Duration = Duration::from_secs(10);

/// Bytes that hyper holds of a connection, in each direction.
const BUFFER: usize = 64 * 1024;

/// What one connection too many is told.
const FULL: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\n\
                    connection: close\r\ncontent-length: 54\r\n\r\n\
                    {\"error\":\"too many connections at once; try it again\"}";

/// What may be accepted again after a failure of `accept`, such as too few descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How much connections may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    head: Duration,
    stalled: Duration,
}

/// Serves until `end` comes; requests under way then are answered first.
pub async fn listen(listener: TcpListener, routes: Router, end: impl Future<Output = ()>) {
    let bounds = Bounds { connections: MOST, head: HEAD, stalled: STALLED };
    within(bounds, listener, routes, end).await;
}

async fn within(
    bounds: Bounds,
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()>,
) {
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, _)) if connections.len() >= bounds.connections => turn_away(&stream),
            Ok((stream, _)) => {
                connections.spawn(converse(bounds, stream, routes.clone(), ended.clone()));
            }
            Err(_) => tokio::time::sleep(PAUSE).await,
        }
    }
    drop(listener);
    ending.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Tells a connection that there is no room for it, if it takes that at once.
fn turn_away(stream: &TcpStream) {
    let _ = stream.try_write(FULL.as_bytes());
}

async fn converse(
    bounds: Bounds,
    stream: TcpStream,
    routes: Router,
    mut ended: watch::Receiver<bool>,
) {
    // Also while the peer says that it is there, but reads nothing.
    let bounded = SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.stalled));
    if bounded.is_err() {
        return;
    }
    let service = TowerToHyperService::new(routes);
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(bounds.head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Whatever ends a connection, nobody is left to be told.
    tokio::select! {
        _ = connection.as_mut() => {}
        _ = ended.changed() => {
            connection.as_mut().graceful_shutdown();
            let _ = connection.await;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use axum::routing::get;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::sync::oneshot;
    use tokio::task::JoinHandle;

    use super::*;

    /// Nothing here takes longer.
    const PATIENCE: Duration = Duration::from_secs(20);

    /// Far longer than a test.
    const NEVER: Duration = Duration::from_secs(3600);

    const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: here\r\n\r\n";

    /// More than all buffers of a connection hold.
    const BIG: usize = 32 << 20;

    async fn serve(bounds: Bounds) -> (SocketAddr, oneshot::Sender<()>, JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a port");
        let address = listener.local_addr().expect("bound");
        let routes = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/big", get(|| async { vec![b'x'; BIG] }));
        let (stop, stopped) = oneshot::channel();
        let end = async {
            let _ = stopped.await;
        };
        (address, stop, tokio::spawn(within(bounds, listener, routes, end)))
    }

    /// What comes until the other end closes.
    async fn rest(stream: &mut TcpStream) -> String {
        let mut bytes = Vec::new();
        let read = tokio::time::timeout(PATIENCE, stream.read_to_end(&mut bytes)).await;
        // A reset ends it as well.
        let _ = read.expect("it is closed");
        String::from_utf8_lossy(&bytes).into_owned()
    }

    async fn hello(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(REQUEST).await.expect("sent");
        let mut bytes = [0; 12];
        stream.read_exact(&mut bytes).await.expect("an answer");
        assert_eq!(&bytes, b"HTTP/1.1 200");
        stream
    }

    #[tokio::test]
    async fn half_a_request_and_none_at_all_are_closed() {
        let bounds = Bounds { connections: 9, head: Duration::from_millis(50), stalled: NEVER };
        let (address, _stop, _) = serve(bounds).await;
        for begun in [&b""[..], b"GET / HT", &REQUEST[..REQUEST.len() - 2]] {
            let mut stream = TcpStream::connect(address).await.expect("it listens");
            stream.write_all(begun).await.expect("sent");
            assert!(!rest(&mut stream).await.contains("200"), "{begun:?}");
        }
        // Nor does one that was answered stay for ever.
        rest(&mut hello(address).await).await;
    }

    #[tokio::test]
    async fn one_connection_too_many_is_told_so_and_the_others_go_on() {
        let bounds = Bounds { connections: 2, head: NEVER, stalled: NEVER };
        let (address, _stop, _) = serve(bounds).await;
        let (mut one, _two) = (hello(address).await, hello(address).await);
        for _ in 0..50 {
            let mut third = TcpStream::connect(address).await.expect("it listens");
            let said = rest(&mut third).await;
            assert!(said.contains(" 503 ") && said.ends_with("again\"}"), "{said}");
        }
        one.write_all(REQUEST).await.expect("it is kept");
        drop(one);
        // There is room again once its end was seen.
        let again = async {
            loop {
                let mut stream = TcpStream::connect(address).await.expect("it listens");
                // One that is turned away may be closed before this arrives.
                let _ = stream.write_all(REQUEST).await;
                let mut bytes = [0; 12];
                if stream.read_exact(&mut bytes).await.is_ok() && &bytes == b"HTTP/1.1 200" {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, again).await.expect("there is room again");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_cut_off() {
        let bounds = Bounds { connections: 1, head: NEVER, stalled: Duration::from_millis(200) };
        let (address, _stop, _) = serve(bounds).await;
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("sent");
        let free = async {
            // Its place is free for another as soon as it is gone.
            loop {
                let mut other = TcpStream::connect(address).await.expect("it listens");
                let _ = other.write_all(REQUEST).await;
                let mut bytes = [0; 12];
                if other.read_exact(&mut bytes).await.is_ok() && &bytes == b"HTTP/1.1 200" {
                    break;
                }
            }
        };
        tokio::time::timeout(PATIENCE, free).await.expect("it was cut off");
        assert!(rest(&mut stream).await.len() < BIG, "what was on the way, and no more");
    }

    #[tokio::test]
    async fn at_the_end_idle_connections_are_closed_and_the_port_is_free() {
        let bounds = Bounds { connections: 9, head: NEVER, stalled: NEVER };
        let (address, stop, task) = serve(bounds).await;
        let mut idle = hello(address).await;
        stop.send(()).expect("it serves");
        tokio::time::timeout(PATIENCE, task).await.expect("it ends").expect("no panic");
        rest(&mut idle).await;
        assert!(TcpStream::connect(address).await.is_err());
    }
}
