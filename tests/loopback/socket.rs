//! A WebSocket client that never blocks for long.

use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tungstenite::protocol::CloseFrame;
use tungstenite::{Error, Message, WebSocket};

/// What came over the socket.
#[derive(Debug, Clone, PartialEq)]
pub enum Arrival {
    Frame(String),
    Closed(Option<String>),
}

/// What an HTTP GET brings, with its head.
pub fn get(server: SocketAddr, path: &str) -> String {
    let mut stream = TcpStream::connect(server).expect("the server listens");
    write!(
        stream,
        "GET {path} HTTP/1.1\r\nHost: server\r\nConnection: close\r\n\r\n"
    )
    .expect("the server reads");
    let mut answer = String::new();
    stream
        .read_to_string(&mut answer)
        .expect("the server answers");
    answer
}

pub struct Socket {
    inner: WebSocket<TcpStream>,
    pub closed: bool,
}

impl Socket {
    pub fn connect(server: SocketAddr, path: &str) -> Self {
        let stream = TcpStream::connect(server).expect("the server listens");
        stream.set_nodelay(true).expect("a TCP option");
        let (inner, _) = tungstenite::client(format!("ws://{server}{path}"), stream)
            .expect("the server upgrades");
        inner.get_ref().set_nonblocking(true).expect("a TCP option");
        Self {
            inner,
            closed: false,
        }
    }

    /// Makes the kernel hold little of what is not read.
    pub fn shrink_receive_buffer(&self) {
        socket2::SockRef::from(self.inner.get_ref())
            .set_recv_buffer_size(4096)
            .expect("a TCP option");
    }

    pub fn send(&mut self, event: &str, data: Value) {
        self.send_text(json!({ "event": event, "data": data }).to_string());
    }

    pub fn send_text(&mut self, text: String) {
        self.send_message(Message::text(text));
    }

    pub fn send_message(&mut self, message: Message) {
        let mut result = self.inner.send(message);
        let end = Instant::now() + Duration::from_secs(5);
        // A full socket buffer keeps the message; flushing goes on with it.
        while let Err(Error::Io(error)) = &result {
            if error.kind() != ErrorKind::WouldBlock || Instant::now() > end {
                break;
            }
            std::thread::sleep(Duration::from_millis(1));
            result = self.inner.flush();
        }
        if result.is_err() {
            self.closed = true;
        }
    }

    /// What has come, if anything has.
    pub fn poll(&mut self) -> Option<Arrival> {
        if self.closed {
            return None;
        }
        loop {
            match self.inner.read() {
                Ok(Message::Text(text)) => return Some(Arrival::Frame(text.to_string())),
                Ok(Message::Close(frame)) => {
                    self.closed = true;
                    let reason = frame.map(|CloseFrame { reason, .. }| reason.to_string());
                    return Some(Arrival::Closed(reason));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == ErrorKind::WouldBlock => return None,
                Err(_) => {
                    self.closed = true;
                    return Some(Arrival::Closed(None));
                }
            }
        }
    }

    /// Waits for a frame of this event and returns its data; frames of other events pass by.
    pub fn wait_for(&mut self, event: &str, timeout: Duration) -> Value {
        let end = Instant::now() + timeout;
        while Instant::now() < end {
            match self.poll() {
                Some(Arrival::Frame(text)) => {
                    let mut frame: Value = serde_json::from_str(&text).expect("JSON");
                    if frame["event"] == event {
                        return frame["data"].take();
                    }
                }
                Some(Arrival::Closed(reason)) => panic!("closed before {event}: {reason:?}"),
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        panic!("no {event} came");
    }

    /// Waits until the server has closed; returns the frames that came before.
    pub fn wait_closed(&mut self, timeout: Duration) -> Vec<Value> {
        let end = Instant::now() + timeout;
        let mut frames = Vec::new();
        while Instant::now() < end {
            match self.poll() {
                Some(Arrival::Frame(text)) => {
                    frames.push(serde_json::from_str(&text).expect("JSON"));
                }
                Some(Arrival::Closed(_)) => return frames,
                None if self.closed => return frames,
                None => std::thread::sleep(Duration::from_millis(2)),
            }
        }
        panic!("the server did not close; {} frames came", frames.len());
    }
}
