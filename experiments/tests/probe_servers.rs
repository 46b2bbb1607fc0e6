//! `lab probe` beside servers that people have: Redis, nginx with its workers and a proxy, Go and
//! Java. Each is skipped where the program is not there.

mod common;

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use common::{assert_exit, lab, number, wait_until};
use needs::test;
use serde_json::Value;

needs::main!();

/// A port that is free now.
fn free_port() -> u16 {
    let free = TcpListener::bind("127.0.0.1:0").expect("a free port");
    free.local_addr().expect("bound").port()
}

/// A server that ends with this value, and its port.
struct Server {
    child: Child,
    port: u16,
    /// Its files.
    place: tempfile::TempDir,
}

impl Server {
    /// Starts what `command` makes of a directory and a port, and waits until it accepts.
    fn start(command: impl FnOnce(&Path, u16) -> Command) -> Self {
        let (place, port) = (tempfile::tempdir().expect("a directory"), free_port());
        let mut command = command(place.path(), port);
        let child = command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().expect("starts");
        let mut server = Self { child, port, place };
        wait_until("it accepts", || {
            let ended = server.child.try_wait().expect("our child");
            assert_eq!(ended, None, "the server has ended");
            TcpStream::connect(("127.0.0.1", port)).is_ok()
        });
        server
    }

    /// The last line of a probe of two seconds, while a client keeps asking, and how often it was
    /// answered.
    fn watched(&self, ask: &'static [u8], end: &'static [u8]) -> (Value, u64) {
        let client = Client::start(self.port, ask, end);
        let (pid, port) = (self.child.id().to_string(), self.port.to_string());
        let arguments = ["probe", "--pid", &pid, "--port", &port, "--seconds", "2", "--json"];
        let output = lab(&arguments);
        assert_exit(&output, 0);
        let text = String::from_utf8_lossy(&output.stdout);
        let line = serde_json::from_str(text.lines().nth(1).expect("two lines")).expect("JSON");
        (line, client.end())
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A master is told, so that its workers end, too.
        let pid = rustix::process::Pid::from_child(&self.child);
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
        let _ = self.child.wait();
        assert!(self.place.path().exists(), "its files were there as long as it was");
    }
}

