//! Aryavarth protocol.
