//! Connections of an HTTP interface, within bounds: so many, each of which says what it wants and
//! reads what it gets, or is closed. One too many closes the one that has done nothing for longest:
//! who holds connections without asking keeps nobody else from it.
//!
//! Must not know: what is asked, and who may.

use std::collections::HashMap;
use std::convert::Infallible;
use std::future::Future;
use std::pin::{Pin, pin};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use axum::Router;
use axum::body::{Body, Bytes, HttpBody};
use axum::http::Request;
use hyper::body::{Frame, Incoming, SizeHint};
use hyper::server::conn::http1;
use hyper::service::{Service, service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::service::TowerToHyperService;
use socket2::SockRef;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::{AbortHandle, Id, JoinSet};
use tokio::time::Instant;

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

/// What may be accepted again after a failure of `accept`, such as too few descriptors.
const PAUSE: Duration = Duration::from_millis(100);

/// How much connections may take.
#[derive(Clone, Copy, Debug)]
struct Bounds {
    connections: usize,
    head: Duration,
    stalled: Duration,
}

/// What a connection does: whether a request is under way, and since when it has neither begun one
/// nor got a part of an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Doing {
    is_asking: bool,
    since: Instant,
}

/// What a connection does, shared between it and who closes the idlest.
#[derive(Clone, Debug)]
struct Activity(Arc<Mutex<Doing>>);

impl Default for Activity {
    fn default() -> Self {
        Self(Arc::new(Mutex::new(Doing { is_asking: false, since: Instant::now() })))
    }
}

