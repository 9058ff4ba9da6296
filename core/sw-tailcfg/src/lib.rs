//! JSON types of the control protocol.
