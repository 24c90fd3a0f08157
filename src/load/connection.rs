//! One client's signaling: a WebSocket over a non-blocking stream. Knows nothing of what the frames
//! say.

use std::io;
use std::net::SocketAddr;

use mio::net::TcpStream;
use mio::{Interest, Registry, Token};
use tungstenite::client::client_with_config;
use tungstenite::handshake::client::ClientHandshake;
use tungstenite::handshake::{HandshakeError, MidHandshake};
use tungstenite::protocol::WebSocketConfig;
use tungstenite::{Error, Message, WebSocket};

/// A signaling connection.
pub struct Connection {
    url: String,
    state: State,
}

enum State {
    Connecting(TcpStream),
    Upgrading(Box<MidHandshake<ClientHandshake<TcpStream>>>),
    Open(Box<WebSocket<TcpStream>>),
    Closed,
}

/// What a connection has to tell.
#[derive(Debug, PartialEq, Eq)]
pub enum Arrival {
    /// Frames can be sent from now on.
    Opened,
    /// A text frame.
    Frame(String),
    /// There is no connection (any more), and why.
    Closed(String),
}

impl Connection {
    /// Begins to connect; `url` is what the upgrade asks for.
    ///
    /// # Errors
    /// What the system says: no ports or descriptors left.
    pub fn open(
        to: SocketAddr,
        url: String,
        registry: &Registry,
        token: Token,
    ) -> io::Result<Self> {
        let mut stream = TcpStream::connect(to)?;
        registry.register(&mut stream, token, Interest::READABLE | Interest::WRITABLE)?;
        Ok(Self {
            url,
            state: State::Connecting(stream),
        })
    }

    /// What has come, if anything has. To be called until there is nothing, whenever the stream is
    /// readable or writable.
    pub fn poll(&mut self) -> Option<Arrival> {
        match std::mem::replace(&mut self.state, State::Closed) {
            State::Connecting(stream) => self.connect(stream),
            State::Upgrading(handshake) => self.take_handshake(handshake.handshake()),
            State::Open(socket) => self.read(socket),
            State::Closed => None,
        }
    }

    fn connect(&mut self, stream: TcpStream) -> Option<Arrival> {
        if let Ok(Some(error)) | Err(error) = stream.take_error() {
            return Some(Arrival::Closed(format!("cannot connect: {error}")));
        }
        match stream.peer_addr() {
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::NotConnected => {
                self.state = State::Connecting(stream);
                return None;
            }
            Err(error) => return Some(Arrival::Closed(format!("cannot connect: {error}"))),
        }
        // A frame is one write; what follows it must not wait for an acknowledgement.
        let _ = stream.set_nodelay(true);
        let config = WebSocketConfig::default()
            .read_buffer_size(READ_BUFFER)
            .max_message_size(Some(MESSAGE_MAX))
            .max_frame_size(Some(MESSAGE_MAX));
        self.take_handshake(client_with_config(&self.url, stream, Some(config)))
    }

    fn take_handshake(
        &mut self,
        result: Result<
            (
                WebSocket<TcpStream>,
                tungstenite::handshake::client::Response,
            ),
            HandshakeError<ClientHandshake<TcpStream>>,
        >,
    ) -> Option<Arrival> {
        match result {
            Ok((socket, _)) => {
                self.state = State::Open(Box::new(socket));
                Some(Arrival::Opened)
            }
            Err(HandshakeError::Interrupted(handshake)) => {
                self.state = State::Upgrading(Box::new(handshake));
                None
            }
            Err(HandshakeError::Failure(Error::Http(response))) => {
                let status = response.status();
                Some(Arrival::Closed(format!("the server answered {status}")))
            }
            Err(HandshakeError::Failure(error)) => {
                Some(Arrival::Closed(format!("no WebSocket: {error}")))
            }
        }
    }

    fn read(&mut self, mut socket: Box<WebSocket<TcpStream>>) -> Option<Arrival> {
        loop {
            match socket.read() {
                Ok(Message::Text(text)) => {
                    self.state = State::Open(socket);
                    return Some(Arrival::Frame(text.to_string()));
                }
                Ok(Message::Close(frame)) => {
                    let reason = frame.map_or_else(String::new, |frame| frame.reason.to_string());
                    return Some(Arrival::Closed(format!("closed by the server: {reason}")));
                }
                Ok(_) => {}
                Err(Error::Io(error)) if error.kind() == io::ErrorKind::WouldBlock => {
                    // Also what was waiting for the stream to become writable, such as a pong.
                    let flushed = socket.flush();
                    if is_alive(&flushed) {
                        self.state = State::Open(socket);
                        return None;
                    }
                    return Some(Arrival::Closed("the connection broke".to_owned()));
                }
                Err(Error::ConnectionClosed) => {
                    return Some(Arrival::Closed("closed by the server".to_owned()));
                }
                Err(error) => return Some(Arrival::Closed(error.to_string())),
            }
        }
    }

    /// Sends a text frame; what the stream does not take now follows when it is writable. That the
    /// connection is gone, the next [`Connection::poll`] tells.
    pub fn send(&mut self, text: String) {
        if let State::Open(socket) = &mut self.state {
            let _ = socket.send(Message::text(text));
        }
    }

    /// Says goodbye, as far as the stream takes it at once.
    pub fn close(&mut self) {
        if let State::Open(socket) = &mut self.state {
            let _ = socket.close(None);
            let _ = socket.flush();
        }
        self.state = State::Closed;
    }
}

fn is_alive(result: &Result<(), Error>) -> bool {
    match result {
        Ok(()) => true,
        Err(Error::Io(error)) => error.kind() == io::ErrorKind::WouldBlock,
        Err(_) => false,
    }
}

/// tungstenite would take 128 KiB for each client.
const READ_BUFFER: usize = 4 << 10;
/// A description of a room with hundreds of tracks has some hundreds of KiB.
const MESSAGE_MAX: usize = 16 << 20;
