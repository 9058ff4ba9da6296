//! Sockets, dialling, TLS, certificates, the DERP client, port mapping.
