//! Userspace TCP/IP for running without a TUN device.
