//! Aryavarth client.