/// A client that sends its question and reads until the end of an answer, again and again.
struct Client {
    over: Arc<AtomicBool>,
    answers: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Client {
    fn start(port: u16, ask: &'static [u8], end: &'static [u8]) -> Self {
        let (over, answers) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("it listens");
        stream.set_nodelay(true).expect("a socket");
        let (is_over, count) = (Arc::clone(&over), Arc::clone(&answers));
        let thread = std::thread::spawn(move || {
            let mut bytes = [0; 4096];
            while !is_over.load(Ordering::Relaxed) {
                stream.write_all(ask).expect("asked");
                let mut length = 0;
                while !bytes[..length].ends_with(end) {
                    let more = stream.read(&mut bytes[length..]).expect("an answer");
                    assert!(more > 0, "the server closed the connection");
                    length += more;
                }
                count.fetch_add(1, Ordering::Relaxed);
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        Self { over, answers, thread }
    }

    /// Ends it. Returns how many answers it had.
    fn end(self) -> u64 {
        self.over.store(true, Ordering::Relaxed);
        self.thread.join().expect("a client");
        self.answers.load(Ordering::Relaxed)
    }
}

/// The second has the requests of one client, their waits and services, and nobody else's.
fn assert_watched((line, answers): &(Value, u64)) {
    let requests = number(line, "/server_wait_us/count");
    assert!(requests > 50 && requests <= answers + 1, "{answers} answers: {line}");
    assert!(number(line, "/server_service_us/count").abs_diff(requests) <= 2, "{line}");
    let longest = line["server_service_us"]["max"].as_f64().expect("a duration");
    assert!(longest >= line["server_service_us"]["p99"].as_f64().expect("a duration"), "{line}");
    assert_eq!(number(line, "/lost/threads"), 0, "{line}");
}

#[test]
fn redis() {
    if !needs::root() || !needs::program("redis", "redis-server") {
        return;
    }
    let server = Server::start(|place, port| {
        let mut command = Command::new("redis-server");
        command.args(["--port", &port.to_string(), "--bind", "127.0.0.1", "--save", ""]);
        command.current_dir(place);
        command
    });
    assert_watched(&server.watched(b"PING\r\n", b"+PONG\r\n"));
}

/// Whoever names the master means its workers, of which one answers. The proxy's requests are those
/// of its clients and not those that it makes itself.
#[test]
fn nginx_with_workers_and_a_proxy() {
    if !needs::root() || !needs::program("nginx", "nginx") {
        return;
    }
    let behind = free_port();
    let server = Server::start(|place, port| {
        let here = place.display();
        let config = format!(
            "daemon off; user root; worker_processes 2; pid {here}/pid; error_log {here}/error;
            events {{ }}
            http {{
                access_log off; keepalive_requests 1000000;
                client_body_temp_path {here}/a; proxy_temp_path {here}/b; uwsgi_temp_path {here}/c;
                fastcgi_temp_path {here}/d; scgi_temp_path {here}/e;
                upstream behind {{ server 127.0.0.1:{behind}; keepalive 4; }}
                server {{
                    listen 127.0.0.1:{port};
                    location / {{
                        proxy_pass http://behind; proxy_http_version 1.1;
                        proxy_set_header Connection \"\";
                    }}
                }}
                server {{ listen 127.0.0.1:{behind}; location / {{ return 200 'fine!'; }} }}
            }}"
        );
        let file = place.join("nginx.conf");
        std::fs::write(&file, config).expect("written");
        let mut command = Command::new("nginx");
        command.arg("-p").arg(place).arg("-c").arg(file);
        command
    });
    assert_watched(&server.watched(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"fine!"));
}

#[test]
fn a_go_server() {
    if !needs::root() || !needs::program("go", "go") {
        return;
    }
    const SOURCE: &str = "package main
import (\"net\"; \"os\")
func main() {
    l, err := net.Listen(\"tcp\", \"127.0.0.1:\"+os.Args[1])
    if err != nil { panic(err) }
    for {
        c, err := l.Accept()
        if err != nil { panic(err) }
        go func() {
            b := make([]byte, 64)
            for { n, err := c.Read(b); if err != nil { c.Close(); return }; c.Write(b[:n]) }
        }()
    }
}
";
    let server = Server::start(|place, port| {
        std::fs::write(place.join("main.go"), SOURCE).expect("written");
        let mut build = Command::new("go");
        build.args(["build", "-o", "server", "main.go"]).current_dir(place);
        build.env("GOCACHE", place.join("cache")).env("GO111MODULE", "off");
        assert!(build.status().expect("go").success(), "it builds");
        let mut command = Command::new(place.join("server"));
        command.arg(port.to_string());
        command
    });
    assert_watched(&server.watched(b"ask", b"ask"));
}

#[test]
fn a_java_server() {
    if !needs::root() || !needs::program("java", "javac") {
        return;
    }
    const SOURCE: &str = "import java.net.*;
public class Server {
    public static void main(String[] a) throws Exception {
        InetAddress own = InetAddress.getByName(\"127.0.0.1\");
        ServerSocket l = new ServerSocket(Integer.parseInt(a[0]), 50, own);
        while (true) {
            Socket s = l.accept();
            s.setTcpNoDelay(true);
            new Thread(() -> {
                try {
                    byte[] b = new byte[64];
                    for (int n; (n = s.getInputStream().read(b)) > 0; )
                        s.getOutputStream().write(b, 0, n);
                } catch (Exception e) { }
            }).start();
        }
    }
}
";
    let server = Server::start(|place, port| {
        std::fs::write(place.join("Server.java"), SOURCE).expect("written");
        let mut build = Command::new("javac");
        build.arg("Server.java").current_dir(place);
        assert!(build.status().expect("javac").success(), "it builds");
        let mut command = Command::new("java");
        command.args(["-Xmx64m", "-cp"]).arg(place).args(["Server", &port.to_string()]);
        command
    });
    assert_watched(&server.watched(b"ask", b"ask"));
}
