//! Noise symmetric state, the control protocol's IK handshake and record framing.
