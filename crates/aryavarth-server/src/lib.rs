//! Aryavarth server.