impl Activity {
    fn now(&self, is_asking: bool) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) =
            Doing { is_asking, since: Instant::now() };
    }

    fn doing(&self) -> Doing {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A request is under way, until this is dropped.
struct UnderWay(Activity);

impl UnderWay {
    fn begin(activity: &Activity) -> Self {
        activity.now(true);
        Self(activity.clone())
    }
}

impl Drop for UnderWay {
    fn drop(&mut self) {
        self.0.now(false);
    }
}

/// The body of an answer that is under way.
struct Answer {
    body: Body,
    under_way: UnderWay,
}

impl HttpBody for Answer {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        let frame = Pin::new(&mut self.body).poll_frame(cx);
        if frame.is_ready() {
            self.under_way.0.now(true);
        }
        frame
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// Serves until `end` comes; requests under way then are answered first.
pub async fn listen(listener: TcpListener, routes: Router, end: impl Future<Output = ()>) {
    let bounds = Bounds { connections: MOST, head: HEAD, stalled: STALLED };
    within(bounds, listener, routes, end).await;
}

/// Serves one connection, over any stream, until either end closes it.
pub async fn converse(stream: impl AsyncRead + AsyncWrite + Unpin, routes: Router) {
    // Its sender is gone: an end that never comes.
    let (_ending, ended) = watch::channel(false);
    talk(stream, routes, HEAD, Activity::default(), ended).await;
}

async fn within(
    bounds: Bounds,
    listener: TcpListener,
    routes: Router,
    end: impl Future<Output = ()>,
) {
    let (ending, ended) = watch::channel(false);
    let mut connections = JoinSet::new();
    let mut held: HashMap<Id, (AbortHandle, Activity)> = HashMap::new();
    let mut end = pin!(end);
    loop {
        let accepted = tokio::select! {
            () = &mut end => break,
            Some(gone) = connections.join_next_with_id() => {
                held.remove(&id_of(gone));
                continue;
            }
            accepted = listener.accept() => accepted,
        };
        let Ok((stream, _)) = accepted else {
            tokio::time::sleep(PAUSE).await;
            continue;
        };
        // Also while the peer says that it is there, but reads nothing.
        let bounded = SockRef::from(&stream).set_tcp_user_timeout(Some(bounds.stalled));
        if bounded.is_err() {
            continue;
        }
        while held.len() >= bounds.connections {
            close_idlest(&held);
            let Some(gone) = connections.join_next_with_id().await else { break };
            held.remove(&id_of(gone));
        }
        let activity = Activity::default();
        let talk = talk(stream, routes.clone(), bounds.head, activity.clone(), ended.clone());
        let connection = connections.spawn(talk);
        held.insert(connection.id(), (connection, activity));
    }
    drop(listener);
    ending.send_replace(true);
    while connections.join_next().await.is_some() {}
}

/// Closes a connection that asks nothing before one that does, and of these the one that has done
/// nothing for longest.
fn close_idlest(held: &HashMap<Id, (AbortHandle, Activity)>) {
    let idlest = held.values().min_by_key(|(_, activity)| activity.doing());
    if let Some((connection, _)) = idlest {
        connection.abort();
    }
}

fn id_of(gone: Result<(Id, ()), tokio::task::JoinError>) -> Id {
    gone.map_or_else(|error| error.id(), |(id, ())| id)
}

async fn talk(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    routes: Router,
    head: Duration,
    activity: Activity,
    mut ended: watch::Receiver<bool>,
) {
    let routes = TowerToHyperService::new(routes);
    let service = service_fn(move |request: Request<Incoming>| {
        let under_way = UnderWay::begin(&activity);
        let answer = routes.call(request);
        async move {
            let answer = answer.await?;
            Ok::<_, Infallible>(answer.map(|body| Answer { body, under_way }))
        }
    });
    let connection = http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(head)
        .max_buf_size(BUFFER)
        .serve_connection(TokioIo::new(stream), service);
    let mut connection = pin!(connection);
    // Whatever ends a connection, nobody is left to be told.
    tokio::select! {
        _ = connection.as_mut() => {}
        Ok(()) = ended.changed() => {
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
    use tokio::net::TcpStream;
    use tokio::sync::{Notify, oneshot};
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
        let late = Arc::new(Notify::new());
        let now = Arc::clone(&late);
        let routes = Router::new()
            .route("/", get(|| async { "hello" }))
            .route("/big", get(|| async { vec![b'x'; BIG] }))
            .route(
                "/late",
                get(|| async move {
                    late.notified().await;
                    "hello"
                }),
            )
            .route(
                "/now",
                get(|| async move {
                    now.notify_one();
                    "hello"
                }),
            );
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

    /// Asks, and takes the whole answer; whether there was one.
    async fn ask(stream: &mut TcpStream, request: &[u8]) -> bool {
        if stream.write_all(request).await.is_err() {
            return false;
        }
        let (mut said, mut bytes) = (Vec::new(), [0; 4096]);
        while !said.ends_with(b"hello") {
            let read = tokio::time::timeout(PATIENCE, stream.read(&mut bytes)).await;
            match read.expect("an answer, or the end") {
                Ok(read @ 1..) => said.extend_from_slice(&bytes[..read]),
                Ok(_) | Err(_) => return false,
            }
        }
        said.starts_with(b"HTTP/1.1 200")
    }

    async fn hello(address: SocketAddr) -> TcpStream {
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        assert!(ask(&mut stream, REQUEST).await, "it is answered");
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

    /// Those who hold connections and ask nothing keep nobody out: the one of them that has done
    /// nothing for longest gives way.
    #[tokio::test]
    async fn one_connection_too_many_closes_the_idlest() {
        let bounds = Bounds { connections: 3, head: NEVER, stalled: NEVER };
        let (address, _stop, _) = serve(bounds).await;
        let mut idle = hello(address).await;
        let mut silent = TcpStream::connect(address).await.expect("it listens");
        let mut busy = hello(address).await;
        // The first asks again, and is not the idlest any more.
        assert!(ask(&mut idle, REQUEST).await);
        let mut new = hello(address).await;
        assert_eq!(rest(&mut silent).await, "", "it never asked");
        for kept in [&mut busy, &mut idle, &mut new] {
            assert!(ask(kept, REQUEST).await, "it is kept");
        }
        // However many come, each of them is answered.
        for _ in 0..50 {
            hello(address).await;
        }
    }

    /// What is being answered stays, while those who ask nothing come and go.
    #[tokio::test]
    async fn who_is_being_answered_does_not_give_way_to_who_asks_nothing() {
        let bounds = Bounds { connections: 2, head: NEVER, stalled: NEVER };
        let (address, _stop, _) = serve(bounds).await;
        let mut asking = TcpStream::connect(address).await.expect("it listens");
        asking.write_all(b"GET /late HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("sent");
        for _ in 0..50 {
            hello(address).await;
        }
        // Its answer waits for this.
        let mut other = hello(address).await;
        assert!(ask(&mut other, b"GET /now HTTP/1.1\r\nhost: here\r\n\r\n").await);
        let mut bytes = [0; 12];
        asking.read_exact(&mut bytes).await.expect("an answer");
        assert_eq!(&bytes, b"HTTP/1.1 200");
    }

    #[tokio::test]
    async fn a_peer_that_does_not_read_is_cut_off() {
        let bounds = Bounds { connections: 1, head: NEVER, stalled: Duration::from_millis(200) };
        let (address, stop, task) = serve(bounds).await;
        let mut stream = TcpStream::connect(address).await.expect("it listens");
        stream.write_all(b"GET /big HTTP/1.1\r\nhost: here\r\n\r\n").await.expect("sent");
        let mut begun = [0; 12];
        stream.read_exact(&mut begun).await.expect("an answer");
        // What is under way is waited for: no longer than until it is cut off.
        stop.send(()).expect("it serves");
        tokio::time::timeout(PATIENCE, task).await.expect("it was cut off").expect("no panic");
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
