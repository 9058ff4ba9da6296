//! The relay server: DERP over TLS, HTTP and WebSocket, and STUN.
