//! From where a request comes, and over what.

use super::TrustedProxies;
use axum::{
    extract::{ConnectInfo, Request},
    http::{Extensions, HeaderMap},
};
use std::net::{IpAddr, SocketAddr};

fn peer(extensions: &Extensions) -> Option<IpAddr> {
    extensions
        .get::<ConnectInfo<SocketAddr>>()
        .map(|info| info.0.ip().to_canonical())
}

/// The client's address: the peer's, or, behind trusted proxies, the last address in `X-Forwarded-For` that is not one of them. What stands further to the
/// left was written by the client and may be a lie.
pub(super) fn client_address(request: &Request, trusted: &TrustedProxies) -> Option<IpAddr> {
    let mut address = peer(request.extensions())?;
    let forwarded: Vec<&str> = request
        .headers()
        .get_all("x-forwarded-for")
        .iter()
        .filter_map(|value| value.to_str().ok())
        .flat_map(|value| value.split(','))
        .map(str::trim)
        .collect();
    for hop in forwarded.iter().rev() {
        if !trusted.contains(address) {
            break;
        }
        match hop.parse::<IpAddr>() {
            Ok(before) => address = before.to_canonical(),
            Err(_) => break,
        }
    }
    Some(address)
}

/// Whether the client speaks TLS with a trusted proxy in front of us.
pub(super) fn over_tls(extensions: &Extensions, headers: &HeaderMap, trusted: &TrustedProxies) -> bool {
    peer(extensions).is_some_and(|p| trusted.contains(p))
        && headers
            .get("x-forwarded-proto")
            .is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"https"))
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used)]
    use super::*;
    use axum::body::Body;

    fn address(peer: &str, forwarded: &str) -> String {
        let mut request = Request::builder()
            .header("x-forwarded-for", forwarded)
            .body(Body::empty())
            .unwrap();
        let peer: SocketAddr = format!("{peer}:1").parse().unwrap();
        request.extensions_mut().insert(ConnectInfo(peer));
        let trusted = TrustedProxies::parse(["10.0.0.0/8"]).unwrap();
        client_address(&request, &trusted).unwrap().to_string()
    }

    #[test]
    fn only_trusted_proxies_speak_for_others() {
        assert_eq!(address("192.0.2.1", "203.0.113.5"), "192.0.2.1");
        assert_eq!(address("10.0.0.1", "203.0.113.5"), "203.0.113.5");
        assert_eq!(address("10.0.0.1", "1.2.3.4, 203.0.113.5, 10.0.0.2"), "203.0.113.5");
        assert_eq!(address("10.0.0.1", "nonsense"), "10.0.0.1");
        assert_eq!(address("10.0.0.1", "10.0.0.3"), "10.0.0.3");
    }
}
