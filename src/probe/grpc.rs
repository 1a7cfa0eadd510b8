//! `grpc.health.v1.Health/Check` (GRPC Health Checking Protocol) over plain HTTP/2: one request, one small message each way.

use bytes::{BufMut, Bytes, BytesMut};
use http::Request;

use super::Answer;

/// `HealthCheckResponse.ServingStatus.SERVING`.
const SERVING: u8 = 1;

pub async fn ask(port: u16, service: &str) -> Answer {
    match call(port, service).await {
        Ok(answer) => answer,
        Err(error) => Answer::no(format!("grpc 127.0.0.1:{port}: {}", super::root_cause(&*error))),
    }
}

async fn call(port: u16, service: &str) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let stream = tokio::net::TcpStream::connect(("127.0.0.1", port)).await?;
    let (client, connection) = h2::client::handshake(stream).await?;
    let connection = tokio::spawn(connection);
    let result = exchange(client, port, service).await;
    connection.abort();
    result
}

async fn exchange(
    client: h2::client::SendRequest<Bytes>,
    port: u16,
    service: &str,
) -> Result<Answer, Box<dyn std::error::Error + Send + Sync>> {
    let request = Request::post(format!("http://127.0.0.1:{port}/grpc.health.v1.Health/Check"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(())?;
    let mut client = client.ready().await?;
    let (response, mut body) = client.send_request(request, false)?;
    body.send_data(encode(service), true)?;
    let response = response.await?;
    if response.status() != 200 {
        return Ok(Answer::no(format!("grpc answered HTTP status {}", response.status().as_u16())));
    }
    let headers = response.headers().clone();
    let mut stream = response.into_body();
    let mut bytes = BytesMut::new();
    while let Some(chunk) = stream.data().await {
        let chunk = chunk?;
        let _ = stream.flow_control().release_capacity(chunk.len());
        bytes.put(chunk);
        if bytes.len() > crate::base::limits::PROBE_BODY_BYTES {
            return Ok(Answer::no("grpc answered more than a health status"));
        }
    }
    let trailers = stream.trailers().await?.unwrap_or(headers);
    let code = trailers.get("grpc-status").and_then(|value| value.to_str().ok()).unwrap_or("0");
    if code != "0" {
        let words = trailers.get("grpc-message").and_then(|value| value.to_str().ok()).unwrap_or_default();
        return Ok(Answer::no(format!("grpc status {code} {words}").trim().to_owned()));
    }
    Ok(match status(&bytes) {
        Some(SERVING) => Answer::yes("SERVING"),
        Some(0) | None => Answer::no("UNKNOWN"),
        Some(2) => Answer::no("NOT_SERVING"),
        Some(other) => Answer::no(format!("health status {other}")),
    })
}

/// A length-prefixed `HealthCheckRequest { service = 1 }`.
fn encode(service: &str) -> Bytes {
    let mut message = BytesMut::new();
    if !service.is_empty() {
        message.put_u8(0x0a);
        let mut length = service.len();
        while length >= 0x80 {
            message.put_u8((length as u8 & 0x7f) | 0x80);
            length >>= 7;
        }
        message.put_u8(length as u8);
        message.put_slice(service.as_bytes());
    }
    let mut framed = BytesMut::with_capacity(message.len() + 5);
    framed.put_u8(0);
    framed.put_u32(message.len() as u32);
    framed.put(message);
    framed.freeze()
}

/// `HealthCheckResponse { status = 1 }`.
fn status(framed: &[u8]) -> Option<u8> {
    match framed.get(5..)? {
        [] => Some(0),
        [0x08, status, ..] => Some(*status),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_framed_as_grpc_says() {
        assert_eq!(&encode("")[..], [0, 0, 0, 0, 0]);
        assert_eq!(&encode("db")[..], [0, 0, 0, 0, 4, 0x0a, 2, b'd', b'b']);
        assert_eq!(status(&[0, 0, 0, 0, 2, 8, 1]), Some(SERVING));
        assert_eq!(status(&[0, 0, 0, 0, 0]), Some(0));
        assert_eq!(status(&[0]), None);
    }
}
